"""Progress of a run, its learning rate schedule, and when the encoder is evaluated."""

from __future__ import annotations

import math

from sslfeat.models.engine.config import TrainConfig

WARM_UP = 0.03  # fraction of the budget during which the learning rate rises
LOOKS = 10  # evaluations over the whole budget, in addition to the one before the first step
LOOKING = 0.1  # maximum time of evaluations between the first and the last, as a fraction of the training time so far
FREE_SECONDS = 2.0  # always available for evaluations, so that short runs are evaluated as well


def share_spent(config: TrainConfig, step: int, steps_per_epoch: int, seconds: float) -> float:
    """Completed fraction of the budget: the largest of those of steps, epochs and minutes."""
    return max(shares(config, step, steps_per_epoch, seconds).values())


def shares(config: TrainConfig, step: int, steps_per_epoch: int, seconds: float) -> dict[str, float]:
    """Completed fraction of each given budget, ``steps``, ``epochs`` or ``minutes``."""
    limits = {
        "steps": (step, config.steps),
        "epochs": (step, None if config.epochs is None else config.epochs * steps_per_epoch),
        "minutes": (seconds, None if config.minutes is None else 60 * config.minutes),
    }
    return {name: 1.0 if limit <= 0 else spent / limit for name, (spent, limit) in limits.items() if limit is not None}


def ended_by(spent: dict[str, float]) -> str | None:
    """A sentence naming the budget that ended a run with several budgets; None if there was only one."""
    if len(spent) < 2:
        return None
    first = max(spent, key=lambda name: spent[name])
    rest = ", ".join(f"{share:.0%} of --{name}" for name, share in spent.items() if name != first)
    return f"--{first} ended the run, since this budget was reached first; used of the others: {rest}"


class LookSchedule:
    """When to evaluate the encoder: before step 0, and once per tenth of the budget, as far as evaluations are cheap.

    An evaluation that would take more than LOOKING of the training time so far is postponed. ``every``: never postpone, because
    the evaluations determine which weights are kept. ``spent``: seconds of earlier evaluations of a resumed run.
    """

    def __init__(self, spent: float = 0.0, every: bool = False) -> None:
        self._spent, self._every = spent, every
        self._looked: int | None = None
        self._last = 0.0  # seconds of the last evaluation, the estimate for the next

    def due(self, step: int, share: float, trained: float) -> bool:
        """Whether to evaluate now, at the fraction ``share`` of the budget and after ``trained`` seconds of training."""
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
        """Record the duration of an evaluation; the one before the first step only serves as an estimate for the next."""
        self._last = seconds
        self._spent += seconds if step else 0.0


def learning_rate(peak: float, share: float) -> float:
    """Linear warm-up, then cosine decay to zero."""
    rate = share / WARM_UP if share < WARM_UP else 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
    return peak * max(rate, 1e-3)
