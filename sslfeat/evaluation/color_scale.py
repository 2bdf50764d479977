"""Color groups of a map from a metadata column: text values unchanged, numbers and dates binned into quantiles."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

from sslfeat.errors import UsageError, did_you_mean
from sslfeat.features.reader import FeaturesFolder
from sslfeat.system.dates import Moment

T = TypeVar("T", float, datetime)
Ranges = tuple[list[str | None], tuple[str, ...]]

RAMP = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725")  # viridis, low to high
FEW, MANY, LARGE = 3, 9, 1e15  # number of decimals, and size of numbers
DAY, MINUTE, SECOND = 10, 16, 19  # length of an ISO date


def column_of(folder: FeaturesFolder, name: str) -> list[str | None]:
    """Value of a column for each row of a features folder. Raises UsageError if there is no such column."""
    values: list[str | None] = []
    for part in folder.parts():
        check_column(name, part.columns.column_names, folder.folder)
        values += [None if value is None else str(value) for value in part.columns[name].to_pylist()]
    return values


def check_column(name: str, columns: Iterable[str], of: Path) -> None:
    """Raise UsageError if ``name`` is not among the ``columns``."""
    if name not in columns:
        known = ["label", "cluster", *(other for other in columns if other not in ("label", "embedding"))]
        raise UsageError(f"--color {name}: {of} has no such column: choose one of {', '.join(known)}", did_you_mean(name, known))


def ranges(values: Sequence[str | None]) -> Ranges:
    """Bin numbers or dates: the range of each value, and all ranges in ascending order (at most one per color of RAMP).

    Values are returned unchanged, without ranges, if any is neither a number nor a date, or if there are few different ones.
    Offsets of dates from UTC are ignored.
    """
    try:
        numbers = [math.nan if value is None else float(value) for value in values]
    except ValueError:
        moments = [None if value is None else Moment.parse(value) for value in values]
        if any(moment is None and value is not None for moment, value in zip(moments, values, strict=True)):
            return list(values), ()
        return _ranged(values, [None if one is None else one.moment.replace(tzinfo=None) for one in moments], _dates)
    return _ranged(values, [number if math.isfinite(number) else None for number in numbers], _numbers)


def _ranged(values: Sequence[str | None], read: Sequence[T | None], write: Callable[[list[T]], list[str]]) -> Ranges:
    """Implement ``ranges`` for parsed values ``read``; ``write`` formats the edges."""
    known = sorted(one for one in read if one is not None)
    if len(set(known)) <= len(RAMP):
        return list(values), ()
    edges = sorted({known[(len(known) - 1) * place // len(RAMP)] for place in range(len(RAMP) + 1)})
    names = tuple(f"{low} to {high}" for low, high in itertools.pairwise(write(edges)))
    return [None if one is None else names[bisect.bisect_right(edges[1:-1], one)] for one in read], names


def _numbers(edges: list[float]) -> list[str]:
    """Format with a common number of decimals: all if they are few, else as many as needed to distinguish the edges."""
    exact = [f"{edge:.15g}" for edge in edges]
    decimals = max(0, *(-int(Decimal(text).as_tuple().exponent) for text in exact))
    if decimals > FEW:
        narrowest = min(high - low for low, high in itertools.pairwise(edges))
        decimals = min(decimals, max(0, 1 - math.floor(math.log10(narrowest))))
    return exact if decimals > MANY or max(map(abs, edges)) > LARGE else [f"{edge:.{decimals}f}" for edge in edges]


def _dates(edges: list[datetime]) -> list[str]:
    """Format as days, or more precisely if needed to distinguish the edges."""
    written = [edge.isoformat(" ", "microseconds") for edge in edges]
    texts = ([text[:length] for text in written] for length in (DAY, MINUTE, SECOND))
    return next((cut for cut in texts if len(set(cut)) == len(cut)), written)
