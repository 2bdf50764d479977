"""Projection heads, which are discarded after training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def mlp(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Two-layer perceptron (N, in_dim) to (N, out_dim) with batch normalization and ReLU (SimCLR's projector)."""
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim, bias=False),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim),
    )


def expander(in_dim: int, hidden_dim: int, out_dim: int | None = None) -> nn.Sequential:
    """Three-layer perceptron (N, in_dim) to (N, out_dim); the default hidden width is out_dim (Barlow Twins' projector)."""
    hidden = [
        (nn.Linear(width, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim), nn.ReLU(inplace=True))
        for width in (in_dim, hidden_dim)
    ]
    return nn.Sequential(*hidden[0], *hidden[1], nn.Linear(hidden_dim, out_dim or hidden_dim, bias=False))


class Prototypes(nn.Module):
    """Cosines (N, K) of rows (N, D) with K learned directions."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dim))

    def forward(self, rows: Tensor, frozen: bool = False) -> Tensor:
        """``frozen``: compute no gradient for the directions."""
        weight = self.weight.detach() if frozen else self.weight
        return functional.normalize(rows, dim=1) @ functional.normalize(weight, dim=1).T


def small_tower(channels: int, out: int) -> nn.Sequential:
    """Map images (N, channels, S, S) to (N, out): three convolutions that each halve the side, and global average pooling."""
    layers: list[nn.Module] = []
    for width_in, width in ((channels, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(width_in, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, out))
