"""Pages carry everything inside; thumbnails come from whatever the images are."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from PIL import Image

from sslfeat.reports.render import render, write_page
from sslfeat.reports.thumbnails import thumbnails


def test_thumbnails_are_small_images_and_none_for_what_cannot_be_read(image_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    first = sorted(image_folder.rglob("*.jpg"))[0]
    uri, missing, unread = thumbnails([str(first), str(tmp_path / "gone.jpg"), str(broken)], side=48)
    assert missing is None
    assert unread is None
    assert uri is not None
    head, data = uri.split(",")
    assert head == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (48, 48)


def test_pages_are_complete_escaped_and_strict(tmp_path: Path) -> None:
    page = render("base.html")
    assert "http://" not in page
    assert "https://" not in page
    with pytest.raises(UndefinedError):
        render("gallery.html")
    write_page(tmp_path / "page.html", "caf\u00e9 \udcff")
    assert (tmp_path / "page.html").read_bytes() == b"caf\xc3\xa9 \\udcff"
