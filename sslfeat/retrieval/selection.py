"""Selection of the index kind: each that fits in memory is built on a sample and tuned; the fastest with enough recall is taken.

Two sample sizes are used to extrapolate the speed to all vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sslfeat.errors import RetrievalError, UsageError
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.faiss_builder import Builder
from sslfeat.retrieval.ground_truth import Truth
from sslfeat.retrieval.index_types import KINDS, IndexSpec, specs_for
from sslfeat.retrieval.tuning import WORKLOADS, Tuned, tune, with_margin

WORKING = 576 << 20  # bytes that building takes beside the index: the program, blocks of rows, exact neighbors
SAMPLE, SAMPLE_SHARE = 100_000, 1 / 8  # rows to try and train on, and of the memory for building what they may take
SMALL = 10_000  # vectors for which exhaustive search takes milliseconds
FIRST_SAMPLE = 25_000
HOPELESS = 4  # times slower than the best on the first sample, and not tried on the second


@dataclass(frozen=True)
class Candidate:
    """Result for a kind: expected queries ``per_second`` for all vectors, None if unsuitable, and ``why``."""

    spec: IndexSpec
    memory: int
    recall: float | None
    per_second: float | None
    why: str


@dataclass(frozen=True)
class IndexRequirements:
    """Requirements of an index: recall, bytes of memory, batch or single queries, kind.

    ``memory`` for searching, ``max_memory`` for building; built in ``shards``, or as many as needed.
    """

    recall: float = 0.95
    memory: int = 1 << 30
    kind: str = "auto"
    workload: str = "batch"
    max_memory: int = 1 << 40
    shards: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise UsageError(f"recall is {self.recall}, but must be above 0 and at most 1")
        if self.kind not in ("auto", *KINDS):
            raise UsageError(f"kind {self.kind!r} is unknown: auto, {', '.join(KINDS)}")
        if self.workload not in WORKLOADS:
            raise UsageError(f"workload {self.workload!r} is unknown: {' or '.join(WORKLOADS)}")
        if self.shards is not None and self.shards < 1:
            raise UsageError(f"shards is {self.shards}, but must be at least 1")

    def shards_of(self, spec: IndexSpec, count: int, dim: int) -> int:
        """Number of files for an index of ``count`` vectors."""
        if self.shards is not None:
            return min(self.shards, count)
        sampled = min(self.sample_rows(dim), count) * 4 * dim
        room = max(self.max_memory - WORKING - sampled, self.max_memory // 8)
        return max(1, math.ceil(spec.building(count, dim) / room))

    def sample_rows(self, dim: int) -> int:
        """Number of rows for trials and training."""
        return min(SAMPLE, int(SAMPLE_SHARE * self.max_memory) // (4 * dim))

    def memory_of(self, spec: IndexSpec, count: int, dim: int) -> int:
        """Bytes of memory for searching."""
        return spec.memory(count, dim, on_disk=self.shards_of(spec, count, dim) > 1)


def choose(
    sample: FloatArray,
    queries: FloatArray,
    count: int,
    metric: str,
    requirements: IndexRequirements,
    work: Path,
    say: Callable[[str], None],
) -> list[Candidate]:
    """Specs for ``count`` vectors like ``sample``, best first; unsuitable ones last.

    Temporary files are created in ``work``.
    """
    dim = sample.shape[1]
    requested = [spec for spec in specs_for(count, dim) if requirements.kind in ("auto", spec.kind)]
    fitting = [spec for spec in requested if requirements.memory_of(spec, count, dim) <= requirements.memory]
    trials = [_too_large(spec, count, dim, requirements) for spec in requested if spec not in fitting]
    if (flat := IndexSpec("flat")) in fitting and (count <= SMALL or requirements.recall == 1):
        why = "exact" if requirements.recall == 1 else f"exact search is fast for {count} vectors"
        return [Candidate(flat, flat.memory(count, dim), 1.0, None, why), *trials]
    if fitting and (len(requested) == 1 or not len(queries)):
        return [Candidate(fitting[0], requirements.memory_of(fitting[0], count, dim), None, None, "asked for")]
    most_codes = max((spec.pq_m for spec in fitting), default=0)
    fitting = [spec for spec in fitting if spec.pq_m in (0, most_codes)]
    sizes = [len(sample)] if count <= len(sample) else [min(FIRST_SAMPLE, len(sample) // 2), len(sample)]
    speeds: dict[IndexSpec, list[tuple[int, Tuned]]] = {spec: [] for spec in fitting}
    for size in sizes:
        truth = Truth(queries, metric)
        truth.see(sample[:size], 0)
        tried = [spec for spec in fitting if len(speeds[spec]) == sizes.index(size)]
        leader = max((found[-1][1].per_second for found in speeds.values() if found), default=0.0)
        for spec in tried:
            if speeds[spec] and speeds[spec][-1][1].per_second * HOPELESS < leader:
                continue
            tuned, highest = _try(_same(spec, size, dim), sample[:size], truth, requirements, work)
            if tuned is None:
                trials.append(_fails(spec, count, dim, highest, size))
                continue
            speeds[spec].append((size, tuned))
            say(f"{spec.kind} on {size} rows: {tuned.per_second:.0f} queries/s at recall {tuned.recall:.3f}")
    usable = [_expected(spec, count, dim, found, requirements) for spec, found in speeds.items() if len(found) == len(sizes)]
    return sorted(usable, key=lambda trial: -(trial.per_second or 0)) + trials


def refuse(trials: Sequence[Candidate], count: int, dim: int, requirements: IndexRequirements) -> RetrievalError:
    """Error if no spec meets the requirements, with the requirements to relax."""
    best = max((trial.recall or 0 for trial in trials if trial.memory <= requirements.memory), default=0)
    needed = IndexSpec("flat").memory(count, dim)
    cures = [f"--memory {-(-needed // (1 << 20))}M, for exact search"] if requirements.kind == "auto" else ["--kind auto"]
    if best > 0:
        cures.insert(0, f"--recall {math.floor(100 * best) / 100:.2f}, the best reached")
    reasons = "; ".join(f"{trial.spec.kind}: {trial.why}" for trial in trials)
    return RetrievalError(
        f"no index reaches recall {requirements.recall:.2f} within {requirements.memory >> 20} MiB. "
        f"Give {' or '.join(cures)}. Tried: {reasons}"
    )


def _too_large(spec: IndexSpec, count: int, dim: int, requirements: IndexRequirements) -> Candidate:
    memory = spec.memory(count, dim)
    return Candidate(spec, memory, None, None, f"takes {memory >> 20} MiB of {requirements.memory >> 20} MiB allowed")


def _fails(spec: IndexSpec, count: int, dim: int, highest: float, size: int) -> Candidate:
    return Candidate(spec, spec.memory(count, dim), highest, None, f"reached recall {highest:.3f} on {size} rows")


def _try(
    spec: IndexSpec, rows: FloatArray, truth: Truth, requirements: IndexRequirements, work: Path
) -> tuple[Tuned | None, float]:
    builder = Builder(spec, rows.shape[1], truth.metric, work, rows)
    try:
        builder.add(rows)
        return tune(builder.open(), spec, truth, with_margin(requirements.recall), workload=requirements.workload)
    finally:
        builder.discard()


def _same(spec: IndexSpec, size: int, dim: int) -> IndexSpec:
    """The same kind of spec for ``size`` rows, with fewer lists."""
    if spec.nlist <= 1:
        return spec
    lists = max(candidate.nlist for candidate in specs_for(size, dim))
    return IndexSpec(spec.kind, lists, spec.pq_m, spec.hnsw_m)


def _expected(
    spec: IndexSpec, count: int, dim: int, found: list[tuple[int, Tuned]], requirements: IndexRequirements
) -> Candidate:
    size, tuned = found[-1]
    rate, why = tuned.per_second, f"{tuned.per_second:.0f} queries/s on {size} rows"
    if len(found) > 1:
        first_size, first = found[0]
        power = math.log(tuned.per_second / first.per_second) / math.log(size / first_size)
        rate *= (count / size) ** min(max(power, -1.1), 0)
        why += f", {first.per_second:.0f} on {first_size}; {rate:.0f} expected on {count}"
    return Candidate(spec, requirements.memory_of(spec, count, dim), tuned.recall, rate, why)
