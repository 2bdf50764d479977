"""The report: whole, self-contained, tidy in a browser; what cannot be measured says so."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from sslfeat.errors import FeaturesError, InputError
from sslfeat.evaluation.probing.labels import LabelSource
from sslfeat.reports.report import ReportOptions, report
from tests.browser import DESKTOP, PHONE, look, needs_browser
from tests.conftest import sslfeat

PARTS = ("encoder", "data", "probe", "scores", "map", "clusters", "neighbors", "duplicates")


@pytest.fixture(scope="module")
def page(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a report")
    done = sslfeat("report", embedded, "--out", folder / "page.html", "--title", "<Drawn> & seen")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{folder / 'page.html'}: ")
    return folder / "page.html"


def test_all_of_it_is_there(page: Path) -> None:
    html = page.read_text()
    assert [part for part in PARTS if f'<section id="{part}">' in html] == list(PARTS)
    assert "Not measured" not in html
    assert "&lt;Drawn&gt; &amp; seen" in html
    assert "<Drawn>" not in html
    assert html.count("data:image/webp") > 40
    assert html.count("<svg") == 2
    assert "data:image/png" not in html
    assert "Next steps" in html
    for text in ("tiny", "4 classes", "nearest class mean", "rank me", "silhouette", "cluster 3:", "copies in"):
        assert text in html
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html) == []


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_it_is_tidy_in_a_browser(page: Path, tmp_path: Path, size: tuple[int, int], dark: bool) -> None:
    script = """
    const broken = [...document.images].filter((image) => image.loading !== "lazy" && !image.naturalWidth);
    const over = [...document.querySelectorAll("section, table, canvas, figure")].filter((part) =>
      part.getBoundingClientRect().right > innerWidth + 1 && !part.closest(".scroll"));
    document.body.dataset.broken = broken.length;
    document.body.dataset.over = over.length;
    document.body.dataset.stacked = getComputedStyle(document.querySelector("#probe th")).display !== "table-cell";
    document.body.dataset.points = document.querySelector("canvas").toDataURL().length;
    """
    seen = look(page, tmp_path, size, dark, script)
    assert seen.errors == []
    assert (seen.told("wide"), seen.told("broken"), seen.told("over")) == ("false", "0", "0")
    assert int(seen.told("points")) > 3000
    assert seen.told("stacked") == ("true" if size == PHONE else "false")
    assert (seen.pixels[2, 2].mean() < 100) == dark
    assert np.ptp(seen.pixels.astype(int)) > 150


def test_without_labels_and_with_failures(image_folder: Path, tiny: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(image_folder / "squares", images)
    shutil.copy(images / "squares-0000.jpg", images / "again.jpg")
    (images / "bad\nname.jpg").write_text("no image")
    command = ("embed", images, "--encoder", tiny, "--labels", "none", "--out", tmp_path / "f")
    assert sslfeat(*command).returncode == 3
    html = report(tmp_path / "f")
    assert "Not measured: the images have no labels" in html
    assert "failed: 1" in html
    assert "colored by cluster" in html
    assert "same file" in html
    assert re.search(r"1 copy in 1 group", html)


def test_labels_of_a_table(embedded: Path, tmp_path: Path) -> None:
    from sslfeat.features.reader import Features

    table = tmp_path / "labels.csv"
    paths = Features.load(embedded).paths
    table.write_text("path,label\n" + "".join(f"{path},{'a;b' if n % 2 else 'b;c'}\n" for n, path in enumerate(paths)))
    html = report(embedded, ReportOptions(source=LabelSource(str(table), separator=";"), limit=30))
    assert "mean average precision" in html
    assert "of which 30 were sampled" in html
    assert "Not measured: the images have no labels" in report(embedded, ReportOptions(source=LabelSource("none"), limit=30))


def test_what_makes_no_report(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(FeaturesError, match="not a features folder"):
        report(tmp_path)
    with pytest.raises(InputError, match="pca, tsne, umap"):
        ReportOptions(method="lda")
    with pytest.raises(InputError, match="limit"):
        ReportOptions(limit=2)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "one.jpg").write_text("no image")
    assert sslfeat("embed", tmp_path / "bad", "--encoder", tiny, "--out", tmp_path / "f").returncode == 3
    with pytest.raises(FeaturesError, match="is empty"):
        report(tmp_path / "f")


def test_how_far_it_is_never_goes_back(embedded: Path) -> None:
    said: list[tuple[float, str]] = []
    report(embedded, step=lambda share, part: said.append((share, part)))
    shares = [share for share, _ in said]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1] <= 1) == (0, True)
    assert [part for _, part in said if ":" not in part] == [
        "encoder", "images", "probe", "label-free metrics", "clusters", "map", "nearest neighbors", "duplicates",
    ]  # fmt: skip
    assert any(part.startswith("duplicates: compared") for _, part in said)
