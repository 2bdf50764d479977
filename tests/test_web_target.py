"""The web target, in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslfeat import Encoder
from sslfeat.errors import ExportError
from sslfeat.export.convert import ExportRequest, convert
from sslfeat.export.sources import Origin
from sslfeat.numerics.similarity import cosines
from tests.browser import needs_browser
from tests.exported import many, origins
from tests.test_profiles import wide_gamut

__all__ = ["many", "origins"]


@needs_browser
@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm to fetch onnxruntime-web with")
def test_a_browser_gives_the_features(origins: Callable[[str], Origin], many: Path, tmp_path: Path) -> None:
    report = convert(origins("vit"), ExportRequest("web", tmp_path / "page", [str(many)]))
    assert report.likeness is not None
    assert report.likeness.cosine > 0.99999
    assert report.likeness.images == 64
    assert report.remark.startswith("in chrom")
    assert "16 files decoded by it" in report.remark
    names = {path.name for path in (tmp_path / "page").iterdir()}
    assert {"index.html", "app.mjs", "encoder.mjs", "encoder.onnx", "samples.json", "card.json", "target.json"} <= names
    readme = (tmp_path / "page" / "README.md").read_text()
    for text, start in (
        ("onnxruntime.LICENSE.txt", "MIT License"),
        ("onnxruntime.ThirdPartyNotices.txt", "THIRD PARTY SOFTWARE"),
    ):
        assert (tmp_path / "page" / text).read_text("utf-8").startswith(start)
        assert f"`{text}`" in readme
    assert not any(name.startswith("check-") or name == "check.html" for name in names)
    done = subprocess.run(["node", tmp_path / "page" / "check.mjs"], capture_output=True, text=True, check=False)  # npm has it
    assert re.search(r"^encoder\.onnx: cosine (1\.0|0\.9999)", done.stdout), done.stderr
    assert done.returncode == 0
    html = (tmp_path / "page" / "index.html").read_text()
    assert f"<title>{origins('vit').file.card.name}</title>" in html
    assert f"Weights: {origins('vit').file.card.license}. Training images: " in html
    assert "{{" not in html
    with pytest.raises(ExportError, match="not the dist folder"):
        convert(origins("vit"), ExportRequest("web", tmp_path / "more", [str(many)], web_runtime=tmp_path))


@needs_browser
@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm to fetch onnxruntime-web with")
def test_a_browser_converts_color_profiles_as_embed_does(origins: Callable[[str], Origin], many: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    wide.mkdir()
    for number, path in enumerate(sorted(many.rglob("*.jpg"))[:12]):
        with Image.open(path) as image:
            image.save(wide / f"{number}.jpg", icc_profile=wide_gamut(), quality=90)
    source = origins("resnet")
    report = convert(source, ExportRequest("web", tmp_path / "page", [str(wide)], allow=True))
    assert "10 files decoded by it" in report.remark  # of 12, two are kept to take ranges from
    assert report.likeness is not None
    assert report.likeness.cosine > 0.999
    encoder = Encoder(source.file, provider="cpu")
    bare = [np.asarray(Image.open(path)) for path in sorted(wide.iterdir())]  # the profile is lost: other features
    wanted, other = np.stack(list(encoder.embed(sorted(wide.iterdir())))), np.stack(list(encoder.embed(bare)))
    assert float(cosines(wanted, other).min()) < 0.999
