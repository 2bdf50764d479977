"""Measuring recall and speed of an index."""

from __future__ import annotations

from typing import Any

from sslfeat.retrieval.ground_truth import STATED, K, Truth
from sslfeat.retrieval.index_types import IndexSpec
from sslfeat.retrieval.tuning import WORKLOADS, Levels, found_at, speed_at, speed_of_all


def measure(index: Any, spec: IndexSpec, levels: Levels, truth: Truth) -> dict[str, Any]:
    """Recall at 1, 10 and 100 on queries not used for tuning, and queries per second."""
    recalls = {}
    for k in STATED:
        depth = next((depth for depth in levels if depth >= k), None)
        found = None if depth is None else found_at(index, spec, levels[depth], truth, depth)
        recalls[str(k)] = 1.0 if found is None else round(truth.recall(*found, k), 4)
    return {
        "recall": recalls[str(K)],
        "recall_at": recalls,
        "recall_queries": len(truth.queries),
        **speeds(index, spec, levels, truth),
    }


def speeds(index: Any, spec: IndexSpec, levels: Levels, truth: Truth) -> dict[str, Any]:
    """Queries per second for the 10 nearest, in a batch and one by one."""
    if K in levels:
        rates = [speed_at(index, spec, levels[K], truth, K, workload) for workload in WORKLOADS]
    else:
        rates = [speed_of_all(index, spec, truth, K, workload) for workload in WORKLOADS]
    return {"queries_per_second": round(rates[0], 1), "single_queries_per_second": round(rates[1], 1)}
