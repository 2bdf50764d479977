"""DeepCluster: whitening, clusters none of which is empty, agreement of clusterings, uniform batches, the cycle."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from sslfeat.errors import TrainingError
from sslfeat.evaluation.clustering.metrics import contingency
from sslfeat.evaluation.clustering.metrics import nmi as nmi_of
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.data import Images
from sslfeat.models.methods.deepcluster import DeepCluster
from sslfeat.models.ops.clustering import balanced_kmeans, fill_empty, renamed
from sslfeat.models.ops.color import Sobel
from sslfeat.numerics.pca import whiten


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(n: int) -> Images:
    pixels = torch.randint(0, 256, (n, 4, 4, 3), dtype=torch.uint8, generator=generator(9))
    return Images(pixels.repeat_interleave(8, 1).repeat_interleave(8, 2).numpy(), (), ())


def made(n: int = 60, **options: object) -> tuple[DeepCluster, Images]:
    torch.manual_seed(0)
    method = DeepCluster(build_backbone("resnet10_w8", 32), DeepCluster.Config(**options))  # type: ignore[arg-type]
    images = data(n)
    method.prepare(images)
    return method, images


def nmi(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> float:
    return nmi_of(contingency(a, b), "geometric")


def test_whitened_features_are_uncorrelated_and_of_variance_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 6)) + 5
    white = whiten(x, 6)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(6), atol=1e-4)
    assert whiten(x, 3).shape == (4000, 3)
    assert whiten(np.outer(np.arange(50.0), [1, 2, 3]), 3).shape == (50, 1)


def test_separated_clusters_are_found_and_none_is_empty() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 300)
    points = (10 * np.eye(5)[truth] + rng.normal(size=(300, 5))).astype(np.float32)
    found, _ = balanced_kmeans(points, 5, 0)
    assert nmi(found, truth) == pytest.approx(1)
    same = np.zeros((40, 3), np.float32)
    same[:, 0] = np.repeat([0, 1], 20)
    assigned, empty = balanced_kmeans(same, 8, 0)
    assert np.bincount(assigned, minlength=8).min() > 0
    assert empty > 0
    with pytest.raises(TrainingError, match="cannot fill 50 clusters"):
        balanced_kmeans(same, 50, 0)


def test_an_empty_cluster_takes_half_of_the_largest() -> None:
    points = np.arange(10, dtype=np.float32)[:, None]
    filled, empty = fill_empty(points, np.array([0] * 8 + [2] * 2), 3)
    assert empty == 1
    assert np.bincount(filled).tolist() == [4, 4, 2]
    assert sorted(np.flatnonzero(filled == k).tolist() for k in (0, 1)) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_agreement_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = rng.integers(0, 6, 200), rng.integers(0, 4, 200)
        b[:120] = a[:120] % 4
        wanted = normalized_mutual_info_score(a, b, average_method="geometric")
        assert nmi(a, b) == pytest.approx(wanted, abs=1e-9)
    assert nmi(a, (a + 3) % 6) == pytest.approx(1)


def test_batches_are_uniform_over_clusters() -> None:
    method, _ = made()
    method.assignments.copy_(torch.tensor([0] * 40 + [1] * 15 + [2] * 4 + [-1]))
    drawn: Counter[int] = Counter()
    for seed in range(200):
        chosen = method.choose(np.arange(30), generator(seed))
        assert 59 not in chosen
        drawn.update(method.assignments[torch.from_numpy(chosen)].tolist())
    total = sum(drawn.values())
    assert all(drawn[k] / total == pytest.approx(1 / 3, abs=0.03) for k in range(3))


def test_clusters_keep_the_names_of_those_they_come_from() -> None:
    before = np.array([0, 0, 0, 1, 1, 2, 2, 2, -1, -1])
    after = np.array([2, 2, 1, 1, 1, 0, 0, 0, 0, -1])
    np.testing.assert_array_equal(renamed(after, before, 3), [0, 0, 1, 1, 1, 2, 2, 2, 2, -1])
    rng = np.random.default_rng(0)
    names, shuffled = rng.integers(0, 6, 500), rng.permutation(6)
    np.testing.assert_array_equal(renamed(shuffled[names], names, 6), names)
    method, images = made(clusters=4)
    list(method.on_cycle(images, generator()))
    head, first = method.head.weight.detach().clone(), method.assignments.clone()
    assert list(method.on_cycle(images, generator())) == []
    assert torch.equal(head, method.head.weight)
    assert torch.equal(first, method.assignments)


def test_a_cycle_clusters_anew_and_may_forget_the_classifier() -> None:
    method, images = made(clusters=4, forget=True)
    before = method.head.weight.detach().clone()
    fresh = list(method.on_cycle(images, generator()))
    assert {id(parameter) for parameter in fresh} == {id(parameter) for parameter in method.head.parameters()}
    assert not torch.equal(before, method.head.weight)
    assert method.assignments.bincount().min() > 0
    list(method.on_cycle(images, generator()))
    assert float(method.health[0]) == pytest.approx(1)  # neither the encoder nor the seed has changed
    assert method.cycle_steps(1000) == 200
    assert method.cycle_steps(50) == 50


def test_the_loss_is_the_cross_entropy_of_the_images_own_clusters() -> None:
    method, images = made(clusters=4)
    list(method.on_cycle(images, generator()))
    method.eval()
    numbers = torch.tensor([3, 17, 41, 58])
    batch = torch.from_numpy(images.pixels[numbers.numpy()]).permute(0, 3, 1, 2)
    with pytest.raises(TrainingError, match="numbers"):
        method.views(batch, generator())
    method.numbers = numbers
    views, clusters = method.views(batch, generator())
    assert torch.equal(clusters, method.assignments[numbers])
    with torch.no_grad():
        loss, _ = method.loss((views, clusters))
        rows = method.head(method.encode(views)).double().log_softmax(1)
    naive = -sum(float(rows[i, int(k)]) for i, k in enumerate(clusters)) / 4
    assert float(loss) == pytest.approx(naive, rel=1e-5)


def test_the_sobel_filter_sees_edges_and_no_colors() -> None:
    ramp = torch.linspace(0, 1, 16).view(1, 1, 1, 16).expand(2, 3, 16, 16)
    seen = Sobel()(ramp)
    across, down = seen[0, 0, 5, 5], seen[0, 1, 5, 5]
    assert float(across) == pytest.approx(2 * 8 / 15, rel=1e-4)
    assert float(down) == pytest.approx(0, abs=1e-6)
    shifted: Tensor = Sobel()(ramp * 0.5 + 0.25)
    torch.testing.assert_close(shifted[:, 0], seen[:, 0] / 2)


def test_a_clustering_that_degenerates_is_complained_about() -> None:
    method, _ = made(clusters=4)
    assert "degenerate" in str(method.complaint({"largest": 0.7, "empty": 0.0}))
    assert method.complaint({"largest": 0.3, "empty": 0.0}) is None
    with pytest.raises(TrainingError, match="smaller number"):
        made(clusters=61)
