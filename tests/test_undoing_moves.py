"""Undoing the moves of copies: renamed folders, lost or changed files, and plans written by someone else."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from sslfeat.dedup.moves import PLAN_NAME, apply, undo
from sslfeat.dedup.near_duplicates import find_duplicates
from tests.conftest import contents, sslfeat
from tests.copies import doubled

__all__ = ["doubled"]


def test_a_folder_that_was_renamed_is_undone(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    images, features = doubled
    before = contents(images)
    apply(find_duplicates(features), tmp_path / "aside")
    (tmp_path / "aside").rename(tmp_path / "renamed")
    assert undo(tmp_path / "renamed").moved == 12
    assert contents(images) == before


def test_the_plan_stays_until_all_is_back(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    images, features = doubled
    before = contents(images)
    aside = tmp_path / "aside"
    apply(find_duplicates(features), aside)
    lost, changed, *_ = sorted(aside.rglob("*.jpg"))
    data = lost.read_bytes(), changed.read_bytes()
    lost.unlink()
    changed.write_bytes(b"something else")
    found = undo(aside)
    assert found.moved == 10
    assert sorted(reason.split()[-5:] for _, reason in found.failures)
    assert (aside / PLAN_NAME).exists()
    lost.parent.mkdir(parents=True, exist_ok=True)
    lost.write_bytes(data[0])
    changed.write_bytes(data[1])
    assert undo(aside).moved == 2
    assert contents(images) == before


def plan_of(aside: Path, root: Path, source: bytes, target: bytes) -> None:
    """A plan as a stranger may write it, for the one file ``target``."""
    sha256 = hashlib.sha256((aside / "a.jpg").read_bytes()).hexdigest()
    move = {"source": source.hex(), "target": target.hex(), "sha256": sha256, "name": "a"}
    plan = {"format": 2, "root": os.fsencode(root).hex(), "moves": [move]}
    (aside / PLAN_NAME).write_text(json.dumps(plan))


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (b"../elsewhere.jpg", b"a.jpg", "leads out of its folder"),
        (b"/etc/elsewhere.jpg", b"a.jpg", "leads out of its folder"),
        (b"new.jpg", b"../secret.jpg", "leads out of its folder"),
        (b".bashrc", b"a.jpg", "is no image"),
        (b"new.jpg", b"link/a.jpg", "is a link"),
        (b"new.jpg", b"link.jpg", "is a link"),
        (b"new.jpg", b"b.jpg", "is not the file that was moved"),
        (b"no/new.jpg", b"a.jpg", "is gone"),
        (b"there.jpg", b"a.jpg", "is there already"),
    ],
)
def test_a_strangers_plan_moves_nothing(tmp_path: Path, source: bytes, target: bytes, said: str) -> None:
    home, aside = tmp_path / "home", tmp_path / "aside"
    for folder in (home, aside):
        folder.mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (home / "there.jpg").write_bytes(b"there")
    (aside / "a.jpg").write_bytes(b"an image")
    (aside / "b.jpg").write_bytes(b"another")
    (aside / "link").symlink_to(tmp_path)
    (aside / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "a.jpg").write_bytes(b"an image")
    plan_of(aside, home, source, target)
    before = contents(tmp_path)
    done = sslfeat("dedupe", "--undo", aside, "--yes")
    assert done.returncode in (1, 3)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert {name: data for name, data in contents(tmp_path).items() if not name.endswith(".lock")} == before


def test_without_a_receipt_somebody_must_say_yes(tmp_path: Path) -> None:
    home, aside = tmp_path / "home", tmp_path / "aside"
    for folder in (home, aside):
        folder.mkdir()
    (aside / "a.jpg").write_bytes(b"an image")
    plan_of(aside, home, b"new.jpg", b"a.jpg")
    done = sslfeat("dedupe", "--undo", aside)
    assert done.returncode == 1
    assert f"would move 1 files to {home}" in done.stderr
    assert not (home / "new.jpg").exists()
    assert sslfeat("dedupe", "--undo", aside, "--yes").returncode == 0
    assert (home / "new.jpg").exists()
