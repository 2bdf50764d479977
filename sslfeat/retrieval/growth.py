"""The recall of an index that has grown, measured with rows that it does not know yet, or not better than others.

Rows that are in a graph are no queries: it leads to their neighbors better than to anybody else's. So new rows are kept out
until they were asked: they say how what is new is found. How the rows before are found was measured before, and the settings
are the same: the figure stated weighs the two by the rows they stand for. Lists and codes know their rows no better than
others of the same kind; there rows of all ages are asked for their neighbors, but themselves. (With codes learned on other
rows, what is found of the new depends on how many of them there are: keeping some out would flatter.) Where too few rows come
at once to measure with, or the target is missed, the index is built anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.create import QUERIES
from sslfeat.retrieval.faiss_builder import Builder, nearest
from sslfeat.retrieval.ground_truth import STATED, K, Truth
from sslfeat.retrieval.index_types import SEED
from sslfeat.retrieval.metadata import IndexMetadata
from sslfeat.retrieval.tuning import DEEPEST, STEADY, least_recall, measure, speeds

NOTABLY_GROWN = 1.05  # times the rows that its recall was measured with
FEWEST = 500  # rows kept out, half of them to decide by
MOST = 2 * QUERIES


def is_due(record: IndexMetadata) -> bool:
    """Whether recall must be measured again, going by the rows that there are now; exact search finds all anyway."""
    return bool(record.settings) and record.rows > NOTABLY_GROWN * record.figures.measured_rows


def kept_out(new: int) -> int:
    """How many of so many ``new`` rows to measure with: at most half, 0 if these are too few."""
    return min(MOST, new // 2) if new // 2 >= FEWEST else 0


def measured(builder: Builder, record: IndexMetadata) -> dict[str, Any] | None:
    """The figures that are stated from now on; None if they miss the target. Of a graph, rows must be kept out."""
    found = _measured_by_new(builder, record) if builder.spec.kind == "hnsw" else _measured_by_all(builder, record)
    return found and {**found, "recall": found["recall_at"][str(K)], "measured_rows": record.rows}


def _measured_by_new(builder: Builder, record: IndexMetadata) -> dict[str, Any] | None:
    spec, figures, levels = builder.spec, record.figures, record.levels()
    half = len(builder.kept_out) // 2
    to_measure, to_decide = (_truth(builder, rows) for rows in (builder.kept_out[:half], builder.kept_out[half:]))
    index = builder.open()
    for depth, settings in levels.items():
        if least_recall(index, spec, settings, to_decide, depth) < figures.target - STEADY:
            return None
    builder.let_in(but=half)
    to_measure.see(to_decide.queries, 0)
    found = measure(builder.open(), spec, levels, to_measure)
    before = figures.measured_rows / record.rows
    recalls = {
        k: round(before * figures.recall_at[k] + (1 - before) * recall, 4) for k, recall in found["recall_at"].items()
    }
    return {**found, "recall_at": recalls}


def _measured_by_all(builder: Builder, record: IndexMetadata) -> dict[str, Any] | None:
    spec, levels = builder.spec, record.levels()
    builder.let_in()
    index, queries = builder.open(), _some(builder, MOST)
    others = [_without_themselves(_truth(builder, rows)) for rows in np.array_split(queries, 2)]
    recalls = []
    for truth in others:
        row = {}
        for k in STATED:
            depth = next((depth for depth in levels if depth >= k), None)
            if depth is not None:
                scores, rows = nearest(index, spec, levels[depth], truth.queries, depth + 1, truth.metric)
            row[str(k)] = 1.0 if depth is None else round(truth.recall(scores[:, 1:], rows[:, 1:], k), 4)
        recalls.append(row)
    if min(recalls[0].values()) < record.figures.target - STEADY:
        return None
    return {"recall_at": recalls[1], "recall_queries": len(others[1].queries), **speeds(index, spec, levels, others[1])}


def _without_themselves(truth: Truth) -> Truth:
    """Of queries that are rows, and so their own nearest."""
    others = Truth(truth.queries, truth.metric, truth.k - 1)
    others.scores, others.rows = truth.scores[:, 1:], truth.rows[:, 1:]
    return others


def _some(builder: Builder, count: int) -> FloatArray:
    """So many of the rows that are inside, (n, D), each as likely as any."""
    chosen = np.zeros(builder.count, bool)
    chosen[np.random.default_rng(SEED).permutation(builder.count)[:count]] = True
    found, start = [], 0
    for block in builder.inside():
        found.append(block[chosen[start : start + len(block)]])
        start += len(block)
    rows = np.concatenate(found)
    return rows[np.random.default_rng(SEED).permutation(len(rows))]


def _truth(builder: Builder, queries: FloatArray) -> Truth:
    truth = Truth(queries, builder.metric, DEEPEST)
    for block in builder.inside():
        truth.see(block, 0)
    return truth
