"""Indexes that change: a model-based test of additions, removals and syncs, crashes, several writers, damaged folders."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sslfeat import Index
from sslfeat.errors import RetrievalError
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval import maintenance, tuning
from sslfeat.retrieval import storage as files
from sslfeat.retrieval.create import Events, requirements_of
from sslfeat.retrieval.index_types import KINDS
from sslfeat.retrieval.maintenance import change, remove
from sslfeat.retrieval.vectors import COLUMNS, ArrayVectors, Maker
from sslfeat.storage import atomic, staged
from sslfeat.storage.arrow import strings
from sslfeat.storage.records import signed_bytes
from tests.conftest import contents
from tests.in_process import run

DIM = 8


@pytest.fixture(autouse=True)
def short_laps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "LAP_SECONDS", 0.001)


class Images:
    """What the index should hold: by path a version and a label, from which the vector follows."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.rows: dict[str, tuple[int, str]] = {}
        self.count = 0

    def new(self, count: int) -> None:
        for _ in range(count):
            self.count += 1
            self.rows[f"image {self.count}"] = (0, "a")

    def some(self) -> list[str]:
        return self.rng.sample(sorted(self.rows), self.rng.randint(1, max(1, len(self.rows) // 4)))

    def vector(self, path: str) -> FloatArray:
        return np.random.default_rng([int(path.split()[1]), self.rows[path][0]]).normal(size=DIM).astype(np.float32)

    def vectors(self, paths: list[str]) -> ArrayVectors:
        facts = [paths, [f"{path} {self.rows[path][0]}" for path in paths], [self.rows[path][1] for path in paths]]
        path, sha256, label = (strings(column) for column in facts)
        size = pa.array(np.ones(len(paths), np.int32))
        table = pa.table(dict(zip(COLUMNS, (path, sha256, size, size, label), strict=True)))
        return ArrayVectors(np.stack([self.vector(path) for path in paths]), table)

    def check(self, folder: Path) -> None:
        """Every image is found by its vector under its own name and label; nothing else is."""
        index = Index.load(folder)
        paths = sorted(self.rows)
        hits = index.search(np.stack([self.vector(path) for path in paths]), top=1)
        assert [hits.of(number)[0].path for number in range(len(paths))] == paths
        assert [hits.of(number)[0].label for number in range(len(paths))] == [self.rows[path][1] for path in paths]
        assert len(index) == len(paths)
        everything = index.search(self.vector(paths[0]), top=len(index.removed)).of(0)
        assert sorted(hit.path for hit in everything) == paths


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


def grow(target: str, count: str) -> None:
    """For the crash harness: add and replace images."""
    images = Images(1)
    images.new(int(count))
    change(Path(target), images.vectors(sorted(images.rows)), drop_missing=True)


def crash(stop_at: int, power_loss: str, target: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "tests/crash.py",
        str(stop_at),
        power_loss,
        str(target),
        "tests.test_maintenance:grow",
        str(target),
        "30",
    ]
    return subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(sys.platform != "linux", reason="the harness follows descriptors through /proc")
def test_killed_anywhere_the_index_is_the_old_one_or_the_new(tmp_path: Path) -> None:
    images = Images(1)
    images.new(20)
    old = tmp_path / "old"
    Index.build(images.vectors(sorted(images.rows))).save(old)
    whole = shutil.copytree(old, tmp_path / "whole")
    counted = crash(0, "no", whole)
    assert counted.returncode == 0, counted.stderr
    total = int(counted.stdout.split()[0])
    assert total > 20
    for stop_at, power_loss in [(n, ("no", "all", "some")[n // 3 % 3]) for n in range(1, total + 1, 3)]:
        target = shutil.copytree(old, tmp_path / f"at-{stop_at}")
        assert crash(stop_at, power_loss, target).returncode == 137
        assert len(Index.load(target)) in (20, 30)
        grow(str(target), "30")
        assert {name: data for name, data in contents(target).items() if name in files.FILES} == {
            name: data for name, data in contents(whole).items() if name in files.FILES
        }
        assert not (target / staged.UPDATE).exists()


def test_a_second_writer_is_told_and_readers_wait_for_an_exchange(tmp_path: Path) -> None:
    images = Images(0)
    images.new(20)
    index = tmp_path / "index"
    Index.build(images.vectors(sorted(images.rows))).save(index)
    with atomic.exclusive(index, RetrievalError), pytest.raises(RetrievalError, match="written by another process"):
        remove(index, {"image 1"})
    work = index / staged.UPDATE
    with atomic.exclusive(index, RetrievalError):
        work.mkdir()
        shutil.move(index / files.META, work / files.META)
        (work / staged.MARK).touch()
        timer = threading.Timer(0.3, files.finish_update, [index])
        timer.start()
        assert len(Index.load(index)) == 20
        timer.join()


def test_damaged_folders_are_refused_before_faiss_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files cut, lengthened, with bits flipped or bytes swapped: a named error each time, and FAISS sees none of them."""
    import faiss

    images = Images(0)
    images.new(60)
    index = tmp_path / "index"
    Index.build(images.vectors(sorted(images.rows)), kind="ivf").save(index)
    good = {name: (index / name).read_bytes() for name in files.FILES}
    read: list[str] = []
    real = faiss.read_index

    def watched(path: str, *flags: int) -> object:
        read.append(path)
        return real(path, *flags)

    monkeypatch.setattr(faiss, "read_index", watched)
    rng = random.Random(0)
    for _ in range(3000):
        name = rng.choice(files.FILES)
        data = bytearray(good[name])
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            data = data[: rng.randrange(len(data))] if rng.random() < 0.5 else data + rng.randbytes(rng.randint(1, 99))
        if bytes(data) == good[name]:
            continue
        (index / name).write_bytes(data)
        with pytest.raises(RetrievalError, match=str(index)):
            Index.load(index)
        (index / name).write_bytes(good[name])
    assert read == []
    for name in files.FILES:
        (index / name).unlink()
        with pytest.raises(RetrievalError):
            Index.load(index)
        (index / name).write_bytes(good[name])
    assert len(Index.load(index)) == 60


REHASHED = """
import os, random, sys
from pathlib import Path
from sslfeat import Index
from sslfeat.errors import SslfeatError
from sslfeat.storage.records import signed_bytes
from sslfeat.retrieval import storage as files

index = Path(sys.argv[1])
meta, good = files.read_metadata(index).plain(), (index / files.VECTORS).read_bytes()
rng = random.Random(1)
for attempt in range(100):
    data = bytearray(good)
    data[rng.randrange(400)] ^= 1 << rng.randrange(8)
    (index / files.VECTORS).write_bytes(data if attempt else data[: len(data) // 2])
    meta["files"][files.VECTORS] = vars(files.hashes(index / files.VECTORS))
    (index / files.META).write_bytes(signed_bytes(meta))
    child = os.fork()
    if not child:
        try:
            Index.load(index)
        except SslfeatError:
            os._exit(1)
        except BaseException:
            os._exit(2)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_damage_that_was_hashed_anew_is_a_named_error_or_another_index(tmp_path: Path) -> None:
    """Someone who rewrites the hashes too: FAISS's own limits and the recorded sizes hold."""
    images = Images(0)
    images.new(60)
    index = tmp_path / "index"
    Index.build(images.vectors(sorted(images.rows)), kind="ivf").save(index)
    done = subprocess.run([sys.executable, "-c", REHASHED, str(index)], capture_output=True, text=True, timeout=120)
    codes = [int(line) for line in done.stdout.split()]
    assert len(codes) == 100, done.stderr
    assert codes[0] == 1
    assert set(codes) <= {0, 1}, codes
    assert codes.count(1) > 25


def test_ids_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    images = Images(0)
    images.new(30)
    index = tmp_path / "index"
    Index.build(images.vectors(sorted(images.rows))).save(index)
    meta = json.loads((index / files.META).read_bytes())
    meta.pop("check")
    pq.write_table(pq.read_table(index / files.IDS).slice(1), index / files.IDS)
    meta["files"][files.IDS] = vars(files.hashes(index / files.IDS))
    (index / files.META).write_bytes(signed_bytes(meta))
    with pytest.raises(RetrievalError, match="29 rows instead of 30"):
        Index.load(index)


def test_a_large_file_is_verified_once_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = Images(0)
    images.new(30)
    index = tmp_path / "index"
    Index.build(images.vectors(sorted(images.rows))).save(index)
    monkeypatch.setattr(files, "LARGE", 1)
    hashed: list[Path] = []
    real = files._pieces
    monkeypatch.setattr(files, "_pieces", lambda path: (hashed.append(path), real(path))[1])  # type: ignore[func-returns-value]
    Index.load(index)
    Index.load(index)
    assert len(hashed) == 4  # changed too lately to be trusted
    monkeypatch.setattr(files, "SETTLED", -1)
    Index.load(index)
    Index.load(index)
    assert len(hashed) == 6
    data = bytearray((index / files.VECTORS).read_bytes())
    data[100] ^= 1
    (index / files.VECTORS).write_bytes(data)
    with pytest.raises(RetrievalError, match="modified or is damaged"):
        Index.load(index)
    meta = files.read_metadata(index)
    data[100] ^= 1
    (index / files.VECTORS).write_bytes(data)
    files.verify_file(index, files.VECTORS, meta)
    before = len(hashed)
    files.verify_file(index, files.VECTORS, meta, fresh=True)
    assert len(hashed) == before + 1
