"""The encoders in the box, found by name."""

from __future__ import annotations

import os
from pathlib import Path

from sslfeat.errors import EncoderFileError

ZOO = Path(__file__).parent / "models" / "zoo"
DEFAULT = "simclr-resnet10"


def names() -> list[str]:
    """Names of the shipped encoders."""
    return sorted(path.stem for path in ZOO.glob("*.onnx"))


def resolve(path_or_name: str | os.PathLike[str]) -> Path:
    """The file of an encoder given by path or by shipped name. Raises EncoderFileError if it is neither."""
    text = os.fspath(path_or_name)
    if text in names():
        return ZOO / f"{text}.onnx"
    if os.path.exists(text):
        return Path(text)
    raise EncoderFileError(f"{text!r} is neither a file nor a shipped encoder: {', '.join(names()) or 'none shipped'}")
