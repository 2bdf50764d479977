"""The probe: figures against independent computations, and clear refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sslfeat import probe
from sslfeat.errors import FeaturesError
from sslfeat.features import Features
from tests.conftest import sslfeat, write_tiny

CARD = {"name": "a", "dim": 4}


def clusters(n: int, spread: float, seed: int = 0) -> probe.Labelled:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(3, 16))
    y = np.arange(n) % 3
    return probe.Labelled((centres[y] + rng.normal(0, spread, (n, 16))).astype(np.float32), [f"c{i}" for i in y])


def features(rows: probe.Labelled, labels: list[str | None] | None = None, fingerprint: str = "f") -> Features:
    run = {"encoder": {"fingerprint": fingerprint, "card": CARD}}
    return Features(rows.x, [str(i) for i in range(len(rows.x))], labels or list(rows.y), run)


def test_separable_and_random_features() -> None:
    easy = probe.probe(clusters(300, 0.1), clusters(150, 0.1, 1))
    assert easy.linear.top1 == 1
    assert easy.knn[20].top1 == 1
    assert easy.majority == pytest.approx(1 / 3)
    rng = np.random.default_rng(0)
    train, test = (
        probe.Labelled(rng.normal(size=(300, 16)).astype(np.float32), [f"c{i % 3}" for i in range(300)]) for _ in "ab"
    )
    assert 0.2 < probe.probe(train, test).linear.top1 < 0.47


def test_linear_probe_is_the_best_of_scikit_learns_on_validation() -> None:
    train, test = clusters(400, 1.4), clusters(400, 1.4, 1)
    result = probe.probe(train, test)
    mean, scale = train.x.mean(0), train.x.std(0)
    model = LogisticRegression(C=result.c, max_iter=2000).fit((train.x - mean) / scale, train.y)
    wanted = float((model.predict((test.x - mean) / scale) == np.array(test.y)).mean())
    assert result.linear.top1 == pytest.approx(wanted, abs=0.006)
    assert result.c in probe.STRENGTHS


def test_knn_equals_a_loop_over_the_formula() -> None:
    train, test = clusters(90, 1.5), clusters(40, 1.5, 1)
    result = probe.probe(train, test)
    right = 0
    for query, wanted in zip(test.x, test.y, strict=True):
        cosine = [float(query @ x) / float(np.linalg.norm(query) * np.linalg.norm(x)) for x in train.x]
        votes: dict[str, float] = {}
        for index in sorted(range(len(cosine)), key=lambda i: -cosine[i])[:20]:
            votes[train.y[index]] = votes.get(train.y[index], 0) + math.exp(cosine[index] / 0.07)
        right += max(votes, key=lambda name: votes[name]) == wanted
    assert result.knn == {20: result.knn[20]}  # 200 neighbours are more than there are
    assert result.knn[20].top1 == pytest.approx(right / 40)
    assert 0.4 < result.knn[20].top1 < 1


def test_the_interval_is_the_bootstraps() -> None:
    correct = np.arange(500) % 5 != 0
    accuracy = probe._accuracy(correct, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    naive = [correct[rng.integers(0, 500, 500)].mean() for _ in range(4000)]
    assert accuracy.top1 == 0.8
    assert accuracy.low == pytest.approx(float(np.quantile(naive, 0.025)), abs=0.006)
    assert accuracy.high == pytest.approx(float(np.quantile(naive, 0.975)), abs=0.006)


def test_the_split_is_stratified_disjoint_and_seeded() -> None:
    rows = probe.Labelled(np.arange(100, dtype=np.float32)[:, None], ["a"] * 80 + ["b"] * 20)
    train, test = probe.split(rows, 0.2, 0)
    assert (test.y.count("a"), test.y.count("b")) == (16, 4)
    assert sorted(np.concatenate([train.x, test.x]).ravel()) == list(range(100))
    assert np.array_equal(test.x, probe.split(rows, 0.2, 0)[1].x)
    assert not np.array_equal(test.x, probe.split(rows, 0.2, 1)[1].x)


def test_refusals_name_the_fault() -> None:
    rows = clusters(30, 0.1)
    with pytest.raises(FeaturesError, match="0 classes"):
        probe.probe_folders(features(rows, [None] * 30), None)
    with pytest.raises(FeaturesError, match="1 classes"):
        probe.probe_folders(features(rows, ["only", *[None] * 29]), None)
    with pytest.raises(FeaturesError, match="class 'lone' has a single row"):
        probe.probe_folders(features(rows, ["lone", *rows.y[1:]]), None)
    with pytest.raises(FeaturesError, match="different encoders"):
        probe.probe_folders(features(rows), features(rows, fingerprint="g"))
    with pytest.raises(FeaturesError, match="lacks: zebra"):
        probe.probe_folders(features(rows), features(rows, ["zebra", *rows.y[1:]]))
    rows.x[0, 0] = np.nan
    with pytest.raises(FeaturesError, match="not finite"):
        probe.probe_folders(features(rows), None)


def test_the_command_line_on_one_and_on_two_folders(tiny: Path, pictures: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        assert sslfeat("embed", pictures, "--encoder", tiny, "--out", tmp_path / out).returncode == 0
    one = sslfeat("probe", tmp_path / "a", "--json")
    assert one.returncode == 0, one.stderr
    assert (json.loads(one.stdout)["train"], json.loads(one.stdout)["test"]) == (32, 8)
    two = sslfeat("probe", tmp_path / "a", tmp_path / "b")
    assert two.returncode == 0, two.stderr
    assert "40 train, 40 test, 4 classes" in two.stdout
    other = write_tiny(tmp_path / "other.onnx", seed=5)
    assert sslfeat("embed", pictures, "--encoder", other, "--out", tmp_path / "c").returncode == 0
    refused = sslfeat("probe", tmp_path / "a", tmp_path / "c")
    assert refused.returncode == 1
    assert "different encoders" in refused.stderr
