"""What is held out is held out: copies of an image on one side, every class on both, and nothing seen by the judge."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sslfeat.errors import FeaturesError, UsageError
from sslfeat.evaluation.probing import knn, probe, regularization
from sslfeat.evaluation.probing.labels import Labeled, LabelSource, split
from sslfeat.evaluation.probing.logistic import Regression, Targets
from sslfeat.evaluation.probing.multilabel import multi_labeled, probe_several, split_rows
from sslfeat.evaluation.probing.probe import Probed
from sslfeat.evaluation.probing.regularization import GREATEST, LEAST, STRENGTHS, BoolArray, Judge, best_fit
from sslfeat.evaluation.probing.run import run_folders
from sslfeat.evaluation.probing.splits import Contents, folds, held_out
from sslfeat.features.reader import Features
from sslfeat.numerics.arrays import FloatArray
from tests.conftest import run_of, sslfeat

RNG = np.random.default_rng(0)
RUN = run_of()


def noise(count: int, dim: int = 40) -> Labeled:
    rng = np.random.default_rng(3)
    y = [f"c{number}" for number in rng.integers(0, 2, count)]
    return Labeled(rng.normal(size=(count, dim)).astype(np.float32), y, contents=np.arange(count))


def apart(first: Contents, second: Contents) -> bool:
    assert first is not None
    assert second is not None
    return not np.isin(first, second).any()


def test_c_is_judged_by_fits_that_have_not_seen_the_judges() -> None:
    """More units than rows and labels by chance: whoever has seen the rows that judge is right on all of them."""
    rows = noise(200, 400)
    y = rows.numbers(rows.classes)
    held = held_out(y, rows.classes, 0.25, 0)

    def judge(scores: FloatArray, out: BoolArray) -> float:
        assert scores.shape == (int(held.sum()), 2)
        return float((scores.argmax(1) == y[out]).mean())

    chosen = best_fit(rows.x, Targets(y, 2), np.ones(200, np.float32), [held], judge)
    assert max(*chosen.validation.values(), *chosen.scalings.values()) < 0.75
    assert (chosen.model.scores(rows.x).argmax(1) == y).mean() > 0.6  # and the model itself is of all rows


def test_copies_are_on_one_side() -> None:
    x = np.repeat(RNG.normal(size=(60, 4)), 3, axis=0).astype(np.float32)
    contents = np.repeat(RNG.permutation(60) + 1000, 3)
    rows = Labeled(x, [f"c{number % 2}" for number in contents], contents=contents)
    y = rows.numbers(rows.classes)
    for train, test in (split(rows, 0.2, seed) for seed in range(5)):
        assert apart(test.contents, train.contents)
        assert 30 <= len(test.x) <= 40
        assert set(train.y) == set(test.y) == {"c0", "c1"}
    masks = folds(y, rows.classes, 5, 0, contents)
    assert (np.sum(masks, axis=0) == 1).all()
    assert all(not np.isin(contents[mask], contents[~mask]).any() for mask in masks)
    several = multi_labeled(Features(x, [""] * 180, [], RUN, contents), [(name,) for name in rows.y])
    for seed in range(3):
        train_rows, test_rows = split_rows(several, 0.2, seed)
        assert apart(test_rows.contents, train_rows.contents)


def test_c_is_not_chosen_on_copies_of_what_was_fitted() -> None:
    rows = noise(120, 400)
    twice = Labeled(np.repeat(rows.x, 2, axis=0), [y for y in rows.y for _ in "ab"], contents=np.repeat(np.arange(120), 2))
    for options in (probe.ProbeOptions(), probe.ProbeOptions(folds=3)):
        assert max(probe.probe(twice, rows, options).validation.values()) < 0.8
    alone = Labeled(twice.x, twice.y)
    assert max(probe.probe(alone, rows).validation.values()) > 0.9  # what copies would make of it


def test_copies_of_one_image_are_one_image() -> None:
    contents = np.array([0, 0, 0, 1, 2, 3, 4, 4])
    y = np.array([0, 0, 0, 1, 1, 1, 1, 2])
    with pytest.raises(FeaturesError, match=r"class 'a' has a single image, 3 times and .* --min-images 4"):
        held_out(y, "abc", 0.2, 0, contents)
    mask = held_out(y, "abc", 0.2, 0, contents, whole=False)
    assert mask.sum() == 1
    assert 3 <= np.flatnonzero(mask)[0] <= 5  # not the image that is there under two classes


def test_a_class_of_two_and_of_one() -> None:
    rows = noise(60)
    y = ["rare"] * 2 + rows.y[2:]
    result = probe.probe(*split(Labeled(rows.x, y), 0.2, 0))
    assert (result.classes, {row.name: row.test for row in result.per_class}["rare"]) == (3, 1)
    lone = probe.probe(Labeled(rows.x[:2], ["a", "b"]), Labeled(rows.x, ["a", "b"] * 30))
    assert (lone.c, lone.validation) == (1.0, {})  # nothing to choose C on
    with pytest.raises(FeaturesError, match="all 60 images have different labels"):
        split(Labeled(rows.x, [str(row) for row in range(60)]), 0.2, 0)
    with pytest.raises(UsageError, match="at least two"):
        folds(np.zeros(4, np.int64), ["a"], 1, 0)


def test_test_images_that_were_trained_on_are_told_and_left_out() -> None:
    train = noise(200, 400)
    names = [str(row) for row in range(200)]
    ours = Features(train.x, names, list(train.y), RUN, np.arange(200))
    x = np.concatenate([train.x[:80], np.random.default_rng(9).normal(size=(40, 400)).astype(np.float32)])
    labels = [*train.y[:80], *(["c0", "c1"] * 20)]
    found = run_folders(ours, Features(x, names[:120], list(labels), RUN, np.r_[np.arange(80), 900:940]))
    assert isinstance(found, Probed)
    unseen = found.result.unseen
    assert isinstance(unseen, probe.Unseen)
    assert unseen.linear is not None
    assert unseen.knn_best is not None
    assert (unseen.seen, unseen.test) == (80, 40)
    assert unseen.linear.top1 == pytest.approx(found.correct[80:].mean())
    assert found.result.linear.top1 > unseen.linear.top1 + 0.1
    every = run_folders(ours, ours).result.unseen
    assert isinstance(every, probe.Unseen)
    assert (every.test, every.linear) == (0, None)
    others = Features(x[80:], names[:40], list(labels[80:]), RUN, np.arange(900, 940))
    assert run_folders(ours, others).result.unseen is None
    several = multi_labeled(ours, [(label,) for label in train.y])
    told = probe_several(several, several).result.unseen
    assert told is not None
    assert (told.seen, told.test) == (200, 0)


def test_neighbors_are_not_chosen_by_copies() -> None:
    """Every image is there twice, with labels by chance: its copy would make one neighbor the best."""
    rng = np.random.default_rng(1)
    x = np.repeat(rng.normal(size=(150, 16)), 2, axis=0).astype(np.float32)
    y = np.repeat(rng.integers(0, 2, 150), 2)
    contents = np.repeat(np.arange(150), 2)
    assert knn.choose(x, y, 2, rng)[0] == 1
    picked = knn.choose(x, y, 2, rng, contents)
    alone = knn.choose(x[::2], y[::2], 2, rng)
    assert picked != (1, knn.TEMPERATURES[0]) or alone[0] == 1


def test_the_grid_extends_by_itself() -> None:
    x, y = RNG.normal(size=(50, 3)).astype(np.float32), np.arange(50) % 2
    held = [np.arange(50) < 10]
    tried: list[float] = []

    def at(best: float) -> float:
        tried.clear()

        def judge(scores: FloatArray, rows: BoolArray) -> float:
            size = float(np.abs(scores - scores.mean(1, keepdims=True)).max())  # grows with C
            tried.append(size)
            return best * size

        return best_fit(x, Targets(y, 2), np.ones(50, np.float32), held, judge).c

    assert at(1) > max(STRENGTHS)
    assert at(-1) < min(STRENGTHS)
    assert at(0) == min(STRENGTHS)
    assert LEAST < min(STRENGTHS) < max(STRENGTHS) < GREATEST


def test_of_many_classes_some_choose_the_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(240) % 12
    x = (rng.normal(size=(12, 6))[y] + rng.normal(0, 0.8, (240, 6))).astype(np.float32)
    held, weight = [np.arange(240) % 5 == 0, np.arange(240) % 5 == 1], np.ones(240, np.float32)

    def judge_of(y: npt.NDArray[np.int64]) -> Judge:
        return lambda scores, rows: float((scores.argmax(1) == y[rows]).mean())

    monkeypatch.setattr(regularization, "MANY", 4)
    found = best_fit(x, Targets(y, 12), weight, held, judge_of(y))
    chosen = np.sort(np.random.default_rng(0).permutation(12)[:4])
    rows = np.isin(y, chosen)
    alone = np.searchsorted(chosen, y[rows])
    expected = best_fit(x[rows], Targets(alone, 4), weight[rows], [out[rows] for out in held], judge_of(alone))
    assert (found.c, found.scaling, found.validation) == (expected.c, expected.scaling, expected.validation)
    whole = Regression(x, Targets(y, 12), weight, found.scaling).fit(found.c)
    np.testing.assert_array_equal(found.model.weights, whole.weights)  # and all classes are fitted
    assert found.model.weights.shape == (6, 12)


def test_sparse_features_get_one_scale_and_dense_ones_their_own() -> None:
    """Units that are rarely on and say nothing drown the others when each is given the same deviation."""
    rng = np.random.default_rng(0)
    y = np.arange(600) % 3
    told = rng.normal(size=(3, 8))[y] + rng.normal(0, 1.0, (600, 8))
    rare = (rng.random((600, 400)) < 0.004) * rng.normal(0, 0.1, (600, 400))
    sparse = Labeled(np.hstack([told, rare]).astype(np.float32), [f"c{number}" for number in y])
    found = probe.probe(*split(sparse, 0.3, 0))
    assert found.scaling == "common"
    assert found.scalings["common"] > found.scalings["unit"]
    dense = Labeled(np.hstack([told * 1e-3, rng.normal(0, 1, (600, 40))]).astype(np.float32), [f"c{number}" for number in y])
    found = probe.probe(*split(dense, 0.3, 0))
    assert found.scaling == "unit"


def test_the_command_says_what_was_taken_for_labels(embedded: Path, tmp_path: Path) -> None:
    paths = Features.load(embedded).paths
    table = tmp_path / "labels.csv"
    table.write_text("path,label\nnowhere.jpg,x\n" + "".join(f"{path},{'ab'[n % 2]}\n" for n, path in enumerate(paths[:30])))
    done = sslfeat("probe", embedded, "--labels", table, "--json")
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)["label_source"]
    assert (told["source"], told["labeled"], told["classes"]) == ("table labels.csv", 30, 2)
    assert [row["images"] for row in told["left_out"]] == [10, 1]
    assert "labels: table labels.csv; 2 classes, 30 of 40 images" in done.stderr
    assert "1 left out: rows of labels.csv without an image, for example nowhere.jpg" in done.stderr
    both = sslfeat("probe", embedded, embedded)
    assert "40 of the 40 test images are identical to training images" in both.stderr
    assert LabelSource("folder").read(Features.load(embedded)).lines == ["labels: folder names; 4 classes, 40 of 40 images"]
