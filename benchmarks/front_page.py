"""Image at the top of the README: drawn images are embedded, indexed and searched by the command line; screenshot of the page.

python benchmarks/front_page.py WORK          # writes docs/search.png
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from sslfeat.export.targets.browser import BROWSERS

OUT = Path(__file__).resolve().parents[1] / "docs" / "search.png"
QUERIES = ("triangles/triangles-0003.jpg", "circles/circles-0012.jpg")
LINES = (
    "samples --out images --count 2000",
    "embed images --out features --overwrite",
    "index features --out index --overwrite",
    f"search index {' '.join(f'--id images/{query}' for query in QUERIES)} --top 6 --out found.html --overwrite",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    work = parser.parse_args().work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    for line in LINES:
        subprocess.run([sys.executable, "-m", "sslfeat", *line.split()], cwd=work, check=True)
    with sync_playwright() as playwright:
        chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
        page = playwright.chromium.launch(executable_path=chromium).new_page(viewport={"width": 1120, "height": 820})
        page.goto((work / "found.html").as_uri())
        page.screenshot(path=work / "found.png", clip={"x": 0, "y": 0, "width": 1120, "height": 680})
    image = Image.open(work / "found.png").convert("RGB")
    image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(OUT, optimize=True)


if __name__ == "__main__":
    main()
