"""Speed of an encoder: latency percentiles and images per second, by provider, threads and batch size."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sslfeat.data.decode import Pixels
from sslfeat.errors import UsageError
from sslfeat.export.artifact import read_artifact
from sslfeat.export.backends import described, open_artifact
from sslfeat.inference.backends import Session
from sslfeat.inference.encoder import open_session
from sslfeat.inference.onnx_model import read_encoder_file
from sslfeat.inference.registry import resolve

WARM = 3  # warm-up runs, not measured


@dataclass(frozen=True)
class Speed:
    """Milliseconds per inference, and images per second at the median."""

    provider: str
    threads: int
    batch: int
    runs: int
    p50: float
    p90: float
    p99: float
    throughput: float


def bench(
    path: str, providers: Sequence[str], threads: Sequence[int], batches: Sequence[int], seconds: float = 1.0
) -> Iterator[Speed]:
    """Measure an encoder file, or an exported artifact in its own runtime (``providers`` is then ignored), on random pixels.

    Each setting runs for ``seconds``, at least ten times. Raises ProviderError for a provider that cannot run.
    """
    if min((*threads, *batches)) < 1 or seconds <= 0:
        raise UsageError("threads and batch sizes must be at least 1, and seconds more than 0")
    size = described(path)[1].preprocess.size
    rng = np.random.default_rng(0)
    for name, count, session in _sessions(path, providers, threads):
        for batch in batches:
            pixels = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
            spent = _timed(session, pixels, seconds)
            p50, p90, p99 = (1000 * float(value) for value in np.quantile(spent, (0.5, 0.9, 0.99)))
            yield Speed(name, count, batch, len(spent), p50, p90, p99, 1000 * batch / p50)


def _sessions(path: str, providers: Sequence[str], threads: Sequence[int]) -> Iterator[tuple[str, int, Session]]:
    found = resolve(path)
    if found.is_dir():
        for count in threads:
            yield str(read_artifact(found)[0].runtime), count, open_artifact(found, count)
        return
    data = read_encoder_file(found).data
    for provider in providers:
        for count in threads:
            yield provider, count, open_session(data, provider, count)[1]


def _timed(session: Session, pixels: Pixels, seconds: float) -> list[float]:
    for _ in range(WARM):
        session.run(pixels)
    spent: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(spent) < 10:
        began = time.perf_counter()
        session.run(pixels)
        spent.append(time.perf_counter() - began)
    return spent
