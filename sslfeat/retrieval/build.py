"""An index is built: vectors stream by twice, a few are held out to tune and measure on, and join at the end.

The held-out rows are unknown to the index while it is tuned and measured, as a user's queries will be. Half of them tune
its settings, the other half say what recall these give: that figure is the one stated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sslfeat.errors import InputError, RetrievalError
from sslfeat.retrieval.builder import Builder
from sslfeat.retrieval.choose import Trial, Wish, choose, refuse
from sslfeat.retrieval.exact import Truth
from sslfeat.retrieval.kinds import SEED, Plan, Settings
from sslfeat.retrieval.tuning import measure, speeds, tune
from sslfeat.retrieval.vectors import METRICS, FloatArray, Vectors, blocks

SAMPLE = 100_000  # rows to try and train on
QUERIES = 1000  # to tune on, and as many to measure on; no more than a twentieth of the rows each


@dataclass(frozen=True)
class Events:
    """``say`` hears what was chosen and why; ``step`` that a stage has done so many of its rows."""

    say: Callable[[str], None] = field(default=lambda text: None)
    step: Callable[[str, int, int], None] = field(default=lambda stage, done, total: None)


@dataclass(frozen=True)
class Built:
    """An index file and what it holds: ``columns`` are its rows in its own order; ``figures`` go into ``index.json``."""

    file: Path
    plan: Plan
    settings: Settings
    columns: pa.Table
    figures: dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """Rows to try on, and those held out: ``held`` is a mask over all rows, in their order, ``queries`` their vectors."""

    rows: FloatArray
    held: npt.NDArray[np.bool_]
    queries: FloatArray

    def halves(self) -> tuple[FloatArray, FloatArray]:
        """To tune on, and to measure on."""
        return self.queries[::2], self.queries[1::2]


def build(vectors: Vectors, work: Path, metric: str, wish: Wish, events: Events) -> Built:
    """Build an index of ``vectors`` in the folder ``work``.

    Raises InputError for an unknown metric or no vectors, RetrievalError if ``wish`` cannot be met or vectors are not
    finite.
    """
    if metric not in METRICS:
        raise InputError(f"metric {metric!r} is unknown: {', '.join(METRICS)}")
    if not vectors.count:
        raise InputError(f"{vectors.origin} holds no vectors: there is nothing to index")
    sample = _sample(vectors, metric, events)
    trials = choose(sample.rows, sample.halves()[0], vectors.count, metric, wish, events.say)
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
    queries = 2 * min(QUERIES, count // 20)
    picked = rng.permutation(count)[: queries + SAMPLE]
    held, tried = np.zeros(count, bool), np.zeros(count, bool)
    held[picked[:queries]] = True
    tried[picked[queries:]] = True
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
    order = rng.permutation(queries)
    return Sample(rng.permutation(np.concatenate(rows)), held, np.concatenate(kept)[order])


def _build_one(
    vectors: Vectors, work: Path, metric: str, wish: Wish, trial: Trial, sample: Sample, events: Events
) -> tuple[Built | None, float]:
    """The index of this plan; None, and the recall that it reached, if that is too little."""
    exact = trial.plan.kind == "flat"
    held = np.zeros_like(sample.held) if exact else sample.held
    builder = Builder(trial.plan, vectors.dim, metric, work, sample.rows)
    truths = [Truth(queries, metric) for queries in sample.halves()]
    tables, late_tables, late, start = [], [], [], 0
    done = 0
    for columns, block in blocks(vectors, metric):
        out = held[start : start + len(block)]
        kept = block[~out] if out.any() else block
        builder.add(kept)
        if not exact:
            for truth in truths:
                truth.see(kept, done)
        tables.append(columns.filter(pa.array(~out)))
        late_tables.append(columns.filter(pa.array(out)))
        late.append(block[out])
        start, done = start + len(block), done + len(kept)
        events.step("added", start, vectors.count)
    figures, settings = _figures(builder.open(), trial, truths, wish), {}
    if not exact:
        tuned, highest = tune(builder.open(), trial.plan, truths[0], wish.recall, workload=wish.workload)
        if tuned is None:
            return None, highest
        settings = tuned.settings
        figures |= measure(builder.open(), trial.plan, settings, truths[1])
        builder.add(np.concatenate(late))
    path = work / "index.faiss"
    builder.write(path)
    return Built(path, trial.plan, settings, pa.concat_tables([*tables, *late_tables]), figures), 1.0


def _figures(index: Any, trial: Trial, truths: list[Truth], wish: Wish) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "target": wish.recall,
        "workload": wish.workload,
        "memory": trial.memory,
        "why": trial.why,
    }
    if trial.plan.kind == "flat":
        figures |= {"recall": 1.0, "recall_queries": 0, "queries_per_second": None}
        if len(truths[1].queries):
            figures |= speeds(index, trial.plan, {}, truths[1])
    return figures
