"""Tuning: the fastest search settings that reach the target recall, for every number of neighbors.

Settings belong to a depth: those of depth 30 reach the target recall for the nearest, the 3 nearest, ... the 30 nearest
neighbors. A search uses the smallest sufficient depth; beyond the last it is exact (``searcher.py``).
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
from sslfeat.retrieval.ground_truth import K, Truth
from sslfeat.retrieval.index_types import IndexSpec, Settings, one_thread
from sslfeat.retrieval.shards import whole

WORKLOADS = ("batch", "single")
DEPTHS = (K, 30, 100, 300, 1000)
DEEPEST = DEPTHS[-1]
TRIED = (1, 3, *DEPTHS)  # numbers of neighbors at which recall is measured
MARGIN = 0.1  # fraction of the allowed misses, as margin: other queries may be harder
STEADY = 0.005  # recall that greater depths may lose compared to the first
DEEP_QUERIES = 400  # queries for greater depths, which have more neighbors each
LAPS, LAP_SECONDS = 3, 0.15
SINGLES = 200  # single queries
Levels = dict[int, Settings]


@dataclass(frozen=True)
class Tuned:
    """Settings, their lowest recall on the tuning queries, and queries per second."""

    settings: Settings
    recall: float
    per_second: float


def with_margin(target: float) -> float:
    """Recall required on the tuning queries, so that other queries reach ``target``."""
    return min(target + MARGIN * (1 - target), 1.0)


def tune(
    index: Any, spec: IndexSpec, truth: Truth, goal: float, depth: int = K, workload: str = "batch"
) -> tuple[Tuned | None, float]:
    """Fastest settings with recall ``goal`` for all numbers of neighbors up to ``depth``; and the best recall seen.

    ``workload`` as in ``speed``.
    """
    best, highest = None, 0.0
    for ladder in spec.ladders(depth):
        recalls: dict[int, float] = {}

        def recall(step: int, ladder: list[Settings] = ladder, recalls: dict[int, float] = recalls) -> float:
            if step not in recalls:
                recalls[step] = least_recall(index, spec, ladder[step], truth, depth)
            return recalls[step]

        step = bisect.bisect_left(range(len(ladder)), goal, key=recall)
        highest = max(highest, *recalls.values())
        if step == len(ladder):
            continue
        tuned = Tuned(ladder[step], recall(step), speed_at(index, spec, ladder[step], truth, depth, workload))
        if best is not None and tuned.per_second < best.per_second:
            break  # later ladders are even more thorough
        best = tuned
    return best, highest


def tune_all(index: Any, spec: IndexSpec, truth: Truth, target: float, workload: str = "batch") -> tuple[Levels, float]:
    """Settings for each depth if faster than exhaustive search; and the best recall at the first depth.

    No settings for the first depth: ``target`` cannot be reached.
    """
    levels: Levels = {}
    reached, goal = 0.0, with_margin(target)
    for depth in DEPTHS:
        few = truth if depth == K else truth.first(DEEP_QUERIES)
        tuned, highest = tune(index, spec, few, goal, depth, workload)
        if depth == K:
            reached = highest
        if tuned is None or (depth > K and tuned.per_second < speed_of_all(index, spec, few, depth, workload)):
            break
        levels[depth] = tuned.settings
        if depth == K:
            goal = max(goal, tuned.recall - STEADY)
    return levels, reached


def least_recall(index: Any, spec: IndexSpec, settings: Settings, truth: Truth, depth: int) -> float:
    """Lowest recall over numbers of neighbors up to ``depth``."""
    found = found_at(index, spec, settings, truth, depth)
    return min(truth.recall(*found, k) for k in TRIED if k <= depth)


def found_at(index: Any, spec: IndexSpec, settings: Settings, truth: Truth, depth: int) -> Found:
    """Scores and rows of the ``depth`` nearest neighbors of the queries of ``truth``."""
    scores, rows = nearest(index, spec, settings, truth.queries, depth, truth.metric)  # plus OWN, since the query may be found
    return scores[:, truth.skip :], rows[:, truth.skip :]


def speed_at(index: Any, spec: IndexSpec, settings: Settings, truth: Truth, depth: int, workload: str) -> float:
    """Queries per second for ``depth`` neighbors with these settings."""

    def search(queries: FloatArray) -> Found:
        return nearest(index, spec, settings, queries, depth, truth.metric)

    return speed(search, truth.queries, workload)


def speed_of_all(index: Any, spec: IndexSpec, truth: Truth, depth: int, workload: str) -> float:
    """Queries per second of exhaustive search."""
    exact, parameters = whole(index, spec)
    return speed(lambda queries: exact.search(queries, depth, params=parameters), truth.queries, workload)


def speed(search: Callable[[FloatArray], Any], queries: FloatArray, workload: str = "batch") -> float:
    """Queries per second, as a batch, or with ``single`` one by one on one thread: median of several runs."""
    single = workload == "single"
    batches = np.array_split(queries[:SINGLES], SINGLES) if single else [queries]
    batches = [batch for batch in batches if len(batch)]
    laps = []
    with one_thread() if single else contextlib.nullcontext():
        for _ in range(LAPS):
            began, searched = time.perf_counter(), 0
            while (spent := time.perf_counter() - began) < LAP_SECONDS:
                for batch in batches:
                    search(batch)
                    searched += len(batch)
            laps.append(searched / spent)
    return statistics.median(laps)
