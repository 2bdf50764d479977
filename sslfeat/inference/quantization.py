"""8-bit quantization of encoders with the tools of onnxruntime."""

from __future__ import annotations

import contextlib
import functools
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sslfeat.data.decode import Pixels
from sslfeat.inference.backends import OnnxRuntimeBackend
from sslfeat.inference.head_refit import last_matrix, refit
from sslfeat.inference.onnx_model import FINGERPRINT_KEY, INPUT_NAME, STANDARD_DOMAINS
from sslfeat.inference.quantized_weights import but_for_the_smallest, head_nodes, store_in_8_bits
from sslfeat.numerics.similarity import cosines, neighbor_overlap
from sslfeat.system.timing import times_as_fast

BATCH, LAPS, SECONDS = 8, 7, 3.0  # timing: minimum number of laps, and duration
MIN_COSINE, MIN_OVERLAP = 0.9992, 0.95  # the gates with a margin for unseen images


def usual_way(data: bytes) -> str:
    """Default method: ``static`` for convolutions (ranges per channel and fixed ranges of inputs; dynamic ranges are slower
    than float32), ``dynamic`` for networks of matrix products (closer to float32 on ViTs)."""
    model = onnx.load_model_from_string(data)
    return "static" if sum(node.op_type == "Conv" for node in model.graph.node) > 1 else "dynamic"


def ways(data: bytes) -> list[str]:
    """Applicable methods, the default first: ``dynamic`` affects matrix products only; ``weights`` reduces the size, not the
    time."""
    first = usual_way(data)
    products = any(node.op_type == "MatMul" for node in onnx.load_model_from_string(data).graph.node)
    return [first, *(["static"] if first == "dynamic" else ["dynamic"] if products else []), "weights"]


def quantize(data: bytes, pixels: Pixels, way: str | None = None) -> bytes:
    """Quantize the encoder file ``data`` to int8 weights, with activation ranges calibrated on ``pixels`` (N, S, S, 3).

    ``way`` is ``static``, ``dynamic``, ``weights`` or ``refitted`` (default: ``usual_way``). ``refitted`` is ``weights``
    with the last matrix refitted on ``pixels`` (``head_refit.py``), or ``weights`` if that is not possible.
    """
    model = onnx.load_model_from_string(data)
    chosen = way or usual_way(data)
    if chosen in ("weights", "refitted"):
        quantized = onnx.load_model_from_string(data)
        nodes = but_for_the_smallest(quantized.graph, list(quantized.graph.node))
        last = nodes[-1:] if nodes[-1].output[0] == quantized.graph.output[0].name else []
        store_in_8_bits(quantized.graph, nodes[: len(nodes) - len(last)])
        if chosen == "refitted":
            refit(quantized, data, pixels)
        store_in_8_bits(quantized.graph, last)
    else:
        quantized = _static(model, pixels) if chosen == "static" else _dynamic(model)
    used = {node.domain for node in quantized.graph.node} | {""}
    standard = [entry for entry in quantized.opset_import if entry.domain in used & {*STANDARD_DOMAINS}]
    del quantized.opset_import[:]
    quantized.opset_import.extend(standard)
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(entry for entry in model.metadata_props if entry.key != FINGERPRINT_KEY)
    result: bytes = quantized.SerializeToString(deterministic=True)
    return result


def _static(model: onnx.ModelProto, pixels: Pixels) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = normalize_in_one(model)
    for number, node in enumerate(model.graph.node):
        node.name = f"{number}"
    head = {node.name for node in head_nodes(model.graph)}
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model, path, _Images(pixels), quant_format=QuantFormat.QDQ, per_channel=True, nodes_to_exclude=sorted(head),
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        quantized = onnx.load_model(path)
    store_in_8_bits(quantized.graph, [node for node in quantized.graph.node if node.name in head])
    return quantized


def _dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(model, path, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
        return onnx.load_model(path)


def best_int8(data: bytes, pixels: Pixels, further: Callable[[], Pixels] | None = None) -> bytes:
    """``quantize`` with the best method: the fastest that preserves the features of ``pixels``, else the one that preserves
    most neighbors. If none passes, the last matrix is refitted on the images returned by ``further``."""
    tried = _tried(data, [quantize(data, pixels, way) for way in ways(data)], pixels)
    holding = any(holds for holds, _, _ in tried)
    if further is not None and not holding and last_matrix(onnx.load_model_from_string(data).graph) is not None:
        tried += _tried(data, [quantize(data, further(), "refitted")], pixels)
    return max(tried, key=lambda trial: trial[:2])[2]


def _tried(data: bytes, made: Sequence[bytes], pixels: Pixels) -> list[tuple[bool, float, bytes]]:
    """For each quantized encoder: whether it passes, a score (speed if it passes, else overlap), and its bytes."""
    plain, *sessions = (OnnxRuntimeBackend(each, "cpu", 1) for each in (data, *made))
    reference = plain.run(pixels)
    tried = []
    for quantized, session in zip(made, sessions, strict=True):
        found = session.run(pixels)
        overlap = neighbor_overlap(reference, found)
        holds = overlap >= MIN_OVERLAP and float(np.quantile(cosines(reference, found), 0.01)) >= MIN_COSINE
        tried.append((holds, overlap, quantized))
    if sum(holds for holds, _, _ in tried) < 2:
        return tried
    speeds = times_as_fast([functools.partial(each.run, pixels[:BATCH]) for each in (plain, *sessions)], LAPS, SECONDS)
    return [(holds, speed if holds else overlap, int8) for (holds, overlap, int8), speed in zip(tried, speeds, strict=True)]


class _Images:
    """Calibration data reader for onnxruntime."""

    def __init__(self, pixels: Pixels) -> None:
        self._batches: Iterator[Pixels] = iter(np.array_split(pixels, max(1, len(pixels) // BATCH)))

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT_NAME: batch}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress irrelevant warnings of the tools, which use the root logger."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def normalize_in_one(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of ``model`` whose first ``(x - mean) / std`` over (N, C, H, W), if any, is one BatchNormalization.

    In 8-bit networks, onnxruntime moves the layout conversion behind Sub and Div, which then process three channels at a time
    and take a third of the total time. It does not move it behind a BatchNormalization.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    planes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if _is_channels(tensor.dims)}
    for index, centered in enumerate(graph.node[:-1]):
        scaled = graph.node[index + 1]
        pair = (centered.op_type, scaled.op_type) == ("Sub", "Div") and scaled.input[0] == centered.output[0]
        pair = pair and sum(centered.output[0] in node.input for node in graph.node) == 1
        if pair and centered.input[1] in planes and scaled.input[1] in planes:
            constants = centered.input[1], scaled.input[1]
            mean, std = (planes[name].ravel() for name in constants)
            values = {"scale": np.sign(std), "bias": np.zeros_like(mean), "mean": mean, "variance": std**2}
            names = [f"{scaled.output[0]}.{name}" for name in values]
            inputs = [centered.input[0], *names]
            node = helper.make_node("BatchNormalization", inputs, [scaled.output[0]], epsilon=0.0)
            graph.initializer.extend(map(numpy_helper.from_array, values.values(), names))
            graph.node.insert(index, node)
            del graph.node[index + 1 : index + 3]
            _drop_unused(graph, set(constants))
            break
    return copy


def _drop_unused(graph: onnx.GraphProto, names: set[str]) -> None:
    nodes = [node.SerializeToString() for node in graph.node]  # including subgraphs
    kept = [t for t in graph.initializer if t.name not in names or any(t.name.encode() in node for node in nodes)]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _is_channels(dims: Sequence[int]) -> bool:
    return len(dims) == 4 and dims[0] == dims[2] == dims[3] == 1
