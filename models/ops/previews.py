"""Images of what a method sees, laid out for people to look at."""

from __future__ import annotations

import torch
from torch import Tensor


def tile(*rows: Tensor) -> Tensor:
    """Rows of images (N, 3, S, S) to one image (3, rows x S, N x S) in [0, 1]."""
    return torch.cat([torch.cat(list(row), 2) for row in rows], 1).clamp(0, 1)
