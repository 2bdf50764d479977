"""Pages carry everything inside; thumbnails come from whatever the images are."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from PIL import Image

from sslfeat.reports.gallery import Shown, gallery
from sslfeat.reports.render import render, write_page
from sslfeat.reports.thumbnails import side_for, thumbnails
from tests.browser import DESKTOP, PHONE, look, needs_browser


def test_thumbnails_are_small_images_and_none_for_what_cannot_be_read(image_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    first = sorted(image_folder.rglob("*.jpg"))[0]
    wide = tmp_path / "wide.png"
    Image.new("RGB", (80, 20), "red").save(wide)
    uri, missing, unread, small = thumbnails([str(first), str(tmp_path / "gone.jpg"), str(broken), str(wide)], side=100)
    assert missing is None
    assert unread is None
    assert uri is not None
    head, data = uri.split(",")
    assert head == "data:image/webp;base64"
    with Image.open(first) as original, Image.open(io.BytesIO(base64.b64decode(data))) as seen:
        assert max(seen.size) == 100 <= max(original.size)
        assert seen.size[0] / seen.size[1] == pytest.approx(original.size[0] / original.size[1], rel=0.02)
    assert small is not None
    assert Image.open(io.BytesIO(base64.b64decode(small.split(",")[1]))).size == (80, 20)  # never enlarged
    assert [side_for(count) for count in (1, 300, 301, 5000)] == [512, 512, 384, 160]


def test_pages_are_complete_escaped_and_strict(tmp_path: Path) -> None:
    page = render("base.html")
    assert "http://" not in page
    assert "https://" not in page
    with pytest.raises(UndefinedError):
        render("gallery.html")
    write_page(tmp_path / "page.html", "caf\u00e9 \udcff")
    assert (tmp_path / "page.html").read_bytes() == b"caf\xc3\xa9 \\udcff"


@needs_browser
@pytest.mark.parametrize(("size", "dark"), [(PHONE, True), (DESKTOP, False)])
def test_a_thumbnail_opens_the_image_larger(image_folder: Path, tmp_path: Path, size: tuple[int, int], dark: bool) -> None:
    names = [str(path) for path in sorted(image_folder.rglob("*.jpg"))[:3]]
    shown = [Shown(names[0], "query", marked=True), Shown(str(tmp_path / "gone.jpg"), "gone"), Shown(names[1], "0.9")]
    page = tmp_path / "page.html"
    page.write_text(gallery("Found", "about it", [("one", shown)]))
    script = """
    const told = document.body.dataset, view = document.querySelector("dialog.view");
    const press = (key) => view.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
    const name = () => view.querySelector(".told").textContent;
    told.closed = view.open;
    document.querySelector("button.image").click();
    told.open = view.open;
    told.first = name();
    press("ArrowLeft");
    told.still = name() === told.first;
    press("ArrowRight");
    told.second = name();
    told.modal = view.matches(":modal");
    told.over = view.querySelector("img").getBoundingClientRect().right > innerWidth;
    told.framed = document.querySelectorAll("figure.reference").length;
    """
    seen = look(page, tmp_path, size, dark, script)
    assert seen.errors == []
    assert [seen.told(what) for what in ("closed", "open", "still", "modal", "over")] == [
        "false", "true", "true", "true", "false",
    ]  # fmt: skip
    assert seen.told("first").endswith(f"/{Path(names[0]).name}query · 1 of 2")  # what cannot be read is passed over
    assert seen.told("second").endswith(f"/{Path(names[1]).name}0.9 · 2 of 2")
    assert (seen.told("framed"), seen.told("wide")) == ("1", "false")
