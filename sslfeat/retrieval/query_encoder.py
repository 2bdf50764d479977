"""Images to search with are embedded by the encoder that made the index, and by no other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from sslfeat.errors import RetrievalError
from sslfeat.numerics.arrays import FloatArray

if TYPE_CHECKING:
    from sslfeat.data.decode import Source
    from sslfeat.inference.encoder import Encoder


def embed(meta: dict[str, Any], images: Iterable[Source] | Source, encoder: Encoder | None = None) -> FloatArray:
    """Embeddings (Q, D) by the index's encoder. Raises RetrievalError for another, ImageError for a broken image."""
    encoder = encoder or load_encoder(meta)
    check_encoder(meta, {"name": encoder.card.name, "fingerprint": encoder.fingerprint}, "the encoder given")
    return np.stack(list(encoder.embed(images)))


def load_encoder(meta: dict[str, Any], given: str | None = None, provider: str = "auto") -> Encoder:
    """The encoder of the index: ``given`` by path or name, or found by its fingerprint. Raises RetrievalError."""
    from sslfeat.inference.encoder import Encoder
    from sslfeat.inference.registry import find_encoder
    from sslfeat.system.cores import available_cores

    made_by = meta["encoder"]
    if made_by is None:
        raise RetrievalError("the index was built of plain vectors: search it with vectors")
    hints = [given] if given else [made_by["path"]] if made_by.get("path") else []
    file = find_encoder(made_by["name"], made_by["fingerprint"], hints, only_hints=bool(given), error=RetrievalError)
    return Encoder(file.without_data(), provider, available_cores())


def check_encoder(meta: dict[str, Any], other: dict[str, Any] | None, what: str) -> None:
    """Raise RetrievalError, naming both, if ``other`` (name, fingerprint) is not the encoder that made the index."""
    ours = meta["encoder"]
    if ours is None or other is None:
        if ours is not other:
            raise RetrievalError(f"{what} and the index cannot be compared: one of them is of plain vectors without an encoder")
        return
    if ours["fingerprint"] != other["fingerprint"]:
        raise RetrievalError(
            f"{what} is {other['name']!r} ({other['fingerprint'][:12]}), the index was made by {ours['name']!r} "
            f"({ours['fingerprint'][:12]}): their features cannot be compared; use that one, or build another index"
        )
