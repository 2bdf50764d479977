"""Validity of the bounds that are stated by an export, for unseen images of the same data set and of other data sets.

    python benchmarks/gates.py OUT.json ENCODER NAME=IMAGES [NAME=IMAGES ...] [--most 3000] [--draws 200]

For each set of images, ENCODER is quantized (int8, as by exports and ``embed --precision``) with calibration on 64 images, and
compared on 640 other images, chosen by ``draw_panel``. The resulting bound is checked on all other images of this set and of all
other sets. ``held`` repeats the comparison for ``--draws`` random samples of 640 images not used for calibration, and reports how
often the stated share was reached on the other images. ``overlap`` is given by number of images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.data.dataset import find_inputs
from sslfeat.data.decode import Pixels
from sslfeat.data.holdout import JUDGES, SEEN
from sslfeat.data.sampling import decode_all
from sslfeat.inference.backends import OnnxRuntimeBackend
from sslfeat.inference.onnx_model import read_encoder_file
from sslfeat.inference.quantization import quantize
from sslfeat.inference.registry import resolve
from sslfeat.numerics.bounds import least, shared_at_least
from sslfeat.numerics.similarity import cosines, overlaps
from sslfeat.system.machine import save_measured

SIZES = (64, 256, 640, 1000, 3000)
Rows = npt.NDArray[np.float32]


def run(data: bytes, pixels: Pixels) -> Rows:
    session = OnnxRuntimeBackend(data, "cpu", 1)
    return np.concatenate([session.run(pixels[start : start + 8]) for start in range(0, len(pixels), 8)])


def held(cosine: npt.NDArray[np.float64], draws: int) -> float:
    """How often the share stated from JUDGES of these values holds for the other images."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        order = rng.permutation(len(cosine))
        bound = least(cosine[order[:JUDGES]])
        found.append(float((cosine[order[JUDGES:]] >= bound.value).mean()) >= bound.share)
    return round(float(np.mean(found)), 3)


def measure(data: bytes, name: str, sets: dict[str, Pixels], draws: int) -> dict[str, Any]:
    """Results of the encoder calibrated on the first SEEN images of set ``name``."""
    low = quantize(data, sets[name][:SEEN])
    cosine: dict[str, npt.NDArray[np.float64]] = {}
    pairs: dict[str, tuple[Rows, Rows]] = {}
    for other, pixels in sets.items():
        kept = pixels[SEEN:] if other == name else pixels
        pairs[other] = run(data, kept), run(low, kept)
        cosine[other] = cosines(*pairs[other])
    judges = cosine[name][:JUDGES]
    bound = least(judges)
    shared = overlaps(pairs[name][0][:JUDGES], pairs[name][1][:JUDGES], 10)
    unseen = {other: values[JUDGES:] if other == name else values for other, values in cosine.items()}
    return {
        "judges": len(judges),
        "least of the judges": float(judges.min()),
        "stated": {"cosine": bound.value, "share": bound.share, "overlap": shared_at_least(shared)},
        "unseen": {
            other: {
                "images": len(values),
                "share at or above": round(float((values >= bound.value).mean()), 4),
                "least": float(values.min()),
            }
            for other, values in unseen.items()
            if len(values)
        },
        "held": held(cosine[name], draws) if len(cosine[name]) > 2 * JUDGES else None,
        "overlap": {
            other: {
                str(size): round(float(overlaps(before[:size], after[:size], 10).mean()), 4)
                for size in SIZES
                if size <= len(before)
            }
            for other, (before, after) in pairs.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("encoder")
    parser.add_argument("sets", nargs="+", metavar="NAME=IMAGES")
    parser.add_argument("--most", type=int, default=3000, help="maximum number of images per set")
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    file = read_encoder_file(resolve(options.encoder))
    sets: dict[str, Pixels] = {}
    for text in options.sets:
        name, _, place = text.partition("=")
        sources = [item.path for item in find_inputs([place], "none")]
        order = np.random.default_rng(0).permutation(len(sources))[: options.most]
        pixels, fine = decode_all([sources[number] for number in order.tolist()], file.card.preprocess)
        sets[name] = pixels[fine]
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    results[file.card.name] = {}
    for name in sets:
        results[file.card.name][name] = measure(file.data, name, sets, options.draws)
        print(name, json.dumps(results[file.card.name][name]["unseen"]), flush=True)
        save_measured(options.out, results)


if __name__ == "__main__":
    main()
