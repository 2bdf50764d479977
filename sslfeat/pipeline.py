"""The hot path: decode in threads, infer in the caller's thread, both at once, everything in order.

Pillow and onnxruntime release the interpreter lock while they work, so threads suffice. The batches are the caller's:
which pictures share a batch never depends on timing, so the same inputs give the same bytes.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from sslfeat.card import Card
from sslfeat.errors import ImageError
from sslfeat.images import Decoded, Pixels, Source, decode

BATCHES_AHEAD = 3  # decoded or decoding while one is inferred
T = TypeVar("T")


class Runs(Protocol):
    """What the pipeline needs of an encoder."""

    card: Card

    def run(self, pixels: Pixels) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True)
class Embedded:
    """A picture's embedding, float32 (D,), with its source's sha256 and upright size in px."""

    embedding: npt.NDArray[np.float32]
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Failed:
    """A picture that could not be read, and why."""

    reason: str


@dataclass(frozen=True)
class Batch:
    """``outcomes[i]`` is what became of ``sources[i]``."""

    sources: Sequence[Source]
    outcomes: Sequence[Embedded | Failed]


def embed_batches(encoder: Runs, batches: Iterable[Sequence[Source]], workers: int) -> Generator[Batch]:
    """Decode and embed batch after batch with ``workers`` decoding threads; failures stay in their place."""
    with ThreadPoolExecutor(workers, thread_name_prefix="sslfeat-decode") as pool:
        pending: deque[tuple[Sequence[Source], list[Future[Decoded]]]] = deque()
        try:
            for sources in batches:
                pending.append((sources, [pool.submit(decode, source, encoder.card.preprocess) for source in sources]))
                if len(pending) > BATCHES_AHEAD:
                    yield _infer(encoder, *pending.popleft())
            while pending:
                yield _infer(encoder, *pending.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of ``size`` items; the last may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _infer(encoder: Runs, sources: Sequence[Source], futures: Sequence[Future[Decoded]]) -> Batch:
    decoded = [_result(future) for future in futures]
    pictures = [item for item in decoded if isinstance(item, Decoded)]
    if not pictures:
        return Batch(sources, [item for item in decoded if isinstance(item, Failed)])
    embeddings = iter(encoder.run(np.stack([picture.pixels for picture in pictures])))
    outcomes = [
        item if isinstance(item, Failed) else Embedded(next(embeddings), item.sha256, item.width, item.height)
        for item in decoded
    ]
    return Batch(sources, outcomes)


def _result(future: Future[Decoded]) -> Decoded | Failed:
    try:
        return future.result()
    except ImageError as error:
        return Failed(str(error))
