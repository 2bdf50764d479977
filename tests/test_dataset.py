"""Which images a spec means: folders, globs, lists, odd names, links, and the labels in folder names."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sslfeat.data.dataset import ImageRecord, digest, find_inputs
from sslfeat.data.names import possible_paths
from sslfeat.errors import InputError


def make(folder: Path, *names: str | bytes) -> None:
    for name in names:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(specs: list[str | Path], root: Path) -> list[str]:
    return [os.path.relpath(item.path, os.fsencode(root)).decode("utf-8", "backslashreplace") for item in find_inputs(specs)]


def test_a_folder_is_searched_whole_and_sorted_by_bytes(tmp_path: Path) -> None:
    make(tmp_path, "b.jpg", "a/z.PNG", "a/b/c/deep.webp", "B.jpeg", "a b/c d.gif", "notes.txt", "x.mp4", ".hidden.jpg")
    make(tmp_path, ".cache/thumbnail.jpg", "no_ending", "é.jpg")
    found = names([tmp_path], tmp_path)
    assert found == ["B.jpeg", "a b/c d.gif", "a/b/c/deep.webp", "a/z.PNG", "b.jpg", "é.jpg"]


def test_an_image_named_twice_counts_once(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "b.jpg")
    assert names([tmp_path, tmp_path / "a.jpg", str(tmp_path / "*.jpg")], tmp_path) == ["a.jpg", "b.jpg"]


def test_a_file_named_by_itself_is_taken_whatever_its_ending(tmp_path: Path) -> None:
    make(tmp_path, "scan", "x.image")
    assert names([tmp_path / "scan", tmp_path / "x.image"], tmp_path) == ["scan", "x.image"]


def test_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.jpg", "b.png", "c/d.jpg", "c/e/f.jpg", "c/readme.md")
    monkeypatch.chdir(tmp_path)
    assert names(["*.jpg"], Path()) == ["a.jpg"]
    assert names(["**/*.jpg"], Path()) == ["a.jpg", "c/d.jpg", "c/e/f.jpg"]
    assert names(["c/*"], Path()) == ["c/d.jpg"]
    with pytest.raises(InputError, match=r"no file matches \*\.gif"):
        find_inputs(["*.gif"])


def test_a_name_that_looks_like_a_glob_but_exists_is_that_file(tmp_path: Path) -> None:
    make(tmp_path, "a[1].jpg", "a1.jpg")
    assert names([tmp_path / "a[1].jpg"], tmp_path) == ["a[1].jpg"]


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
def test_lists_by_lines_and_by_nul(separator: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "here", "z.jpg")
    monkeypatch.chdir(tmp_path / "here")
    listed = [b"z.jpg", b"dir with space/a.jpg", b"missing.jpg", b"caf\xe9.jpg"]
    if separator == b"\0":
        listed.append(b"new\nline.jpg")
    (tmp_path / "list.txt").write_bytes(separator.join(listed) + separator)
    assert [item.path for item in find_inputs([tmp_path / "list.txt"])] == sorted(listed)


def test_a_list_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"b.jpg\n\na.jpg\n")))
    assert [item.path for item in find_inputs(["-"])] == [b"a.jpg", b"b.jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode on this system")
def test_names_that_are_not_utf8_or_hold_newlines(tmp_path: Path) -> None:
    make(tmp_path, b"caf\xe9.jpg", "new\nline.jpg")
    items = find_inputs([tmp_path])
    assert [os.path.basename(item.path) for item in items] == [b"caf\xe9.jpg", b"new\nline.jpg"]
    assert items[0].name.endswith("caf\\xe9.jpg")
    for item in items:
        assert os.path.exists(item.path)
        assert item.path in possible_paths(item.name)


def test_folder_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    make(tmp_path, "photos/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "photos")
    assert names([tmp_path / "photos"], tmp_path) == ["photos/a.jpg", "photos/more/b.jpg"]


def test_a_broken_link_is_an_input_that_will_fail(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert names([tmp_path], tmp_path) == ["a.jpg", "gone.jpg"]


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_may_not_be_read_is_reported(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        assert names([tmp_path], tmp_path) == ["a.jpg", "closed"]
    finally:
        (tmp_path / "closed").chmod(0o755)


@pytest.mark.parametrize("spec", ["empty", "gone", "gone/*.jpg"])
def test_nothing_found_is_an_error_that_names_the_spec(spec: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=spec.replace("*", r"\*")):
        find_inputs([tmp_path / spec])


@pytest.mark.parametrize(
    ("files", "labels"),
    [
        (["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"], ["cat", "cat", "dog", "dog"]),
        (["train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg", "train/dog/2.jpg"], ["cat", "cat", "dog", "dog"]),
        (["1.jpg", "2.jpg"], [None, None]),
        (["all/1.jpg", "all/2.jpg"], [None, None]),  # one folder is no classification
        (["cat/1.jpg", "dog/1.jpg"], [None, None]),  # a folder an image is none either
        (["cat/1.jpg", "cat/2.jpg", "dog/a/1.jpg", "dog/2.jpg"], [None] * 4),  # not equally deep
        (["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "0.jpg"], [None] * 4),
    ],
)
def test_labels_where_folders_look_like_classes(files: list[str], labels: list[str | None], tmp_path: Path) -> None:
    make(tmp_path, *files)
    assert [item.label for item in find_inputs([tmp_path])] == labels
    assert [item.label for item in find_inputs([tmp_path], labels="none")] == [None] * len(files)
    forced = find_inputs([tmp_path], labels="folder")
    assert [item.label for item in forced] == [Path(item.name).parent.name for item in forced]


def test_an_unknown_way_to_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="auto, folder or none"):
        find_inputs([tmp_path], labels="guess")


def test_the_digest_tells_lists_apart() -> None:
    base = [ImageRecord(b"a", "x"), ImageRecord(b"b", None)]
    others = [
        base[:1],
        base[::-1],
        [ImageRecord(b"a", "y"), base[1]],
        [ImageRecord(b"ab", "x")],
        [ImageRecord(b"a"), ImageRecord(b"b", "x")],
    ]
    digests = {digest(items) for items in [base, *others]}
    assert len(digests) == 6
    assert digest(iter(base)) == digest(base)
