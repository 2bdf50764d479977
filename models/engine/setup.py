"""Setup of a run: images, processes and precision, optimizer, and random state."""

from __future__ import annotations

import dataclasses
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from sslfeat.data.dataset import ImageRecord
from sslfeat.errors import InterruptedRun, TrainingError
from sslfeat.models.engine import config as configs
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.data import Images, load_images
from sslfeat.models.engine.draws import StepGenerator
from sslfeat.models.engine.initial import scale_of
from sslfeat.models.engine.reporting import Reporter
from sslfeat.models.method import Method
from sslfeat.system import signals
from sslfeat.system.plurals import counted

FEW = 200  # images
NAMED = 5  # maximum number of failures listed in a message


def leads() -> bool:
    """Whether this process prints and writes: the only one, or the first started by torchrun."""
    return int(os.environ.get("RANK", "0")) == 0


def make_fabric(config: TrainConfig) -> Fabric:
    """One process, or those started by torchrun."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it reports the start of every process
    # buffers are computed from data of all ranks (``ranks``), so they are not broadcast at every step
    if world > 1:  # the successor of the option would broadcast the buffers once at the beginning, which is not needed either
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    strategy: Any = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False) if world > 1 else "auto"
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
    """AdamW over parameters on their device. Weight decay applies to the weights of linear layers and convolutions only.

    Biases, normalization and tables (position embeddings, tokens, word vectors) are excluded.
    """
    groups: dict[tuple[float, bool, float], list[Tensor]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            decay = float(config.weight_decay or 0) * (name.endswith("weight") and parameter.ndim > 1)
            groups.setdefault((decay, *scale_of(config, method, name)), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": group, "weight_decay": decay, "backbone": inside, "scale": scale}
            for (decay, inside, scale), group in groups.items()
        ],
        lr=float(config.lr or 0),
        betas=method.recipe.betas,
        fused=all(parameter.is_cuda for group in groups.values() for parameter in group) or None,
    )


def seed_step(seed: int, step: int, rank: int, generator: StepGenerator) -> None:
    """Seed all randomness of a step from (seed, step, rank), so that a resumed run draws the same numbers."""
    generator.reseed(_mix(seed, step, rank), _mix(seed, step, 0))
    torch.manual_seed(_mix(seed, step, rank))  # for dropout and other users of the global state


def choice_of(seed: int, step: int) -> torch.Generator:
    """Generator for sampling the images of a step, the same on every rank."""
    return torch.Generator().manual_seed(_mix(seed, step, -1))


def _mix(seed: int, step: int, rank: int) -> int:
    return (seed * 1_000_003 + step * 7_919 + rank * 104_729) & 0x7FFF_FFFF_FFFF_FFFF


def training_images(
    config: TrainConfig,
    inputs: list[ImageRecord],
    out: Path,
    reporter: Reporter,
    stop: signals.Stop,
    cache_size: int | None = None,
    whole: bool = False,
) -> Images:
    """The training images, ``whole`` or center crops. Raises TrainingError if they are too few, InterruptedRun."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        reporter.loading(done, len(inputs))
        if stop.signum:
            raise InterruptedRun(stop.signum, "interrupted while reading images: resume with the same command and --resume")

    images = load_images(inputs, int(config.image_size or 0), out, advance, cache_size, whole)
    if len(images.pixels) < int(config.batch_size or 0):
        raise TrainingError(
            f"{counted(len(images.pixels), 'image')} can be read", "choose a smaller --batch-size (batch_size= in Python)"
        )
    if len(images.pixels) < FEW:
        reporter.warn(f"{len(images.pixels)} images are few for training: use some thousands or more")
    if images.streamed:
        reporter.warn(
            f"{images.streamed} of {len(images.pixels)} images are read whenever they are sampled: use a larger --cache-size"
        )
    return dataclasses.replace(images, tell=reporter.preparing)


def refuse_failures(failures: Sequence[tuple[str, str]]) -> None:
    """Raise TrainingError naming the first unreadable images, if there are any."""
    if failures:
        named = "; ".join(f"{name}: {reason}" for name, reason in failures[:NAMED])
        more = f"; and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
        raise TrainingError(
            f"{counted(len(failures), 'image')} cannot be read, an error with --strict: {named}{more}",
            "repair them, exclude them with --exclude, or train without --strict",
        )
