"""The recall of an index that has grown, measured with rows that it does not know yet, or not better than others.

Rows that are in a graph are no queries: it leads to their neighbors better than to anybody else's. So new rows are kept out
until they were asked: they say how what is new is found. How the rows before are found was measured before, and the settings
are the same: the figure stated weighs the two by the rows they stand for. Lists and codes know their rows no better than
others of the same kind; there rows of all ages are asked for their neighbors, but themselves. (With codes learned on other
rows, what is found of the new depends on how many of them there are: keeping some out would flatter.) Where too few rows come
at once to measure with, or the target is missed, the index is built anew.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.create import QUERIES
from sslfeat.retrieval.ground_truth import K, Truth
from sslfeat.retrieval.index_builder import IndexBuilder
from sslfeat.retrieval.index_types import SEED
from sslfeat.retrieval.metadata import Figures, IndexMetadata
from sslfeat.retrieval.recall import measure
from sslfeat.retrieval.tuning import DEEPEST, STEADY, least_recall

NOTABLY_GROWN = 1.05  # times the rows that its recall was measured with
FEWEST = 500  # rows kept out, half of them to decide by
MOST = 2 * QUERIES


def is_due(metadata: IndexMetadata) -> bool:
    """Whether recall must be measured again, going by the rows that there are now; exact search finds all anyway."""
    return bool(metadata.settings) and metadata.rows > NOTABLY_GROWN * metadata.figures.measured_rows


def kept_out(new: int) -> int:
    """How many of so many ``new`` rows to measure with: at most half, 0 if these are too few."""
    return min(MOST, new // 2) if new // 2 >= FEWEST else 0


def measured(builder: IndexBuilder, metadata: IndexMetadata) -> Figures | None:
    """The figures that are stated from now on; None if they miss the target. Of a graph, rows must be kept out."""
    spec, figures, levels, graph = builder.spec, metadata.figures, metadata.levels(), builder.spec.is_graph
    if not graph:
        builder.let_in()
    queries = builder.kept_out if graph else _some(builder, MOST)
    half = len(queries) // 2
    to_measure, to_decide = (_truth(builder, rows, graph) for rows in (queries[:half], queries[half:]))
    index = builder.open()
    for depth, settings in levels.items():
        if least_recall(index, spec, settings, to_decide, depth) < figures.target - STEADY:
            return None
    if graph:
        to_measure.see(builder.let_in(but=half), 0)
        index = builder.open()
    found = measure(index, spec, levels, to_measure)
    recalls = found["recall_at"]
    if graph:
        before = figures.measured_rows / metadata.rows
        recalls = {k: round(before * figures.recall_at[k] + (1 - before) * new, 4) for k, new in recalls.items()}
    found |= {"recall_at": recalls, "recall": recalls[str(K)]}
    return replace(figures, **found, measured_rows=metadata.rows)


def _some(builder: IndexBuilder, count: int) -> FloatArray:
    """So many of the rows that are inside, (n, D), each as likely as any."""
    chosen = np.zeros(builder.count, bool)
    chosen[np.random.default_rng(SEED).permutation(builder.count)[:count]] = True
    found, start = [], 0
    for block in builder.inside():
        found.append(block[chosen[start : start + len(block)]])
        start += len(block)
    rows = np.concatenate(found)
    return rows[np.random.default_rng(SEED).permutation(len(rows))]


def _truth(builder: IndexBuilder, queries: FloatArray, kept_out: bool) -> Truth:
    truth = Truth(queries, builder.metric, DEEPEST)
    for block in builder.inside():
        truth.see(block, 0)
    return truth if kept_out else truth.others()
