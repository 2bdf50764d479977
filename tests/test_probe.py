"""The probe: figures against independent computations, and clear refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sslfeat.errors import FeaturesError, InputError
from sslfeat.evaluation.probing import bootstrap, knn, labels, probe
from sslfeat.evaluation.probing.confusion import class_figures, confusion
from sslfeat.evaluation.probing.probe import ProbeOptions
from sslfeat.evaluation.probing.regularization import STRENGTHS
from sslfeat.evaluation.probing.run import run_folders
from sslfeat.evaluation.probing.splits import folds
from sslfeat.features.reader import Features
from tests.conftest import labels_from_table, run_of, sslfeat, write_tiny


def clusters(n: int, spread: float, seed: int = 0) -> labels.Labeled:
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(7).normal(size=(3, 16))
    y = np.arange(n) % 3
    return labels.Labeled((centers[y] + rng.normal(0, spread, (n, 16))).astype(np.float32), [f"c{i}" for i in y])


def features(rows: labels.Labeled, given: list[str | None] | None = None, fingerprint: str = "f") -> Features:
    return Features(rows.x, [str(i) for i in range(len(rows.x))], given or list(rows.y), run_of(fingerprint=fingerprint))


def test_separable_and_random_features() -> None:
    easy = probe.probe(clusters(300, 0.1), clusters(150, 0.1, 1))
    assert easy.linear.top1 == 1
    assert easy.knn[20].top1 == 1
    assert easy.majority == pytest.approx(1 / 3)
    rng = np.random.default_rng(0)
    train, test = (labels.Labeled(rng.normal(size=(300, 16)).astype(np.float32), [f"c{i % 3}" for i in range(300)]) for _ in "ab")
    assert 0.2 < probe.probe(train, test).linear.top1 < 0.47


def test_linear_probe_is_the_best_of_scikit_learns_on_validation() -> None:
    train, test = clusters(400, 1.4), clusters(400, 1.4, 1)
    result = probe.probe(train, test)
    mean, scale = train.x.mean(0), train.x.std(0)
    model = LogisticRegression(C=result.c, max_iter=2000).fit((train.x - mean) / scale, train.y)
    wanted = float((model.predict((test.x - mean) / scale) == np.array(test.y)).mean())
    assert result.linear.top1 == pytest.approx(wanted, abs=0.006)
    assert result.c in STRENGTHS


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
    assert result.knn == {20: result.knn[20]}  # 200 neighbors are more than there are
    assert result.knn[20].top1 == pytest.approx(right / 40)
    assert 0.4 < result.knn[20].top1 < 1


def test_the_interval_is_the_bootstraps() -> None:
    correct = np.arange(500) % 5 != 0
    accuracy = bootstrap.accuracy(correct, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    naive = [correct[rng.integers(0, 500, 500)].mean() for _ in range(4000)]
    assert accuracy.top1 == 0.8
    assert accuracy.low == pytest.approx(float(np.quantile(naive, 0.025)), abs=0.006)
    assert accuracy.high == pytest.approx(float(np.quantile(naive, 0.975)), abs=0.006)


def test_the_split_is_stratified_disjoint_and_seeded() -> None:
    rows = labels.Labeled(np.arange(100, dtype=np.float32)[:, None], ["a"] * 80 + ["b"] * 20)
    train, test = labels.split(rows, 0.2, 0)
    assert (test.y.count("a"), test.y.count("b")) == (16, 4)
    assert sorted(np.concatenate([train.x, test.x]).ravel()) == list(range(100))
    assert np.array_equal(test.x, labels.split(rows, 0.2, 0)[1].x)
    assert not np.array_equal(test.x, labels.split(rows, 0.2, 1)[1].x)


def test_refusals_name_the_fault() -> None:
    rows = clusters(30, 0.1)
    with pytest.raises(FeaturesError, match="0 classes"):
        run_folders(features(rows, [None] * 30))
    with pytest.raises(FeaturesError, match="1 classes"):
        run_folders(features(rows, ["only", *[None] * 29]))
    with pytest.raises(FeaturesError, match="class 'lone' has a single row"):
        run_folders(features(rows, ["lone", *rows.y[1:]]))
    with pytest.raises(FeaturesError, match="different encoders"):
        run_folders(features(rows), features(rows, fingerprint="g"))
    with pytest.raises(FeaturesError, match="not in train: zebra"):
        run_folders(features(rows), features(rows, ["zebra", *rows.y[1:]]))
    rows.x[0, 0] = np.nan
    with pytest.raises(FeaturesError, match="not finite"):
        run_folders(features(rows))


def test_the_command_line_on_one_and_on_two_folders(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        assert sslfeat("embed", image_folder, "--encoder", tiny, "--out", tmp_path / out).returncode == 0
    one = sslfeat("probe", tmp_path / "a", "--json")
    assert one.returncode == 0, one.stderr
    assert (json.loads(one.stdout)["train"], json.loads(one.stdout)["test"]) == (32, 8)
    two = sslfeat("probe", tmp_path / "a", tmp_path / "b")
    assert two.returncode == 0, two.stderr
    assert "40 train, 40 test, 4 classes" in two.stdout
    other = write_tiny(tmp_path / "other.onnx", seed=5)
    assert sslfeat("embed", image_folder, "--encoder", other, "--out", tmp_path / "c").returncode == 0
    refused = sslfeat("probe", tmp_path / "a", tmp_path / "c")
    assert refused.returncode == 1
    assert "different encoders" in refused.stderr


def test_knn_over_k_and_temperature_equals_trying_all_by_hand() -> None:
    rows = clusters(80, 1.6)
    y = rows.numbers(rows.classes)
    unit = rows.x / np.linalg.norm(rows.x, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    right = {}
    for k in (n for n in knn.KS if n < 80):
        for t in knn.TEMPERATURES:
            hits = 0
            for i in range(80):
                near = np.argsort(-cosine[i])[:k]
                hits += np.bincount(y[near], np.exp(cosine[i, near] / t), 3).argmax() == y[i]
            right[k, t] = hits
    chosen = knn.choose(rows.x, y, 3, np.random.default_rng(0))
    assert right[chosen] == max(right.values())
    assert min(right.values()) < max(right.values())


def test_nearest_mean_and_few_shots_equal_a_loop() -> None:
    train, test = clusters(60, 1.2), clusters(45, 1.2, 1)
    y, wanted = train.numbers(train.classes), test.numbers(train.classes)
    mean = train.x.mean(0)

    def named(rows: list[int]) -> list[int]:
        center = []
        for c in range(3):
            units = [(train.x[i] - mean) / np.linalg.norm(train.x[i] - mean) for i in rows if y[i] == c]
            center.append(np.mean(units, axis=0) / np.linalg.norm(np.mean(units, axis=0)))
        return [int(np.argmax([float((x - mean) @ one) for one in center])) for x in test.x]

    assert knn.nearest_mean(train.x, y, test.x, 3).tolist() == named(list(range(60)))
    found = knn.few_shot(train.x, y, test.x, wanted, 3, np.random.default_rng(0))
    assert [row.shots for row in found] == [1, 5, 10]
    rng = np.random.default_rng(5)
    tops = []
    for _ in range(60):
        rows = [int(i) for c in range(3) for i in rng.permutation(np.flatnonzero(y == c))[:5]]
        tops.append(np.mean(np.array(named(rows)) == wanted))
    assert found[1].top1 == pytest.approx(float(np.mean(tops)), abs=0.04)
    assert found[1].low < found[1].top1 < found[1].high
    few = knn.few_shot(train.x[:8], y[:8], test.x, wanted, 3, np.random.default_rng(0))
    assert [row.shots for row in few] == [1]  # a class has but two rows


def test_balanced_accuracy_and_class_figures_equal_scikit_learns() -> None:
    from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

    rng = np.random.default_rng(0)
    y = np.concatenate([np.zeros(150, np.int64), np.ones(30, np.int64), np.full(20, 2)])
    named = np.where(rng.random(200) < 0.3, rng.integers(0, 3, 200), y)
    found = bootstrap.balanced(named == y, y, 3, np.random.default_rng(0))
    assert found.top1 == pytest.approx(balanced_accuracy_score(y, named))
    naive = []
    for _ in range(3000):
        drawn = rng.integers(0, 200, 200)
        naive.append(np.mean([np.mean(named[drawn][y[drawn] == c] == c) for c in range(3)]))
    assert found.low == pytest.approx(float(np.quantile(naive, 0.025)), abs=0.015)
    assert found.high == pytest.approx(float(np.quantile(naive, 0.975)), abs=0.015)
    figures = class_figures(confusion(y, named, 3), ["a", "b", "c"], rng)
    precision, recall, f1, _ = precision_recall_fscore_support(y, named)
    assert [row.recall for row in figures] == pytest.approx(recall)
    assert [row.precision for row in figures] == pytest.approx(precision)
    assert [row.f1 for row in figures] == pytest.approx(f1)


def test_the_paired_test_is_mcnemars() -> None:
    from scipy.stats import binomtest

    rng = np.random.default_rng(0)
    first, second = rng.random(400) < 0.6, rng.random(400) < 0.67
    found = bootstrap.paired(first, second, rng)
    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    assert (found.only_first, found.only_second) == (one, other)
    assert found.difference == pytest.approx(second.mean() - first.mean())
    assert found.low < found.difference < found.high
    for a, b in ((one, other), (0, 9), (5, 5), (1000, 1101)):
        assert bootstrap.mcnemar(a, b) == pytest.approx(binomtest(a, a + b).pvalue, rel=0.02)


def test_folds_share_every_class_and_choose_c() -> None:
    rows = clusters(100, 1.4)
    y = rows.numbers(rows.classes)
    masks = folds(y, rows.classes, 5, 0)
    assert (np.sum(masks, axis=0) == 1).all()
    assert all(min(np.bincount(y[mask])) >= 6 for mask in masks)
    result = probe.probe(rows, clusters(90, 1.4, 1), ProbeOptions(folds=5))
    assert result.validation[result.c] == max(result.validation.values())
    with pytest.raises(FeaturesError, match="c0' has 2"):
        folds(np.array([0, 0, 1, 1, 1]), ["c0", "c1"], 3, 0)


def test_rare_classes_are_left_out_when_asked_and_balanced_weights_help_them() -> None:
    rows = clusters(200, 1.7)
    rare = labels.Labeled(rows.x, ["lone" if i == 4 else "c0" if i % 3 or i % 12 == 0 else "c1" for i in range(200)])
    result = run_folders(features(rare), None, ProbeOptions(), min_images=2).result
    assert result.classes == 2  # type: ignore[union-attr]
    plain, even = (
        probe.probe(*labels.split(labels.labeled(features(rare), min_images=2), 0.4, 0), ProbeOptions(class_weight=weight))
        for weight in (None, "balanced")
    )
    assert min(row.recall for row in even.per_class) > min(row.recall for row in plain.per_class)
    with pytest.raises(InputError, match="class weight 'even'"):
        ProbeOptions(class_weight="even")


def test_labels_come_from_tables_by_any_way_of_writing_the_path(tmp_path: Path) -> None:
    paths = [str(tmp_path / "pics" / f"{i}.jpg") for i in range(4)]
    table = tmp_path / "labels.csv"
    for written in (paths, [f"pics/{i}.jpg" for i in range(4)], [f"{i}.jpg" for i in range(4)]):
        table.write_text("file,kind\n" + "\n".join(f"{name},k{i}" for i, name in enumerate(written[:3])))
        assert labels_from_table(table, paths, "kind") == ["k0", "k1", "k2", None]
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"path": paths, "label": [["b", "a"], [], None, ["a"]]}), tmp_path / "l.parquet")
    assert labels_from_table(tmp_path / "l.parquet", paths) == [("a", "b"), (), None, ("a",)]
    table.write_text("path,label\n0.jpg,a; b\n1.jpg,\n")
    assert labels_from_table(table, paths, separator=";") == [("a", "b"), (), None, None]
    assert labels.class_folders(paths)[0] == ["pics"] * 4


def test_tables_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    with pytest.raises(InputError, match=r"labels\.csv cannot be read"):
        labels_from_table(table, ["a"])
    table.write_text("path,kind\na,1\na,2\n")
    with pytest.raises(InputError, match=r"no column 'label'.*path, kind.*: choose one with --column"):
        labels_from_table(table, ["a"])
    with pytest.raises(InputError, match="a has two labels, '1' and '2'"):
        labels_from_table(table, ["a"], "kind")
    table.write_text("path,label\nb,1\n")
    with pytest.raises(InputError, match="no label for any of the 1 images"):
        labels_from_table(table, ["a"])
