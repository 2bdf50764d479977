"""The fastest settings with which an index finds what it shall find."""

from __future__ import annotations

import bisect
import contextlib
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from sslfeat.retrieval.builder import Found, nearest
from sslfeat.retrieval.exact import Truth, without
from sslfeat.retrieval.kinds import Plan, Settings, one_thread

WORKLOADS = ("batch", "single")
MARGIN = 0.1  # of what the target leaves to be missed: other queries may be harder
LAPS, LAP_SECONDS = 3, 0.15
SINGLES = 200  # queries asked one by one


@dataclass(frozen=True)
class Tuned:
    """Settings, the recall they gave on the queries they were tuned on, and queries a second, all at once."""

    settings: Settings
    recall: float
    per_second: float


def tune(
    index: Any, plan: Plan, truth: Truth, target: float, selector: Any = None, workload: str = "batch"
) -> tuple[Tuned | None, float]:
    """The fastest settings whose recall is at least ``target`` and a margin, and the best recall seen.

    ``selector`` is FAISS's, of the rows that count; ``workload`` as in ``speed``.
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
        tuned = Tuned(ladder[step], recall(step), speed(index, plan, ladder[step], truth, selector, workload))
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
    """Recall of the 10 nearest on queries that should not have been tuned on, and how many a second, both ways."""
    return {
        "recall": round(truth.recall(*answers(index, plan, settings, truth, selector)), 4),
        "recall_queries": len(truth.queries),
        **speeds(index, plan, settings, truth, selector),
    }


def speeds(index: Any, plan: Plan, settings: Settings, truth: Truth, selector: Any = None) -> dict[str, float]:
    """Queries a second, all at once and one by one."""
    rates = {work: speed(index, plan, settings, truth, selector, work) for work in WORKLOADS}
    return {"queries_per_second": round(rates["batch"], 1), "single_queries_per_second": round(rates["single"], 1)}


def speed(
    index: Any, plan: Plan, settings: Settings, truth: Truth, selector: Any = None, workload: str = "batch"
) -> float:
    """Queries a second, all asked at once, or for ``single`` one after the other on one thread: the median of some laps."""
    several = truth.k if truth.own is None else truth.k + 1
    single = workload == "single"
    batches = np.array_split(truth.queries[:SINGLES], SINGLES) if single else [truth.queries]
    batches = [batch for batch in batches if len(batch)]
    laps = []
    with one_thread() if single else contextlib.nullcontext():
        for _ in range(LAPS):
            began, asked = time.perf_counter(), 0
            while (spent := time.perf_counter() - began) < LAP_SECONDS:
                for batch in batches:
                    nearest(index, plan, settings, batch, several, truth.metric, selector)
                    asked += len(batch)
            laps.append(asked / spent)
    return statistics.median(laps)
