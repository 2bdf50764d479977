"""OpenVINO's intermediate representation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sslfeat.errors import ExportError, needs
from sslfeat.export.targets.base import Device, Source
from sslfeat.inference.backends import brief
from sslfeat.inference.model_card import CARD_KEY
from sslfeat.inference.onnx_model import EncoderFile
from sslfeat.inference.quantization import best_int8

MAIN = "encoder.xml"
GIVES = f"{Device.gives}. Compile it with `INFERENCE_PRECISION_HINT: f32`, since some processors otherwise compute in 16 bits"
DEVICE = Device(gives=GIVES, programs=("openvino.py.in",))


def fp32(source: Source, out: Path) -> None:
    """32-bit weights."""
    _save(source, source.file.data, out, half=False)


def fp16(source: Source, out: Path) -> None:
    """16-bit weights, which OpenVINO converts to 32 bits or not, depending on the device."""
    _save(source, source.file.data, out, half=True)


def int8(source: Source, out: Path) -> None:
    """The quantized graph of ``int8``."""
    _save(source, best_int8(source.file.data, source.seen), out, half=False)


def _save(source: Source, data: bytes, out: Path, half: bool) -> None:
    with needs("openvino", "openvino"):
        import openvino
    model = _read(data)
    model.set_rt_info(source.file.card.to_json(), CARD_KEY.split("."))
    openvino.save_model(model, out / MAIN, compress_to_fp16=half)


def check_takes(file: EncoderFile) -> None:
    """Raises ExportError for an encoder that OpenVINO cannot read."""
    _read(file.data)


def _read(data: bytes) -> Any:
    with needs("openvino", "openvino"):
        import openvino
    try:
        return openvino.Core().read_model(data)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot read the encoder: {brief(error)}", "use --target ort or fp16") from error
