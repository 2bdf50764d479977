"""What a finished run came to, in a sentence if it came to nothing."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path

from sslfeat.models.engine.meter import at_chance
from sslfeat.models.engine.online_eval import WATCH_NAME, collapse

PROBE = "linear"  # the figure of watch.csv that a run is judged by


@dataclass(frozen=True)
class RunResult:
    """``result.json``: steps, images, seconds of training, the last figures, the first look at the encoder and the last.

    ``fault``: a sentence if the run ended below where it began, or with nothing learned; None if there is nothing to say.
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
    """From the mean figures of the last steps, and the first and the last look at the encoder, whose probe ``asked`` so many
    images: a drop that two draws of as many could differ by is none."""
    faults = [at_chance(figures), collapse(last) if last else None]
    if PROBE in first and PROBE in last and first[PROBE] - last[PROBE] > _chance(first[PROBE], last[PROBE], asked):
        faults.append(
            f"the probe ended below where it began: {last[PROBE]:.1%} of the probe images right, "
            f"{first[PROBE]:.1%} by the encoder it began with"
        )
    found = [fault for fault in faults if fault]
    return "; ".join(found) + ": try more steps, a lower --lr, or another method" if found else None


def _chance(one: float, other: float, asked: int) -> float:
    """Twice the standard deviation of the difference of two such shares of ``asked`` images, 0 where that is not known."""
    return 2 * math.sqrt((one * (1 - one) + other * (1 - other)) / asked) if asked else 0.0


def looks(run: Path, kept: int | None = None) -> tuple[dict[str, float], dict[str, float]]:
    """The first row of ``watch.csv`` and the last, or that of the weights that were ``kept``, by their step; empty where there
    is none."""
    path = run / WATCH_NAME
    if not path.exists():
        return {}, {}
    with path.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    ends = [row for row in rows if kept is None or row["step"] == kept]
    return (rows[0], ends[-1]) if ends else ({}, {})
