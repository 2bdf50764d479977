"""The recall of an index that has grown, measured with rows that it does not know yet.

Rows that are in a graph are no queries: it leads to their neighbours better than to anybody else's. So new rows are kept out
until they were asked, and where too few come at once the index is built anew. They say how what is new is found; how the
rows before are found was measured before, and settings are never made less thorough: the figure stated weighs the two by the
rows they stand for.
"""

from __future__ import annotations

from typing import Any

from sslfeat.retrieval.build import QUERIES
from sslfeat.retrieval.builder import Builder
from sslfeat.retrieval.exact import K, Truth
from sslfeat.retrieval.record import Record
from sslfeat.retrieval.tuning import DEEPEST, measure, tune_all
from sslfeat.retrieval.vectors import FloatArray

NOTABLY_GROWN = 1.05  # times the rows that its recall was measured with
FEWEST = 500  # rows kept out, half of them to tune on
MOST = 2 * QUERIES


def is_due(record: Record) -> bool:
    """Whether recall must be measured again, going by the rows that there are now; exact search finds all anyway."""
    return bool(record.settings) and record.rows > NOTABLY_GROWN * record.figures.measured_rows


def kept_out(new: int) -> int:
    """How many of so many ``new`` rows to measure with: at most half, 0 if these are too few."""
    return min(MOST, new // 2) if new // 2 >= FEWEST else 0


def measured(builder: Builder, record: Record) -> dict[str, Any] | None:
    """What changes in ``index.json``, going by the rows that ``builder`` keeps out; None if the target is out of reach."""
    plan, figures = builder.plan, record.figures
    half = len(builder.kept_out) // 2
    to_measure, to_tune = (_truth(builder, rows) for rows in (builder.kept_out[:half], builder.kept_out[half:]))
    levels, _ = tune_all(builder.open(), plan, to_tune, figures.target, figures.workload, record.levels())
    if not levels:
        return None
    builder.let_in(but=half)
    to_measure.see(to_tune.queries, 0)
    found = measure(builder.open(), plan, levels, to_measure)
    before = figures.measured_rows / record.rows
    recalls = {
        k: round(before * figures.recall_at[k] + (1 - before) * recall, 4) for k, recall in found["recall_at"].items()
    }
    found |= {"recall_at": recalls, "recall": recalls[str(K)], "measured_rows": record.rows}
    return {"settings": {str(depth): settings for depth, settings in levels.items()}, "figures": found}


def _truth(builder: Builder, queries: FloatArray) -> Truth:
    truth = Truth(queries, builder.metric, DEEPEST)
    for block in builder.inside():
        truth.see(block, 0)
    return truth
