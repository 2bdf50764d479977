"""Small parts that sit on an encoder while it learns, and are thrown away afterwards."""

from __future__ import annotations

from torch import nn


def mlp(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Two-layer perceptron (N, in_dim) to (N, out_dim) with batch normalization and ReLU between (SimCLR's projector)."""
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim, bias=False),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim),
    )


def small_tower(channels: int, out: int) -> nn.Sequential:
    """Images (N, channels, S, S) to (N, out): three convolutions that each halve the side, and the mean."""
    layers: list[nn.Module] = []
    for width_in, width in ((channels, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(width_in, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, out))
