"""Features of many images from an encoder in training, computed by one process or distributed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from sslfeat.models.engine.data import to_batch
from sslfeat.models.engine.distributed import rank, total_of, world_size
from sslfeat.models.engine.pixels import Numbers, Pixels
from sslfeat.models.method import Method

BATCH = 128
Features = npt.NDArray[np.float32]


@contextlib.contextmanager
def looking(method: Method) -> Iterator[None]:
    """Context manager: evaluation mode without gradients."""
    training = method.training
    method.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        method.train(training)


def features_of(method: Method, pixels: Pixels, numbers: Numbers, device: torch.device) -> Features:
    """Features float32 (n, dim) of the images with these ``numbers`` (n,), computed by this process alone."""
    return _features(method, pixels, numbers, device, 0, 1)


def features_together(method: Method, pixels: Pixels, numbers: Numbers, device: torch.device) -> Features:
    """Distributed version of the above: each process computes every W-th batch. Must be called by all processes."""
    own = torch.from_numpy(_features(method, pixels, numbers, device, rank(), world_size()))
    return total_of(own.to(device)).cpu().numpy()  # rows of other processes are zero, so the sum is exact


def _features(method: Method, pixels: Pixels, numbers: Numbers, device: torch.device, first: int, step: int) -> Features:
    """Features (n, dim) of every ``step``-th batch, starting with ``first``; other rows are zero."""
    rows = np.zeros((len(numbers), method.exported.dim), np.float32)
    with looking(method):
        for start in range(first * BATCH, len(numbers), step * BATCH):
            batch = to_batch(pixels, numbers[start : start + BATCH], device)
            rows[start : start + BATCH] = method.encode(batch.float() / 255, method.exported).float().cpu().numpy()
    return rows
