"""Losses of the same training with 2 and 4 processes compared with one process, batch by batch.

    python benchmarks/ranks.py IMAGES WORK [--methods rotation simclr] [--steps 20] [--count 512]

Trains `resnet10_w8` at 32 px on COUNT evenly spaced images, with 64 images per step over all processes, with gloo on the CPU.
Writes benchmarks/results/ranks.json: for each method the relative difference of the loss to that of one process, for the first
step and the maximum over all steps, with 2 and 4 processes. For reference, two more runs with one process: `norm` normalizes
batches with the arithmetic of several processes, `noise` starts from weights with a relative difference of 1e-7.
"""

from __future__ import annotations

import argparse
import csv
import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

from sslfeat.data.dataset import find_inputs
from sslfeat.numerics.sampling import evenly
from sslfeat.system.machine import save_measured

METHODS = ("rotation", "simclr", "barlow", "deepcluster", "vicreg", "byol", "moco", "swav")
RESULT = Path(__file__).parent / "results" / "ranks.json"
VARIANTS = {"1": 1, "2": 2, "4": 4, "norm": 1, "noise": 1}  # processes
NOISE = 1e-7
OPTIONS = {"deepcluster": {"cycle": "7", "clusters": "20"}}


def rank_main(out: str, images: str, methods: list[str], steps: int) -> None:
    """One process: all methods in turn, with one row of metrics.csv per step."""
    import torch
    from torch import nn

    from sslfeat.models.engine import distributed, trainer
    from sslfeat.models.engine.config import TrainConfig

    class Alone:
        """All-reduce of a single process."""

        apply = staticmethod(lambda value: value)

    def norm(module: nn.Module, device: torch.device) -> None:
        distributed._Sum = Alone  # type: ignore[assignment,misc]
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.forward = functools.partial(distributed._normalize, part)  # type: ignore[method-assign]

    def noise(module: nn.Module, device: torch.device) -> None:
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1 + NOISE * torch.randn_like(parameter))

    distributed.share_statistics = {"norm": norm, "noise": noise}.get(Path(out).name, distributed.share_statistics)
    trainer.LOG_EVERY = 1
    for method in methods:
        config = TrainConfig(
            method, (images,), "resnet10_w8", 32, batch_size=64, steps=steps, accelerator="cpu", precision="32-true",
            options=OPTIONS.get(method, {}),
        )  # fmt: skip
        trainer.train(config, Path(out) / method, overwrite=True)


def start(name: str, work: Path, images: Path, methods: list[str], steps: int) -> None:
    """Run all methods in the variant ``name`` into ``work/NAME``."""
    world = VARIANTS[name]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    words = [sys.executable, __file__, str(images), str(work / name), "--steps", str(steps), "--methods", *methods]
    everyone = {**os.environ, **address, "OMP_NUM_THREADS": "1", "SSLFEAT_CACHE": str(work / "cache"), "RANKS": name}
    started = []
    for rank in range(world):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        started.append(subprocess.Popen(words, env={**everyone, **(own if world > 1 else {})}))
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit(f"{name}: a process failed")


def losses(run: Path) -> list[float]:
    """Loss of each step."""
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def differences(work: Path, methods: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Differences of the first step and the maximum for each method and variant; relative unless the loss is 0."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for method in methods:
        one = losses(work / "1" / method)
        for name in list(VARIANTS)[1:]:
            apart = [abs(b - a) / (abs(a) or 1) for a, b in zip(one, losses(work / name / method), strict=True)]
            found.setdefault(method, {})[name] = {"first": float(f"{apart[0]:.2g}"), "largest": float(f"{max(apart):.2g}")}
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--count", type=int, default=512)
    given = parser.parse_args()
    if "RANKS" in os.environ:
        rank_main(str(given.work), str(given.images), given.methods, given.steps)
        return
    given.work.mkdir(parents=True, exist_ok=True)
    inputs = find_inputs([given.images])
    chosen = given.work / "images.txt"
    chosen.write_text("".join(f"{os.fsdecode(inputs[row].path)}\n" for row in evenly(len(inputs), given.count)))
    for name in VARIANTS:
        start(name, given.work, chosen, given.methods, given.steps)
    result = {"steps": given.steps, "images": given.count, "batch_size": 64, "relative": differences(given.work, given.methods)}
    save_measured(RESULT, result)
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
