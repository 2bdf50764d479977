"""Finding duplicates: real near-duplicates, copies changed in known ways, and speed; beside imagededup's hashes.

    python benchmarks/duplicates.py WALLPAPERS PHOTOS DISTRACTORS WORK [--peer PYTHON]

WALLPAPERS/ARTWORK/*: pictures of one folder show the same; all pairs are ranked, and the average precision of the pairs of
one folder is stated. PHOTOS are copied with changes among DISTRACTORS; a pair of photograph and copy is found at the
highest recall that any threshold gives with a precision of 0.95. Ours are whitened features of the shipped encoder. The
hashes are computed by imagededup in the environment of PYTHON (its CNN method downloads weights, so it cannot run offline).
Speed: 100,000 x 384 clustered vectors. Writes WORK/duplicates.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps

from sslfeat.features import Features
from sslfeat.retrieval.duplicates import distinct, find_duplicates
from sslfeat.retrieval.vectors import ArrayVectors

Floats = npt.NDArray[np.float32]
DISTRACTORS = 2000
HASHES = ("PHash", "DHash", "WHash", "AHash")
PEER = """
import json, sys
from imagededup import methods
names = json.load(open(sys.argv[1]))
out = {}
for kind in sys.argv[3:]:
    method = getattr(methods, kind)(verbose=False)
    out[kind] = [method.encode_image(image_file=name) for name in names]
json.dump(out, open(sys.argv[2], "w"))
"""


def _crop(image: Image.Image) -> Image.Image:
    return ImageOps.crop(image, border=(image.width // 10, image.height // 10, image.width // 10, image.height // 10))


def _overlay(image: Image.Image) -> Image.Image:
    image = image.copy()
    size = max(12, image.height // 8)
    ImageDraw.Draw(image).text((image.width // 8, image.height // 2), "SAMPLE 2024", fill="white", font_size=size)
    return image


CHANGES: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "crop to 80 %": (_crop, 95),
    "JPEG quality 20": (lambda image: image, 20),
    "half the size": (lambda image: image.resize((image.width // 2, image.height // 2)), 95),
    "flip": (ImageOps.mirror, 95),
    "overlay text": (_overlay, 95),
    "grey": (lambda image: image.convert("L").convert("RGB"), 95),
    "quarter turn": (lambda image: image.rotate(90, expand=True), 95),
}


def embed(spec: str | Path, work: Path, name: str, labels: str = "none") -> Features:
    """By the command line, with the shipped encoder."""
    arguments = ["embed", spec, "--out", work / name, "--labels", labels]
    code = "from sslfeat.cli.app import main; main()"
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True)
    return Features.load(work / name)


def hashes(paths: list[str], work: Path, peer: str | None) -> dict[str, Floats]:
    """64 bits a picture as +-1 (N, 64), so that an inner product ranks by Hamming distance."""
    if peer is None:
        return {}
    (work / "names.json").write_text(json.dumps(paths))
    subprocess.run(
        [peer, "-c", PEER, work / "names.json", work / "hashes.json", *HASHES], check=True, capture_output=True
    )
    found = json.loads((work / "hashes.json").read_text())
    bits = {kind: [[int(bit) for bit in f"{int(code, 16):064b}"] for code in codes] for kind, codes in found.items()}
    return {kind: np.array(rows, np.float32) * 2 - 1 for kind, rows in bits.items()}


def average_precision(scores: Floats, same: npt.NDArray[np.bool_]) -> float:
    """Of pairs ranked by score; equal scores count as one step."""
    order = np.argsort(-scores, kind="stable")
    scores, same = scores[order], same[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    right = np.cumsum(same)[last]
    gained = np.diff(right, prepend=0)
    return float((gained * right / (last + 1)).sum() / same.sum())


def wallpapers(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Average precision of same-folder pairs."""
    features = embed(folder, options.work, "wallpapers", "folder")
    pairs = np.triu_indices(len(features.paths), 1)
    labels = np.array(features.labels)
    same = (labels[:, None] == labels[None])[pairs]
    spaces = {"sslfeat": distinct(features.embeddings), **hashes(features.paths, options.work, options.peer)}
    result: dict[str, Any] = {
        name: round(average_precision((rows @ rows.T)[pairs], same), 4) for name, rows in spaces.items()
    }
    found = find_duplicates(options.work / "wallpapers")
    pair_labels = [(g.kept.path, copy.path) for g in found.groups for copy in g.copies]
    right = sum(Path(a).parent == Path(b).parent for a, b in pair_labels)
    result["chosen threshold"] = {"threshold": found.threshold, "copies": found.copies, "of the same folder": right,
                                  "to be found": len(labels) - len(set(labels))}  # fmt: skip
    return result


def copies(photos: Path, others: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Recall at a precision of 0.95 for each change, among photographs and distractors."""
    names = sorted(str(path) for path in photos.iterdir())
    distractors = sorted(str(path) for path in others.rglob("*.jpg"))
    names += distractors[:: max(1, len(distractors) // DISTRACTORS)][:DISTRACTORS]
    originals = [Path(name) for name in names[: len(list(photos.iterdir()))]]
    groups: dict[str, list[str]] = {"": names}
    for change, (function, quality) in CHANGES.items():
        out = options.work / "copies" / change.replace(" ", "-").replace("%", "percent")
        out.mkdir(parents=True, exist_ok=True)
        groups[change] = []
        for path in originals:
            target = out / f"{path.stem}.jpg"
            groups[change].append(str(target))
            if not target.exists():
                function(Image.open(path).convert("RGB")).save(target, quality=quality)
    every = [name for group in groups.values() for name in group]
    listing = options.work / "every.txt"
    listing.write_text("\n".join(every))
    features = embed(listing, options.work, "copies-features")
    place = {path: row for row, path in enumerate(features.paths)}
    raw = features.embeddings[[place[name] for name in every]]
    spaces = {"sslfeat": raw, **hashes(every, options.work, options.peer)}
    result: dict[str, Any] = {}
    for method, rows in spaces.items():
        base = rows[: len(names)]
        for number, change in enumerate(CHANGES):
            start = len(names) + number * len(originals)
            both = np.concatenate([base, rows[start : start + len(originals)]])
            if method == "sslfeat":
                both = distinct(both)
            recall = recall_at_precision(both, len(names), len(originals))
            result.setdefault(change, {})[method] = round(recall, 3)
    return result


def recall_at_precision(rows: Floats, base: int, originals: int, precision: float = 0.95) -> float:
    """Rows from ``base`` on are copies of rows 0, 1, ...; pairs of two originals or two copies of others are wrong."""
    scores = rows @ rows.T
    first, second = np.triu_indices(len(rows), 1)
    flat, true = scores[first, second], (second - base == first) & (second >= base)
    order = np.argsort(-flat, kind="stable")
    flat, right = flat[order], np.cumsum(true[order])
    last = np.flatnonzero(np.append(flat[1:] != flat[:-1], True))
    good = right[last] >= precision * (last + 1)
    return float(right[last][good].max() / originals) if good.any() else 0.0


def speed(count: int = 100_000, dim: int = 384) -> dict[str, Any]:
    """Seconds and peak memory for clustered vectors, in a process of its own."""
    code = f"from benchmarks.duplicates import timed; timed({count}, {dim})"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def timed(count: int, dim: int) -> None:
    """Print what finding the duplicates of ``count`` vectors, a hundredth of them copies, takes."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(count // 1000, dim)).astype(np.float32)
    rows = centres[rng.integers(0, len(centres), count)] + 0.5 * rng.normal(size=(count, dim)).astype(np.float32)
    rows[-(count // 100) :] = rows[: count // 100] + 0.01 * rng.normal(size=(count // 100, dim)).astype(np.float32)
    began = time.perf_counter()
    found = find_duplicates(ArrayVectors.of(rows))
    seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text().splitlines()
    peak = (
        int(next(line for line in status if line.startswith("VmHWM")).split()[1]) >> 10
    )  # ru_maxrss counts the parent's
    print(json.dumps({"vectors": count, "seconds": round(seconds, 1), "peak_mib": peak, "copies": found.copies,
                      "threshold": found.threshold}))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wallpapers", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("distractors", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--peer", help="python of the environment that has imagededup")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    result = {
        "average precision of same-artwork pairs": wallpapers(options.wallpapers, options),
        "recall at precision 0.95": copies(options.photos, options.distractors, options),
        "speed": speed(),
        "imagededup's CNN": "not run: its weights are downloaded, and there was no network",
    }
    (options.work / "duplicates.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
