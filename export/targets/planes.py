"""The input layout of most mobile runtimes: float32 (N, 3, S, S), values 0 to 255."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslfeat.models.engine.frozen import FrozenEncoder


class Planes(nn.Module):
    """``encoder`` without its change of layout; scaling and normalization are kept."""

    def __init__(self, encoder: FrozenEncoder) -> None:
        super().__init__()
        self.inner = encoder

    def forward(self, image: Tensor) -> Tensor:
        """float32 (N, 3, S, S), 0 to 255, to float32 (N, D)."""
        embedding: Tensor = self.inner.embed(image / 255)
        return embedding


def example(size: int) -> Tensor:
    """Example input for tracing."""
    return torch.zeros(1, 3, size, size)
