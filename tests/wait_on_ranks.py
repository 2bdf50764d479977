"""Two processes of which one works for longer than torch waits, for ``test_ranks``: python -m tests.wait_on_ranks OUT."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from sslfeat.errors import InputError, TrainingError
from sslfeat.models.engine import distributed
from tests.processes import together

PATIENCE = 2.0  # seconds that a collective waits
STEPS, STEP_SECONDS = 16, 0.25


def run(rank: int, world: int, folder: Path) -> None:
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=PATIENCE))
    distributed.SIGN_SECONDS = PATIENCE / 8

    def work(alive: Callable[[], None]) -> None:
        for step in range(STEPS):
            time.sleep(STEP_SECONDS)
            alive()
            (folder / "worked").write_text(f"{rank} {step}")

    def broken(alive: Callable[[], None]) -> None:
        raise InputError("no such encoder")

    distributed.by_the_first(work)
    assert (folder / "worked").read_text() == f"0 {STEPS - 1}"
    try:
        distributed.by_the_first(broken)
    except (InputError, TrainingError) as error:
        (folder / f"error-{rank}").write_text(f"{type(error).__name__}: {error}")
    dist.destroy_process_group()


if __name__ == "__main__":
    together(2, run, Path(sys.argv[1]))
