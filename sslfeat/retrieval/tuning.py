"""The fastest settings with which an index finds what it shall find, for every number of neighbors.

Settings belong to a depth: with those of depth 30, the nearest, the 3 nearest, ... the 30 nearest are found as well as was
asked. A search takes those of the least depth that covers it; beyond the last it is exact (``searcher.py``).
"""

from __future__ import annotations

import bisect
import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.faiss_builder import Found, nearest
from sslfeat.retrieval.ground_truth import STATED, K, Truth
from sslfeat.retrieval.index_types import IndexSpec, Settings, one_thread, whole

WORKLOADS = ("batch", "single")
DEPTHS = (K, 30, 100, 300, 1000)
DEEPEST = DEPTHS[-1]
TRIED = (1, 3, *DEPTHS)  # numbers of neighbors that recall is looked at for
MARGIN = 0.1  # of what the target leaves to be missed: other queries may be harder
STEADY = 0.005  # what greater depths may find less than the first does
DEEP_QUERIES = 400  # to tune greater depths on: each has more neighbors to find
LAPS, LAP_SECONDS = 3, 0.15
SINGLES = 200  # queries asked one by one
Levels = dict[int, Settings]


@dataclass(frozen=True)
class Tuned:
    """Settings, the least recall they gave on the queries they were tuned on, and queries a second."""

    settings: Settings
    recall: float
    per_second: float


def with_margin(target: float) -> float:
    """What queries to tune on must reach, so that others reach ``target``."""
    return min(target + MARGIN * (1 - target), 1.0)


def tune(
    index: Any, spec: IndexSpec, truth: Truth, wanted: float, depth: int = K, workload: str = "batch"
) -> tuple[Tuned | None, float]:
    """The fastest settings whose recall, of any number of neighbors up to ``depth``, is ``wanted``; and the best seen.

    ``workload`` as in ``speed``.
    """
    best, highest = None, 0.0
    for ladder in spec.ladders(depth):
        recalls: dict[int, float] = {}

        def recall(step: int, ladder: list[Settings] = ladder, recalls: dict[int, float] = recalls) -> float:
            if step not in recalls:
                recalls[step] = least_recall(index, spec, ladder[step], truth, depth)
            return recalls[step]

        step = bisect.bisect_left(range(len(ladder)), wanted, key=recall)
        highest = max(highest, *recalls.values())
        if step == len(ladder):
            continue
        tuned = Tuned(ladder[step], recall(step), _speed_at(index, spec, ladder[step], truth, depth, workload))
        if best is not None and tuned.per_second < best.per_second:
            break  # later ladders are more thorough still
        best = tuned
    return best, highest


def tune_all(index: Any, spec: IndexSpec, truth: Truth, target: float, workload: str = "batch") -> tuple[Levels, float]:
    """Settings for each depth, as far as they are faster than comparing with all; and the best recall at the first.

    Nothing for the first depth: ``target`` cannot be reached.
    """
    levels: Levels = {}
    reached, wanted = 0.0, with_margin(target)
    for depth in DEPTHS:
        few = truth if depth == K else truth.first(DEEP_QUERIES)
        tuned, highest = tune(index, spec, few, wanted, depth, workload)
        if depth == K:
            reached = highest
        if tuned is None or (depth > K and tuned.per_second < _speed_of_all(index, spec, few, depth, workload)):
            break
        levels[depth] = tuned.settings
        if depth == K:
            wanted = max(wanted, tuned.recall - STEADY)
    return levels, reached


def least_recall(index: Any, spec: IndexSpec, settings: Settings, truth: Truth, depth: int) -> float:
    """The least recall, over numbers of neighbors up to ``depth``."""
    found = _found(index, spec, settings, truth, depth)
    return min(truth.recall(*found, k) for k in TRIED if k <= depth)


def _found(index: Any, spec: IndexSpec, settings: Settings, truth: Truth, depth: int) -> Found:
    scores, rows = nearest(index, spec, settings, truth.queries, depth, truth.metric)  # and OWN more, which may be skipped
    return scores[:, truth.skip :], rows[:, truth.skip :]


def measure(index: Any, spec: IndexSpec, levels: Levels, truth: Truth) -> dict[str, Any]:
    """Recall of the 1, 10 and 100 nearest on queries that should not have been tuned on, and how many a second."""
    recalls = {}
    for k in STATED:
        depth = next((depth for depth in levels if depth >= k), None)
        found = None if depth is None else _found(index, spec, levels[depth], truth, depth)
        recalls[str(k)] = 1.0 if found is None else round(truth.recall(*found, k), 4)
    return {
        "recall": recalls[str(K)],
        "recall_at": recalls,
        "recall_queries": len(truth.queries),
        **speeds(index, spec, levels, truth),
    }


def speeds(index: Any, spec: IndexSpec, levels: Levels, truth: Truth) -> dict[str, float]:
    """Queries a second for the 10 nearest, all at once and one by one."""
    if K in levels:
        rates = [_speed_at(index, spec, levels[K], truth, K, workload) for workload in WORKLOADS]
    else:
        rates = [_speed_of_all(index, spec, truth, K, workload) for workload in WORKLOADS]
    return {"queries_per_second": round(rates[0], 1), "single_queries_per_second": round(rates[1], 1)}


def _speed_at(index: Any, spec: IndexSpec, settings: Settings, truth: Truth, depth: int, workload: str) -> float:
    def ask(queries: FloatArray) -> Found:
        return nearest(index, spec, settings, queries, depth, truth.metric)

    return speed(ask, truth.queries, workload)


def _speed_of_all(index: Any, spec: IndexSpec, truth: Truth, depth: int, workload: str) -> float:
    exact, parameters = whole(index, spec)
    return speed(lambda queries: exact.search(queries, depth, params=parameters), truth.queries, workload)


def speed(ask: Callable[[FloatArray], Any], queries: FloatArray, workload: str = "batch") -> float:
    """Queries a second, all asked at once, or for ``single`` one after the other on one thread: the median of some laps."""
    single = workload == "single"
    batches = np.array_split(queries[:SINGLES], SINGLES) if single else [queries]
    batches = [batch for batch in batches if len(batch)]
    laps = []
    with one_thread() if single else contextlib.nullcontext():
        for _ in range(LAPS):
            began, asked = time.perf_counter(), 0
            while (spent := time.perf_counter() - began) < LAP_SECONDS:
                for batch in batches:
                    ask(batch)
                    asked += len(batch)
            laps.append(asked / spent)
    return statistics.median(laps)
