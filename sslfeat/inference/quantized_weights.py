"""Weights alone in 8 bits: of what follows the last convolution, or of a whole network.

Behind the last convolution few numbers stand for the image, of very different sizes once they are whitened: ranges for them cost
neighbors and save no time. A network that loses too much by ranges anywhere is at least a quarter of its size.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SPARED = 0.06  # of all weights: the smallest matrices, mostly the first, cost little room and what follows them most
CHANNELS = {"Conv": 0, "MatMul": 1}  # the axis of the weights that has a scale for each place


def head_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes behind which no convolution comes, if a product with a constant matrix is among them; otherwise none."""
    readers: dict[str, list[int]] = {}
    for number, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(number)
    ahead = [False] * len(graph.node)  # whether a convolution follows, or is there
    for number in reversed(range(len(graph.node))):
        node = graph.node[number]
        following = (other for name in node.output for other in readers.get(name, ()))
        ahead[number] = node.op_type == "Conv" or any(ahead[other] for other in following)
    behind = [node for node, more in zip(graph.node, ahead, strict=True) if not more]
    weighty = any(ahead) and any(_weights(graph, node) is not None for node in behind)
    return behind if weighty else []


def but_for_the_smallest(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """``nodes`` without those of the smallest weights, which are SPARED of all of them together at most."""
    sizes = {node.output[0]: int(np.prod(tensor.dims)) for node in nodes if (tensor := _weights(graph, node)) is not None}
    room, spared = SPARED * sum(sizes.values()), set()
    for name, size in sorted(sizes.items(), key=lambda item: item[1]):
        room -= size
        if room < 0:
            break
        spared.add(name)
    return [node for node in nodes if node.output[0] not in spared]


def store_in_8_bits(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """The constant weights of these convolutions and products become int8, with a scale for each channel or column."""
    stored: dict[str, str] = {}
    for node in nodes:
        weights = _weights(graph, node)
        if weights is None:
            continue
        if weights.name not in stored:
            stored[weights.name] = _store(graph, weights, CHANNELS[node.op_type])
        node.input[1] = stored[weights.name]
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in stored or tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _store(graph: onnx.GraphProto, weights: onnx.TensorProto, axis: int) -> str:
    """Add the weights as int8; returns the name of what they are turned back into."""
    values = numpy_helper.to_array(weights)
    others = tuple(n for n in range(values.ndim) if n != axis)
    scale = np.maximum(np.abs(values).max(others, keepdims=True), 1e-12).astype(np.float32) / 127
    parts = {"int8": np.clip(np.rint(values / scale), -127, 127).astype(np.int8), "scale": scale}
    inputs = [f"{weights.name}.{part}" for part in parts]
    wide, output = f"{weights.name}.wide", f"{weights.name}.float"
    graph.initializer.extend(map(numpy_helper.from_array, parts.values(), inputs))
    # a runtime folds these two as it loads the file; DequantizeLinear it keeps, and runs for every batch
    graph.node.insert(0, helper.make_node("Mul", [wide, inputs[1]], [output]))
    graph.node.insert(0, helper.make_node("Cast", [inputs[0]], [wide], to=TensorProto.FLOAT))
    return output


def _weights(graph: onnx.GraphProto, node: onnx.NodeProto) -> onnx.TensorProto | None:
    if node.op_type not in CHANNELS:
        return None
    tensors = (tensor for tensor in graph.initializer if tensor.name == node.input[1])
    return next((tensor for tensor in tensors if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1), None)
