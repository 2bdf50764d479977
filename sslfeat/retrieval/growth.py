"""The recall of an index that has grown, measured with rows that it does not know yet.

Rows that are in a graph are no queries: it leads to their neighbours better than to anybody else's. So new rows are kept out
until they were asked. They say how what is new is found; how the rows before are found was measured before, and the settings
are the same: the figure stated weighs the two by the rows they stand for. Where too few rows come at once to measure with, or
the target is missed by them, the index is built anew.
"""

from __future__ import annotations

from typing import Any

from sslfeat.retrieval.build import QUERIES
from sslfeat.retrieval.builder import Builder
from sslfeat.retrieval.exact import K, Truth
from sslfeat.retrieval.record import Record
from sslfeat.retrieval.tuning import DEEPEST, STEADY, least_recall, measure
from sslfeat.retrieval.vectors import FloatArray

NOTABLY_GROWN = 1.05  # times the rows that its recall was measured with
FEWEST = 500  # rows kept out, half of them to decide by
MOST = 2 * QUERIES


def is_due(record: Record) -> bool:
    """Whether recall must be measured again, going by the rows that there are now; exact search finds all anyway."""
    return bool(record.settings) and record.rows > NOTABLY_GROWN * record.figures.measured_rows


def kept_out(new: int) -> int:
    """How many of so many ``new`` rows to measure with: at most half, 0 if these are too few."""
    return min(MOST, new // 2) if new // 2 >= FEWEST else 0


def measured(builder: Builder, record: Record) -> dict[str, Any] | None:
    """The figures that are stated from now on, going by the rows that ``builder`` keeps out; None if they miss the target."""
    plan, figures, levels = builder.plan, record.figures, record.levels()
    half = len(builder.kept_out) // 2
    to_measure, to_decide = (_truth(builder, rows) for rows in (builder.kept_out[:half], builder.kept_out[half:]))
    index = builder.open()
    for depth, settings in levels.items():
        if least_recall(index, plan, settings, to_decide, depth) < figures.target - STEADY:
            return None
    builder.let_in(but=half)
    to_measure.see(to_decide.queries, 0)
    found = measure(builder.open(), plan, levels, to_measure)
    before = figures.measured_rows / record.rows
    recalls = {
        k: round(before * figures.recall_at[k] + (1 - before) * recall, 4) for k, recall in found["recall_at"].items()
    }
    return {**found, "recall_at": recalls, "recall": recalls[str(K)], "measured_rows": record.rows}


def _truth(builder: Builder, queries: FloatArray) -> Truth:
    truth = Truth(queries, builder.metric, DEEPEST)
    for block in builder.inside():
        truth.see(block, 0)
    return truth
