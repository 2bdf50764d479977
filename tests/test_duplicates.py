"""Duplicates against a comparison of all with all; moving them aside and back, whatever happens in between."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslfeat.errors import InputError, RetrievalError
from sslfeat.retrieval import duplicates as module
from sslfeat.retrieval.duplicates import choose_threshold, distinct, find_duplicates, near_pairs
from sslfeat.retrieval.quarantine import PLAN_NAME, apply, undo
from sslfeat.retrieval.vectors import ArrayVectors, FloatArray
from tests.conftest import contents, sslfeat

SAME = 0.99999
DIM = 128


def with_copies(count: int, copies: int, seed: int = 0) -> FloatArray:
    """Clustered vectors, the first ``copies`` of them once more at the end, a little changed."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count // 10, DIM))
    rows = centres[rng.integers(0, len(centres), count)] + 1.0 * rng.normal(size=(count, DIM)) + 3
    return np.concatenate([rows, rows[:copies] + 0.02 * rng.normal(size=(copies, DIM))]).astype(np.float32)


def test_pairs_are_those_of_all_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 70)
    monkeypatch.setattr(module, "COLUMNS", 90)
    unit = distinct(with_copies(300, 30))
    first, second, scores = near_pairs(unit, 0.6, lambda stage, done, total: None)
    naive = unit.astype(np.float64) @ unit.T.astype(np.float64)
    expected = {(i, j) for i, j in zip(*np.nonzero(naive >= 0.6), strict=True) if i < j}
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected
    np.testing.assert_allclose(scores, naive[first, second], atol=1e-5)
    assert np.abs(unit.mean(0)).max() < 0.1  # the mean is out


def test_the_chosen_threshold_finds_copies_and_hardly_anything_else() -> None:
    found = find_duplicates(ArrayVectors.of(with_copies(2000, 60)))
    group_of = {int(picture.path): number for number, g in enumerate(found.groups) for picture in (g.kept, *g.copies)}
    assert all(group_of[number] == group_of[2000 + number] for number in range(60))
    assert found.copies <= 66
    assert len(find_duplicates(ArrayVectors.of(with_copies(2000, 0))).groups) <= 2
    threshold, why = choose_threshold(distinct(with_copies(2000, 60)))
    assert 0.5 <= threshold <= 0.995
    assert "50th neighbour" in why
    few = find_duplicates(ArrayVectors.of(with_copies(20, 0, 3)[:8]))
    assert (few.threshold, few.why) == (0.99, "8 pictures are too few to choose by")


def test_groups_are_stars_round_the_kept_one_not_chains() -> None:
    angles = np.deg2rad([0, 10, 20, 30])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    found = find_duplicates(ArrayVectors.of(rows, ["a", "b", "c", "d"]), threshold=float(np.cos(np.deg2rad(11))))
    assert [(group.kept.path, [copy.path for copy in group.copies]) for group in found.groups] == [
        ("a", ["b"]),
        ("c", ["d"]),
    ]


def test_wrong_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = with_copies(100, 0)
    with pytest.raises(InputError, match=r"threshold is 1\.5"):
        find_duplicates(ArrayVectors.of(rows), threshold=1.5)
    rows[3] = np.nan
    with pytest.raises(RetrievalError, match="features of 3 are not finite"):
        find_duplicates(ArrayVectors.of(rows))
    monkeypatch.setattr(module, "MOST_PAIRS", 10)
    with pytest.raises(RetrievalError, match="give a higher --threshold"):
        find_duplicates(ArrayVectors.of(with_copies(100, 0)), threshold=0.01)
    assert find_duplicates(ArrayVectors.of(np.empty((0, 4)))).groups == ()
    assert find_duplicates(ArrayVectors.of(np.ones((1, 4)))).groups == ()


@pytest.fixture
def doubled(pictures: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Six drawn pictures, each also smaller and, under the same name elsewhere, as the same file; and their features."""
    images = tmp_path / "my pictures"
    for path in sorted(pictures.rglob("*.jpg"))[::7]:
        for name in ("one", "two", "small"):
            (images / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, images / "one" / path.name)
        shutil.copy(path, images / "two" / path.name)
        image = Image.open(path)
        image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(images / "small" / path.name, quality=95)
    assert sslfeat("embed", images, "--out", tmp_path / "features").returncode == 0
    return images, tmp_path / "features"


def test_kept_is_the_largest_and_all_outputs_agree(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    images, features = doubled
    done = sslfeat(
        "dedupe", features, "--threshold", "0.9", "--csv", tmp_path / "d.csv", "--html", tmp_path / "d.html", "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kept = {group["kept"]["path"] for group in found["groups"]}
    assert kept <= {str(path) for path in (images / "one").iterdir()}
    exact = [copy["path"] for group in found["groups"] for copy in group["copies"] if copy["exact"]]
    assert {Path(path).parent.name for path in exact} == {"two"}
    lines = (tmp_path / "d.csv").read_text().splitlines()
    assert len(lines) == 1 + len(found["groups"]) + found["copies"]
    assert (tmp_path / "d.html").read_text().count("<figure") == len(lines) - 1


def test_apply_moves_and_undo_puts_back(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    images, features = doubled
    before = contents(images)
    aside = tmp_path / "moved aside"
    found = find_duplicates(features, SAME)
    assert found.copies == 6
    assert apply(found, aside).moved == 6
    assert len(contents(images)) == len(before) - 6
    assert {path.name for path in aside.rglob("*.jpg")} == {
        Path(copy.path).name for g in found.groups for copy in g.copies
    }
    assert apply(found, aside).moved == 6  # nothing is left to do
    with pytest.raises(RetrievalError, match="moved before"):
        apply(find_duplicates(features, 0.2), aside)
    assert undo(aside).moved == 6
    assert contents(images) == before
    assert [path.name for path in aside.iterdir()] == [".lock"]
    with pytest.raises(InputError, match="nothing was moved there"):
        undo(aside)
    with pytest.raises(RetrievalError, match="holds other files"):
        apply(found, images)


def test_what_changed_or_vanished_is_left_alone(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    images, features = doubled
    one, two, three, *_ = sorted((images / "two").iterdir())
    one.write_bytes(b"another picture")
    two.unlink()
    (images / "one" / three.name).write_bytes(b"the kept one changed")
    done = sslfeat("dedupe", features, "--threshold", str(SAME), "--apply", tmp_path / "aside")
    assert done.returncode == 3
    assert done.stderr.count("not the file that was embedded") == 2
    assert f"{three}: left there: the kept" in done.stderr
    assert one.exists()
    assert three.exists()
    back = next(path for path in json.loads((tmp_path / "aside" / PLAN_NAME).read_bytes())["moves"])["name"]
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
        arguments = [str(stop_at), "no", str(images), "tests.test_duplicates:move", str(features), str(aside)]
        command: list[str] = [sys.executable, "tests/crash.py", *arguments]
        return subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=60)

    for stop_at in range(1, 30, 4):
        assert run(stop_at).returncode in (0, 137)
        pictures = [data for name, data in contents(images).items() if name.endswith(".jpg")]
        assert sorted(pictures) == names  # each is here or there
        if stop_at % 8 == 1:
            move(str(features), str(aside))
            assert len(list(aside.rglob("*.jpg"))) == 6
        if (aside / PLAN_NAME).exists():
            undo(aside)
        assert {name: data for name, data in contents(images).items() if name.endswith(".jpg")} == before


def test_names_that_are_not_text(tiny: Path, pictures: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    picture = next(pictures.rglob("*.jpg"))
    odd = os.fsencode(images) + b"/caf\xe9\n.jpg"
    shutil.copy(picture, images / "a.jpg")
    shutil.copy(picture, os.fsdecode(odd))
    assert sslfeat("embed", images, "--encoder", tiny, "--out", tmp_path / "f").returncode == 0
    assert apply(find_duplicates(tmp_path / "f"), tmp_path / "aside").moved == 1
    assert not os.path.lexists(odd)
    undo(tmp_path / "aside")
    assert os.path.lexists(odd)
