"""How much of a run is done, and the learning rate that goes with it."""

from __future__ import annotations

import math

from sslfeat.models.engine.config import TrainConfig

WARM_UP = 0.03  # share of the budget in which the learning rate rises


def share_spent(config: TrainConfig, step: int, steps_per_epoch: int, seconds: float) -> float:
    """Share of the budget spent: the largest of those of steps, epochs and minutes."""
    limits = (
        (step, config.steps),
        (step, None if config.epochs is None else config.epochs * steps_per_epoch),
        (seconds, None if config.minutes is None else 60 * config.minutes),
    )
    return max(1.0 if limit <= 0 else spent / limit for spent, limit in limits if limit is not None)


def learning_rate(peak: float, share: float) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    rate = share / WARM_UP if share < WARM_UP else 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
    return peak * max(rate, 1e-3)
