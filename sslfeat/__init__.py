"""sslfeat: image features, search and duplicate detection, and self-supervised training of image encoders.

>>> import sslfeat
>>> features = sslfeat.embed("images", out="features")        # doctest: +SKIP
>>> index = sslfeat.Index.build("features")                   # doctest: +SKIP
>>> for hit in index.search("query.jpg", top=5).of(0):        # doctest: +SKIP
...     print(hit.path, hit.score)
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sslfeat.api import cluster as cluster
    from sslfeat.api import embed as embed
    from sslfeat.api import export_encoder as export_encoder
    from sslfeat.api import probe as probe
    from sslfeat.api import train as train
    from sslfeat.dedup.near_duplicates import find_duplicates as find_duplicates
    from sslfeat.errors import SslfeatError as SslfeatError
    from sslfeat.features.reader import Features as Features
    from sslfeat.inference.encoder import Encoder as Encoder
    from sslfeat.inference.model_card import Card as Card
    from sslfeat.retrieval.index import Index as Index

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # must be set before onnxruntime is imported

__version__ = "0.1.0"

_LAZY = {
    **dict.fromkeys(("cluster", "embed", "export_encoder", "probe", "train"), "sslfeat.api"),
    "Card": "sslfeat.inference.model_card",
    "Encoder": "sslfeat.inference.encoder",
    "Features": "sslfeat.features.reader",
    "Index": "sslfeat.retrieval.index",
    "find_duplicates": "sslfeat.dedup.near_duplicates",
    "SslfeatError": "sslfeat.errors",
}
__all__ = [
    "Card", "Encoder", "Features", "Index", "SslfeatError", "__version__", "cluster", "embed", "export_encoder",
    "find_duplicates", "probe", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import names lazily, so that ``sslfeat --help`` starts quickly."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sslfeat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, "errors"})
