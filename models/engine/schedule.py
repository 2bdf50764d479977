"""How much of a run is done, the learning rate that goes with it, and when the encoder is looked at."""

from __future__ import annotations

import math

from sslfeat.models.engine.config import TrainConfig

WARM_UP = 0.03  # share of the budget in which the learning rate rises
LOOKS = 10  # at the encoder over the whole budget, besides the one before the first step
LOOKING = 0.1  # share of the training time so far that the looks between the first and the last may take
FREE_SECONDS = 2.0  # that they may take in any case, so that short runs are looked at, too


def share_spent(config: TrainConfig, step: int, steps_per_epoch: int, seconds: float) -> float:
    """Share of the budget spent: the largest of those of steps, epochs and minutes."""
    return max(shares(config, step, steps_per_epoch, seconds).values())


def shares(config: TrainConfig, step: int, steps_per_epoch: int, seconds: float) -> dict[str, float]:
    """Of each budget that is given, ``steps``, ``epochs`` or ``minutes``, the share that is spent."""
    limits = {
        "steps": (step, config.steps),
        "epochs": (step, None if config.epochs is None else config.epochs * steps_per_epoch),
        "minutes": (seconds, None if config.minutes is None else 60 * config.minutes),
    }
    return {name: 1.0 if limit <= 0 else spent / limit for name, (spent, limit) in limits.items() if limit is not None}


def ended_by(spent: dict[str, float]) -> str | None:
    """Which of several budgets ended a run, in a sentence; None if there was but one."""
    if len(spent) < 2:
        return None
    first = max(spent, key=lambda name: spent[name])
    rest = ", ".join(f"{share:.0%} of --{name}" for name, share in spent.items() if name != first)
    return f"--{first} ended the run, the first budget that was spent; of the others it took {rest}"


class LookSchedule:
    """When a look at the encoder is due: before step 0, and once in every tenth of the budget, as far as looks are cheap.

    One that would take more than LOOKING of the seconds trained so far waits until it would not. ``every``: none waits, since
    the looks decide what is kept. ``spent``: seconds of looks before, in a run that goes on.
    """

    def __init__(self, spent: float = 0.0, every: bool = False) -> None:
        self._spent, self._every = spent, every
        self._looked: int | None = None
        self._last = 0.0  # seconds of the last look, which the next is taken to need

    def due(self, step: int, share: float, trained: float) -> bool:
        """Whether to look now, ``share`` of the budget being spent and ``trained`` seconds, looks left out."""
        now = int(share * LOOKS)
        if self._looked is None:
            self._looked = now
            return step == 0
        affordable = self._spent + self._last <= max(FREE_SECONDS, LOOKING * trained)
        if now == self._looked or not (affordable or self._every):
            return False
        self._looked = now
        return True

    def took(self, step: int, seconds: float) -> None:
        """A look took so long; that before the first step counts for nothing but the next one's length."""
        self._last = seconds
        self._spent += seconds if step else 0.0


def learning_rate(peak: float, share: float) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    rate = share / WARM_UP if share < WARM_UP else 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
    return peak * max(rate, 1e-3)
