"""Timing of alternatives in alternation, by the median."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def median_in_turns(calls: Sequence[Callable[[], Any]], laps: int) -> list[float]:
    """Median seconds of each call. Calls alternate, so that disturbances affect all of them."""
    return [statistics.median(seconds) for seconds in zip(*_laps(calls, laps, 0.0), strict=True)]


def times_as_fast(calls: Sequence[Callable[[], Any]], laps: int, seconds: float) -> list[float]:
    """Speed of each of the other ``calls`` relative to the first: median ratio over ``laps``, or over more laps until ``seconds``
    have passed. Ratios are computed within laps."""
    timed = _laps(calls, laps, seconds)
    return [statistics.median(lap[0] / lap[place] for lap in timed) for place in range(1, len(calls))]


def _laps(calls: Sequence[Callable[[], Any]], laps: int, seconds: float) -> list[list[float]]:
    """Seconds of each call in each lap; the first lap is discarded."""
    timed: list[list[float]] = []
    start = time.perf_counter()
    while len(timed) <= laps or time.perf_counter() - start < seconds:
        timed.append([])
        for call in calls:
            began = time.perf_counter()
            call()
            timed[-1].append(time.perf_counter() - began)
    return timed[1:]
