"""Momentum encoder: exponential moving average of a network's weights (Tarvainen, Valpola 2017, section 2)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """Frozen copies of ``students``, applied in sequence, whose weights are moving averages of the students' weights.

    Buffers, such as those of batch normalization, are not averaged. The students themselves are not submodules.
    """

    def __init__(self, *students: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(copy.deepcopy(student) for student in students)
        self.requires_grad_(False)

    @torch.no_grad()
    def follow(self, students: tuple[nn.Module, ...], momentum: float) -> None:
        """Update the weights to ``momentum`` times themselves plus (1 - ``momentum``) times those of the students."""
        for part, student in zip(self.parts, students, strict=True):
            for own, other in zip(part.parameters(), student.parameters(), strict=True):
                own.lerp_(other, 1 - momentum)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


def rising(momentum: float, share: float) -> float:
    """Cosine schedule from ``momentum`` to 1 over the run (Grill et al. 2020, section 3.2)."""
    return 1 - (1 - momentum) * (math.cos(math.pi * share) + 1) / 2
