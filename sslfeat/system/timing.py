"""How long things take: side by side, in turns, by the median."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def median_in_turns(calls: Sequence[Callable[[], Any]], laps: int) -> list[float]:
    """Median seconds of each call; they take turns, so that what slows the machine slows all. The first lap does not count."""
    spent: list[list[float]] = [[] for _ in calls]
    for lap in range(laps + 1):
        for call, seconds in zip(calls, spent, strict=True):
            began = time.perf_counter()
            call()
            if lap:
                seconds.append(time.perf_counter() - began)
    return [statistics.median(seconds) for seconds in spent]
