"""Encoder files of lower precision, and onnxruntime's format for mobile devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sslfeat.errors import ExportError
from sslfeat.export.targets.base import Device, Source
from sslfeat.inference.onnx_model import EncoderFile, with_card
from sslfeat.inference.quantization import best_int8

ORT = Device(programs=("ort.py.in", "ort.kt.in"))
LARGEST_HALF = 65_504.0
SMALL = 64  # number of values below which a tensor is not converted to 16 bits


def int8(source: Source, out: Path) -> None:
    """8-bit weights, with the fastest quantization among those that pass a trial on ``seen``."""
    out.write_bytes(best_int8(source.file.data, source.seen, None if source.further is None else source.further.pixels))


def fp16(source: Source, out: Path) -> None:
    """16-bit weights, converted to 32 bits when the file is loaded: half the size, same computations on every processor.

    onnxruntime's converter would compute in 16 bits, which is slower on processors, and its fusions crash for such a ViT.
    """
    model = onnx.load_model_from_string(source.file.data)
    graph = model.graph
    widened = []
    for tensor in graph.initializer:
        if not _is_halved(tensor):
            continue
        name, half = tensor.name, f"{tensor.name}.fp16"
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), half))
        widened.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    nodes = [*widened, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    out.write_bytes(with_card(model, source.file.card))


def check_halves(file: EncoderFile) -> None:
    """Raises ExportError for a weight above 65,504."""
    for tensor in filter(_is_halved, onnx.load_model_from_string(file.data).graph.initializer):
        if not np.abs(numpy_helper.to_array(tensor)).max() <= LARGEST_HALF:
            raise ExportError(
                f"the weight {tensor.name!r} of {file.card.name!r} exceeds the range of 16 bits", "use --target int8"
            )


def _is_halved(tensor: TensorProto) -> bool:
    return bool(tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= SMALL)


def ort(source: Source, out: Path) -> None:
    """onnxruntime's format for mobile devices, optimized up to EXTENDED, because ALL depends on this machine's processor."""
    from sslfeat.inference.backends import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(out / "encoder.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(source.file.data, options, providers=["CPUExecutionProvider"])
