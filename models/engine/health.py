"""Result of a finished run, with a sentence if it failed to learn."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path

from sslfeat.models.engine.meter import at_chance
from sslfeat.models.engine.online_eval import WATCH_NAME, collapse

PROBE = "linear"  # the column of watch.csv for the verdict


@dataclass(frozen=True)
class RunResult:
    """``result.json``: steps, images, seconds of training, last figures, first and last evaluation of the encoder.

    ``fault``: a sentence if the encoder got worse or learned nothing, else None.
    """

    steps: int
    images: int
    failures: int
    seconds: float
    figures: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    fault: str | None = None


def find_fault(figures: dict[str, float], first: dict[str, float], last: dict[str, float], asked: int = 0) -> str | None:
    """Verdict from the mean figures of the last steps, and from the first and the last evaluation; a drop of the probe accuracy
    on ``asked`` images within the sampling error is ignored."""
    faults = [at_chance(figures), collapse(last) if last else None]
    if PROBE in first and PROBE in last and first[PROBE] - last[PROBE] > _chance(first[PROBE], last[PROBE], asked):
        faults.append(
            f"the probe accuracy decreased: {last[PROBE]:.1%} of the probe images are correct, "
            f"{first[PROBE]:.1%} with the initial encoder"
        )
    found = [fault for fault in faults if fault]
    return "; ".join(found) + ": try more steps, a lower --lr, or another method" if found else None


def _chance(one: float, other: float, asked: int) -> float:
    """Twice the standard deviation of the difference of two such accuracies on ``asked`` images; 0 if unknown."""
    return 2 * math.sqrt((one * (1 - one) + other * (1 - other)) / asked) if asked else 0.0


def looks(run: Path, kept: int | None = None) -> tuple[dict[str, float], dict[str, float]]:
    """The first row of ``watch.csv``, and the last row or that of the ``kept`` step; empty if there is none."""
    path = run / WATCH_NAME
    if not path.exists():
        return {}, {}
    with path.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    ends = [row for row in rows if kept is None or row["step"] == kept]
    return (rows[0], ends[-1]) if ends else ({}, {})
