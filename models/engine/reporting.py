"""Progress reports and the result of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class TrainProgress:
    """Contents of a report: completed fraction of the budget, step, images per second, smoothed loss and other figures."""

    share: float
    step: int
    images_per_second: float
    figures: dict[str, float]


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, number of steps, number of training ``images``, and unreadable images.

    ``fault``: a sentence if the encoder got worse or learned nothing (see ``verdict``), else None.
    ``first``, ``last``: evaluations of the initial and of the final encoder.
    ``seconds`` of training and of evaluation (``looking``), over all sessions of a resumed run.
    """

    run: Path
    steps: int
    failures: tuple[tuple[str, str], ...]
    fault: str | None = None
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    looking: float = 0.0


@dataclass
class Reporter:
    """Callbacks of a run; override those of interest."""

    loading: Callable[[int, int], None] = lambda done, total: None
    preparing: Callable[[str, int, int], None] = lambda what, done, total: None
    training: Callable[[TrainProgress], None] = lambda progress: None
    warn: Callable[[str], None] = lambda message: None
    look: Callable[[int, dict[str, float]], None] = lambda step, figures: None
    stepped: Callable[[float, int], None] = lambda share, step: None  # after every step; other reports are less frequent
