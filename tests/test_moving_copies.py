"""Moving copies to another folder: groups, refused folders, changed files, interruptions, and confirmation."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sslfeat.dedup.aside import beside, check_aside
from sslfeat.dedup.decisions import read_duplicates, write_duplicates
from sslfeat.dedup.moves import PLAN_NAME, apply, undo
from sslfeat.dedup.near_duplicates import find_duplicates
from sslfeat.dedup.verify import SAME_SCENE
from sslfeat.errors import InputError, RetrievalError, UsageError
from sslfeat.features.reader import Features
from tests.conftest import contents, sslfeat
from tests.copies import doubled

__all__ = ["doubled"]


SAME = 0.99999


def test_apply_moves_and_undo_puts_back(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    images, features = doubled
    before = contents(images)
    aside = tmp_path / "moved aside"
    found = find_duplicates(features, SAME)
    assert found.copies == 6
    assert apply(found, aside).moved == 6
    assert len(list(images.rglob("*.jpg"))) == len(before) - 6
    assert {path.name for path in aside.rglob("*.jpg")} == {Path(copy.path).name for g in found.groups for copy in g.copies}
    assert apply(found, aside).moved == 6  # nothing is left to do
    with pytest.raises(RetrievalError, match="moved earlier"):
        apply(find_duplicates(features), aside)
    assert undo(aside).moved == 6
    assert contents(images) == before
    assert not aside.exists()
    with pytest.raises(InputError, match="everything was moved back"):
        undo(aside)
    with pytest.raises(RetrievalError, match="contains other files"):
        apply(found, images)


def test_copies_are_not_moved_to_where_they_would_be_embedded_again(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    images, features = doubled
    before = contents(images)
    for inside in (images / "aside", images / "one" / "aside", images):
        done = sslfeat("dedupe", features, "--apply", inside, "--yes")
        assert (done.returncode, "would be embedded again: choose a folder outside" in done.stderr) == (2, True)
    assert contents(images) == before
    done = sslfeat("dedupe", features, "--apply", tmp_path / "aside", "--yes")
    words = ["sslfeat", "embed", str(images), "--out", str(features), "--update"]
    assert f"next: {shlex.join(words)}\n" in done.stderr
    assert sslfeat(*words[1:]).returncode == 0
    assert len(Features.load(features).paths) == len(before) - 12


def test_groups_that_were_seen_are_applied_without_another_comparison(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    images, features = doubled
    before, groups = contents(images), tmp_path / "groups.json"
    done = sslfeat("dedupe", features, "--out", groups)
    line = next(line for line in done.stderr.splitlines() if line.startswith("next, to move the copies: "))
    words = shlex.split(line.removeprefix("next, to move the copies: sslfeat "))
    assert words == ["dedupe", str(groups), "--apply", f"{images}-duplicates"]
    refused = sslfeat(*words[:-1], images / "aside", "--yes")
    assert "would be embedded again" in refused.stderr
    assert "contains no reviewed groups" in sslfeat("dedupe", "--decided", groups).stderr
    assert "--threshold applies to a features folder" in sslfeat("dedupe", groups, "--threshold", "0.9").stderr
    shutil.copy(next(images.rglob("*.jpg")), images / "later.jpg")
    assert sslfeat("embed", images, "--out", features, "--update").returncode == 0
    done = sslfeat(*words, "--yes")
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout == f"12 copies in 6 groups, with 0 other shots of a scene, among 18 images\n12 images moved to {words[-1]}\n"
    )
    assert sslfeat(*words, "--yes").stdout.endswith(f"12 images were moved to {words[-1]} earlier\n")
    other = sslfeat(*words[:-1], tmp_path / "other", "--yes")
    assert (other.returncode, "none of the 12 images exists: all were already moved" in other.stdout) == (0, True)
    assert ("is gone" in other.stderr, (tmp_path / "other").exists()) == (False, False)
    assert "compared" not in done.stderr
    assert "was updated after" in done.stderr
    kept = {str(Path(group.kept.path).relative_to(images)) for group in read_duplicates(groups).groups}
    assert {name for name in contents(images) if not name.startswith(".")} == {*kept, "later.jpg"}
    assert sslfeat("dedupe", "--undo", words[-1]).returncode == 0
    assert set(contents(images)) == {*before, "later.jpg"}


def test_groups_of_a_folder_that_is_gone_still_say_what_is_a_copy(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    _, features = doubled
    assert sslfeat("dedupe", features, "--out", tmp_path / "g.json").returncode == 0
    shutil.rmtree(features)
    done = sslfeat("dedupe", tmp_path / "g.json", "--apply", tmp_path / "aside", "--yes")
    assert done.returncode == 0, done.stderr
    assert "repeat the 'sslfeat embed' command of FEATURES" in done.stderr


@pytest.mark.parametrize("specs", [["a/1.jpg", "b/1.jpg"], ["./a/1.jpg", "./b/1.jpg"]])
def test_folders_that_were_given_by_themselves_have_room_beside_them(
    specs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = [spec.encode() for spec in specs]
    for spec in specs:
        Path(spec).parent.mkdir()
        Path(spec).touch()
    if specs[0].startswith("."):
        with pytest.raises(UsageError, match="choose a folder outside"):
            check_aside(Path("aside"), images)
    else:
        check_aside(Path("aside"), images)


def test_a_row_without_a_photo_opens_no_embedded_folder(
    doubled: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _ = doubled
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text(f"path,color\nnone.jpg,red\n{next(images.rglob('*.jpg'))},blue\n")
    assert sslfeat("embed", images, "list.csv", "--out", "f").returncode == 3
    groups = ("dedupe", "f", "--out", "g.json")
    line = ("dedupe", "g.json", "--apply", f"{images}-duplicates")
    assert shlex.join(line) in sslfeat(*groups).stderr
    for source in ("f", "g.json"):
        refused = sslfeat("dedupe", source, "--apply", images / "aside", "--yes")
        assert (refused.returncode, f"is inside {images}, whose" in refused.stderr) == (2, True)
    there = [os.fsencode(path) for path in images.rglob("*.jpg")]
    with pytest.raises(UsageError, match="choose a folder outside"):
        check_aside(images / "aside", [b"none.jpg", *there])  # where nobody knows what was given
    below = images / "one"
    only = [path for path in there if path.startswith(os.fsencode(below))]
    assert beside(only, [str(images)]) == f"{images}-duplicates"
    monkeypatch.chdir(below)
    assert beside([b"./" + os.path.basename(path) for path in only], ["."]) == f"{below}-duplicates"


def test_images_that_an_earlier_call_moved_are_not_missed(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    images, features = doubled
    for copy in images.rglob("*.jpg"):  # the same images, and other files, which are read to be compared
        with copy.open("ab") as file:
            file.write(os.fsencode(copy.parent))
    assert sslfeat("embed", images, "--out", features, "--update").returncode == 0
    line = ("dedupe", features, "--apply", tmp_path / "aside", "--yes")
    assert sslfeat(*line).stdout.endswith(f"12 images moved to {tmp_path / 'aside'}\n")
    again = sslfeat(*line)
    assert (again.returncode, "could not be compared" in again.stderr) == (0, False)
    assert again.stdout.endswith(f"12 images were moved to {tmp_path / 'aside'} earlier\n")


def test_what_changed_or_vanished_is_left_alone(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    images, features = doubled
    one, two, three, *_ = sorted((images / "two").iterdir())
    one.write_bytes(b"another image")
    two.unlink()
    (images / "one" / three.name).write_bytes(b"the kept one changed")
    done = sslfeat("dedupe", features, "--threshold", str(SAME), "--apply", tmp_path / "aside", "--yes")
    assert done.returncode == 3
    assert f"{one}: it is not the file that was embedded" in done.stderr
    assert f"{two}: it is gone\n" in done.stderr
    assert f"{three}: left there: the kept" in done.stderr
    assert one.exists()
    assert three.exists()
    back = json.loads((tmp_path / "aside" / PLAN_NAME).read_bytes())["moves"][0]["name"]
    Path(back).write_bytes(b"a new file where the old one was")
    again = sslfeat("dedupe", "--undo", tmp_path / "aside")
    assert again.returncode == 3
    assert "is there already" in again.stderr
    Path(back).unlink()
    assert sslfeat("dedupe", "--undo", tmp_path / "aside").returncode == 0


def move(features: str, aside: str) -> None:
    """For the crash harness."""
    apply(find_duplicates(features, SAME), Path(aside))


@pytest.mark.skipif(sys.platform != "linux", reason="the harness follows descriptors through /proc")
def test_killed_anywhere_nothing_is_lost(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    images, features = doubled
    before = contents(images)
    names = sorted(before.values())
    aside = images / "aside"

    def run(stop_at: int) -> subprocess.CompletedProcess[str]:
        arguments = [str(stop_at), "no", str(images), "tests.test_moving_copies:move", str(features), str(aside)]
        command: list[str] = [sys.executable, "tests/crash.py", *arguments]
        return subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=60)

    for stop_at in range(1, 30, 4):
        assert run(stop_at).returncode in (0, 137)
        present = [data for name, data in contents(images).items() if name.endswith(".jpg")]
        assert sorted(present) == names  # each is here or there
        if stop_at % 8 == 1:
            move(str(features), str(aside))
            assert len(list(aside.rglob("*.jpg"))) == 6
        if (aside / PLAN_NAME).exists():
            undo(aside)
        assert {name: data for name, data in contents(images).items() if name.endswith(".jpg")} == before


def test_nobody_is_moved_unasked(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    images, features = doubled
    before = contents(images)
    done = sslfeat("dedupe", features, "--apply", tmp_path / "aside")
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert contents(images) == before
    done = sslfeat("dedupe", features, "--apply", tmp_path / "aside", "--yes")
    assert done.returncode == 0, done.stderr
    assert "--update" in done.stderr
    assert "--sync" in done.stderr
    (tmp_path / "d.csv").touch()
    assert sslfeat("dedupe", features, "--out", tmp_path / "d.csv").returncode == 2
    assert sslfeat("dedupe", features, "--out", tmp_path / "d.csv", "--overwrite").returncode in (0, 3)


def test_what_to_do_next_comes_last(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    line = [sys.executable, "-m", "sslfeat", "dedupe", str(doubled[1]), "--apply", str(tmp_path / "aside"), "--yes"]
    both = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout
    assert both.index("12 images moved") < both.index("next: ")


def test_scenes_are_moved_only_when_asked(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    found = find_duplicates(doubled[1], SAME)
    shots = tuple(
        dataclasses.replace(group, copies=tuple(dataclasses.replace(copy, verdict=SAME_SCENE) for copy in group.copies))
        for group in found.groups
    )
    found = dataclasses.replace(found, groups=shots)
    assert (found.copies, found.scenes) == (0, 6)
    assert found.counts() == "0 copies in 0 groups, with 6 other shots of a scene (6 groups more)"
    write_duplicates(tmp_path / "scenes.json", found)
    assert "next" not in sslfeat("dedupe", tmp_path / "scenes.json").stderr
    assert apply(found, tmp_path / "none").moved == 0
    assert apply(found, tmp_path / "all", scenes=True).moved == 6
