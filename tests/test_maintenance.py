"""Updates of an index: random additions, removals and syncs against a model, rebuilding, and changes that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sslfeat import Index
from sslfeat.errors import RetrievalError
from sslfeat.retrieval import maintenance
from sslfeat.retrieval import storage as files
from sslfeat.retrieval.create import Events, requirements_of
from sslfeat.retrieval.index_types import KINDS
from sslfeat.retrieval.maintenance import change, remove
from sslfeat.retrieval.vectors import ArrayVectors, Maker
from tests.changing_index import DIM, Images
from tests.conftest import contents
from tests.in_process import run
from tests.small_index import short_laps

__all__ = ["short_laps"]


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnswsq", "ivfpq"])
def test_fifty_random_changes_leave_what_they_should(kind: str, tmp_path: Path) -> None:
    images = Images(KINDS.index(kind))
    images.new(150)
    index = tmp_path / "index"
    Index.build(images.vectors(sorted(images.rows)), kind=kind, recall=1.0 if kind == "flat" else 0.99).save(index)
    requirements = requirements_of(0.99, None, kind)
    for _ in range(50):
        what = images.rng.choice(["add", "remove", "sync", "sync", "modify"])
        if what == "add" or len(images.rows) < 60:
            images.new(images.rng.randint(1, 30))
            change(index, images.vectors(sorted({*sorted(images.rows)[-40:], *images.some()})), requirements=requirements)
            change(index, images.vectors(sorted(images.rows)), requirements=requirements)
        elif what == "remove":
            gone = images.some()
            assert remove(index, set(gone), requirements=requirements).removed == len(gone)
            for path in gone:
                del images.rows[path]
        else:
            for path in images.some():
                version, _ = images.rows[path]
                images.rows[path] = (version + (what == "modify"), images.rng.choice("abc"))
            for path in images.some()[:5]:
                del images.rows[path]
            images.new(2)
            change(index, images.vectors(sorted(images.rows)), drop_missing=True, requirements=requirements)
        if kind == "flat":
            images.check(index)
    index_now = Index.load(index)
    assert len(index_now) == len(images.rows)
    alive = [path for path, gone in zip(index_now.columns["path"].to_pylist(), index_now.removed, strict=True) if not gone]
    assert sorted(alive) == sorted(images.rows)
    found = index_now.search(np.stack([images.vector(path) for path in alive]), top=1)
    right = [found.of(number)[0].path == path for number, path in enumerate(alive)]
    assert np.mean(right) > 0.95
    rows = [index_now.row_of(path) for path in alive]
    unit = np.stack([images.vector(path) for path in alive])
    np.testing.assert_allclose(index_now.vectors(rows), unit / np.linalg.norm(unit, axis=1, keepdims=True), atol=1e-5)


def test_only_what_changed_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = Images(0)
    images.new(100)
    index = tmp_path / "index"
    Index.build(images.vectors(sorted(images.rows))).save(index)
    before = contents(index)
    assert str(change(index, images.vectors(sorted(images.rows)), drop_missing=True)) == "nothing changed"
    assert contents(index) == before
    assert str(remove(index, {"image 5"})) == "1 removed"
    assert contents(index)["index.faiss"] == before["index.faiss"]
    images.new(1)
    assert change(index, images.vectors(["image 101"])).added == 1
    assert contents(index)["index.faiss"].startswith(before["index.faiss"][45:][:0])
    assert len(contents(index)["index.faiss"]) == len(before["index.faiss"]) + 4 * DIM
    gone = {f"image {number}" for number in range(1, 60)}
    assert remove(index, gone).rebuilt
    assert Index.load(index).meta["removed"] == 0


def test_a_kind_that_was_asked_for_stays_or_the_index_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = Images(5)
    images.new(60)
    index = tmp_path / "index"
    Index.build(images.vectors(sorted(images.rows)), kind="hnsw", recall=0.9).save(index)
    images.new(100)
    assert change(index, images.vectors(sorted(images.rows))).rebuilt  # it has doubled
    assert files.read_metadata(index).spec.kind == "hnsw"
    before = contents(index)

    def fails(*given: object) -> None:
        raise RetrievalError("no index finds 90%")

    images.new(400)
    with (
        monkeypatch.context() as patch,
        pytest.raises(RetrievalError, match=r"needs to be rebuilt.*unchanged: no index finds"),
    ):
        patch.setattr(maintenance, "build", fails)
        change(index, images.vectors(sorted(images.rows)))
    assert contents(index) == before


def test_a_kind_that_becomes_another_is_said(tmp_path: Path) -> None:
    images, said = Images(6), list[str]()
    images.new(60)
    index = tmp_path / "index"
    Index.build(images.vectors(sorted(images.rows)), kind="hnsw", recall=0.9).save(index)
    images.new(100)
    requirements = requirements_of(0.9, None, "auto")
    assert change(index, images.vectors(sorted(images.rows)), requirements=requirements, events=Events(said.append)).rebuilt
    assert said[-1] == "the kind changed from hnsw to flat: exact search is fast for 160 vectors"


def test_what_an_index_was_not_built_for_is_not_passed_over(embedded: Path, tmp_path: Path) -> None:
    line = ("index", embedded, "--out", tmp_path / "i", "--sync", "--kind", "hnsw", "--recall", "0.9")
    assert run(*line).returncode == 0
    assert run(*line).returncode == 0
    for option, value in (("--kind", "flat"), ("--recall", "0.95"), ("--metric", "l2"), ("--workload", "single")):
        done = run(*line[:5], option, value)
        assert (done.returncode, f"was built with {option} " in done.stderr, "--overwrite" in done.stderr) == (2, True, True)


def test_another_encoders_features_are_refused_naming_both(tmp_path: Path) -> None:
    images = Images(0)
    images.new(20)
    one, other = (Maker(name, name * 20, "fp32") for name in ("one", "two"))
    vectors = images.vectors(sorted(images.rows))
    Index.build(ArrayVectors(vectors.embeddings, vectors.columns, one)).save(tmp_path / "index")
    with pytest.raises(RetrievalError, match=r"'two' \(twotwotwotwo\).*'one' \(oneoneoneone\)"):
        change(tmp_path / "index", ArrayVectors(vectors.embeddings, vectors.columns, other))
    with pytest.raises(RetrievalError, match="embedded in int8, but the index in fp32"):
        change(tmp_path / "index", ArrayVectors(vectors.embeddings, vectors.columns, replace(one, precision="int8")))
