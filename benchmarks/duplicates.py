"""Recall, precision, speed and memory of duplicate detection.

    python benchmarks/duplicates.py WORK --copies SET [SET...] --distinct SET [SET...] --many FEATURES

Recall: COPIED images of each --copies set (a folder of images) are saved with each change, and searched among OTHERS other
images of the set; reported is the share of copies that 'sslfeat dedupe' reports as the same image as their original. Precision:
for each --distinct set, all pairs reported as the same image are drawn side by side in WORK/SET-N.png; count the correct
pairs by eye and pass them as --right SET=N. Identical files are excluded from both. Drawn products (one shape in several colors,
pages of one layout) are also evaluated. Speed: 100,000 x 384 clustered vectors, by cosine similarity; and the images of --many,
a features folder with more than 100,000, by pixels, with the recall of the inverted file. Writes WORK/duplicates.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from sslfeat.data.dataset import find_inputs
from sslfeat.dedup import neighbors
from sslfeat.dedup.candidates import WHITENED, distinct
from sslfeat.dedup.near_duplicates import Duplicates, find_duplicates
from sslfeat.dedup.verify import SAME_IMAGE
from sslfeat.retrieval.vectors import ArrayVectors, as_vectors, blocks
from sslfeat.system.machine import save_measured

COPIED, OTHERS = 250, 2000
SHEET, SIDE, COLUMNS = 60, 96, 6


def _crop(image: Image.Image) -> Image.Image:
    return ImageOps.crop(image, border=(image.width // 10, image.height // 10, image.width // 10, image.height // 10))


def _overlay(image: Image.Image) -> Image.Image:
    image = image.copy()
    size = max(8, image.height // 8)
    ImageDraw.Draw(image).text((image.width // 8, image.height // 2), "SAMPLE 2024", fill="white", font_size=size)
    return image


def _tint(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) * [1.0, 0.9, 0.7]).astype(np.uint8))


CHANGES: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "saved again, quality 90": (lambda image: image, 90),
    "saved again, quality 20": (lambda image: image, 20),
    "half the size": (lambda image: image.resize((image.width // 2, image.height // 2)), 95),
    "gray": (lambda image: image.convert("L").convert("RGB"), 95),
    "crop to 80 % of the sides": (_crop, 95),
    "flip": (ImageOps.mirror, 95),
    "text over it": (_overlay, 95),
    "tinted": (_tint, 95),
    "brighter by a quarter": (lambda image: ImageEnhance.Brightness(image).enhance(1.25), 95),
    "turned by 2 degrees": (lambda image: image.rotate(2, Image.Resampling.BICUBIC), 95),
    "quarter turn": (lambda image: image.rotate(90, expand=True), 95),
}


def embed(specs: list[str], out: Path) -> Path:
    """Embed with the shipped encoder, by the command line."""
    listing = out.with_suffix(".txt")
    listing.write_text("\n".join(specs))
    code = "from sslfeat.cli.app import main; main()"
    arguments = ["embed", listing, "--out", out, "--labels", "none"]
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True)
    return out


def distinct_files(folder: Path) -> list[str]:
    """Images of a folder, without identical files."""
    first: dict[str, str] = {}
    for item in find_inputs([folder], "none"):
        first.setdefault(hashlib.sha256(Path(item.name).read_bytes()).hexdigest(), item.name)
    return sorted(first.values())


def recall(folder: Path, work: Path) -> dict[str, float]:
    """Recall of duplicates for each change."""
    names = distinct_files(folder)
    random.Random(0).shuffle(names)
    originals, others = names[:COPIED], names[COPIED : COPIED + OTHERS]
    found = {}
    for change, (function, quality) in CHANGES.items():
        out = work / "copies" / folder.name / hashlib.sha256(change.encode()).hexdigest()[:8]
        out.mkdir(parents=True, exist_ok=True)
        pairs = {}
        for number, name in enumerate(originals):
            target = out / f"{number:04d}.jpg"
            pairs[name] = str(target)
            function(Image.open(name).convert("RGB")).save(target, quality=quality)
        features = embed([*originals, *others, *pairs.values()], work / f"{folder.name}-{out.name}")
        groups = groups_of(find_duplicates(features))
        found[change] = sum(groups.get(name, -1) == groups.get(copy, -2) for name, copy in pairs.items()) / len(pairs)
        print(folder.name, change, f"{found[change]:.3f}", flush=True)
    return found


def groups_of(found: Duplicates) -> dict[str, int]:
    """Group number of each duplicate and kept image."""
    return {
        copy.path: number
        for number, group in enumerate(found.groups)
        for copy in (group.kept, *(c for c in group.copies if c.verdict == SAME_IMAGE))
    }


def precision(folder: Path, work: Path) -> dict[str, Any]:
    """Pairs reported as the same image in a set of distinct files, drawn on sheets."""
    began = time.perf_counter()
    found = find_duplicates(embed(distinct_files(folder), work / f"{folder.parent.name}-{folder.name}"))
    pairs = [(group.kept.path, copy.path) for group in found.groups for copy in group.copies if copy.verdict == SAME_IMAGE]
    for start in range(0, len(pairs), SHEET):
        part = pairs[start : start + SHEET]
        sheet = Image.new("RGB", (COLUMNS * (2 * SIDE + 8), -(-len(part) // COLUMNS) * (SIDE + 8)), "white")
        for number, pair in enumerate(part):
            for place, name in enumerate(pair):
                x, y = (number % COLUMNS) * (2 * SIDE + 8) + place * SIDE, number // COLUMNS * (SIDE + 8)
                sheet.paste(Image.open(name).convert("RGB").resize((SIDE, SIDE)), (x, y))
        sheet.save(work / f"{folder.parent.name}-{folder.name}-{start // SHEET}.png")
    seconds = time.perf_counter() - began
    return {"images": found.images, "same image": len(pairs), "same scene": found.scenes, "seconds": round(seconds)}


def drawn(work: Path) -> dict[str, int]:
    """40 products of the same shape in different colors, and 20 pages of the same layout: there are no duplicates."""
    folder = work / "drawn"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(40):
        image = Image.new("RGB", (200, 200), "white")
        shirt = [(60, 40), (140, 40), (180, 80), (155, 100), (145, 85), (145, 170), (55, 170), (55, 85), (45, 100), (20, 80)]
        hue = int(255 * number / 40)
        ImageDraw.Draw(image).polygon(shirt, Image.new("HSV", (1, 1), (hue, 200, 220)).convert("RGB").getpixel((0, 0)))
        image.save(folder / f"shirt{number:02d}.png")
    for number in range(20):
        page = Image.new("RGB", (600, 800), "white")
        for line in range(30):
            words = " ".join("".join(rng.choice(list("abcdefghijklmnopqrst"), rng.integers(2, 10))) for _ in range(9))
            ImageDraw.Draw(page).text((40, 40 + 24 * line), words, fill="black", font_size=16)
        page.save(folder / f"page{number:02d}.png")
    found = find_duplicates(embed([str(path) for path in sorted(folder.iterdir())], work / "drawn-features"))
    return {"images": found.images, "same image": found.copies, "same scene": found.scenes}


def speed(count: int = 100_000, dim: int = 384) -> dict[str, Any]:
    """Time and peak memory for clustered vectors, in a subprocess."""
    code = f"from benchmarks.duplicates import timed; timed({count}, {dim})"
    found: dict[str, Any] = json.loads(in_a_process(code))
    return found


def in_a_process(code: str) -> str:
    """Run code in a subprocess and return its output."""
    root = Path(__file__).parent.parent
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root).stdout


def many(features: Path, work: Path) -> dict[str, Any]:
    """Time and memory for a number of images that is searched with an inverted file, and the recall of its lists."""
    code = f"from benchmarks.duplicates import report; report({str(features)!r}, pixels=True)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    return {**json.loads(done.stdout), **in_lists(features, work)}


def in_lists(features: Path, work: Path) -> dict[str, Any]:
    """Duplicates of COPIED images with each detectable change: number within the threshold, and share found in the lists."""
    vectors = as_vectors(features)
    names = [path for columns, _ in blocks(vectors, "ip") for path in columns["path"].to_pylist()]
    chosen = random.Random(1).sample(range(len(names)), COPIED)
    out = work / "many"
    out.mkdir(exist_ok=True)
    for number, row in enumerate(chosen):
        for kind, (function, quality) in enumerate(list(CHANGES.values())[:-2]):  # rotations are not detected
            function(Image.open(names[row]).convert("RGB")).save(out / f"{number:04d}-{kind}.jpg", quality=quality)
    copies = as_vectors(embed([str(path) for path in sorted(out.glob("*.jpg"))], work / "many-features"))
    rows = np.concatenate([part for each in (vectors, copies) for _, part in blocks(each, "ip")])
    units, first = distinct(rows), np.repeat(chosen, len(CHANGES) - 2)
    second = np.arange(len(names), len(rows))
    near = (units[first] * units[second]).sum(1) >= WHITENED[1]
    lists, probes = neighbors.learn(units, WHITENED[0] + 1, WHITENED[1])
    visited = faiss.knn(units, lists, probes, metric=faiss.METRIC_INNER_PRODUCT)[1]
    found = [
        bool(visited[b, 0] in visited[a] or visited[a, 0] in visited[b]) for a, b in zip(first[near], second[near], strict=True)
    ]
    return {
        "lists": len(lists),
        "searched": probes,
        "copies": len(near),
        "near": int(near.sum()),
        "in lists": float(np.mean(found)),
    }


def timed(count: int, dim: int) -> None:
    """Print time and memory for ``count`` vectors with 1 % duplicates."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(count // 1000, dim)).astype(np.float32)
    rows = centers[rng.integers(0, len(centers), count)] + 0.5 * rng.normal(size=(count, dim)).astype(np.float32)
    rows[-(count // 100) :] = rows[: count // 100] + 0.01 * rng.normal(size=(count // 100, dim)).astype(np.float32)
    report(ArrayVectors.of(rows), pixels=False)


def report(features: str | ArrayVectors, pixels: bool) -> None:
    """Print time and memory of finding duplicates."""
    began = time.perf_counter()
    found = find_duplicates(features, pixels=pixels)
    seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text().splitlines()
    peak = int(next(line for line in status if line.startswith("VmHWM")).split()[1]) >> 10  # ru_maxrss would include the parent
    print(json.dumps({"vectors": found.images, "seconds": round(seconds, 1), "peak_mib": peak, "copies": found.copies}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--copies", type=Path, nargs="*", default=[])
    parser.add_argument("--distinct", type=Path, nargs="*", default=[])
    parser.add_argument("--right", nargs="*", default=[], help="SET=N: number of correct pairs on the sheets of SET, by eye")
    parser.add_argument("--many", type=Path, help="features of more than 100,000 images")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    path = options.work / "duplicates.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"recall": {}, "distinct sets": {}}
    for folder in options.distinct:
        result["distinct sets"][f"{folder.parent.name}/{folder.name}"] = precision(folder, options.work)
    for folder in options.copies:
        result["recall"][f"{folder.parent.name}/{folder.name}"] = recall(folder, options.work)
    for said in options.right:
        name, _, number = said.rpartition("=")
        result["distinct sets"][name]["right, by eye"] = int(number)
    if options.copies or options.distinct:
        result["drawn products and pages"] = drawn(options.work)
        result["speed, by cosine"] = speed()
    if options.many:
        result["many, by pixels"] = many(options.many, options.work)
    save_measured(path, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
