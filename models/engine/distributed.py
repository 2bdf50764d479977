"""Several processes as one: losses and statistics over the batch of all ranks. With one process nothing happens.

Ranks are weighed alike: what is trained is the mean of their losses, which is what averaging their gradients gives. Every
rank has equally many images of a batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sslfeat.errors import TrainingError

ALIVE, DONE, FAILED = range(3)  # what the first process tells those that wait for it
SIGN_SECONDS = 10.0


def process_count() -> int:
    """How many processes torchrun started, also before they have found each other."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of the processes this is."""
    return dist.get_rank() if world_size() > 1 else 0


def by_the_first(work: Callable[[Callable[[], None]], object]) -> None:
    """``work`` is done by the first process alone, and the others wait for it, however long it takes.

    ``work`` gets a function to call now and then: the sign of life without which a wait ends at torch's timeout. Raises what
    ``work`` raises, on the others TrainingError.
    """
    if world_size() == 1:
        work(lambda: None)
    elif rank() > 0:
        while (state := _told(ALIVE)) == ALIVE:
            pass
        if state == FAILED:
            raise TrainingError("the first process ended early: its own message says why")
    else:
        last = time.monotonic()

        def alive() -> None:
            nonlocal last
            if time.monotonic() - last > SIGN_SECONDS:
                _told(ALIVE)
                last = time.monotonic()

        state = FAILED
        try:
            work(alive)
            state = DONE
        finally:
            _told(state)


def _told(state: int) -> int:
    """The state of the first process, which is the largest: the others give 0."""
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    return int(total_of(torch.tensor(state, device=device), "max"))


def total_of(values: Tensor, how: str = "sum") -> Tensor:
    """The sum (or the max) of values over the ranks, without gradients."""
    if world_size() == 1:
        return values
    total = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[how])
    return total


def gather(rows: Tensor) -> Tensor:
    """The rows (N, ...) of all ranks, in the order of ranks, (W N, ...); gradients flow back to where rows come from."""
    return rows if world_size() == 1 else _gather(rows)


def gather_parts(rows: Tensor, parts: int) -> Tensor:
    """Like ``gather`` for rows (P N, ...) that are ``parts`` blocks of N: the blocks of all ranks follow each other."""
    return rows if world_size() == 1 else torch.cat([_gather(part) for part in rows.chunk(parts)])


def mean_count(count: int, device: torch.device) -> float | Tensor:
    """The mean of a count over the ranks: what a sum is divided by where ranks have unequally many terms."""
    if world_size() == 1:
        return count
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return total / world_size()


def mean_figures(figures: dict[str, float], device: torch.device) -> dict[str, float]:
    """The mean of each figure over the ranks, which all have the same ones; in the same order, that of the columns of a log."""
    if world_size() == 1:
        return figures
    values = torch.tensor([figures[name] for name in sorted(figures)], dtype=torch.float64, device=device)
    dist.all_reduce(values)
    means = dict(zip(sorted(figures), (values / world_size()).tolist(), strict=True))
    return {name: means[name] for name in figures}


def equalize(module: nn.Module) -> None:
    """Give every rank the first one's parameters and buffers: what was computed on each may differ in its last bits."""
    if world_size() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            whole = tensor.detach().contiguous()
            dist.broadcast(whole, 0)
            tensor.detach().copy_(whole)


def share_statistics(module: nn.Module, device: torch.device) -> None:
    """Batch normalization inside ``module`` over the batch of all ranks. On a GPU torch's own; it has none for CPUs."""
    if world_size() == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.forward = partial(_normalize, part)  # type: ignore[method-assign]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _gather(rows: Tensor) -> Tensor:
    gathered: Tensor = _Gather.apply(rows)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        everything = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(everything, rows)
        return torch.cat(everything)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(world_size())[dist.get_rank()]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _normalize(norm: _BatchNorm, x: Tensor) -> Tensor:
    """``norm(x)`` with mean and variance of (N, C, ...) over the batches of all ranks, in float32."""
    if not norm.training or norm.running_mean is None or norm.running_var is None:
        plain: Tensor = type(norm).forward(norm, x)
        return plain
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    with torch.autocast(x.device.type, enabled=False):
        wide = x.float()
        count = _Sum.apply(wide.new_tensor([x.numel() / x.shape[1]]))
        mean = _Sum.apply(wide.sum(axes)) / count
        centered = wide - mean.view(shape)
        variance = _Sum.apply(centered.square().sum(axes)) / count
        with torch.no_grad():
            rate = norm.momentum if norm.momentum is not None else 0.1
            norm.running_mean.lerp_(mean, rate)
            norm.running_var.lerp_(variance * count / (count - 1).clamp_min(1), rate)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
        out = centered * (variance + norm.eps).rsqrt().view(shape)
        if norm.affine:
            out = out * norm.weight.view(shape) + norm.bias.view(shape)
    normalized: Tensor = out.to(x.dtype)
    return normalized
