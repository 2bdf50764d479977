"""`--decode fast` compared with exact decoding, and with decoding JPEGs at reduced size (the previous implementation).

    python benchmarks/decode.py --images NAME=FOLDER ... --work WORK [--encoders shipped resnet18] [--most 1000] [--laps 5]

Each mode embeds the same images with the same encoder. Reported are CPU milliseconds per image for decoding and resizing and for
the network, and the agreement of the features with those of exact decoding: the share of the ten nearest neighbors that is kept,
the cosine similarity, and the difference of pixels in gray levels. Modes alternate; medians over all laps are compared.
Networks other than the shipped encoder have random weights. Writes WORK/decode.json.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sslfeat.data.dataset import find_inputs
from sslfeat.data.decode import Pixels, decode
from sslfeat.data.transforms import FAST, REDUCED, Decoding, Preprocess
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.registry import DEFAULT
from sslfeat.numerics.sampling import evenly
from sslfeat.numerics.similarity import NEIGHBORS, cosines, overlaps
from sslfeat.system.machine import save_measured

WAYS = ("exact", FAST, REDUCED)
SIZE, BATCH = 224, 8


def encoder(name: str, work: Path) -> Encoder:
    """The shipped encoder, or a network with random weights at 224 px."""
    if name == "shipped":
        return Encoder.load(DEFAULT, "cpu")
    path = work / f"{name}.onnx"
    if not path.exists():
        command = ["export", "--random-init", name, "--image-size", str(SIZE), "--out", str(path)]
        subprocess.run([sys.executable, "-m", "sslfeat", *command], check=True, capture_output=True)
    return Encoder.load(str(path), "cpu")


def decoded(sources: list[bytes], preprocess: Preprocess, way: str) -> tuple[Pixels, float]:
    """Pixels (N, S, S, 3), and CPU milliseconds per image."""
    began = time.process_time()
    rows = [decode(source, preprocess, Decoding(way)).pixels for source in sources]
    return np.stack(rows), 1e3 * (time.process_time() - began) / len(rows)


def compare(loaded: Encoder, sources: list[bytes], laps: int) -> dict[str, Any]:
    """Measure all modes."""
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    pixels: dict[str, Pixels] = {}
    for _ in range(laps):
        for way in WAYS:
            pixels[way], spent = decoded(sources, loaded.card.preprocess, way)
            took[way].append(spent)
    began = time.process_time()
    features = {
        way: np.concatenate([loaded.run(part) for part in np.array_split(rows, -(-len(rows) // BATCH))])
        for way, rows in pixels.items()
    }
    network = 1e3 * (time.process_time() - began) / len(sources) / len(WAYS)
    exact, levels = features["exact"], pixels["exact"].astype(np.int16)
    return {
        way: {
            "decode_cpu_ms": round(statistics.median(took[way]), 3),
            "network_cpu_ms": round(network, 3),
            "neighbors_kept": round(float(overlaps(exact, features[way], NEIGHBORS).mean()), 4),
            "least_cosine": round(float(cosines(exact, features[way]).min()), 6),
            "gray_levels_off": round(float(np.abs(pixels[way] - levels).mean()), 3),
            "laps_cpu_ms": [round(lap, 3) for lap in took[way]],
        }
        for way in WAYS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--encoders", nargs="+", default=["shipped", "resnet18"])
    parser.add_argument("--most", type=int, default=1000)
    parser.add_argument("--laps", type=int, default=5)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"versions": {name: version(name) for name in ("pillow", "cykooz.resizer")}}
    for network, given in itertools.product(options.encoders, options.images):
        name, _, folder = given.partition("=")
        found = [item.path for item in find_inputs([folder], labels="none")]
        sources = [found[number] for number in evenly(len(found), options.most)]
        loaded = encoder(network, options.work)
        figures = compare(loaded, sources, options.laps)
        results[f"{name}, {network} at {loaded.card.preprocess.size} px"] = {"images": len(sources), **figures}
        for way in WAYS:
            print(name, network, way, {key: value for key, value in figures[way].items() if key != "laps_cpu_ms"}, flush=True)
        save_measured(options.work / "decode.json", results)


if __name__ == "__main__":
    main()
