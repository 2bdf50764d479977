"""Label-free figures against closed forms on Gaussians and spheres, and against naive computations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sslfeat.errors import FeaturesError
from sslfeat.evaluation import unsupervised as module
from sslfeat.evaluation.redundancy import redundancy
from sslfeat.evaluation.unsupervised import MEANING, Score, alpha, hubness, mean_ranks, rank_me, score, uniformity
from sslfeat.features.reader import Features
from tests.conftest import sslfeat

FloatArray = npt.NDArray[np.floating]


def gaussian(count: int, deviations: FloatArray, seed: int = 0) -> npt.NDArray[np.float32]:
    """Independent units with exactly these standard deviations: columns made orthonormal first."""
    rows = np.random.default_rng(seed).normal(size=(count, len(deviations)))
    basis, _ = np.linalg.qr(rows - rows.mean(0))
    scaled: npt.NDArray[np.float32] = (basis * np.sqrt(count) * deviations).astype(np.float32)
    return scaled


def test_rank_is_that_of_known_singular_values() -> None:
    assert rank_me(gaussian(500, np.ones(16))) == pytest.approx(16, rel=1e-4)
    shares = np.array([8, 4, 2, 1, 1]) / 16
    assert rank_me(gaussian(500, 16 * shares)) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    assert rank_me(np.outer(np.arange(1, 40), np.ones(4)).astype(np.float32)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_alpha_is_the_exponent_of_a_power_law(exponent: float) -> None:
    eigenvalues = np.arange(1, 65) ** -exponent
    turned = gaussian(1000, np.sqrt(eigenvalues)) @ np.linalg.qr(np.random.default_rng(1).normal(size=(64, 64)))[0]
    assert alpha(turned) == pytest.approx(exponent, abs=1e-3)


def test_uniformity_is_that_of_the_circle_and_the_naive_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    angles = np.arange(4000) * 2 * np.pi / 4000
    circle = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    bessel = np.mean(np.exp(4 * np.cos(angles)))  # I0(4): squared distances are 2 - 2 cos
    assert uniformity(7 * circle) == pytest.approx(np.log(np.exp(-4) * bessel), abs=2e-3)
    monkeypatch.setattr(module, "BLOCK", 7)
    rows = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    unit = rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [np.exp(-2 * np.sum((unit[i] - unit[j]) ** 2)) for i in range(40) for j in range(40) if i != j]
    assert uniformity(rows) == pytest.approx(np.log(np.mean(pairs)), abs=1e-5)


def test_hubness_is_the_naive_skewness_and_grows_with_the_dimension() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    unit = rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
    counts = np.zeros(200)
    for i in range(200):
        similar = unit @ unit[i]
        similar[i] = -2
        counts[np.argsort(-similar)[:10]] += 1
    naive = np.mean((counts - counts.mean()) ** 3) / counts.std() ** 3
    assert hubness(rows) == pytest.approx(naive, abs=1e-6)
    low, high = (np.random.default_rng(1).normal(size=(2000, dim)).astype(np.float32) for dim in (4, 200))
    assert hubness(high) > hubness(low) + 0.1


def test_a_collapse_shows_in_every_figure() -> None:
    rng = np.random.default_rng(0)
    good = rng.normal(size=(600, 32)).astype(np.float32)
    poor = (rng.normal(size=(600, 1)) + 0.05 * good).astype(np.float32)
    poor[:, 0] = 3
    fine, bad = score(good), score(poor)
    assert bad.rank_me < fine.rank_me / 3
    assert bad.correlation > 0.9 > 0.1 > fine.correlation
    assert bad.total_correlation > 10 * fine.total_correlation
    assert bad.uniformity > fine.uniformity
    assert (bad.dead, fine.dead) == (1, 0)


def test_wrong_input_is_named() -> None:
    with pytest.raises(FeaturesError, match="3 images for 8 units"):
        score(np.zeros((3, 8), np.float32))
    with pytest.raises(FeaturesError, match="not finite"):
        score(np.full((9, 2), np.nan, np.float32))


def test_folders_side_by_side(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert sslfeat("embed", image_folder, "--encoder", tiny, "--out", tmp_path / name).returncode == 0
    table = sslfeat("score", tmp_path / "one", tmp_path / "two").stdout
    assert all(figure in table for figure in MEANING)
    one, two = json.loads(sslfeat("score", tmp_path / "one", tmp_path / "two", "--json").stdout)["folders"]
    assert {**one, "folder": ""} == {**two, "folder": ""}
    assert one["images"] == 40
    features = Features.load(tmp_path / "one").embeddings
    shared = redundancy(features)
    for name in ("correlation", "total_correlation", "predictability", "dead"):
        assert one[name] == pytest.approx(getattr(shared, name))
    few = sslfeat("embed", image_folder / "circles" / "circles-0000.jpg", "--encoder", tiny, "--out", tmp_path / "few")
    assert few.returncode == 0
    refused = sslfeat("score", tmp_path / "few")
    assert refused.returncode == 1
    assert "1 image for 8 units" in refused.stderr


def test_mean_ranks_are_counted_by_hand() -> None:
    values = [(10.0, 1.2, -3.0, 0.5), (8.0, 0.9, -3.0, 0.1), (9.0, 2.0, -1.0, 0.3)]
    scores = [Score(100, 8, rank, alpha, even, 0, 0, 0, 0, hubs) for rank, alpha, even, hubs in values]
    wanted = [(1 + 2 + 1.5 + 3) / 4, (3 + 1 + 1.5 + 1) / 4, (2 + 3 + 3 + 2) / 4]
    assert mean_ranks(scores) == pytest.approx(wanted)
    assert mean_ranks(scores[:1]) == [1]


def test_several_encoders_are_ranked(embedded: Path) -> None:
    done = sslfeat("score", embedded, embedded)
    assert done.returncode == 0, done.stderr
    assert f"lowest mean_rank: {embedded} and {embedded} (tie)" in done.stdout
    assert done.stdout.splitlines()[0].split() == [str(embedded)] * 2  # columns and last line name the same thing
    assert "best:" not in done.stdout + done.stderr
    assert "lowest mean_rank" not in sslfeat("score", embedded).stdout


def test_of_many_images_a_random_choice_is_measured(
    embedded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sslfeat.cli import score as command
    from sslfeat.numerics.sampling import sample

    monkeypatch.setattr(command, "MEASURED", 20)
    command.score([embedded], as_json=True)
    (found,) = json.loads(capsys.readouterr().out)["folders"]
    rows = sample(40, 20)
    assert rows.max() > 30
    assert (found["images"], found["of"]) == (20, 40)
    assert found["rank_me"] == pytest.approx(rank_me(Features.load(embedded).embeddings[rows]), rel=1e-6)
