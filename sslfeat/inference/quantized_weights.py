"""Weight-only 8-bit quantization, of the layers after the last convolution or of the whole network.

After the last convolution, the image is represented by few numbers, whose scales differ greatly after whitening: quantizing
these activations costs neighbors and saves no time. A network that does not tolerate activation quantization is still
reduced to a quarter of its size.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SPARED = 0.06  # fraction of weights kept in float32: the smallest matrices, mostly the first, which matter most
CHANNELS = {"Conv": 0, "MatMul": 1}  # axis of the weights with separate scales


def head_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes after the last convolution, if they include a product with a constant matrix; otherwise none."""
    readers: dict[str, list[int]] = {}
    for number, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(number)
    ahead = [False] * len(graph.node)  # whether this node or a later one is a convolution
    for number in reversed(range(len(graph.node))):
        node = graph.node[number]
        following = (other for name in node.output for other in readers.get(name, ()))
        ahead[number] = node.op_type == "Conv" or any(ahead[other] for other in following)
    behind = [node for node, more in zip(graph.node, ahead, strict=True) if not more]
    weighty = any(ahead) and any(_weights(graph, node) is not None for node in behind)
    return behind if weighty else []


def but_for_the_smallest(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """``nodes`` without those with the smallest weights, which are at most the fraction SPARED of all weights."""
    sizes = {node.output[0]: int(np.prod(tensor.dims)) for node in nodes if (tensor := _weights(graph, node)) is not None}
    room, spared = SPARED * sum(sizes.values()), set()
    for name, size in sorted(sizes.items(), key=lambda item: item[1]):
        room -= size
        if room < 0:
            break
        spared.add(name)
    return [node for node in nodes if node.output[0] not in spared]


def store_in_8_bits(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Convert the constant weights of these convolutions and products to int8, with a scale per channel or column."""
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
    """Add the weights as int8; return the name of the dequantized tensor."""
    values = numpy_helper.to_array(weights)
    others = tuple(n for n in range(values.ndim) if n != axis)
    scale = np.maximum(np.abs(values).max(others, keepdims=True), 1e-12).astype(np.float32) / 127
    parts = {"int8": np.clip(np.rint(values / scale), -127, 127).astype(np.int8), "scale": scale}
    inputs = [f"{weights.name}.{part}" for part in parts]
    wide, output = f"{weights.name}.wide", f"{weights.name}.float"
    graph.initializer.extend(map(numpy_helper.from_array, parts.values(), inputs))
    # runtimes fold these two when they load the file, but run DequantizeLinear for every batch
    graph.node.insert(0, helper.make_node("Mul", [wide, inputs[1]], [output]))
    graph.node.insert(0, helper.make_node("Cast", [inputs[0]], [wide], to=TensorProto.FLOAT))
    return output


def _weights(graph: onnx.GraphProto, node: onnx.NodeProto) -> onnx.TensorProto | None:
    if node.op_type not in CHANNELS:
        return None
    tensors = (tensor for tensor in graph.initializer if tensor.name == node.input[1])
    return next((tensor for tensor in tensors if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1), None)
