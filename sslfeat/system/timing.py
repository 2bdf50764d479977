"""How long things take: side by side, in turns, by the median."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def median_in_turns(calls: Sequence[Callable[[], Any]], laps: int) -> list[float]:
    """Median seconds of each call; they take turns, so that what slows the machine slows all."""
    return [statistics.median(seconds) for seconds in zip(*_laps(calls, laps, 0.0), strict=True)]


def times_as_fast(calls: Sequence[Callable[[], Any]], laps: int, seconds: float) -> list[float]:
    """How many times as fast as the first of the ``calls`` each of the others is: the median of ``laps`` or, until so many
    ``seconds`` are spent, of more. Of each lap the quotient counts, whose two sides were timed one after the other."""
    timed = _laps(calls, laps, seconds)
    return [statistics.median(lap[0] / lap[place] for lap in timed) for place in range(1, len(calls))]


def _laps(calls: Sequence[Callable[[], Any]], laps: int, seconds: float) -> list[list[float]]:
    """Seconds of each call, lap by lap; the first lap does not count."""
    timed: list[list[float]] = []
    start = time.perf_counter()
    while len(timed) <= laps or time.perf_counter() - start < seconds:
        timed.append([])
        for call in calls:
            began = time.perf_counter()
            call()
            timed[-1].append(time.perf_counter() - began)
    return timed[1:]
