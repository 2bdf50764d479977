"""Lists of images: what is kept of them, what tells them apart, and times that no clock of ours can show."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sslfeat.data.dataset import ImageRecord, find_inputs
from sslfeat.data.hashing import NONE, hash_files, parse_digests
from sslfeat.data.manifest import MANIFEST_NAME, MISSING, UNKNOWN, Manifest
from sslfeat.data.manifest_diff import ManifestDiff
from sslfeat.errors import FeaturesError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(name.encode())
    return tmp_path / "images"


def take(images: Path, **options: Any) -> Manifest:
    return Manifest.take(find_inputs([images]), **options)


def write(manifest: Manifest, folder: Path) -> str:
    data = manifest.to_bytes()
    (folder / MANIFEST_NAME).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("hashed", [False, True])
def test_what_is_kept_is_what_was_taken(hashed: bool, images: Path, tmp_path: Path) -> None:
    (images / "a" / "gone.jpg").symlink_to("nowhere")
    manifest = take(images, hashed=hashed)
    kept = Manifest.load(tmp_path, write(manifest, tmp_path))
    assert list(kept.inputs) == manifest.inputs
    assert list(kept.inputs[1:3]) == list(manifest.inputs[1:3])
    assert (kept.sizes.tolist(), kept.sizes[2]) == ([7, 7, MISSING, 7, 7], MISSING)
    assert kept.to_bytes() == manifest.to_bytes()
    assert (kept.identity, kept.sha256) == (manifest.identity, manifest.sha256)
    assert ManifestDiff.between(kept, manifest) == ManifestDiff(0, 0, 0, 0, "")
    if hashed:
        assert kept.contents is not None
        assert kept.contents[0] == hashlib.sha256(b"a/1.jpg").digest()
        assert kept.contents[2] == NONE


@pytest.mark.parametrize("year", [1601, 1677, 2263, 2446, 500_000])
def test_only_an_odd_time_is_unknown(year: int, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = os.fsencode(images / "a" / "2.jpg")
    real, nanoseconds = os.stat, int((year - 1970) * 365.2425 * 86_400) * 10**9

    def stat(path: Any, **options: Any) -> Any:
        found = real(path, **options)
        if path != odd:
            return found
        return SimpleNamespace(st_size=found.st_size, st_mtime_ns=nanoseconds, st_ctime_ns=found.st_ctime_ns)

    inputs = find_inputs([images])
    monkeypatch.setattr(os, "stat", stat)
    manifest = Manifest.take(inputs)
    assert manifest.modified[1] == UNKNOWN
    assert manifest.sizes.tolist() == [7] * 4
    assert (manifest.modified != UNKNOWN).sum() == 3
    assert manifest.unchanged(manifest).tolist() == [0, MISSING, 2, 3]  # nothing is known of it, so it must be read


def test_the_least_and_greatest_times_are_known(images: Path) -> None:
    for name, nanoseconds in (("a/1.jpg", -1), ("a/2.jpg", 0), ("b/3.jpg", 2**33 * 10**9)):
        os.utime(images / name, ns=(nanoseconds, nanoseconds))
    manifest = take(images)
    assert manifest.modified[:3].tolist() == [-1, 0, 2**33 * 10**9]
    assert manifest.unchanged(manifest).tolist() == [0, 1, 2, 3]


def test_a_file_that_was_replaced_with_its_size_and_time_kept_is_noticed(images: Path) -> None:
    before = take(images)
    path = images / "b" / "3.jpg"
    times = path.stat()
    path.write_bytes(b"b/X.jpg")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    now = take(images)
    assert (now.sizes.tolist(), now.modified.tolist()) == (before.sizes.tolist(), before.modified.tolist())
    assert now.unchanged(before).tolist() == [0, 1, MISSING, 3]


def test_the_identity_is_of_content_and_not_of_place(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = take(images, hashed=True)
    shutil.copytree(images, tmp_path / "elsewhere" / "deep", copy_function=shutil.copyfile)  # with other times
    second = take(tmp_path / "elsewhere" / "deep", hashed=True)
    monkeypatch.chdir(tmp_path)
    assert first.identity == second.identity == take(Path("images"), hashed=True).identity
    changes = ManifestDiff.between(first, second)
    assert changes.none
    assert str(changes).startswith("the same images (4 touched, with the same content), moved from")
    (tmp_path / "elsewhere" / "deep" / "a" / "2.jpg").write_bytes(b"a/Y.jpg")
    third = take(tmp_path / "elsewhere" / "deep", hashed=True)
    assert third.identity != first.identity
    assert str(ManifestDiff.between(first, third)).startswith("1 modified, such as")
    for changed in (lambda: shutil.copy(images / "a/1.jpg", images / "a/0.jpg"), lambda: (images / "a/1.jpg").unlink()):
        before = take(images, hashed=True)
        changed()
        assert take(images, hashed=True).identity != before.identity
    (images / "a").rename(images / "c")  # another label
    assert take(images, hashed=True).identity != before.identity


def test_a_moved_folder_is_the_same_images(images: Path, tmp_path: Path) -> None:
    before = take(images)
    images.rename(tmp_path / "other")
    now = take(tmp_path / "other")
    changes = ManifestDiff.between(before, now)
    assert (changes.none, changes.moved) == (True, (f"{images}/", f"{tmp_path / 'other'}/"))
    assert now.identity == before.identity
    assert now.unchanged(before).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("names", [[], [b"x.jpg"], [b"/x.jpg", b"/y/z.jpg"], [b"/a/x.jpg", b"a/x.jpg"], [b"ab/1", b"abc/1"]])
def test_inputs_without_a_common_folder(names: list[bytes]) -> None:
    manifest = Manifest.take([ImageRecord(name) for name in names])
    assert manifest.root in (b"", b"/")
    assert ManifestDiff.between(manifest, manifest) == ManifestDiff(0, 0, 0, 0, "")


def test_a_list_that_is_signed_and_no_list_is_refused(images: Path, tmp_path: Path) -> None:
    manifest = take(images)
    table = pa.ipc.open_file(manifest.to_bytes()).read_all()
    nothing = pa.array([None] * 4, pa.large_binary())
    lies = {
        "no table": b"ARROW1 nothing",
        "a column too few": table.drop_columns(["size"]),
        "a column too many": table.append_column("more", table["size"]),
        "text for numbers": table.set_column(2, "size", pa.array(["1"] * 4)),
        "no path": table.set_column(0, "path", nothing),
    }
    for name, lie in lies.items():
        data = lie
        if isinstance(lie, pa.Table):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, lie.schema) as writer:
                writer.write_table(lie)
            data = sink.getvalue().to_pybytes()
        (tmp_path / MANIFEST_NAME).write_bytes(data)
        with pytest.raises(FeaturesError, match=r"inputs\.arrow is not a list"):
            Manifest.load(tmp_path, hashlib.sha256(data).hexdigest())
            pytest.fail(name)


def test_a_list_from_before_there_were_system_times(images: Path, tmp_path: Path) -> None:
    table = pa.ipc.open_file(take(images).to_bytes()).read_all().drop_columns(["changed"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    (tmp_path / MANIFEST_NAME).write_bytes(sink.getvalue().to_pybytes())
    kept = Manifest.load(tmp_path, hashlib.sha256(sink.getvalue().to_pybytes()).hexdigest())
    assert (kept.changed == UNKNOWN).all()
    assert (take(images).unchanged(kept) == MISSING).all()


def test_what_is_no_file_has_no_sha256(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"x")
    names = [b"pipe", b"file", b"missing", b".", b"nul\0"]
    digests = hash_files([os.path.join(os.fsencode(tmp_path), name) for name in names])
    assert digests.tolist() == [NONE, hashlib.sha256(b"x").digest(), NONE, NONE, NONE]
    assert parse_digests([hashlib.sha256(b"x").hexdigest()]).tolist() == [digests[1]]
    for wrong in (["00"], ["zz" * 32], ["0" * 63, "0" * 65]):
        with pytest.raises(ValueError, match=r"64|hexadecimal"):
            parse_digests(wrong)
    stopped = RuntimeError("stop")

    def check() -> None:
        raise stopped

    with pytest.raises(RuntimeError, match="stop"):
        hash_files([b"x"], check)
    assert np.array_equal(hash_files([]), np.zeros(0, "S32"))
