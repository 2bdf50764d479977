"""sslfeat: image encoders learned without labels, served without torch."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sslfeat.card import Card as Card
    from sslfeat.encoder import Encoder as Encoder
    from sslfeat.retrieval.index import Index as Index

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is loaded: nothing phones home

__version__ = "0.1.0"
__all__ = ["Card", "Encoder", "Index", "__version__"]

_LAZY = {"Card": "sslfeat.card", "Encoder": "sslfeat.encoder", "Index": "sslfeat.retrieval.index"}


def __getattr__(name: str) -> Any:
    """Load what is asked for, when it is asked for: ``sslfeat --help`` needs none of it."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sslfeat' has no attribute {name!r}")
