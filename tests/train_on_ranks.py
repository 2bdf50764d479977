"""Runs of one process and of two, for ``test_process_counts``: python -m tests.train_on_ranks IMAGES OUT ADDRESS.

Each in processes of its own: one that is told to stop might end.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

from sslfeat.errors import InterruptedRun
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.reporting import Reporter
from sslfeat.models.engine.trainer import train
from tests.processes import together

STEPS, HALFWAY = 40, 20
QUEUE = {"queue": "10"}  # no multiple of a batch: which rows are the oldest depends on their order
CONFIG = TrainConfig(
    "moco", (), "resnet10_w8", 32, batch_size=16, lr=1e-3, steps=STEPS, accelerator="cpu", accumulate=2, options=QUEUE
)


def config(images: str | Path, seed: int = 0) -> TrainConfig:
    """Of all runs: a batch in two pieces, a queue, an average, and normalization over the batch."""
    return dataclasses.replace(CONFIG, images=(str(images),), seed=seed)


def interrupted(settings: TrainConfig, out: Path) -> None:
    """A run that is told to stop after HALFWAY steps."""

    def stop(share: float, step: int) -> None:
        if step == HALFWAY:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        train(settings, out, reporter=Reporter(stepped=stop))
    except InterruptedRun:
        return
    raise AssertionError("it was not interrupted")


def begin(rank: int, world: int, images: str, out: str, address: str) -> None:
    interrupted(config(images), Path(out) / "one then two")


def run(rank: int, world: int, images: str, out: str, address: str) -> None:
    """What torchrun would start."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address.split(":")
    settings, folder = config(images), Path(out)
    train(settings, folder / "two")
    interrupted(settings, folder / "two then one")
    train(settings, folder / "one then two", resume=True)


def end(rank: int, world: int, images: str, out: str, address: str) -> None:
    train(config(images), Path(out) / "two then one", resume=True)
    train(config(images), Path(out) / "one")
    train(config(images, seed=1), Path(out) / "other")


if __name__ == "__main__":
    for processes, work in ((1, begin), (2, run), (1, end)):
        together(processes, work, *sys.argv[1:])
