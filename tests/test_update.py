"""Updates of a features folder: images that were added, removed, modified, moved or only touched since the last run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sslfeat.data.dataset import find_inputs
from sslfeat.data.manifest import Manifest
from sslfeat.data.manifest_diff import ManifestDiff
from sslfeat.errors import FeaturesError
from sslfeat.features import reuse
from sslfeat.features.formats import read_embeddings
from sslfeat.features.metadata import load_manifest, read_run
from sslfeat.features.reader import Features
from sslfeat.features.update import update_folder
from sslfeat.features.verify import verify
from sslfeat.features.writer import embed_to_folder
from sslfeat.storage.staged import UPDATE
from tests.conftest import contents
from tests.counted import Counting, begin, change, images, load, options

__all__ = ["images"]


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_only_what_changed_is_embedded(layout: str, tiny: Path, images: Path, tmp_path: Path) -> None:
    begin(tiny, images, tmp_path / "f", layout)
    change(images)
    inputs = find_inputs([images])
    with pytest.raises(FeaturesError, match=r"2 new, 3 removed, 1 modified, such as .*0-new-0\.png.* --update"):
        embed_to_folder(load(tiny), inputs, tmp_path / "f", options(layout))
    summary, changes = update_folder(load(tiny), inputs, tmp_path / "f", options(layout))
    assert changes is not None
    assert (changes.new, changes.removed, changes.modified) == (2, 3, 1)
    assert Counting.shown == 3 + 1  # the broken file stays a black row in its batch
    assert (summary.embedded, summary.failed, summary.resumed) == (39, 1, 36)
    assert list(verify(tmp_path / "f", sources=True)) == []
    assert not (tmp_path / "f" / UPDATE).exists()
    begin(tiny, images, tmp_path / "anew", layout)
    updated, anew = Features.load(tmp_path / "f"), Features.load(tmp_path / "anew")
    assert updated.paths == anew.paths
    assert updated.labels == anew.labels
    np.testing.assert_allclose(updated.embeddings, anew.embeddings, atol=1e-5)


def test_nothing_changed(tiny: Path, images: Path, tmp_path: Path) -> None:
    begin(tiny, images, tmp_path / "f")
    before = contents(tmp_path / "f")
    summary, changes = update_folder(load(tiny), find_inputs([images]), tmp_path / "f", options())
    assert str(changes) == "the same images"
    assert Counting.shown == 0
    assert summary.resumed == 41
    assert contents(tmp_path / "f") == before


def test_a_new_folder_is_just_made(tiny: Path, images: Path, tmp_path: Path) -> None:
    summary, changes = update_folder(load(tiny), find_inputs([images]), tmp_path / "f", options())
    assert (summary.embedded, changes) == (40, None)


def touch(images: Path) -> None:
    os.utime(next(images.rglob("circles-*.jpg")), ns=(1, 1))


def permit(images: Path) -> None:
    for path in images.rglob("*.jpg"):
        path.chmod(0o600)


def copy(images: Path) -> None:
    shutil.copytree(images, images.with_name("copy"), copy_function=shutil.copyfile)
    shutil.rmtree(images)
    images.with_name("copy").rename(images)


def rename(images: Path) -> None:
    for number, path in enumerate(sorted(images.rglob("*.jpg"), reverse=True)):
        if path.name != "broken.jpg":
            path.rename(path.with_name(f"{number:04d}.jpg"))


def relabel(images: Path) -> None:
    (images / "squares").rename(images / "a-kind-of-squares")


@pytest.mark.parametrize("layout", ["parquet", "npy"])
@pytest.mark.parametrize("happened", [touch, permit, copy, rename, relabel])
def test_what_was_only_touched_copied_or_renamed_is_not_embedded_again(
    happened: Callable[[Path], None], layout: str, tiny: Path, images: Path, tmp_path: Path
) -> None:
    begin(tiny, images, tmp_path / "f", layout)
    happened(images)
    summary, _ = update_folder(load(tiny), find_inputs([images]), tmp_path / "f", options(layout))
    assert Counting.shown == 0
    assert (summary.embedded, summary.failed, summary.resumed) == (40, 1, 40)
    begin(tiny, images, tmp_path / "anew", layout)
    updated, anew = Features.load(tmp_path / "f"), Features.load(tmp_path / "anew")
    assert (updated.paths, updated.labels) == (anew.paths, anew.labels)
    np.testing.assert_allclose(updated.embeddings, anew.embeddings, atol=1e-5)
    assert list(verify(tmp_path / "f", sources=True)) == []


def test_a_moved_folder_is_taken_over_by_an_update_and_named_by_a_plain_run(tiny: Path, images: Path, tmp_path: Path) -> None:
    begin(tiny, images, tmp_path / "f")
    images.rename(tmp_path / "elsewhere")
    moved = find_inputs([tmp_path / "elsewhere"])
    with pytest.raises(FeaturesError, match=r"the same images, moved from .*images/ to .*elsewhere/.*--update"):
        embed_to_folder(load(tiny), moved, tmp_path / "f", options())
    _, changes = update_folder(load(tiny), moved, tmp_path / "f", options())
    assert changes is not None
    assert (changes.none, Counting.shown) == (True, 0)
    assert Features.load(tmp_path / "f").paths == [item.name for item in moved if b"broken" not in item.path]


def replace(path: Path, by: bytes) -> None:
    """Other content of the same size and time, as some copying and editing tools leave it."""
    times = path.stat()
    path.write_bytes(by + b"\0" * (times.st_size - len(by)))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_an_image_that_was_replaced_is_noticed_whatever_its_size_and_time(tiny: Path, images: Path, tmp_path: Path) -> None:
    first, other = (images / "stripes" / f"stripes-000{number}.jpg" for number in (1, 2))
    begin(tiny, images, tmp_path / "f")
    small = min((first, other), key=lambda path: path.stat().st_size)
    large = other if small == first else first
    content = small.read_bytes()
    replace(large, content)
    with pytest.raises(FeaturesError, match=rf"1 modified, such as {large}.*--update"):
        embed_to_folder(load(tiny), find_inputs([images]), tmp_path / "f", options())
    _, changes = update_folder(load(tiny), find_inputs([images]), tmp_path / "f", options())
    assert (changes and changes.modified, Counting.shown) == (1, 1)
    rows = Features.load(tmp_path / "f")
    found = dict(zip(rows.paths, rows.embeddings, strict=True))
    np.testing.assert_allclose(found[str(large)], found[str(small)], atol=1e-5)


def test_a_plain_run_goes_on_where_files_were_only_touched(tiny: Path, images: Path, tmp_path: Path) -> None:
    begin(tiny, images, tmp_path / "f")
    before = contents(tmp_path / "f")
    for name in ("__sslfeat__/part-00001.json", "__sslfeat__/part-00003.json"):
        (tmp_path / "f" / name).unlink()
    permit(images)
    touch(images)
    assert begin(tiny, images, tmp_path / "f").resumed == 41 - 14
    assert contents(tmp_path / "f") == before


def test_an_unknown_time_is_no_reason_to_stop_nor_to_embed_again(
    tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = {os.fsencode(images / "circles" / name) for name in ("broken.jpg", "circles-0000.jpg")}
    real = os.stat

    def stat(path: Any, **options: Any) -> Any:
        found = real(path, **options)
        if path not in odd:
            return found
        return SimpleNamespace(st_size=found.st_size, st_mtime_ns=-(2**70), st_ctime_ns=found.st_ctime_ns)

    inputs = find_inputs([images])
    monkeypatch.setattr(os, "stat", stat)
    embed_to_folder(load(tiny), inputs, tmp_path / "f", options())
    assert embed_to_folder(load(tiny), inputs, tmp_path / "f", options()).resumed == 41
    summary, changes = update_folder(load(tiny), inputs, tmp_path / "f", options())
    assert (str(changes), summary.resumed, Counting.shown) == ("the same images", 41, 0)
    (images / "circles" / "more.jpg").write_bytes((images / "circles" / "circles-0003.jpg").read_bytes())
    update_folder(load(tiny), find_inputs([images]), tmp_path / "f", options())
    assert Counting.shown == 0


def test_names_that_read_the_same_keep_their_own_rows(tiny: Path, images: Path, tmp_path: Path) -> None:
    folder = os.fsencode(images / "circles")
    good = [sorted(images.rglob("squares*.jpg"))[number].read_bytes() for number in (0, 1)]
    for raw, content in ((b"/\\xff.jpg", b"broken"), (b"/\xff.jpg", good[0])):  # both are shown as \xff.jpg
        Path(os.fsdecode(folder + raw)).write_bytes(content)
    begin(tiny, images, tmp_path / "f")
    Path(os.fsdecode(folder + b"/\\xff.jpg")).write_bytes(good[1])
    update_folder(load(tiny), find_inputs([images]), tmp_path / "f", options())
    begin(tiny, images, tmp_path / "anew")
    updated, anew = Features.load(tmp_path / "f"), Features.load(tmp_path / "anew")
    assert updated.paths == anew.paths
    np.testing.assert_allclose(updated.embeddings, anew.embeddings, atol=1e-5)


def test_old_parts_are_forgotten_when_there_are_many(
    tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuse, "MEMORY", 1)
    begin(tiny, images, tmp_path / "f")
    rename(images)
    update_folder(load(tiny), find_inputs([images]), tmp_path / "f", options())
    begin(tiny, images, tmp_path / "anew")
    updated, anew = Features.load(tmp_path / "f"), Features.load(tmp_path / "anew")
    np.testing.assert_allclose(updated.embeddings, anew.embeddings, atol=1e-5)


def test_each_old_part_is_read_once_and_forgotten_with_its_last_row(
    tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images before the others push rows over the borders of parts: an old part is needed by two new ones."""
    begin(tiny, images, tmp_path / "f")
    first = min(images.rglob("*.jpg"))
    for number in range(3):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(first.with_name(f"00-{number}.png"))
    reads: list[str] = []

    def reading(folder: Path, files: Any, dim: int) -> Any:
        reads.append(files[0])
        return read_embeddings(folder, files, dim)

    monkeypatch.setattr("sslfeat.features.reuse.read_embeddings", reading)
    run, now = read_run(tmp_path / "f"), Manifest.take(find_inputs([images]))
    before = load_manifest(tmp_path / "f", run)
    known = reuse.Reuse(tmp_path / "f", run, before, now)
    rows: dict[int, Any] = {}
    for start in range(0, len(now.inputs), 7):
        rows |= known.rows(start, start + 7)
        assert len(known._cache) <= 1, "what no later part needs is kept"
    assert not known._cache
    new = [b"/00-" in item.path or item.path.endswith(b"broken.jpg") for item in now.inputs]
    assert sorted(rows) == np.flatnonzero(~np.array(new)).tolist()
    assert sorted(reads) == sorted(set(reads)), "an old part was read twice"


def test_changes_are_counted_by_path_size_time_and_label(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    before = Manifest.take(find_inputs([tmp_path], labels="none"))
    now = Manifest.take(find_inputs([tmp_path], labels="folder"))
    assert ManifestDiff.between(before, before) == ManifestDiff(0, 0, 0, 0, "")
    assert ManifestDiff.between(before, now).labels == 4
    (tmp_path / "a/1.jpg").write_bytes(b"xy")
    (tmp_path / "a/2.jpg").unlink()
    after = Manifest.take(find_inputs([tmp_path], labels="none"))
    assert str(ManifestDiff.between(before, after)) == f"1 removed, 1 modified, such as {tmp_path / 'a/2.jpg'}"
    assert after.unchanged(before).tolist() == [-1, 2, 3]
