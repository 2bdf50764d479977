"""de Sa: two modalities that label each other, the collapse that the entropy closes, pairs from files, and LVQ2.1."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslfeat.errors import TrainingError, UsageError
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.data import load_arrays
from sslfeat.models.engine.trainer import train
from sslfeat.models.methods.desa import COLOR_RANGE, DeSa, balance, teach_each_other
from sslfeat.models.ops.color import rgb_to_lab
from tests.lvq import Codebook, learn_pair


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_loss_term_by_term() -> None:
    first, second = torch.randn(2, 5, 3, generator=generator()).double()
    beta = 0.7
    p = [torch.softmax(x, 1).numpy() for x in (first, second)]
    total = 0.0
    for me, other in ((0, 1), (1, 0)):
        total -= sum(math.log(p[me][n, p[other][n].argmax()]) for n in range(5)) / 5
        mean = p[me].mean(0)
        total -= beta * -sum(float(share) * math.log(share) for share in mean)
    loss, figures = teach_each_other(first, second, beta, balanced=False)
    assert float(loss) == pytest.approx(total, rel=1e-5)
    winners = [x.argmax(1) for x in p]
    assert float(figures["accuracy"]) == pytest.approx(float((winners[0] == winners[1]).mean()))
    shares = [np.bincount(winner, minlength=3) / 5 for winner in winners]
    assert float(figures["chance"]) == pytest.approx(float(shares[0] @ shares[1]))


def test_what_teaches_gets_no_gradient() -> None:
    first, second = torch.randn(2, 6, 4, generator=generator()).requires_grad_().unbind(0)
    for balanced in (False, True):
        loss, _ = teach_each_other(first, second, 0.0, balanced)
        (gradient,) = torch.autograd.grad(loss, first)
        lesson = torch.nn.functional.one_hot((balance(second) if balanced else second).argmax(1), 4)
        # that of CE(p1, w2) alone
        torch.testing.assert_close(gradient, ((first.softmax(1) - lesson) / 6).detach(), atol=1e-6, rtol=1e-4)


def test_winners_are_shared_out_evenly_and_follow_what_is_said() -> None:
    said = torch.randn(400, 5, generator=generator()) * 0.01
    said[:, 3] += 10.0  # one class for all: how much more it is said of some is what counts
    assert set(said.argmax(1).tolist()) == {3}
    shares = balance(said)
    torch.testing.assert_close(shares.sum(1), torch.ones(400))
    torch.testing.assert_close(shares.sum(0), torch.full((5,), 80.0), rtol=0.02, atol=0)
    counts = shares.argmax(1).bincount(minlength=5)
    assert counts.min() > 60 and counts.max() < 100
    even = said - said.mean(0)
    assert (shares.argmax(1) == even.argmax(1)).float().mean() > 0.9
    assert torch.isfinite(balance(torch.zeros(3, 4))).all()


def learned(beta: float, balanced: bool) -> tuple[float, float]:
    """Entropy of the classes in use and agreement, after two linear towers taught each other on correlated views."""
    torch.manual_seed(0)
    towers = [torch.nn.Linear(8, 6), torch.nn.Linear(8, 6)]
    optimizer = torch.optim.Adam([p for tower in towers for p in tower.parameters()], 0.05)
    figures: dict[str, Any] = {}
    for step in range(150):
        hidden = torch.randn(64, 8, generator=generator(step))
        loss, figures = teach_each_other(towers[0](hidden), towers[1](hidden + 0.1), beta, balanced)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return float(figures["entropy"]), float(figures["accuracy"])


def test_unbalanced_and_without_the_entropies_all_answers_become_one() -> None:
    entropy, agreement = learned(1.0, balanced=True)
    assert entropy > 0.9 and agreement > 0.6
    assert learned(0.0, balanced=False)[0] < 0.6 * entropy
    method = DeSa(build_backbone("resnet10_w8", 32), DeSa.Config())
    assert "few classes" in str(method.complaint({"entropy": 0.1}))


def test_the_modalities_are_lightness_and_color_of_one_crop() -> None:
    method = DeSa(build_backbone("resnet10_w8", 32), DeSa.Config()).eval()
    batch = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=generator())
    crops, color = method.views(batch, generator())
    torch.testing.assert_close(color, rgb_to_lab(crops)[:, 1:] / COLOR_RANGE)
    seen = method.input_transform(crops)
    assert torch.equal(seen[:, 0], seen[:, 2])
    other = DeSa(method.encoder, DeSa.Config(same_crop=False)).views(batch, generator())[1]
    assert not torch.allclose(other, color)


@pytest.fixture
def paired(image_folder: Path, tmp_path: Path) -> Path:
    """Images with an array beside each, which tells its class folder and some noise."""
    folder = tmp_path / "paired"
    shutil.copytree(image_folder, folder)
    rng = np.random.default_rng(0)
    for number, name in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        for path in name.glob("*.jpg"):
            array = np.r_[np.eye(8)[number], rng.normal(size=4)].reshape(3, 4)
            np.save(path.with_suffix(".npy"), array.astype(np.float32))
    return folder


def test_a_second_array_beside_each_image(paired: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        "desa", (str(paired),), "resnet10_w8", image_size=32, batch_size=8, steps=4, accelerator="cpu",
        options={"second": ".npy", "classes": "4"},
    )  # fmt: skip
    assert train(config, tmp_path / "run").steps == 4
    victim = sorted(paired.rglob("*.npy"))[7]
    victim.unlink()
    with pytest.raises(TrainingError, match=victim.name):
        train(config, tmp_path / "again")
    np.save(victim, np.zeros(5, np.float32))
    with pytest.raises(TrainingError, match=victim.name):
        train(config, tmp_path / "and again")


def test_arrays_are_flattened_and_standardized(tmp_path: Path) -> None:
    arrays = np.random.default_rng(0).normal(3, 2, (6, 2, 5)).astype(np.float32)
    paths = [tmp_path / f"{k}.npy" for k in range(6)]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    loaded = load_arrays([bytes(path) for path in paths])
    flat = arrays.reshape(6, 10)
    np.testing.assert_allclose(loaded, (flat - flat.mean(0)) / flat.std(0), atol=1e-5)


def two_views(n: int, rng: np.random.Generator) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Three classes, Gaussian in each of two modalities, independent given the class."""
    labels = rng.integers(0, 3, n)
    centers = [np.array([[0, 0], [3, 0], [1.5, 2.6]]), np.array([[0, 0, 0], [0, 3, 0], [0, 1.5, 2.6]])]
    first, second = (c[labels] + rng.normal(size=(n, c.shape[1])) for c in centers)
    return first, second, labels


def test_lvq_learns_without_labels_what_it_would_nearly_learn_with_them() -> None:
    rng = np.random.default_rng(0)
    first, second, _ = two_views(1500, rng)
    books = learn_pair(first, second, 3, 12, rng, epochs=4)
    x1, x2, labels = two_views(3000, np.random.default_rng(1))
    for book, x, centers in zip(
        books, (x1, x2), ([[0, 0], [3, 0], [1.5, 2.6]], [[0, 0, 0], [0, 3, 0], [0, 1.5, 2.6]]), strict=True
    ):
        found = book.classify(x)
        names = [np.bincount(labels[found == k], minlength=3).argmax() for k in range(3)]
        accuracy = float((np.array(names)[found] == labels).mean())
        best = float((((x[:, None] - np.array(centers)[None]) ** 2).sum(2).argmin(1) == labels).mean())
        assert sorted(names) == [0, 1, 2]
        assert accuracy > best - 0.05


def test_lvq_moves_the_right_word_nearer_and_the_wrong_one_away_within_its_window() -> None:
    book = Codebook(np.array([[0.0, 0.0], [2.0, 0.0], [9.0, 9.0]]), np.array([0, 1, 2]))
    book.learn(np.array([0.9, 0.0]), 1, 0.1, 0.3)
    np.testing.assert_allclose(book.words, [[-0.09, 0.0], [1.89, 0.0], [9.0, 9.0]])
    before = book.words.copy()
    book.learn(np.array([-0.05, 0.0]), 1, 0.1, 0.3)  # far from the midplane
    book.learn(np.array([0.9, 0.0]), 2, 0.1, 0.3)  # neither of the two nearest has the label
    np.testing.assert_array_equal(book.words, before)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UsageError, match="needs at least 2"):
        DeSa(build_backbone("resnet10_w8", 32), DeSa.Config(classes=1))
