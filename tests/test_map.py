"""Maps: main components as NumPy finds them, and a page that a browser shows, on a desktop and a phone."""

from __future__ import annotations

import io
import json
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from sslfeat.errors import FeaturesError, InputError
from sslfeat.evaluation.color_scale import RAMP, ranges
from sslfeat.evaluation.embedding_map import COLORS, grouped, make_map
from sslfeat.evaluation.projection import pca, project
from sslfeat.features.reader import Features
from sslfeat.reports.map_view import map_page
from sslfeat.reports.sprites import COLUMNS, sprites
from tests.browser import DESKTOP, PHONE, look, needs_browser
from tests.conftest import sslfeat

ROWS = (np.random.default_rng(0).normal(size=(300, 10)) * np.arange(1, 11) + 3).astype(np.float32)


def test_components_are_those_of_the_singular_values() -> None:
    found = pca(ROWS, 4)
    centered = ROWS.astype(np.float64) - ROWS.mean(0)
    _, values, axes = np.linalg.svd(centered, full_matrices=False)
    assert found.share == pytest.approx(values[:4] ** 2 / np.sum(values**2), rel=1e-5)
    assert np.abs(np.sum(found.axes.T * axes[:4], 1)) == pytest.approx(np.ones(4), abs=1e-5)
    assert found.project(ROWS) == pytest.approx(centered @ found.axes, abs=1e-4)
    assert (np.take_along_axis(found.axes, np.abs(found.axes).argmax(0)[None], 0) > 0).all()
    flat = np.outer(np.arange(9), [1.0]).astype(np.float32)
    assert project(flat).shape == (9, 2)


def test_t_sne_keeps_groups_apart() -> None:
    x = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    x[:30] += 20
    points = project(x, "tsne")
    between = np.linalg.norm(points[:30].mean(0) - points[30:].mean(0))
    assert between > max(points[:30].std(0).max(), points[30:].std(0).max())
    assert np.array_equal(points, project(x, "tsne"))


def test_what_cannot_be_mapped() -> None:
    with pytest.raises(FeaturesError, match="at least 3 images"):
        project(ROWS[:2])
    with pytest.raises(FeaturesError, match="all features are identical"):
        project(np.ones((9, 4), np.float32))
    with pytest.raises(InputError, match="pca, tsne, umap"):
        project(ROWS, "lda")
    with pytest.raises(InputError, match="limit"):
        make_map(ROWS, [""] * 300, [None] * 300, limit=1)


def test_groups_are_the_largest_and_the_rest() -> None:
    labels = [None, *(f"c{number}" for number in range(30)), "c7"]
    groups, members = grouped(labels)
    assert [(group.name, group.count) for group in groups[:1]] == [("c7", 2)]
    assert len(groups) == len(COLORS) + 2
    assert [(group.name, group.count) for group in groups[-2:]] == [("others (10)", 10), ("no label", 1)]
    assert groups[members[0]].name == "no label"
    assert groups[members[-1]].name == "c7"
    assert [group.count for group in groups] == np.bincount(members).tolist()


def test_numbers_are_colored_in_ranges_from_low_to_high() -> None:
    numbers = [*map(str, np.random.default_rng(0).permutation(80)), None]
    names, scale = ranges(numbers)
    groups, members = grouped(names, scale, "price")
    assert [group.color for group in groups[:-1]] == list(RAMP)
    assert groups[-1].name == "no price"
    assert [group.count for group in groups] == np.bincount(members).tolist()
    assert all(9 <= group.count <= 11 for group in groups[:-1]) and groups[-1].count == 1
    assert [groups[member].name for member in members][:80] == names[:80]
    for name, number in zip(names[:80], numbers[:80], strict=True):
        low, high = map(float, str(name).split(" to "))
        assert low <= float(str(number)) <= high
    days = [str(20240101 + day) for day in range(31)]
    assert ranges(days)[1][0] == "20240101 to 20240104"
    assert ranges(["1", "2", None]) == (["1", "2", None], ())
    assert ranges([*numbers, "EUR 3"])[1] == ()
    assert len(ranges(["0"] * 90 + [str(number) for number in range(1, 10)])[1]) < 8


def test_ranges_have_as_many_decimals_each_as_tell_them_apart() -> None:
    assert ranges([f"{number / 8}" for number in range(17)])[1][:2] == ("0.00 to 0.25", "0.25 to 0.50")
    assert ranges([f"{1.23456789 * number}" for number in range(17)])[1][:2] == ("0.0 to 2.5", "2.5 to 4.9")
    assert ranges([f"{number}e-20" for number in range(17)])[1][:2] == ("0 to 2e-20", "2e-20 to 4e-20")


def test_dates_are_colored_in_ranges_from_first_to_last() -> None:
    days = [f"2024-{1 + day // 28:02}-{1 + day % 28:02}" for day in range(81)]
    names, scale = ranges([*days[::-1], None])
    assert scale[0] == "2024-01-01 to 2024-01-11" and len(scale) == len(RAMP)
    assert names[-1] is None and names[0] == scale[-1] and names[80] == scale[0]
    times = [f"2024:01:31 12:{minute:02}:07" for minute in range(17)]
    assert ranges(times)[1][0] == "2024-01-31 12:00 to 2024-01-31 12:02"
    assert ranges([f"2024-01-31T12:00:0{n // 10}.{n % 10}+02:00" for n in range(17)])[1][0].endswith("12:00:00.200000")
    assert ranges([*days, "soon"]) == ([*days, "soon"], ())


def test_a_column_of_metadata_colors_the_map(image_folder: Path, tiny: Path, tmp_path: Path) -> None:
    lines = [f"{path},{('Bern', 'Rome')[n % 2]},{n or ''}" for n, path in enumerate(sorted(image_folder.rglob("*.jpg")))]
    (tmp_path / "list.csv").write_text("\n".join(["path,city,price", *lines]))
    features = tmp_path / "features"
    assert sslfeat("embed", tmp_path / "list.csv", "--encoder", tiny, "--out", features).returncode == 0
    command = ("map", features, "--out", tmp_path / "map.html", "--overwrite", "--json")
    assert json.loads(sslfeat(*command, "--color", "city").stdout)["groups"] == {"Bern": 20, "Rome": 20}
    prices = json.loads(sslfeat(*command, "--color", "price").stdout)["groups"]
    assert prices.pop("no price") == 1 and set(prices.values()) <= {4, 5, 6}
    page = (tmp_path / "map.html").read_text()
    assert "tiny, colored by price" in page and '<span class="soft">price:</span>' in page
    assert json.loads(sslfeat(*command, "--labels", "none").stdout)["groups"] == {"no label": 40}
    assert "colored by" not in (tmp_path / "map.html").read_text()
    wrong = sslfeat(*command, "--color", "City")
    assert wrong.returncode == 2
    assert "did you mean 'city'?" in wrong.stderr


def test_sprites_are_the_images_in_order(tmp_path: Path) -> None:
    names = []
    for number in range(COLUMNS + 3):
        names.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (20, 20), (7 * number, 255 - 7 * number, 40)).save(names[-1])
    Path(names[1]).write_text("no image")
    packed = sprites(names, 16)
    assert packed.missing == [1]
    (sheet,) = packed.sheets
    with Image.open(io.BytesIO(b64decode(sheet.split(",")[1]))) as image:
        cells = np.asarray(image.convert("RGB"), np.int64)
    for number in (0, 5, COLUMNS - 1, COLUMNS + 2):
        row, column = divmod(number, COLUMNS)
        middle = cells[16 * row + 8, 16 * column + 8]
        assert np.abs(middle - (7 * number, 255 - 7 * number, 40)).max() < 12


@needs_browser
@pytest.mark.parametrize(("size", "dark"), [(PHONE, True), (DESKTOP, False)])
def test_the_page_in_a_browser(embedded: Path, tmp_path: Path, size: tuple[int, int], dark: bool) -> None:
    features = Features.load(embedded)
    page = tmp_path / "page.html"
    found = make_map(features.embeddings, features.paths, features.labels)
    page.write_text(map_page("<b>Drawn & mapped</b>", "about it", found))
    script = """
    const canvas = document.querySelector("canvas"), box = canvas.getBoundingClientRect(), names = new Set();
    const inked = () => canvas.toDataURL().length;
    for (let x = 0; x < box.width; x += 6) for (let y = 0; y < box.height; y += 6) {
      canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: box.x + x, clientY: box.y + y, pointerId: 1 }));
      if (!document.querySelector(".tip").hidden) names.add(document.querySelector(".tip span").textContent);
    }
    document.body.dataset.names = names.size;
    document.body.dataset.one = [...names][0];
    const all = inked(), buttons = [...document.querySelectorAll("[data-group]")];
    buttons.slice(1).forEach((button) => button.click());
    document.body.dataset.fewer = inked() < all;
    """
    seen = look(page, tmp_path, size, dark, script)
    assert seen.errors == []
    assert seen.told("wide") == "false"
    assert int(seen.told("names")) > 25  # of 40: some lie on top of one another
    assert seen.told("one").split(":")[0] in features.labels
    assert seen.told("fewer") == "true"
    assert "&lt;b&gt;Drawn &amp; mapped" in seen.dom
    assert (seen.pixels[5, 5].mean() < 100) == dark


def test_the_command(embedded: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"a map.{end}" for end in ("html", "png", "parquet")]
    outs = [part for file in files for part in ("--out", file)]
    done = sslfeat("map", embedded, *outs, "--limit", "30", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["images"], told["of"], sum(told["groups"].values())) == (30, 40, 30)
    assert list(map(Path, told["files"])) == files
    with Image.open(tmp_path / "a map.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 10
    table = parquet.read_table(tmp_path / "a map.parquet")
    assert [row["ids"][0] for row in table["neighbors"].to_pylist()] == list(range(30))
    with Image.open(io.BytesIO(table["image"][0].as_py()["bytes"])) as image:
        assert image.size == (96, 96)

    assert sslfeat("cluster", embedded, "-k", "3", "--out", tmp_path / "c").returncode == 0
    command = ("map", embedded, "--out", tmp_path / "b.html", "--overwrite", "--color", "cluster")
    done = sslfeat(*command, "--clusters", tmp_path / "c", "--json")
    assert set(json.loads(done.stdout)["groups"]) == {"cluster 000", "cluster 001", "cluster 002"}
    assert "sslfeat cluster" in sslfeat(*command, "--clusters", tmp_path / "none").stderr
    assert (
        "has no such column: choose one of label, cluster, path, sha256, width, height" in sslfeat(*command[:-1], "size").stderr
    )
    atlas = sslfeat("map", embedded, "--out", tmp_path / "d.html", "--atlas", cwd=tmp_path)
    assert "pip install embedding-atlas" in atlas.stderr
    assert not (tmp_path / "d.html").exists()  # it looked before it worked
