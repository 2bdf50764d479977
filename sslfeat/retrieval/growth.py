"""Measuring the recall of an index after rows were added.

Rows in a graph are not valid queries, because the graph links them to their neighbors. New rows are therefore kept out
until they have been used as queries. Recall of earlier rows was measured before with the same
settings; the stated recall is the average weighted by numbers of rows. Lists and codes do not favor their own rows over
others of the same distribution; there a sample of all rows is searched, without the query itself. (With codes trained on other
rows, recall of new rows depends on their number, so keeping some out would overestimate it.) If too few rows are added
at a time to measure, or the target is missed, the index is rebuilt.
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

NOTABLY_GROWN = 1.05  # relative to the number of rows when recall was measured
FEWEST = 500  # minimum number of kept-out rows
MOST = 2 * QUERIES


def is_due(metadata: IndexMetadata) -> bool:
    """Whether recall must be measured again for the current number of rows; never for exact search."""
    return bool(metadata.settings) and metadata.rows > NOTABLY_GROWN * metadata.figures.measured_rows


def kept_out(new: int) -> int:
    """Number of ``new`` rows to keep out for measuring: at most half, 0 if too few."""
    return min(MOST, new // 2) if new // 2 >= FEWEST else 0


def measured(builder: IndexBuilder, metadata: IndexMetadata) -> Figures | None:
    """New figures; None if the target is missed. For a graph, rows must be kept out."""
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
    """Uniform random sample (n, D) of the rows in the index."""
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
