"""What a run is set up with: processes and precision, the optimiser, the state of all randomness."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from sslfeat.models import config as configs
from sslfeat.models.config import TrainConfig
from sslfeat.models.method import Method


def leads() -> bool:
    """Whether this process speaks and writes: the only one, or the first of those that torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0


def make_fabric(config: TrainConfig) -> Fabric:
    """One process, or those that torchrun started."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    strategy: Any = DDPStrategy(find_unused_parameters=True) if world > 1 else "auto"
    fabric = Fabric(
        accelerator="cuda" if configs.uses_gpu(config) else "cpu",
        devices=local,
        num_nodes=max(1, world // local),
        strategy=strategy,
        precision=config.precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def make_optimizer(method: Method, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; biases and normalisation (one-dimensional parameters) are not decayed."""
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": float(config.weight_decay or 0)},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=float(config.lr or 0), betas=method.recipe.betas
    )


def seed_step(seed: int, step: int, rank: int, generator: torch.Generator) -> None:
    """All randomness of a step follows from (seed, step, rank), so that a resumed run draws what it would have drawn."""
    mixed = (seed * 1_000_003 + step * 7_919 + rank * 104_729) & 0x7FFF_FFFF_FFFF_FFFF
    generator.manual_seed(mixed)
    torch.manual_seed(mixed)  # dropout and whatever else draws from the global state
