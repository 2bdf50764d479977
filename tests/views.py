"""What the tests of methods share that compare views: a method around a small network, a batch, a generator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.method import find_method


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 6, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator(9))


def made(name: str = "simclr", size: int = 32, **options: Any) -> Any:
    torch.manual_seed(0)
    kind = find_method(name)
    return kind(build_backbone("resnet10_w8", size), kind.Config(**options))
