"""An encoder in 8 bits, made with onnxruntime's own tools."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from sslfeat.encoder_file import INPUT_NAME, STANDARD_DOMAINS
from sslfeat.images import Pixels
from sslfeat.onnx_normalise import normalise_in_one

BATCH = 8


def usual_way(data: bytes) -> str:
    """Convolutions get ranges per channel and for their inputs (``static``; computing them anew each time is slower than
    float32); networks of matrix products get ranges as they come (``dynamic``; closer to float32 on ViTs)."""
    model = onnx.load_model_from_string(data)
    return "static" if sum(node.op_type == "Conv" for node in model.graph.node) > 1 else "dynamic"


def ways(data: bytes) -> list[str]:
    """The ways that change anything: ``dynamic`` is of matrix products alone. The usual one first."""
    first = usual_way(data)
    products = any(node.op_type == "MatMul" for node in onnx.load_model_from_string(data).graph.node)
    return [first, *(["static"] if first == "dynamic" else ["dynamic"] if products else [])]


def quantize(data: bytes, pixels: Pixels, way: str | None = None) -> bytes:
    """The encoder file ``data`` with int8 weights, and activations as wide as they are on ``pixels`` (N, S, S, 3).

    ``way`` is ``static`` or ``dynamic``; None: the usual one.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    model = onnx.load_model_from_string(data)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        if (way or usual_way(data)) == "static":
            quantize_static(
                normalise_in_one(model), path, _Pictures(pixels), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
        else:
            quantize_dynamic(model, path, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
        quantized = onnx.load_model(path)
    used = {node.domain for node in quantized.graph.node} | {""}
    standard = [entry for entry in quantized.opset_import if entry.domain in used & {*STANDARD_DOMAINS}]
    del quantized.opset_import[:]
    quantized.opset_import.extend(standard)
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(model.metadata_props)
    result: bytes = quantized.SerializeToString(deterministic=True)
    return result


class _Pictures:
    """What onnxruntime calls a calibration data reader."""

    def __init__(self, pixels: Pixels) -> None:
        self._batches: Iterator[Pixels] = iter(np.array_split(pixels, max(1, len(pixels) // BATCH)))

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT_NAME: batch}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tools warn through the root logger of steps that do not matter here."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
