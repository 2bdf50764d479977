"""Speedup of training in bfloat16 on this processor: images per second relative to float32, in alternation, medians.

    python benchmarks/precision.py IMAGES WORK [--steps 40] [--laps 3]

Covers methods, backbones and image sizes with different kinds of multiplication (convolutions with few and many channels,
attention). The results determine on which processors ``--precision auto`` selects bfloat16 (``multiplies_bf16`` in
models/engine/config.py). Writes WORK/precision.json.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path
from typing import Any

from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.trainer import Reporter, TrainProgress, train
from sslfeat.system.machine import save_measured

RUNS = (
    ("simclr", "resnet10", 32, 256), ("simclr", "resnet10_w40", 64, 128), ("simclr", "resnet18", 96, 32),
    ("rotation", "resnet10", 32, 64), ("mae", "vit_tiny", 64, 64), ("jigsaw", "resnet10", 96, 32),
)  # fmt: skip
PRECISIONS = ("32-true", "bf16-mixed")
WARM_UP = 5  # warm-up steps


def rate(run: tuple[str, str, int, int], precision: str, options: argparse.Namespace) -> float:
    """Images per second in training, without evaluations and reading."""
    method, backbone, size, batch = run
    folder = options.work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    rates: list[float] = []

    def training(progress: TrainProgress) -> None:
        if progress.step > WARM_UP:
            rates.append(progress.images_per_second)

    config = TrainConfig(
        method, (str(options.images),), backbone, size, batch, steps=WARM_UP + options.steps, precision=precision
    )
    train(config, folder, reporter=Reporter(training=training))
    return statistics.median(rates)


def compare(run: tuple[str, str, int, int], options: argparse.Namespace) -> dict[str, Any]:
    laps: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for _ in range(options.laps):
        for precision in PRECISIONS:
            laps[precision].append(rate(run, precision, options))
    fp32, bf16 = (statistics.median(laps[precision]) for precision in PRECISIONS)
    method, backbone, size, batch = run
    print(f"{method} {backbone} {size} px, batch size {batch}: bf16 {bf16 / fp32:.2f} x float32", flush=True)
    return {"method": method, "backbone": backbone, "image_size": size, "batch_size": batch, "ratio": bf16 / fp32, "laps": laps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--laps", type=int, default=3)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    save_measured(options.work / "precision.json", {"runs": [compare(run, options) for run in RUNS]})


if __name__ == "__main__":
    main()
