"""Pages carry everything inside; thumbnails come from whatever the images are."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from PIL import Image

from sslfeat.reports.render import render, write_page
from sslfeat.reports.thumbnails import side_for, thumbnails


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
