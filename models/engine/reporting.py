"""How a run speaks while it lasts, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class TrainProgress:
    """What a report shows: share of the budget spent, step, images a second, smoothed loss and other figures."""

    share: float
    step: int
    images_per_second: float
    figures: dict[str, float]


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, the steps taken, the number of ``images`` learned from, and those that could not be read.

    ``fault``: a sentence if it ended below where it began, or with nothing learned (see ``verdict``).
    ``first``, ``last``: what the encoder was like at the start and, as it is kept, at the end.
    ``seconds`` of training and of ``looking`` at the encoder, of all its sessions if it was resumed.
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
    """How a run speaks: override what you want to hear."""

    loading: Callable[[int, int], None] = lambda done, total: None
    preparing: Callable[[str, int, int], None] = lambda what, done, total: None
    training: Callable[[TrainProgress], None] = lambda progress: None
    warn: Callable[[str], None] = lambda message: None
    look: Callable[[int, dict[str, float]], None] = lambda step, figures: None
    stepped: Callable[[float, int], None] = lambda share, step: None  # after every step, where figures come now and then
