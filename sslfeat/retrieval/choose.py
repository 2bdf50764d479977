"""Which index? Each kind that fits in memory is built on a sample and tuned; the fastest that finds enough is taken.

Where there are more vectors than the sample has, two sizes of sample say how a kind slows down as it grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sslfeat.errors import RetrievalError, UsageError
from sslfeat.retrieval.builder import Builder
from sslfeat.retrieval.exact import Truth
from sslfeat.retrieval.kinds import KINDS, Plan, plans
from sslfeat.retrieval.tuning import WORKLOADS, Tuned, tune, with_margin
from sslfeat.retrieval.vectors import FloatArray

SMALL = 10_000  # vectors: comparing with all takes milliseconds, so nothing else is tried
FIRST_SAMPLE = 25_000
HOPELESS = 4  # times slower than the best on the first sample, and not tried on the second


@dataclass(frozen=True)
class Trial:
    """What came of a kind: ``per_second`` is expected of all vectors, None if it was not to be had, and ``why``."""

    plan: Plan
    memory: int
    recall: float | None
    per_second: float | None
    why: str


@dataclass(frozen=True)
class Wish:
    """What is asked of an index: recall, bytes of memory, speed for batches of queries or single ones, its kind."""

    recall: float = 0.95
    memory: int = 1 << 30
    kind: str = "auto"
    workload: str = "batch"

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise UsageError(f"recall is {self.recall}: it lies above 0 and up to 1")
        if self.kind not in ("auto", *KINDS):
            raise UsageError(f"kind {self.kind!r} is unknown: auto, {', '.join(KINDS)}")
        if self.workload not in WORKLOADS:
            raise UsageError(f"workload {self.workload!r} is unknown: {' or '.join(WORKLOADS)}")


def choose(
    sample: FloatArray, queries: FloatArray, count: int, metric: str, wish: Wish, work: Path, say: Callable[[str], None]
) -> list[Trial]:
    """Plans that can be built for ``count`` vectors like ``sample``, the best first; those that cannot come last.

    Files are made in the folder ``work``, and go.
    """
    dim = sample.shape[1]
    wanted = [plan for plan in plans(count, dim) if wish.kind in ("auto", plan.kind)]
    fitting = [plan for plan in wanted if plan.memory(count, dim) <= wish.memory]
    trials = [_too_large(plan, count, dim, wish) for plan in wanted if plan not in fitting]
    if (flat := Plan("flat")) in fitting and (count <= SMALL or wish.recall == 1):
        why = "exact" if wish.recall == 1 else f"exact, and soon done with {count} vectors"
        return [Trial(flat, flat.memory(count, dim), 1.0, None, why), *trials]
    if fitting and (len(wanted) == 1 or not len(queries)):
        return [Trial(fitting[0], fitting[0].memory(count, dim), None, None, "asked for")]
    most_codes = max((plan.codes for plan in fitting), default=0)
    fitting = [plan for plan in fitting if plan.codes in (0, most_codes)]
    sizes = [len(sample)] if count <= len(sample) else [min(FIRST_SAMPLE, len(sample) // 2), len(sample)]
    speeds: dict[Plan, list[tuple[int, Tuned]]] = {plan: [] for plan in fitting}
    for size in sizes:
        truth = Truth(queries, metric)
        truth.see(sample[:size], 0)
        tried = [plan for plan in fitting if len(speeds[plan]) == sizes.index(size)]
        leader = max((found[-1][1].per_second for found in speeds.values() if found), default=0.0)
        for plan in tried:
            if speeds[plan] and speeds[plan][-1][1].per_second * HOPELESS < leader:
                continue
            tuned, highest = _try(_same(plan, size, dim), sample[:size], truth, wish, work)
            if tuned is None:
                trials.append(_fails(plan, count, dim, highest, size))
                continue
            speeds[plan].append((size, tuned))
            say(f"{plan.kind} on {size} rows: {tuned.per_second:.0f} queries/s at recall {tuned.recall:.3f}")
    usable = [_expected(plan, count, dim, found) for plan, found in speeds.items() if len(found) == len(sizes)]
    return sorted(usable, key=lambda trial: -(trial.per_second or 0)) + trials


def refuse(trials: Sequence[Trial], count: int, dim: int, wish: Wish) -> RetrievalError:
    """The error to raise where no plan will do, which says what to give up."""
    best = max((trial.recall or 0 for trial in trials if trial.memory <= wish.memory), default=0)
    needed = Plan("flat").memory(count, dim)
    cures = [f"--memory {-(-needed // (1 << 20))}M, for exact search"] if wish.kind == "auto" else ["--kind auto"]
    if best > 0:
        cures.insert(0, f"--recall {math.floor(100 * best) / 100:.2f}, the best that was reached in it")
    reasons = "; ".join(f"{trial.plan.kind}: {trial.why}" for trial in trials)
    return RetrievalError(
        f"no index finds {wish.recall:.0%} of the neighbours within {wish.memory >> 20} MiB. Give {' or '.join(cures)}. "
        f"Tried: {reasons}"
    )


def _too_large(plan: Plan, count: int, dim: int, wish: Wish) -> Trial:
    memory = plan.memory(count, dim)
    return Trial(plan, memory, None, None, f"takes {memory >> 20} MiB, {wish.memory >> 20} MiB were granted")


def _fails(plan: Plan, count: int, dim: int, highest: float, size: int) -> Trial:
    return Trial(plan, plan.memory(count, dim), highest, None, f"reached recall {highest:.3f} on {size} rows")


def _try(plan: Plan, rows: FloatArray, truth: Truth, wish: Wish, work: Path) -> tuple[Tuned | None, float]:
    builder = Builder(plan, rows.shape[1], truth.metric, work, rows)
    try:
        builder.add(rows)
        return tune(builder.open(), plan, truth, with_margin(wish.recall), workload=wish.workload)
    finally:
        builder.discard()


def _same(plan: Plan, size: int, dim: int) -> Plan:
    """The plan of the same make for ``size`` rows: their lists are fewer."""
    if plan.lists <= 1:
        return plan
    lists = max(candidate.lists for candidate in plans(size, dim))
    return Plan(plan.kind, lists, plan.codes, plan.links)


def _expected(plan: Plan, count: int, dim: int, found: list[tuple[int, Tuned]]) -> Trial:
    size, tuned = found[-1]
    rate, why = tuned.per_second, f"{tuned.per_second:.0f} queries/s on {size} rows"
    if len(found) > 1:
        first_size, first = found[0]
        power = math.log(tuned.per_second / first.per_second) / math.log(size / first_size)
        rate *= (count / size) ** min(max(power, -1.1), 0)
        why += f", {first.per_second:.0f} on {first_size}: {rate:.0f} are expected of {count}"
    return Trial(plan, plan.memory(count, dim), tuned.recall, rate, why)
