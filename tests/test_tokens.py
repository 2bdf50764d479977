"""MAE, autoregression, BEiT and their codebook: masks, targets, losses against naive ones, what a token may see."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslfeat.errors import TrainingError, UsageError
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.data import Images
from sslfeat.models.method import find_method
from sslfeat.models.methods.autoregressive import Autoregressive, prefix_mask
from sslfeat.models.methods.beit import BEiT
from sslfeat.models.methods.mae import MAE
from sslfeat.models.ops.codebook import Codebook, sample_patches, unigram, whitening
from sslfeat.models.ops.patches import mean_patch_error, normalize_patches, patchify, pick, random_order, unpatchify


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 4, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator(9))


def data(n: int = 20) -> Images:
    return Images(batch(n).permute(0, 2, 3, 1).contiguous().numpy(), (), ())


def made(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    kind = find_method(name)
    method = kind(build_backbone("vit_tiny", 32), kind.Config(**options)).eval()
    method.prepare(data())
    return method


def test_patches_are_squares_in_raster_order_and_go_back() -> None:
    x = torch.rand(2, 3, 12, 12, generator=generator())
    patches = patchify(x, 4)
    assert patches.shape == (2, 9, 48)
    torch.testing.assert_close(patches[1, 5].view(3, 4, 4), x[1, :, 4:8, 8:12])
    assert torch.equal(unpatchify(patches, 4), x)


def test_normalized_patches_and_the_error_of_the_mean_patch() -> None:
    patches = torch.rand(3, 5, 48, generator=generator())
    normal = normalize_patches(patches).double()
    for patch, given in zip(patches.flatten(0, 1).double(), normal.flatten(0, 1), strict=True):
        wanted = (patch - patch.mean()) / math.sqrt(float(patch.var(correction=0)) + 1e-4)
        torch.testing.assert_close(given, wanted, atol=1e-5, rtol=0)
    mean = normal.flatten(0, 1).mean(0)
    naive = float(np.mean([float(((row - mean) ** 2).mean()) for row in normal.flatten(0, 1)]))
    assert float(mean_patch_error(normal)) == pytest.approx(naive)
    assert float(mean_patch_error(normalize_patches(torch.randn(100, 9, 48)))) == pytest.approx(1, abs=0.05)


def test_mae_hides_its_share_and_the_encoder_sees_only_the_rest() -> None:
    method: MAE = made("mae")
    images, order = method.views(batch(), generator())
    assert method.visible == 16
    assert all(sorted(row) == list(range(64)) for row in order.tolist())
    with torch.no_grad():
        wanted = method.predict(images, order)
        patches = patchify(images, 4).scatter(1, order[:, 16:, None].expand(-1, -1, 48), 0.5)
        torch.testing.assert_close(method.predict(unpatchify(patches, 4), order), wanted)
        shuffled = order.clone()
        shuffled[:, :16] = order[:, :16].flip(1)  # which patch came first says nothing
        torch.testing.assert_close(method.predict(images, shuffled), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("normalize", [True, False])
def test_mae_loss_patch_by_patch(normalize: bool) -> None:
    method: MAE = made("mae", normalize=normalize)
    images, order = method.views(batch(), generator())
    with torch.no_grad():
        loss, _ = method.loss((images, order))
        predicted = method.predict(images, order).double().numpy()
    total = 0.0
    for n in range(4):
        for place in order[n, 16:].tolist():
            y, x = 4 * (place // 8), 4 * (place % 8)
            patch = images[n, :, y : y + 4, x : x + 4].double().numpy().reshape(-1)
            if normalize:
                patch = (patch - patch.mean()) / np.sqrt(patch.var() + 1e-4)
            total += float(((predicted[n, place] - patch) ** 2).mean())
    assert float(loss) == pytest.approx(total / (4 * 48), rel=1e-5)


def test_the_prefix_mask_cell_by_cell() -> None:
    mask = prefix_mask(6, 3, torch.device("cpu"))
    for i in range(6):
        for j in range(6):
            assert bool(mask[i, j]) == (j > i and not (i < 3 and j < 3))


@pytest.mark.parametrize("prefix", [1, 20, 63])
def test_no_prediction_depends_on_its_target_or_what_follows(prefix: int) -> None:
    method: Autoregressive = made("autoregressive")
    images = batch().float() / 255
    with torch.no_grad():
        wanted = method.predict(images, prefix)
        assert wanted.shape == (4, 64 - prefix, 48)
        for place in (prefix, min(63, prefix + 9)):
            patches = patchify(images, 4).clone()
            patches[:, place:] = 0.25
            changed = method.predict(unpatchify(patches, 4), prefix)
            torch.testing.assert_close(changed[:, : place - prefix + 1], wanted[:, : place - prefix + 1])
            assert place == 63 or not torch.allclose(changed[:, place - prefix + 1 :], wanted[:, place - prefix + 1 :])


@pytest.mark.parametrize("target", ["pixels", "words"])
def test_autoregressive_loss_patch_by_patch(target: str) -> None:
    method: Autoregressive = made("autoregressive", target=target, words=32)
    images = batch(2).float() / 255
    with torch.no_grad():
        loss, figures = method.loss((images, 10))
        predicted = method.predict(images, 10).double().numpy()
    total, trivial = 0.0, 0.0
    for n in range(2):
        for place in range(10, 64):
            patch = patchify(images, 4)[n, place]
            given = predicted[n, place - 10]
            if target == "pixels":
                wanted = normalize_patches(patch).double().numpy()
                total += float(((given - wanted) ** 2).mean())
            else:
                word = int(method.codebook(patch))
                total -= float(given[word] - np.log(np.exp(given).sum()))
                trivial -= math.log(float(method.frequencies[word]))
    assert float(loss) == pytest.approx(total / 108, rel=1e-4)
    if target == "words":
        assert float(figures["trivial"]) == pytest.approx(trivial / 108, rel=1e-4)


@pytest.mark.parametrize("blobs", [True, False])
def test_beit_hides_its_share_behind_one_token(blobs: bool) -> None:
    method: BEiT = made("beit", blobs=blobs, words=32)
    images, hidden = method.views(batch(), generator())
    assert hidden.sum(1).tolist() == [round(0.4 * 64)] * 4
    assert len({tuple(row) for row in hidden.tolist()}) == 4
    with torch.no_grad():
        wanted = method.predict(images, hidden)
        patches = patchify(images, 4).masked_fill(hidden[:, :, None], 0.9)
        torch.testing.assert_close(method.predict(unpatchify(patches, 4), hidden), wanted)
        loss, figures = method.loss((images, hidden))
    words = method.codebook(patchify(images, 4))
    total, trivial, count = 0.0, 0.0, 0
    for n, place in hidden.nonzero().tolist():
        row = wanted[n, place].double().numpy()
        total -= float(row[int(words[n, place])] - np.log(np.exp(row).sum()))
        trivial -= math.log(float(method.frequencies[words[n, place]]))
        count += 1
    assert float(loss) == pytest.approx(total / count, rel=1e-4)
    assert float(figures["trivial"]) == pytest.approx(trivial / count, rel=1e-4)


def test_words_are_the_nearest_centers_of_whitened_patches() -> None:
    """The affine shortcut against whitening and searching by hand."""
    import faiss

    images, book = data(), Codebook(16, 4)
    book.fit(images)
    sample = sample_patches(images.pixels, 4, 4000, 0)
    mean, matrix = whitening(sample)
    white = ((sample - mean) @ matrix).astype(np.float32)
    kmeans = faiss.Kmeans(48, 16, niter=20, seed=1, min_points_per_centroid=1, max_points_per_centroid=4000)
    kmeans.train(white)
    distance = ((white[:300, None] - np.asarray(kmeans.centroids)[None]) ** 2).sum(2)
    assert book(torch.from_numpy(sample[:300])).tolist() == distance.argmin(1).tolist()
    assert len(book(torch.from_numpy(sample)).unique(sorted=True)) == 16
    again = Codebook(16, 4)
    again.fit(images)
    assert torch.equal(book.weight, again.weight)


def test_whitened_patches_are_uncorrelated() -> None:
    rng = np.random.default_rng(0)
    sample = (rng.normal(size=(5000, 12)) @ rng.normal(size=(12, 12))).astype(np.float32)
    mean, matrix = whitening(sample)
    covariance = np.cov(((sample - mean) @ matrix).T)
    off_diagonal = covariance[~np.eye(12, dtype=bool)]
    assert float(np.abs(off_diagonal).mean()) < 0.15 * float(np.diag(covariance).mean())


def test_sampled_patches_lie_in_their_images_and_frequencies_sum_to_one() -> None:
    images = data(3)
    squares = sample_patches(images.pixels, 5, 9, 0).reshape(9, 3, 5, 5)
    for k, square in enumerate(squares):
        image = images.pixels[np.array([[0, 0, 0, 1, 1, 1, 1, 2, 2][k]])][0]
        windows = np.lib.stride_tricks.sliding_window_view(image, (5, 5), (0, 1))
        found = np.isclose(windows / 255, square, atol=1e-6).all((2, 3, 4))
        assert found.any() or k in (3, 7)  # where the even spread rounds the other way
    shares = unigram(torch.tensor([0, 0, 2]), 4)
    assert shares.tolist() == pytest.approx([3 / 7, 1 / 7, 2 / 7, 1 / 7])


def test_orders_and_picks() -> None:
    order = random_order(5, 9, generator())
    tokens = torch.arange(45.0).view(5, 9, 1)
    picked = pick(tokens, order[:, :3])[:, :, 0]
    assert picked.tolist() == [[9 * n + k for k in row[:3]] for n, row in enumerate(order.tolist())]


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    for name in ("mae", "autoregressive", "beit"):
        kind = find_method(name)
        with pytest.raises(UsageError, match="choose a ViT"):
            kind(build_backbone("resnet10_w8", 32), kind.Config())
    with pytest.raises(UsageError, match="0 of 64 patches visible"):
        made("mae", mask=1.0)
    with pytest.raises(UsageError, match="at least one patch must be hidden"):
        made("beit", mask=0.0)
    with pytest.raises(UsageError, match="pixels or words"):
        made("autoregressive", target="colors")
    flat = Images(np.zeros((4, 32, 32, 3), np.uint8), (), ())
    with pytest.raises(TrainingError, match="fewer than 8 different patches"):
        Codebook(8, 4).fit(flat)
