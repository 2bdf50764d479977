"""Random numbers that do not depend on the number of processes.

Random parameters of images (crops, rotations, colors) are drawn for the whole batch on every process, which uses those of its
own images. Two processes therefore see the same views as one, and a run can be resumed with another number of processes. Other
random numbers come directly from the generator, which differs between processes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sslfeat.models.engine.distributed import rank, world_size


class StepGenerator(torch.Generator):
    """A process's own generator, and ``shared``, which yields the same numbers on every process."""

    shared: torch.Generator

    def reseed(self, own: int, shared: int) -> None:
        """Reseed both. A single process draws everything from one generator."""
        self.shared = self if world_size() == 1 else torch.Generator(self.device)
        self.shared.manual_seed(shared)
        self.manual_seed(own)


def for_images(draw: Callable[[list[int], torch.Generator], Tensor], shape: tuple[int, ...], generator: torch.Generator,
               axis: int = 0) -> Tensor:  # fmt: skip
    """``draw(shape, generator)``, where ``axis`` holds the images of this process: blocks of N, one value per image.

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
    """Float tensor of independent samples from [low, high), on the generator's device; ``axis`` holds images."""
    drawn = for_images(lambda size, source: torch.rand(size, generator=source, device=source.device), shape, generator, axis)
    return drawn * (high - low) + low


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Float tensor of independent samples from a standard normal distribution; the first axis holds images."""
    return for_images(lambda size, source: torch.randn(size, generator=source, device=source.device), shape, generator)


def whole_numbers(shape: tuple[int, ...], low: int, high: int, generator: torch.Generator, axis: int = 0) -> Tensor:
    """Independent integers from low to high, inclusive, on the generator's device; ``axis`` holds images."""

    def draw(size: list[int], source: torch.Generator) -> Tensor:
        return torch.randint(low, high + 1, size, generator=source, device=source.device)

    return for_images(draw, shape, generator, axis)
