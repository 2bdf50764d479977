"""Several processes that do one thing together, forked from one that has loaded torch: that takes longer than what they do."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def together(world: int, work: Callable[..., None], *given: Any) -> None:
    """``work(rank, world, *given)`` in ``world`` processes. Exits with 1 if one of them fails.

    The process that calls this must not have computed anything with torch yet: its threads are not forked with it.
    """
    context: Any = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    started = [context.Process(target=work, args=(rank, world, *given)) for rank in range(world)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    if any(process.exitcode for process in started):
        sys.exit(f"processes ended with {[process.exitcode for process in started]}")


def run_module(module: str, *given: str | Path) -> None:
    """Run ``python -m MODULE GIVEN``, which calls ``together``."""
    ended = subprocess.run([sys.executable, "-m", module, *map(str, given)], capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
