"""Duplicates against a comparison of all with all; moving them aside and back, whatever happens in between."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from sslfeat.data.decode import Pixels
from sslfeat.dedup.alignment import SIDE, coarse_windows, finest_windows, window_correlations
from sslfeat.dedup.aside import check_aside
from sslfeat.dedup.candidates import candidate_pairs, distinct
from sslfeat.dedup.decisions import read_duplicates, write_duplicates
from sslfeat.dedup.moves import PLAN_NAME, apply, undo
from sslfeat.dedup.near_duplicates import choose_threshold, find_duplicates
from sslfeat.dedup.thumbnails import Thumbnails
from sslfeat.dedup.verify import LUMA, SAME_IMAGE, SAME_SCENE, judge
from sslfeat.errors import InputError, RetrievalError, UsageError
from sslfeat.features.reader import Features
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.vectors import ArrayVectors
from tests.conftest import contents, sslfeat

SAME = 0.99999
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


@pytest.fixture
def doubled(image_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Six drawn images, each also smaller and, under the same name elsewhere, as the same file; and their features."""
    images = tmp_path / "my images"
    for path in sorted(image_folder.rglob("*.jpg"))[::7]:
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
    with pytest.raises(RetrievalError, match="moved before"):
        apply(find_duplicates(features), aside)
    assert undo(aside).moved == 6
    assert contents(images) == before
    assert not aside.exists()
    with pytest.raises(InputError, match="all of it was put back before"):
        undo(aside)
    with pytest.raises(RetrievalError, match="holds other files"):
        apply(found, images)


def test_copies_are_not_moved_to_where_they_would_be_embedded_again(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    images, features = doubled
    before = contents(images)
    for inside in (images / "aside", images / "one" / "aside", images):
        done = sslfeat("dedupe", features, "--apply", inside, "--yes")
        assert (done.returncode, "would all come back: choose a folder beside it" in done.stderr) == (2, True)
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
    assert "would all come back" in refused.stderr
    assert "nobody decided on" in sslfeat("dedupe", "--decided", groups).stderr
    assert "--threshold says what is compared" in sslfeat("dedupe", groups, "--threshold", "0.9").stderr
    shutil.copy(next(images.rglob("*.jpg")), images / "later.jpg")
    assert sslfeat("embed", images, "--out", features, "--update").returncode == 0
    done = sslfeat(*words, "--yes")
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout == f"12 copies in 6 groups, with 0 other shots of a scene, among 18 images\n12 images moved to {words[-1]}\n"
    )
    assert sslfeat(*words, "--yes").stdout.endswith(f"12 images were moved to {words[-1]} before\n")
    assert "compared" not in done.stderr
    assert "was updated since" in done.stderr
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
    assert "the 'sslfeat embed' that made FEATURES" in done.stderr


@pytest.mark.parametrize("specs", [["a/1.jpg", "b/1.jpg"], ["./a/1.jpg", "./b/1.jpg"]])
def test_folders_that_were_given_by_themselves_have_room_beside_them(
    specs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = [spec.encode() for spec in specs]
    if specs[0].startswith("."):
        with pytest.raises(UsageError, match="choose a folder beside it"):
            check_aside(Path("aside"), images)
    else:
        check_aside(Path("aside"), images)


def test_what_changed_or_vanished_is_left_alone(doubled: tuple[Path, Path], tmp_path: Path) -> None:
    images, features = doubled
    one, two, three, *_ = sorted((images / "two").iterdir())
    one.write_bytes(b"another image")
    two.unlink()
    (images / "one" / three.name).write_bytes(b"the kept one changed")
    done = sslfeat("dedupe", features, "--threshold", str(SAME), "--apply", tmp_path / "aside", "--yes")
    assert done.returncode == 3
    assert done.stderr.count("not the file that was embedded") == 2
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
        arguments = [str(stop_at), "no", str(images), "tests.test_duplicates:move", str(features), str(aside)]
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


def saved(image: Image.Image, path: Path, quality: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=quality)
    return path


def photo(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """Something with detail everywhere, as photographs have: noise at several scales, in color."""
    rng = np.random.default_rng(seed)
    total = np.zeros((size[1], size[0], 3))
    for cells, weight in ((3, 1.0), (8, 0.7), (24, 0.5), (70, 0.3)):
        low = Image.fromarray((rng.random((cells, cells, 3)) * 255).astype(np.uint8))
        total += weight * np.asarray(low.resize(size, Image.Resampling.BICUBIC), float)
    total = (total - total.min()) / (total.max() - total.min())
    return Image.fromarray((255 * total).astype(np.uint8))


def shirt(color: tuple[int, int, int]) -> Image.Image:
    """A flat product on white."""
    image = Image.new("RGB", (200, 200), "white")
    draw = ImageDraw.Draw(image)
    draw.polygon(
        [(60, 40), (140, 40), (180, 80), (155, 100), (145, 85), (145, 170), (55, 170), (55, 85), (45, 100), (20, 80)], color
    )
    return image


def text_over(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).text((30, 80), "SAMPLE 2024", fill="white", font_size=22)
    return image


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "compressed": lambda image: image,
    "half": lambda image: image.resize((image.width // 2, image.height // 2)),
    "cropped": lambda image: image.crop((24, 18, 216, 162)),
    "gray": lambda image: image.convert("L").convert("RGB"),
    "mirrored": ImageOps.mirror,
    "written on": text_over,
    "tinted": lambda image: Image.fromarray((np.asarray(image) * [1.0, 0.9, 0.7]).astype(np.uint8)),
}


def thumbnail(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("change", COPIES)
def test_copies_of_a_photograph_are_the_same_image(change: str) -> None:
    originals = [photo(seed) for seed in range(8)]
    copies = [COPIES[change](image) for image in originals]
    first, second = (np.stack([thumbnail(image) for image in images]) for images in (originals, copies))
    assert judge(first, second) == [SAME_IMAGE] * 8
    assert judge(second, first) == [SAME_IMAGE] * 8
    assert SAME_IMAGE not in judge(first, np.roll(second, 1, 0))


def test_products_of_one_shape_and_pages_of_one_layout_are_different() -> None:
    orange, pink, again = (thumbnail(shirt(color)) for color in ((240, 140, 20), (240, 90, 160), (240, 140, 20)))
    assert judge(orange[None], again[None]) == [SAME_IMAGE]
    assert judge(orange[None], pink[None])[0] != SAME_IMAGE
    colors = [Image.new("HSV", (1, 1), (hue, 200, 220)).convert("RGB").getpixel((0, 0)) for hue in range(0, 255, 7)]
    shirts = np.stack([thumbnail(shirt(color)) for color in colors])  # type: ignore[arg-type]
    assert SAME_IMAGE not in judge(shirts, np.roll(shirts, 1, 0))
    pages = []
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        page = Image.new("RGB", (300, 400), "white")
        for line in range(20):
            words = "".join(rng.choice(list("abcdefghijkl mnopq"), 34))
            ImageDraw.Draw(page).text((20, 15 + 18 * line), words, fill="black", font_size=14)
        pages.append(thumbnail(page))
    assert judge(pages[0][None], pages[1][None])[0] != SAME_IMAGE


def test_a_crop_is_found_where_it_was_cut() -> None:
    image = photo(3, (256, 256))
    part = image.crop((26, 51, 26 + 205, 51 + 205))
    gray = [thumbnail(each) @ LUMA for each in (image, part)]
    for first, second, swapped in ((0, 1, False), (1, 0, True)):
        score, windows = coarse_windows(gray[first][None], gray[second][None])
        finest = finest_windows(gray[first][None], gray[second][None], windows)
        assert score[0] > 0.8
        assert (finest.swapped.tolist(), finest.mirrored.tolist()) == ([swapped], [False])
        np.testing.assert_allclose(finest.places[0] * 256, [51, 256, 26, 231], atol=1)


def test_correlations_are_those_of_every_window_by_itself() -> None:
    rng = np.random.default_rng(0)
    images, templates = rng.random((3, 16, 16)).astype(np.float32), rng.random((3, 13, 13)).astype(np.float32)
    found = window_correlations(images, templates).reshape(3, 2, 4, 4)
    for number, mirrored, y, x in np.ndindex(found.shape):
        template = templates[number][:, ::-1] if mirrored else templates[number]
        alone = np.corrcoef(images[number, y : y + 13, x : x + 13].ravel(), template.ravel())[0, 1]
        assert found[number, mirrored, y, x] == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("box", [(0, 0, 180, 256), (76, 60, 256, 256), (20, 30, 220, 230), (0, 0, 256, 256)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_crops_of_any_shape_and_at_edges_come_to_lie_where_they_were(box: tuple[int, int, int, int], mirrored: bool) -> None:
    """What is moved by steps stays within the image, and an edge that is reached keeps no other from moving."""
    image = photo(5, (256, 256))
    part = image.crop(box)
    gray = [thumbnail(each) @ LUMA for each in (image, ImageOps.mirror(part) if mirrored else part)]
    finest = finest_windows(gray[0][None], gray[1][None], coarse_windows(gray[0][None], gray[1][None])[1])
    left, top, right, bottom = box
    np.testing.assert_allclose(finest.places[0] * 256, [top, bottom, left, right], atol=2)


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


def test_files_that_changed_are_named_and_judged_by_nobody(doubled: tuple[Path, Path]) -> None:
    images, features = doubled
    changed = next((images / "small").iterdir())
    saved(photo(1), changed)
    done = sslfeat("dedupe", features, "--json")
    assert done.returncode == 3
    assert f"{changed}: could not be compared: it is not the file that was embedded" in done.stderr
    assert str(changed) not in [copy["path"] for group in json.loads(done.stdout)["groups"] for copy in group["copies"]]


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
    assert f"would put 1 files below {home}" in done.stderr
    assert not (home / "new.jpg").exists()
    assert sslfeat("dedupe", "--undo", aside, "--yes").returncode == 0
    assert (home / "new.jpg").exists()


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
