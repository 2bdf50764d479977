"""Shipped encoders, by name."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sslfeat.errors import EncoderFileError, SslfeatError, did_you_mean
from sslfeat.storage.urls import is_remote

if TYPE_CHECKING:
    from sslfeat.inference.onnx_model import EncoderFile

ZOO = Path(__file__).parent.parent / "models" / "zoo"
DEFAULT = "sslfeat-small"


def names() -> list[str]:
    """Names of the shipped encoders."""
    return sorted(path.stem for path in ZOO.glob("*.onnx"))


def resolve(path_or_name: str | os.PathLike[str]) -> Path:
    """Return the file of an encoder given by path, name of a shipped encoder, or URL or name accepted by ``pull``.

    Raises EncoderFileError if it is none of these, and the errors of ``pull``.
    """
    text = os.fspath(path_or_name)
    if text in names():
        return ZOO / f"{text}.onnx"
    if os.path.exists(text):
        return Path(text)
    from sslfeat.inference.pulled import listed, pull

    if is_remote(text) or text in listed():
        return pull(text)
    raise EncoderFileError(f"{text!r} is neither a file nor a shipped encoder ({', '.join(names())})", _cure(text))


def _cure(text: str) -> str:
    """Suggest how to obtain an encoder of this name."""
    if text.endswith((".onnx", ".ort")) or os.sep in text.removeprefix("timm/").removeprefix("torchvision/"):
        return "check the path"
    return did_you_mean(text, names(), 0.8) or (
        "export a pretrained network with 'sslfeat export timm/NAME --out encoder.onnx' (DINOv2, CLIP, SigLIP, "
        "ConvNeXt, ...) or torchvision/NAME, or convert an ONNX file of another tool with 'sslfeat adopt'"
    )


def find_encoder(name: str, fingerprint: str, hints: Sequence[str], only_hints: bool, error: type[SslfeatError]) -> EncoderFile:
    """Find the encoder file with this ``fingerprint`` among ``hints`` and, unless ``only_hints``, shipped and cached encoders.

    Raises ``error`` if there is none, EncoderFileError if a required hint cannot be read.
    """
    from sslfeat.inference.onnx_model import read_encoder_file
    from sslfeat.inference.pulled import pulled

    others = () if only_hints else itertools.chain(names(), map(str, pulled(fingerprint)))
    for place in itertools.chain(hints, others):
        if only_hints or place in names() or os.path.exists(place):
            file = read_encoder_file(resolve(place))
            if file.fingerprint == fingerprint:
                return file
    cure = f"{hints[0]} is a different encoder ({file.fingerprint[:12]})" if only_hints else "neither shipped nor in the cache"
    raise error(f"encoder {name!r} ({fingerprint[:12]}) is required: {cure}; pass its file with --encoder")
