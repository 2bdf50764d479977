"""Calls of a method's hooks between steps; invalid return values raise an error with file and line."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from sslfeat.models.engine.data import Images
from sslfeat.models.method import Indices, Method
from sslfeat.models.own_file import check_hook


def choose(method: Method, drawn: Indices, generator: torch.Generator, count: int) -> Indices:
    """Image indices (B,) of a batch, out of ``count``, given the sampled ones. Raises TrainingError."""
    chosen = method.choose(drawn, generator)
    numbers = isinstance(chosen, np.ndarray) and chosen.shape == drawn.shape and np.issubdtype(chosen.dtype, np.integer)
    valid = numbers and chosen.min() >= 0 and chosen.max() < count
    check_hook(type(method), "choose", valid, f"{len(drawn)} indices of images, an array of integers")
    return chosen


def cycle_begins(method: Method, step: int, steps_per_epoch: int) -> bool:
    """Whether a cycle of the method begins with this step. Raises TrainingError."""
    steps = method.cycle_steps(steps_per_epoch)
    check_hook(type(method), "cycle_steps", isinstance(steps, int) and steps > 0, "a number of steps, 1 or more")
    return step % steps == 0


def begin_cycle(method: Method, images: Images, generator: torch.Generator) -> Iterable[nn.Parameter]:
    """The parameters that were reinitialized. Raises TrainingError."""
    afresh = method.on_cycle(images, generator)
    check_hook(type(method), "on_cycle", isinstance(afresh, Iterable), "the parameters that were reinitialized, () for none")
    return afresh
