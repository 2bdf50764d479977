"""Quality of encoders on unseen data sets, compared with pixels, HOG with a color histogram, and a supervised network.

    python benchmarks/transfer.py WORK SET... [--encoder FILE_OR_NAME]... [--lite0 FILE] [--per-class N]

A SET is a folder of class folders, or contains such folders as train/ and val/ or test/. In the first case every fifth image of a
class, by name, is held out. Held-out images are queries and test rows; the others are searched and used for training. ``linear``
and ``kNN 20`` are those of ``sslfeat probe``; mAP is over the whole ranking by cosine similarity, images of the same class are
relevant. ``untrained`` is the network of the shipped encoder with random weights. Writes WORK/transfer.json, prints the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sslfeat.data.decode import decode
from sslfeat.data.transforms import Preprocess
from sslfeat.evaluation.probing.labels import Labeled
from sslfeat.evaluation.probing.probe import probe
from sslfeat.features.reader import Features
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.registry import DEFAULT
from sslfeat.numerics.similarity import unit
from sslfeat.system.machine import save_measured

Floats = npt.NDArray[np.float32]
Split = tuple[list[str], list[str]]  # searched paths, and queries
COLUMNS = ("linear", "kNN 20", "mAP", "precision@10")
HELD_OUT = 5


def split(folder: Path, per_class: int) -> Split:
    """Images of a set, at most ``per_class`` per class to search and a fifth as many queries."""
    whole = not (folder / "train").is_dir()
    asked = folder if whole else next(folder / name for name in ("val", "test") if (folder / name).is_dir())
    searched = folder if whole else folder / "train"
    rows: Split = ([], [])
    for part, place, most in ((0, searched, per_class), (1, asked, max(1, per_class // HELD_OUT))):
        for group in sorted(path for path in place.iterdir() if path.is_dir()):
            names = sorted(str(path) for path in group.iterdir() if path.is_file())
            if whole:
                names = [name for n, name in enumerate(names) if (n % HELD_OUT == HELD_OUT - 1) == bool(part)]
            rows[part].extend(names[:: max(1, -(-len(names) // most))])
    return rows


def embed(encoder: str, paths: list[str], out: Path) -> Floats:
    """Embed as ``sslfeat embed``; embeddings (N, D) in the order of ``paths``."""
    listing = out.with_suffix(".txt")
    listing.write_text("\n".join(paths))
    command = [sys.executable, "-m", "sslfeat", "embed", str(listing), "--encoder", encoder, "--labels", "none"]
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
    found = Features.load(out)
    places = {path: row for row, path in enumerate(found.paths)}
    return found.embeddings[[places[path] for path in paths]]


def small_pixels(paths: list[str]) -> Floats:
    """16 x 16 RGB, (N, 768)."""
    return np.stack([decode(path, Preprocess(16, 16)).pixels.ravel() for path in paths]).astype(np.float32) / 255


def hog_and_color(paths: list[str]) -> Floats:
    """HOG of 64 px (8 px cells, 2 x 2 cells per block, 9 directions) and 128 bins of HSV color, each of unit length."""
    from skimage.color import rgb2hsv
    from skimage.feature import hog

    shapes, colors = [], []
    for path in paths:
        image = decode(path, Preprocess(64, 64)).pixels
        shapes.append(hog(image, channel_axis=2, cells_per_block=(2, 2)))
        bins = np.minimum((rgb2hsv(image).reshape(-1, 3) * (8, 4, 4)).astype(int), (7, 3, 3)) @ (16, 4, 1)
        colors.append(np.sqrt(np.bincount(bins, minlength=128)))
    return np.hstack([unit(shapes), unit(colors)]).astype(np.float32)


def figures(rows: Floats, queries: Floats, labels: tuple[list[str], list[str]]) -> dict[str, float]:
    """All four metrics, in percent."""
    center = rows.mean(0) if (rows >= 0).all() else 0  # nonnegative features (such as pixels) are centered
    probed = probe(Labeled(rows, labels[0]), Labeled(queries, labels[1]))
    x, q = unit(rows - center), unit(queries - center)
    classes = np.array(labels[0])
    precisions, tops = [], []
    for start in range(0, len(q), 200):
        order = np.argsort(-(q[start : start + 200] @ x.T), axis=1, kind="stable")
        relevant = classes[order] == np.array(labels[1][start : start + 200])[:, None]
        right = np.cumsum(relevant, axis=1) / np.arange(1, len(x) + 1)
        precisions.append((right * relevant).sum(1) / np.maximum(relevant.sum(1), 1))
        tops.append(relevant[:, :10].mean(1))
    neighbors = probed.knn[min(probed.knn, key=lambda k: abs(k - 20))].top1
    values = probed.linear.top1, neighbors, np.concatenate(precisions).mean(), np.concatenate(tops).mean()
    return {name: 100 * float(value) for name, value in zip(COLUMNS, values, strict=True)}


def untrained(work: Path, images: Path) -> str:
    """The network of the shipped encoder with random weights."""
    card, out = Encoder.load(DEFAULT).card, work / "untrained.onnx"
    if not out.exists():
        command = [sys.executable, "-m", "sslfeat", "export", "--random-init", card.backbone, "--out", str(out)]
        size = str(card.preprocess.size)
        subprocess.run([*command, "--image-size", size, "--images", str(images)], check=True, capture_output=True)
    return str(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("sets", type=Path, nargs="+")
    parser.add_argument("--encoder", action="append", default=[])
    parser.add_argument("--lite0", default="")
    parser.add_argument("--per-class", type=int, default=500)
    parser.add_argument("--only", action="store_true", help="measure only --encoder")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    encoders = {Path(name).stem: name for name in options.encoder}
    described: dict[str, Callable[[list[str]], Floats]] = {}
    if not options.only:
        encoders = {DEFAULT: DEFAULT, **encoders, "untrained": untrained(options.work, options.sets[0])}
        described = {"16 x 16 pixels": small_pixels, "HOG + color histogram": hog_and_color}
        encoders |= {"EfficientNet-Lite0, supervised": options.lite0} if options.lite0 else {}
    results: dict[str, dict[str, dict[str, float]]] = {}
    print(f"| images | features | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}")
    for folder in options.sets:
        parts = split(folder, options.per_class)
        labels = tuple([Path(path).parent.name for path in part] for part in parts)
        rows = results[folder.name] = {}
        for name in (*encoders, *described):
            both = [
                described[name](part) if name in described
                else embed(encoders[name], part, options.work / f"{folder.name}-{zlib.crc32(encoders[name].encode()):08x}-{n}")
                for n, part in enumerate(parts)
            ]  # fmt: skip
            rows[name] = figures(both[0], both[1], (labels[0], labels[1]))
            print(f"| {folder.name} | {name} | {' | '.join(f'{rows[name][column]:.1f}' for column in COLUMNS)} |", flush=True)
        rows["counts"] = {"searched": len(parts[0]), "queries": len(parts[1]), "classes": len(set(labels[0]))}
        for name in encoders:
            flat = {f"{where}, {column}": round(row[name][column], 1) for where, row in results.items() for column in COLUMNS}
            (options.work / f"{name}.quality.json").write_text(json.dumps(flat, indent=1) + "\n")
        save_measured(options.work / "transfer.json", results)


if __name__ == "__main__":
    main()
