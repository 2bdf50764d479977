"""Embedding query images with the encoder of the index."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from sslfeat.errors import RetrievalError
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.vectors import Maker

if TYPE_CHECKING:
    from sslfeat.data.decode import Source
    from sslfeat.inference.encoder import Encoder
    from sslfeat.inference.model_card import Identity


def embed(made_by: Maker | None, images: Iterable[Source] | Source, encoder: Encoder | None = None) -> FloatArray:
    """Embeddings (Q, D) by the encoder of the index. Raises RetrievalError for another encoder, ImageError for a broken image."""
    encoder = encoder or load_encoder(made_by)
    check_encoder(made_by, encoder.identity, "the encoder given")
    return np.stack(list(encoder.embed(images)))


def load_encoder(made_by: Maker | None, given: str | None = None, provider: str = "auto") -> Encoder:
    """Encoder of the index, ``given`` by path or name, or found by fingerprint. Raises RetrievalError."""
    from sslfeat.inference.encoder import Encoder
    from sslfeat.inference.registry import find_encoder
    from sslfeat.system.cores import available_cores

    if made_by is None:
        raise RetrievalError("the index was built from plain vectors: search with vectors")
    hints = [given] if given else [made_by.path] if made_by.path else []
    file = find_encoder(made_by.name, made_by.fingerprint, hints, only_hints=bool(given), error=RetrievalError)
    return Encoder(file.without_data(), provider, available_cores())


def check_encoder(ours: Identity | None, other: Identity | None, what: str, where: str = "the index") -> None:
    """Raise RetrievalError if ``other`` differs from ``ours``, the encoder of ``where``."""
    if ours is None or other is None:
        if ours is not other:
            raise RetrievalError(f"{what} and {where} cannot be compared: one of them contains plain vectors without an encoder")
        return
    if ours.fingerprint != other.fingerprint:
        raise RetrievalError(
            f"{what} is {other.name!r} ({other.fingerprint[:12]}), but {where} was created with {ours.name!r} "
            f"({ours.fingerprint[:12]}), so features cannot be compared: use that encoder, or create a new one"
        )
