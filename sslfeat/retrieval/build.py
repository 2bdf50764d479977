"""An index is built: vectors stream by twice, a few are held out to tune and measure on, and join at the end.

The held-out rows are unknown to the index while it is tuned and measured, as a user's queries will be. Half of them tune
its settings, the other half say what recall these give: those figures are the ones stated. Of few rows too few could be held
out to say anything: an index of these, of whatever kind, is searched exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sslfeat.errors import InputError, RetrievalError, UsageError
from sslfeat.retrieval.builder import Builder
from sslfeat.retrieval.choose import SMALL, Trial, Wish, choose, refuse
from sslfeat.retrieval.exact import STATED, Truth
from sslfeat.retrieval.kinds import SEED, Plan
from sslfeat.retrieval.tuning import DEEPEST, Levels, measure, speeds, tune_all
from sslfeat.retrieval.vectors import METRICS, FloatArray, Vectors, blocks

SAMPLE = 100_000  # rows to try and train on
QUERIES = 1000  # to tune on, and as many to measure on; no more than a SHARE of the rows each
SHARE = 1 / 16


@dataclass(frozen=True)
class Events:
    """``say`` hears what was chosen and why; ``step`` that a stage has done so many of its rows."""

    say: Callable[[str], None] = field(default=lambda text: None)
    step: Callable[[str, int, int], None] = field(default=lambda stage, done, total: None)


@dataclass(frozen=True)
class Built:
    """An index file and what it holds: ``columns`` are its rows, in order; ``figures`` go into ``index.json``."""

    file: Path
    plan: Plan
    levels: Levels
    columns: pa.Table
    figures: dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """Rows to try on, and those held out: ``queries`` by their ``lots``, which are of all rows in order, NaN of the others."""

    rows: FloatArray
    lots: npt.NDArray[np.float64]
    queries: FloatArray

    def halves(self) -> tuple[FloatArray, FloatArray]:
        """To tune on, and to measure on."""
        return self.queries[self.half :], self.queries[: self.half]

    @property
    def half(self) -> int:
        """How many to measure on: those of the lowest lots."""
        return len(self.queries) // 2


def build(vectors: Vectors, work: Path, metric: str, wish: Wish, events: Events) -> Built:
    """Build an index of ``vectors`` in the folder ``work``.

    Raises InputError for an unknown metric or no vectors, RetrievalError if ``wish`` cannot be met or vectors are not
    finite.
    """
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r} is unknown: {', '.join(METRICS)}")
    if not vectors.count:
        raise InputError(f"{vectors.origin} holds no vectors: there is nothing to index")
    sample = _sample(vectors, metric, events)
    trials = choose(sample.rows, sample.halves()[0], vectors.count, metric, wish, work, events.say)
    for place, trial in enumerate(trials):
        if trial.memory > wish.memory or (
            trial.recall is not None and trial.per_second is None and trial.recall < wish.recall
        ):
            continue
        events.say(f"building {trial.plan.factory}: {trial.why}")
        built, reached = _build_one(vectors, work, metric, wish, trial, sample, events)
        if built is not None:
            return built
        trials[place] = Trial(trial.plan, trial.memory, reached, None, f"reached recall {reached:.3f} on all rows")
        events.say(f"{trial.plan.factory} reached recall {reached:.3f} only")
    raise refuse(trials, vectors.count, vectors.dim, wish)


def _sample(vectors: Vectors, metric: str, events: Events) -> Sample:
    """One pass: chance picks the rows to try on and those to hold out."""
    count = vectors.count
    rng = np.random.default_rng(SEED)
    queries = 0 if count <= SMALL else 2 * min(QUERIES, int(SHARE * count))
    picked = rng.permutation(count)[: queries + SAMPLE]
    lots, tried = np.full(count, np.nan), np.zeros(count, bool)
    lots[picked[:queries]] = np.arange(queries)
    tried[picked[queries:]] = True
    held = ~np.isnan(lots)
    rows, kept, start = [], [], 0
    for _, block in blocks(vectors, metric):
        here = slice(start, start + len(block))
        rows.append(block[tried[here]])
        kept.append(block[held[here]])
        start += len(block)
        events.step("read", start, count)
    if start != count:
        raise RetrievalError(
            f"{vectors.origin} has {start} rows, {count} were recorded: it is being written, or damaged"
        )
    return Sample(rng.permutation(np.concatenate(rows)), lots, np.concatenate(kept)[np.argsort(lots[held])])


def _build_one(
    vectors: Vectors, work: Path, metric: str, wish: Wish, trial: Trial, sample: Sample, events: Events
) -> tuple[Built | None, float]:
    """The index of this plan; None, and the recall that it reached, if that is too little."""
    plan = trial.plan
    exact = plan.kind == "flat" or not len(sample.queries)
    builder = Builder(plan, vectors.dim, metric, work, sample.rows)
    to_tune, to_measure = (Truth(queries, metric, min(DEEPEST, vectors.count)) for queries in sample.halves())
    tables: list[pa.Table] = []
    for columns, block in blocks(vectors, metric):
        lots = sample.lots[builder.count : builder.count + len(block)]
        builder.add(block, None if exact else lots)
        if not exact:
            for truth in (to_tune, to_measure):
                truth.see(block[np.isnan(lots)], 0)
        tables.append(columns)
        events.step("added", builder.count, vectors.count)
    figures = {
        "target": wish.recall, "workload": wish.workload, "memory": trial.memory, "why": trial.why, "asked": wish.kind,
        "recall": 1.0, "recall_at": dict.fromkeys(map(str, STATED), 1.0), "recall_queries": 0,
        "measured_rows": vectors.count, "queries_per_second": None, "single_queries_per_second": None,
    }  # fmt: skip
    levels: Levels = {}
    if not exact:
        events.say("tuning it for 1 to 1000 neighbours")
        levels, highest = tune_all(builder.open(), plan, to_tune, wish.recall, wish.workload)
        if not levels:
            builder.discard()
            return None, highest
        builder.let_in(but=sample.half)
        to_measure.see(to_tune.queries, 0)
        figures |= measure(builder.open(), plan, levels, to_measure)
    elif len(sample.queries):
        figures |= speeds(builder.open(), plan, levels, to_measure)
    path = work / "index.faiss"
    builder.write(path)
    return Built(path, plan, levels, pa.concat_tables(tables), figures), 1.0
