"""Distributed training: losses and statistics over the batch of all ranks. With one process these functions do nothing.

The training loss is the mean of the losses of all ranks, as obtained by averaging their gradients. All ranks have the same
number of images of a batch.
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

ALIVE, DONE, FAILED = range(3)  # messages from the first process to those that wait
SIGN_SECONDS = 10.0


def process_count() -> int:
    """Number of processes started by torchrun, also before they are connected."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process."""
    return dist.get_rank() if world_size() > 1 else 0


def by_the_first(work: Callable[[Callable[[], None]], object]) -> None:
    """Run ``work`` in the first process only, while the others wait for any length of time.

    ``work`` receives a heartbeat function and must call it regularly; otherwise waiting ends at torch's timeout. Raises the
    exception of ``work``; on the other processes TrainingError.
    """
    if world_size() == 1:
        work(lambda: None)
    elif rank() > 0:
        while (state := _told(ALIVE)) == ALIVE:
            pass
        if state == FAILED:
            raise TrainingError("the first process failed: see its error message")
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
    """State of the first process, the maximum over all; the others contribute 0."""
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    return int(total_of(torch.tensor(state, device=device), "max"))


def total_of(values: Tensor, how: str = "sum") -> Tensor:
    """Sum (or max) of values over the ranks, without gradients."""
    if world_size() == 1:
        return values
    total = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[how])
    return total


def gather(rows: Tensor) -> Tensor:
    """Rows (N, ...) of all ranks, in the order of ranks, (W N, ...); gradients flow back to their rank."""
    return rows if world_size() == 1 else _gather(rows)


def gather_parts(rows: Tensor, parts: int) -> Tensor:
    """``gather`` for rows (P N, ...) that consist of ``parts`` blocks of N: blocks of all ranks are concatenated."""
    return rows if world_size() == 1 else torch.cat([_gather(part) for part in rows.chunk(parts)])


def mean_count(count: int, device: torch.device) -> float | Tensor:
    """Mean of a count over the ranks: the divisor of a sum whose number of terms differs between ranks."""
    if world_size() == 1:
        return count
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return total / world_size()


def mean_figures(figures: dict[str, float], device: torch.device) -> dict[str, float]:
    """Mean of each figure over the ranks, which must have the same figures; the order, that of log columns, is kept."""
    if world_size() == 1:
        return figures
    values = torch.tensor([figures[name] for name in sorted(figures)], dtype=torch.float64, device=device)
    dist.all_reduce(values)
    means = dict(zip(sorted(figures), (values / world_size()).tolist(), strict=True))
    return {name: means[name] for name in figures}


def equalize(module: nn.Module) -> None:
    """Broadcast parameters and buffers of the first rank, since values computed on each rank may differ in the last bits."""
    if world_size() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            whole = tensor.detach().contiguous()
            dist.broadcast(whole, 0)
            tensor.detach().copy_(whole)


def share_statistics(module: nn.Module, device: torch.device) -> None:
    """Batch normalization in ``module`` over the batch of all ranks: torch's on a GPU; torch has none for CPUs."""
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
