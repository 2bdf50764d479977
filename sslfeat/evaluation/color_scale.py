"""Columns of metadata as the groups of a map: texts as they are, numbers in ranges of about as many images each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sslfeat.errors import UsageError, did_you_mean
from sslfeat.features.reader import FeaturesFolder

RAMP = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725")  # viridis, low to high


def column_of(folder: FeaturesFolder, name: str) -> list[str | None]:
    """A column's value for each row of a features folder. Raises UsageError if there is no such column."""
    values: list[str | None] = []
    for part in folder.parts():
        check_column(name, part.columns.column_names, folder.folder)
        values += [None if value is None else str(value) for value in part.columns[name].to_pylist()]
    return values


def check_column(name: str, columns: Iterable[str], of: Path) -> None:
    """Raise UsageError if ``name`` is none of the ``columns`` of what is colored."""
    if name not in columns:
        known = ["label", "cluster", *(other for other in columns if other not in ("label", "embedding"))]
        raise UsageError(f"--color {name}: {of} has no such column: give one of {', '.join(known)}", did_you_mean(name, known))


def ranges(values: Sequence[str | None]) -> tuple[list[str | None], tuple[str, ...]]:
    """The range of each value that is a number, and all ranges from low to high, as many as RAMP has colors or fewer.

    Values of which one is no number, or of few different ones, are given back as they are, without ranges.
    """
    try:
        numbers = [math.nan if value is None else float(value) for value in values]
    except ValueError:
        return list(values), ()
    known = np.array(numbers)[np.isfinite(numbers)]
    if len(np.unique(known)) <= len(RAMP):
        return list(values), ()
    edges = np.unique(np.quantile(known, np.linspace(0, 1, len(RAMP) + 1), method="lower"))
    names = tuple(f"{low:.15g} to {high:.15g}" for low, high in itertools.pairwise(edges))
    places = np.searchsorted(edges[1:-1], numbers, side="right").tolist()
    return [names[place] if math.isfinite(number) else None for place, number in zip(places, numbers, strict=True)], names
