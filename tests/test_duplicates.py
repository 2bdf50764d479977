"""Duplicates against a comparison of all with all: what is found, and which of a group is kept."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sslfeat.dedup.alignment import SIDE
from sslfeat.dedup.candidates import candidate_pairs, distinct
from sslfeat.dedup.moves import apply, undo
from sslfeat.dedup.near_duplicates import choose_threshold, find_duplicates
from sslfeat.dedup.thumbnails import Thumbnails
from sslfeat.errors import InputError, RetrievalError
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.vectors import ArrayVectors
from tests.conftest import sslfeat
from tests.copies import doubled, photo, saved

__all__ = ["doubled"]
DIM = 128


def with_copies(count: int, copies: int, seed: int = 0) -> FloatArray:
    """Clustered vectors, the first ``copies`` of them once more at the end, a little changed."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(count // 10, DIM))
    rows = centers[rng.integers(0, len(centers), count)] + 1.0 * rng.normal(size=(count, DIM)) + 3
    return np.concatenate([rows, rows[:copies] + 0.02 * rng.normal(size=(copies, DIM))]).astype(np.float32)


def test_the_chosen_threshold_finds_copies_and_hardly_anything_else() -> None:
    found = find_duplicates(ArrayVectors.of(with_copies(2000, 60)))
    group_of = {int(image.path): number for number, g in enumerate(found.groups) for image in (g.kept, *g.copies)}
    assert all(group_of[number] == group_of[2000 + number] for number in range(60))
    assert found.copies <= 66
    assert len(find_duplicates(ArrayVectors.of(with_copies(2000, 0))).groups) <= 2
    threshold, why = choose_threshold(distinct(with_copies(2000, 60)))
    assert 0.5 <= threshold <= 0.995
    assert "50th neighbor" in why
    few = find_duplicates(ArrayVectors.of(with_copies(20, 0, 3)[:8]))
    assert (few.threshold, few.why) == (0.99, "8 images are too few to choose by")


def test_groups_are_stars_round_the_kept_one_not_chains() -> None:
    angles = np.deg2rad([0, 10, 20, 30])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    found = find_duplicates(ArrayVectors.of(rows, ["a", "b", "c", "d"]), threshold=float(np.cos(np.deg2rad(11))))
    assert [(group.kept.path, [copy.path for copy in group.copies]) for group in found.groups] == [("a", ["b"]), ("c", ["d"])]


def test_wrong_input_is_named() -> None:
    rows = with_copies(100, 0)
    with pytest.raises(InputError, match=r"threshold is 1\.5"):
        find_duplicates(ArrayVectors.of(rows), threshold=1.5)
    rows[3] = np.nan
    with pytest.raises(RetrievalError, match="features of 3 are not finite"):
        find_duplicates(ArrayVectors.of(rows))
    assert find_duplicates(ArrayVectors.of(np.empty((0, 4)))).groups == ()
    assert find_duplicates(ArrayVectors.of(np.ones((1, 4)))).groups == ()


def test_kept_is_the_largest_and_all_outputs_agree(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    images, features = doubled
    done = sslfeat("dedupe", features, "--out", tmp_path / "d.csv", "--out", tmp_path / "d.html", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kept = {group["kept"]["path"] for group in found["groups"]}
    assert kept <= {str(path) for path in (images / "one").iterdir()}
    exact = [copy["path"] for group in found["groups"] for copy in group["copies"] if copy["verdict"] == "same file"]
    assert {Path(path).parent.name for path in exact} == {"two"}
    lines = (tmp_path / "d.csv").read_text().splitlines()
    assert len(lines) == 1 + len(found["groups"]) + found["copies"]
    assert (tmp_path / "d.html").read_text().count("<figure") == len(lines) - 1


def test_names_that_are_not_text(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    image = next(image_folder.rglob("*.jpg"))
    odd = os.fsencode(images) + b"/caf\xe9\n.jpg"
    shutil.copy(image, images / "a.jpg")
    shutil.copy(image, os.fsdecode(odd))
    assert sslfeat("embed", images, "--encoder", tiny, "--out", tmp_path / "f").returncode == 0
    assert apply(find_duplicates(tmp_path / "f"), tmp_path / "aside").moved == 1
    assert not os.path.lexists(odd)
    undo(tmp_path / "aside")
    assert os.path.lexists(odd)


def test_a_full_disk_is_said_before_anything_is_decoded(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(str(path) for path in image_folder.rglob("*.jpg"))[:3]
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=3 * SIDE * SIDE * 3 - 1))
    thumbnails = Thumbnails(names, [None] * len(names), SIDE)
    with pytest.raises(InputError, match=r"thumbnails of 3 images need 0.0 GB in .*TMPDIR"):
        thumbnails.load(np.arange(3), lambda done, total: None)
    told: list[tuple[int, int]] = []
    for _ in range(2):  # the second time nothing is left to do
        thumbnails.load(np.arange(2), lambda done, total: told.append((done, total)))
    assert told == [(2, 2)]
    assert thumbnails.pixels[:2].any() and not thumbnails.pixels[2].any()


def test_whitening_finds_what_plain_features_do_not() -> None:
    """A copy that differs in the few directions in which all images differ most."""
    rng = np.random.default_rng(0)
    strong, weak = rng.normal(size=(400, 4)) * 30, rng.normal(size=(400, 60))
    rows = np.concatenate([strong, weak], 1).astype(np.float32)
    rows = np.concatenate([rows, rows[:20]])
    rows[400:, :4] = rng.normal(size=(20, 4)) * 30
    pairs = {tuple(pair) for pair in candidate_pairs(rows, None, lambda stage, done, total: None).tolist()}
    assert all((number, 400 + number) in pairs for number in range(20))
    assert len(pairs) <= 15 * len(rows)


def test_one_scene_that_is_the_whole_folder(tmp_path: Path, tiny: Path) -> None:
    """However many copies of one image there are: whitening finds no neighbors among them."""
    image = photo(0)
    for number in range(45):
        saved(image, tmp_path / "images" / f"{number:03d}.jpg", 50 + number)
    assert sslfeat("embed", tmp_path / "images", "--encoder", tiny, "--out", tmp_path / "f").returncode == 0
    found = find_duplicates(tmp_path / "f")
    assert (found.copies, len(found.groups)) == (44, 1)


def test_thousands_of_one_image_cost_what_they_are_many() -> None:
    rows = np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float32)
    rows[:2500] = rows[0]
    found = find_duplicates(ArrayVectors.of(rows), threshold=0.9999)
    assert (found.copies, len(found.groups)) == (2499, 1)


def test_different_images_are_no_group_and_scenes_are_not_moved(tmp_path: Path, tiny: Path) -> None:
    images = tmp_path / "images"
    for seed in range(12):
        saved(photo(seed), images / f"{seed}.jpg")
    moving = photo(20)
    for step in range(3):  # a camera that stands still while half of what it sees moves
        frame = moving.copy()
        frame.paste(photo(30 + step).crop((0, 0, 240, 70)), (0, 110))
        saved(frame, images / f"frame{step}.jpg")
    assert sslfeat("embed", images, "--encoder", tiny, "--out", tmp_path / "f").returncode == 0
    found = find_duplicates(tmp_path / "f")
    assert found.copies == 0
    assert {Path(copy.path).stem[:5] for group in found.groups for copy in group.copies} <= {"frame"}
    assert apply(found, tmp_path / "aside").moved == 0


def test_the_kept_one_is_the_largest_of_the_fullest_folder_and_no_copy_by_name(tmp_path: Path, tiny: Path) -> None:
    images = tmp_path / "images"
    image = photo(1)
    for name, quality in (("b/Copy of x.jpg", 95), ("b/x (1).jpg", 94), ("b/x - Copy.jpg", 93), ("a/x.jpg", 92), ("b/y.jpg", 91)):
        saved(image, images / name, quality)
    saved(image.resize((120, 90)), images / "b" / "small.jpg")
    saved(photo(2), images / "b" / "other.jpg")
    assert sslfeat("embed", images, "--encoder", tiny, "--out", tmp_path / "f").returncode == 0
    (group,) = find_duplicates(tmp_path / "f").groups
    assert group.kept.path.endswith("b/y.jpg")
    assert len(group.copies) == 5


@pytest.mark.parametrize("head", ["path,price", "path,label"])
def test_of_equal_images_the_one_that_a_list_knows_is_kept(head: str, tmp_path: Path, tiny: Path) -> None:
    images = tmp_path / "images"
    image = photo(1)
    for name, quality in (("A_import.jpg", 95), ("B_import.jpg", 95), ("sub/SKU00001 (2).jpg", 92), ("other.jpg", 90)):
        saved(photo(2) if name == "other.jpg" else image, images / name, quality)
    (tmp_path / "catalog.csv").write_text(f"{head}\nimages/sub/SKU00001 (2).jpg,9\n")
    line = ("embed", images, tmp_path / "catalog.csv", "--encoder", tiny, "--out", tmp_path / "f")
    assert sslfeat(*line).returncode == 0
    (group,) = find_duplicates(tmp_path / "f").groups
    assert (Path(group.kept.path).name, len(group.copies)) == ("SKU00001 (2).jpg", 2)


def test_files_that_changed_are_named_and_judged_by_nobody(doubled: tuple[Path, Path]) -> None:
    images, features = doubled
    changed = next((images / "small").iterdir())
    saved(photo(1), changed)
    done = sslfeat("dedupe", features, "--json")
    assert done.returncode == 3
    assert f"{changed}: could not be compared: it is not the file that was embedded" in done.stderr
    assert str(changed) not in [copy["path"] for group in json.loads(done.stdout)["groups"] for copy in group["copies"]]
