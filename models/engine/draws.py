"""Random numbers that do not depend on how many processes train.

What is drawn for each image (its crop, its turn, its colors) is drawn for the whole batch on every process, which takes those
of its own images. So two processes see the views that one would see, and a run resumes on another number of processes. Draws
that are not for an image each come from the generator as it is, which is another on every process.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sslfeat.models.engine.distributed import rank, world_size


class StepGenerator(torch.Generator):
    """A process's own generator, with ``shared``, which draws the same on every process."""

    shared: torch.Generator

    def reseed(self, own: int, shared: int) -> None:
        """Begin both anew. One process has no need of two, and draws all from one."""
        self.shared = self if world_size() == 1 else torch.Generator(self.device)
        self.shared.manual_seed(shared)
        self.manual_seed(own)


def for_images(draw: Callable[[list[int], torch.Generator], Tensor], shape: tuple[int, ...], generator: torch.Generator,
               axis: int = 0) -> Tensor:  # fmt: skip
    """``draw(shape, generator)``, along whose ``axis`` lie the images of this process: blocks of N, one for each of N images.

    The images of a process are every ``world_size()``-th of the batch.
    """
    shared = generator.shared if isinstance(generator, StepGenerator) else generator
    if shared is generator:
        return draw(list(shape), generator)
    whole = list(shape)
    whole[axis] *= world_size()
    drawn = draw(whole, shared)
    return drawn.movedim(axis, 0)[rank() :: world_size()].movedim(0, axis)


def uniform(
    shape: tuple[int, ...], low: float | Tensor, high: float | Tensor, generator: torch.Generator, axis: int = 0
) -> Tensor:
    """Float tensor of independent draws from [low, high), on the generator's device; along ``axis`` lie images."""
    drawn = for_images(lambda size, source: torch.rand(size, generator=source, device=source.device), shape, generator, axis)
    return drawn * (high - low) + low


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Float tensor of independent draws from a standard normal distribution, whose first axis is of images."""
    return for_images(lambda size, source: torch.randn(size, generator=source, device=source.device), shape, generator)


def whole_numbers(shape: tuple[int, ...], low: int, high: int, generator: torch.Generator, axis: int = 0) -> Tensor:
    """Independent draws from low..high, both included, on the generator's device; along ``axis`` lie images."""

    def draw(size: list[int], source: torch.Generator) -> Tensor:
        return torch.randint(low, high + 1, size, generator=source, device=source.device)

    return for_images(draw, shape, generator, axis)
