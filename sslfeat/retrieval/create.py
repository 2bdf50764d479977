"""Building an index: two passes over the vectors; some are held out for tuning and measuring, and added at the end.

Held-out rows are not in the index while it is tuned and measured, like the queries of users. One half is used to tune
the settings, the other half to measure the stated recall. If there are too few rows to hold out,
the index is searched exactly, whatever its kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sslfeat.errors import OVERWRITE, InputError, RetrievalError, UsageError
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval import storage as files
from sslfeat.retrieval.ground_truth import STATED, Truth
from sslfeat.retrieval.index_builder import IndexBuilder
from sslfeat.retrieval.index_types import SEED, IndexSpec
from sslfeat.retrieval.metadata import Figures, IndexMetadata
from sslfeat.retrieval.recall import measure, speeds
from sslfeat.retrieval.rows import IdsWriter
from sslfeat.retrieval.selection import SMALL, Candidate, IndexRequirements, choose, refuse
from sslfeat.retrieval.tuning import DEEPEST, Levels, tune_all
from sslfeat.retrieval.vectors import METRICS, Vectors, blocks
from sslfeat.storage import atomic, staged
from sslfeat.system.cores import available_memory

BUILD_SHARE, SEARCH_SHARE = 0.8, 0.5  # default fractions of the free memory
LEAST_MEMORY = 768 << 20
QUERIES = 1000  # for tuning and for measuring each; at most a fraction SHARE of the rows
SHARE = 1 / 16


@dataclass(frozen=True)
class Events:
    """Callbacks: ``say`` receives choices and reasons; ``step`` receives the progress of a stage, in rows."""

    say: Callable[[str], None] = field(default=lambda text: None)
    step: Callable[[str, int, int], None] = field(default=lambda stage, done, total: None)


@dataclass(frozen=True)
class Built:
    """Properties of a written index; ``figures`` are stored in ``index.json``."""

    spec: IndexSpec
    levels: Levels
    rows: int
    figures: Figures


@dataclass(frozen=True)
class Sample:
    """Sample rows for trials, and held-out ``queries``; ``lots`` has a random number per held-out row, and NaN for other rows."""

    rows: FloatArray
    lots: npt.NDArray[np.float64]
    queries: FloatArray

    def halves(self) -> tuple[FloatArray, FloatArray]:
        """Queries for tuning, and queries for measuring."""
        return self.queries[self.half :], self.queries[: self.half]

    @property
    def half(self) -> int:
        """Number of queries for measuring: those with the lowest lots."""
        return len(self.queries) // 2


def build(vectors: Vectors, work: Path, metric: str, requirements: IndexRequirements, events: Events) -> Built:
    """Build an index of ``vectors`` in the folder ``work``.

    Raises InputError for an unknown metric or no vectors, RetrievalError if ``requirements`` cannot be met or vectors are not
    finite.
    """
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r} is unknown: {', '.join(METRICS)}")
    if not vectors.count:
        raise InputError(f"{vectors.origin} contains no vectors")
    sample = _sample(vectors, metric, requirements.sample_rows(vectors.dim), events)
    trials = choose(sample.rows, sample.halves()[0], vectors.count, metric, requirements, work, events.say)
    for place, trial in enumerate(trials):
        if trial.memory > requirements.memory or (
            trial.recall is not None and trial.per_second is None and trial.recall < requirements.recall
        ):
            continue
        events.say(f"building {trial.spec.factory}: {trial.why}")
        built, reached = _build_one(vectors, work, metric, requirements, trial, sample, events)
        if built is not None:
            return built
        trials[place] = Candidate(trial.spec, trial.memory, reached, None, f"reached recall {reached:.3f} on all rows")
        events.say(f"{trial.spec.factory} only reached recall {reached:.3f}")
    raise refuse(trials, vectors.count, vectors.dim, requirements)


def _sample(vectors: Vectors, metric: str, size: int, events: Events) -> Sample:
    """Draw ``size`` rows for trials and the held-out rows, in one pass."""
    count = vectors.count
    rng = np.random.default_rng(SEED)
    queries = 0 if count <= SMALL else 2 * min(QUERIES, int(SHARE * count))
    picked = rng.permutation(count)[: queries + size]
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
        raise RetrievalError(f"{vectors.origin} has {start} rows instead of {count}: it is being written, or damaged")
    return Sample(rng.permutation(np.concatenate(rows)), lots, np.concatenate(kept)[np.argsort(lots[held])])


def _build_one(
    vectors: Vectors, work: Path, metric: str, requirements: IndexRequirements, trial: Candidate, sample: Sample, events: Events
) -> tuple[Built | None, float]:
    """Build an index of this spec; returns None and the recall if it is below the target."""
    spec = trial.spec
    exact = spec.kind == "flat" or not len(sample.queries)
    shards = requirements.shards_of(spec, vectors.count, vectors.dim)
    shard_rows = None if shards == 1 else -(-vectors.count // shards)
    builder = IndexBuilder(spec, vectors.dim, metric, work, sample.rows, shard_rows)
    to_tune, to_measure = (Truth(queries, metric, min(DEEPEST, vectors.count)) for queries in sample.halves())
    with IdsWriter(work / files.IDS) as ids:
        for columns, block in blocks(vectors, metric):
            lots = sample.lots[builder.count : builder.count + len(block)]
            builder.add(block, None if exact else lots)
            if not exact:
                for truth in (to_tune, to_measure):
                    truth.see(block[np.isnan(lots)], 0)
            ids.add(columns)
            events.step("added", builder.count, vectors.count)
    figures = Figures(
        target=requirements.recall, workload=requirements.workload, memory=trial.memory, why=trial.why,
        recall=1.0, recall_at=dict.fromkeys(map(str, STATED), 1.0), recall_queries=0,
        measured_rows=vectors.count, asked=requirements.kind, max_memory=requirements.max_memory,
    )  # fmt: skip
    levels: Levels = {}
    if not exact:
        events.say("tuning it for 1 to 1000 neighbors")
        levels, highest = tune_all(builder.open(), spec, to_tune, requirements.recall, requirements.workload)
        if not levels:
            builder.discard()
            return None, highest
        to_measure.see(builder.let_in(but=sample.half), 0)
        figures = replace(figures, **measure(builder.open(), spec, levels, to_measure))
    elif len(sample.queries):
        figures = replace(figures, **speeds(builder.open(), spec, levels, to_measure))
    builder.write()
    return Built(spec, levels, vectors.count, figures), 1.0


def requirements_of(
    recall: float, memory: int | None, kind: str, workload: str = "batch", max_memory: int | None = None,
    shards: int | None = None,
) -> IndexRequirements:  # fmt: skip
    """Requirements; by default searching may use half of ``max_memory``, or half of the free memory.

    Raises UsageError if the memory is less than building needs at least.
    """
    if max_memory is not None and max_memory < LEAST_MEMORY:
        raise UsageError(f"{max_memory >> 20} MiB are not enough to build an index: --build-memory must be at least 768M")
    free = max_memory or available_memory()
    limit = max_memory or int(BUILD_SHARE * free)
    return IndexRequirements(recall, memory or int(SEARCH_SHARE * free), kind, workload, limit, shards)


def build_into(
    out: Path, vectors: Vectors, metric: str, requirements: IndexRequirements, events: Events, overwrite: bool = False
) -> None:
    """Build the index folder ``out``. Raises RetrievalError if it is something else, or busy."""
    with atomic.exclusive(out, RetrievalError):
        claim(out, overwrite)
        with files.update(out) as work:
            built = build(vectors, work, metric, requirements, events)
            files.commit_update(out, describe(built, vectors, metric))


def describe(built: Built, vectors: Vectors, metric: str) -> IndexMetadata:
    """Contents of ``index.json``, without hashes of files."""
    import faiss

    from sslfeat import __version__

    return IndexMetadata(
        spec=built.spec, factory=built.spec.factory, metric=metric,
        settings={str(depth): settings for depth, settings in built.levels.items()}, dim=vectors.dim,
        rows=built.rows, removed=0, built_rows=built.rows,
        figures=built.figures, encoder=vectors.encoder, origin=vectors.origin,
        versions={"sslfeat": __version__, "faiss": faiss.__version__}, files={},
    )  # fmt: skip


def claim(folder: Path, overwrite: bool) -> None:
    """Raise RetrievalError if ``folder`` contains an index not to be replaced, or other files. Requires the lock."""
    files.finish_update(folder)
    check_free(folder, overwrite)


def check_free(folder: Path, overwrite: bool) -> None:
    """As ``claim`` but without the lock, to fail before images are embedded."""
    if (folder / files.META).exists():
        if not overwrite:
            raise RetrievalError(f"{folder} already contains an index", f"update it with --sync, or replace it with {OVERWRITE}")
        return
    own = {staged.UPDATE, files.FEATURES, atomic.LOCK_NAME}
    present = folder.iterdir() if folder.is_dir() else ()
    names = [path.name for path in present if not files.is_own(path.name) and not path.name.endswith(files.VERIFIED)]
    strangers = sorted({*names} - own)
    if strangers:
        raise RetrievalError(f"{folder} contains other files ({strangers[0]}, ...)", "choose a new or empty folder")
