"""Embed image files without storing the embeddings, for example queries. Files are decoded in separate processes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

from sslfeat.data.batching import batched
from sslfeat.data.dataset import ImageRecord
from sslfeat.data.decode_worker import DEFAULT_LIMITS
from sslfeat.data.results import Embedded, Failed
from sslfeat.data.subprocess_decoder import SubprocessDecoder
from sslfeat.data.transforms import EXACT
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.pipeline import embed_batches


def embed_files(
    encoder: Encoder, records: Sequence[ImageRecord], batch_size: int, workers: int
) -> Generator[tuple[ImageRecord, Embedded | Failed], None, None]:
    """Yield each image with its outcome, in order."""

    def decoder() -> SubprocessDecoder:
        return SubprocessDecoder(encoder.card.preprocess, EXACT, DEFAULT_LIMITS)

    batches = batched([record.path for record in records], batch_size)
    with closing(embed_batches(encoder, batches, workers, decoder)) as stream:
        yield from zip(records, (outcome for batch in stream for outcome in batch.outcomes), strict=True)
