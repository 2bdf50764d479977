"""An encoder in 8 bits, made with onnxruntime's own tools."""

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

BATCH, LAPS, SECONDS = 8, 7, 3.0  # of timing: laps at least, and seconds that it goes on for
MIN_COSINE, MIN_OVERLAP = 0.9992, 0.95  # the gates and some room for images that are not seen here


def usual_way(data: bytes) -> str:
    """Convolutions get ranges per channel and for their inputs (``static``; computing them anew each time is slower than
    float32); networks of matrix products get ranges as they come (``dynamic``; closer to float32 on ViTs)."""
    model = onnx.load_model_from_string(data)
    return "static" if sum(node.op_type == "Conv" for node in model.graph.node) > 1 else "dynamic"


def ways(data: bytes) -> list[str]:
    """The ways that change anything, the usual one first: ``dynamic`` is of matrix products alone, ``weights`` saves room but no
    time."""
    first = usual_way(data)
    products = any(node.op_type == "MatMul" for node in onnx.load_model_from_string(data).graph.node)
    return [first, *(["static"] if first == "dynamic" else ["dynamic"] if products else []), "weights"]


def quantize(data: bytes, pixels: Pixels, way: str | None = None) -> bytes:
    """The encoder file ``data`` with int8 weights, and activations as wide as they are on ``pixels`` (N, S, S, 3).

    ``way`` is ``static``, ``dynamic``, ``weights`` or ``refitted``; None: the usual one. ``refitted`` is ``weights`` with
    the last matrix fitted anew on ``pixels`` (``head_refit.py``); where that cannot be, it is ``weights``.
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
    """``quantize`` in the best way: of those that keep the features of ``pixels`` the fastest, else the one that keeps most
    neighbors. ``further`` gives images to fit a last matrix on, if nothing else holds."""
    tried = _tried(data, [quantize(data, pixels, way) for way in ways(data)], pixels)
    holding = any(holds for holds, _, _ in tried)
    if further is not None and not holding and last_matrix(onnx.load_model_from_string(data).graph) is not None:
        tried += _tried(data, [quantize(data, further(), "refitted")], pixels)
    return max(tried, key=lambda trial: trial[:2])[2]


def _tried(data: bytes, made: Sequence[bytes], pixels: Pixels) -> list[tuple[bool, float, bytes]]:
    """Of each: whether it holds, how good it is among those alike in that, and itself."""
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


def normalize_in_one(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` whose first ``(x - mean) / std`` over (N, C, H, W) is one BatchNormalization; without one, as it was.

    onnxruntime moves the change of layout of an 8-bit network behind a Sub and a Div, which then walk three channels at a
    time: a third of the whole network's time. It does not move it behind a BatchNormalization.
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
    nodes = [node.SerializeToString() for node in graph.node]  # with the graphs inside them
    kept = [t for t in graph.initializer if t.name not in names or any(t.name.encode() in node for node in nodes)]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _is_channels(dims: Sequence[int]) -> bool:
    return len(dims) == 4 and dims[0] == dims[2] == dims[3] == 1
