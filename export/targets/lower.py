"""Encoder files of lower precision, and onnxruntime's own format for phones."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sslfeat.errors import ExportError
from sslfeat.export.targets.target import INT8, Source
from sslfeat.images import Pixels
from sslfeat.likeness import cosines, neighbour_overlap
from sslfeat.quantize import quantize, ways
from sslfeat.sessions import OnnxSession

LARGEST_HALF = 65_504.0
BATCH, LAPS = 8, 7
SMALL = 64  # values of a tensor that is not worth halving


def int8(source: Source, out: Path) -> None:
    """8-bit weights, quantised the way that a trial finds best: of those that hold on ``seen``, the fastest."""
    out.write_bytes(best_int8(source))


def best_int8(source: Source) -> bytes:
    """The quantised encoder: the fastest way within the gate, or, if none is, the one that keeps most neighbours."""
    made = [quantize(source.file.data, source.seen, way) for way in ways(source.file.data)]
    if len(made) == 1:
        return made[0]
    wanted = OnnxSession(source.file.data, "cpu", 1).run(source.seen)
    tried = []
    for data in made:
        session = OnnxSession(data, "cpu", 1)
        found = session.run(source.seen)
        overlap = neighbour_overlap(wanted, found)
        holds = overlap >= (INT8.overlap or 0) and float(cosines(wanted, found).min()) >= INT8.cosine
        tried.append((holds, -_seconds(session, source.seen[:BATCH]) if holds else overlap, data))
    return max(tried, key=lambda trial: trial[:2])[2]


def _seconds(session: OnnxSession, batch: Pixels) -> float:
    spent = []
    for _ in range(LAPS):
        began = time.perf_counter()
        session.run(batch)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def fp16(source: Source, out: Path) -> None:
    """Weights in 16 bits, widened as the file is loaded: half the size, computed as before, everywhere.

    onnxruntime's converter would compute in 16 bits, which processors do more slowly, and its fusions of such a ViT crash.
    Raises ExportError for a weight beyond 65,504.
    """
    model = onnx.load_model_from_string(source.file.data)
    graph = model.graph
    widened = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALL:
            continue
        values = numpy_helper.to_array(tensor)
        if not np.abs(values).max() <= LARGEST_HALF:
            raise ExportError(f"the weight {tensor.name!r} is beyond what 16 bits hold")
        name, half = tensor.name, f"{tensor.name}.fp16"
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), half))
        widened.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    nodes = [*widened, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    out.write_bytes(model.SerializeToString(deterministic=True))


def ort(source: Source, out: Path) -> None:
    """onnxruntime's format for phones. Optimised as far as EXTENDED: ALL would tie it to this machine's processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(out / "encoder.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(source.file.data, options, providers=["CPUExecutionProvider"])
