"""Pages in a real browser: Chromium without a window, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from sslfeat.export.targets.browser import BROWSERS

CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to look at pages with")
PHONE, DESKTOP = (390, 844), (1280, 900)
TOO_WIDE = "document.documentElement.scrollWidth > innerWidth"


@dataclass(frozen=True)
class Seen:
    """A page as the browser showed it: the document, what it complained of, and its ``pixels`` (height, width, 3)."""

    dom: str
    errors: list[str]
    pixels: npt.NDArray[np.uint8]

    def told(self, name: str) -> str:
        """An attribute that the script set on the body."""
        found = re.search(rf'<body[^>]*\bdata-{name}="([^"]*)"', self.dom)
        return found[1] if found else "not set"


def look(page: Path, tmp_path: Path, size: tuple[int, int] = DESKTOP, dark: bool = False, script: str = "") -> Seen:
    """Open a page without a network; ``script`` runs once it has loaded, and may set ``document.body.dataset``."""
    assert CHROMIUM is not None
    probe = f"document.body.dataset.wide = {TOO_WIDE}; {script}"
    watched = page.read_text() + f"<script>addEventListener('load', () => setTimeout(() => {{ {probe} }}, 300))</script>"
    copy, screenshot = tmp_path / "watched.html", tmp_path / "seen.png"
    copy.write_text(watched)
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={screenshot}",
        f"--window-size={size[0]},{size[1]}", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--virtual-time-budget=5000", "--dump-dom", copy.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    with Image.open(screenshot) as image:
        return Seen(done.stdout, errors, np.asarray(image.convert("RGB")))
