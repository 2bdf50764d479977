"""The fastest settings with which an index finds what it shall find."""

from __future__ import annotations

import bisect
import statistics
import time
from dataclasses import dataclass
from typing import Any

from sslfeat.retrieval.builder import Found, nearest
from sslfeat.retrieval.exact import Truth, without
from sslfeat.retrieval.kinds import Plan, Settings

MARGIN = 0.1  # of what the target leaves to be missed: other queries may be harder
LAPS, LAP_SECONDS = 3, 0.15


@dataclass(frozen=True)
class Tuned:
    """Settings, the recall they gave on the queries they were tuned on, and queries a second, all at once."""

    settings: Settings
    recall: float
    per_second: float


def tune(index: Any, plan: Plan, truth: Truth, target: float, selector: Any = None) -> tuple[Tuned | None, float]:
    """The fastest settings whose recall is at least ``target`` and a margin, and the best recall seen.

    ``selector`` is FAISS's, of the rows that count.
    """
    wanted = min(target + MARGIN * (1 - target), 1.0)
    best, highest = None, 0.0
    for ladder in plan.ladders():
        recalls: dict[int, float] = {}

        def recall(step: int, ladder: list[Settings] = ladder, recalls: dict[int, float] = recalls) -> float:
            if step not in recalls:
                recalls[step] = truth.recall(*answers(index, plan, ladder[step], truth, selector))
            return recalls[step]

        step = bisect.bisect_left(range(len(ladder)), wanted, key=recall)
        highest = max(highest, *recalls.values())
        if step == len(ladder):
            continue
        tuned = Tuned(ladder[step], recall(step), speed(index, plan, ladder[step], truth, selector))
        if best is not None and tuned.per_second < best.per_second:
            break  # later ladders are more thorough still
        best = tuned
    return best, highest


def answers(index: Any, plan: Plan, settings: Settings, truth: Truth, selector: Any = None) -> Found:
    """What the index finds for the queries of ``truth``, themselves left out where they are rows of it."""
    if truth.own is None:
        return nearest(index, plan, settings, truth.queries, truth.k, truth.metric, selector)
    found = nearest(index, plan, settings, truth.queries, truth.k + 1, truth.metric, selector)
    return without(*found, truth.own, truth.k)


def measure(index: Any, plan: Plan, settings: Settings, truth: Truth, selector: Any = None) -> dict[str, Any]:
    """Recall of the 10 nearest on queries that should not have been tuned on, and how many of them a second."""
    return {
        "recall": round(truth.recall(*answers(index, plan, settings, truth, selector)), 4),
        "recall_queries": len(truth.queries),
        "queries_per_second": round(speed(index, plan, settings, truth, selector), 1),
    }


def speed(index: Any, plan: Plan, settings: Settings, truth: Truth, selector: Any = None) -> float:
    """Queries a second when all are asked at once: the median of some laps."""
    laps = []
    for _ in range(LAPS):
        began, asked = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < LAP_SECONDS:
            answers(index, plan, settings, truth, selector)
            asked += len(truth.queries)
        laps.append(asked / spent)
    return statistics.median(laps)
