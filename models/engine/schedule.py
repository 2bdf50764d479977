"""How much of a run is done, and the learning rate that goes with it."""

from __future__ import annotations

import math

from sslfeat.models.engine.config import TrainConfig

WARM_UP = 0.03  # share of the budget in which the learning rate rises


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


def learning_rate(peak: float, share: float) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    rate = share / WARM_UP if share < WARM_UP else 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
    return peak * max(rate, 1e-3)
