"""The encoders in the box, found by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sslfeat.errors import EncoderFileError, SslfeatError

if TYPE_CHECKING:
    from sslfeat.inference.onnx_model import EncoderFile

ZOO = Path(__file__).parent.parent / "models" / "zoo"
DEFAULT = "sslfeat-small"


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
    raise EncoderFileError(f"{text!r} is neither a file nor a shipped encoder ({', '.join(names())}); {_cure(text)}")


def _cure(text: str) -> str:
    """Where an encoder of this name may come from: people know networks by their names."""
    if text.endswith((".onnx", ".ort")) or os.sep in text.removeprefix("timm/").removeprefix("torchvision/"):
        return "is the path right?"
    near = difflib.get_close_matches(text, names(), 1, 0.8)
    if near:
        return f"is {near[0]!r} meant?"
    return (
        "a pretrained network becomes an encoder file by 'sslfeat export timm/NAME --out encoder.onnx' (DINOv2, CLIP, "
        "SigLIP, ConvNeXt, ...) or torchvision/NAME, an ONNX file of another tool by 'sslfeat adopt'"
    )


def find_encoder(name: str, fingerprint: str, hints: Sequence[str], only_hints: bool, error: type[SslfeatError]) -> EncoderFile:
    """The encoder file with this ``fingerprint``: among ``hints``, then, unless ``only_hints``, in the box.

    Raises ``error`` if it is not there, EncoderFileError for a hint that must hold and cannot be read.
    """
    from sslfeat.inference.onnx_model import read_encoder_file

    for place in [*hints, *([] if only_hints else names())]:
        if only_hints or place in names() or os.path.exists(place):
            file = read_encoder_file(resolve(place))
            if file.fingerprint == fingerprint:
                return file
    cure = f"{hints[0]} is another one ({file.fingerprint[:12]})" if only_hints else "it is not in the box"
    raise error(f"encoder {name!r} ({fingerprint[:12]}) is needed: {cure}, name its file with --encoder")
