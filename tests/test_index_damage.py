"""Indexes after crashes, with several writers, and with damaged files."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sslfeat import Index
from sslfeat.errors import RetrievalError
from sslfeat.retrieval import storage as files
from sslfeat.retrieval.maintenance import change, remove
from sslfeat.storage import atomic, staged
from sslfeat.storage.records import signed_bytes
from tests.changing_index import Images
from tests.conftest import contents
from tests.small_index import short_laps

__all__ = ["short_laps"]


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
        "tests.test_index_damage:grow",
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
