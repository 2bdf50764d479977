"""Bounds on the tensor sizes and the amount of computation of an encoder for one image, derived from the graph.

A small graph can require terabytes of memory or years of computation. Sizes known from ONNX shape inference are limited here.
If shapes depend on the pixels, the allocation fails, or a signal ends the run (``system/signals.py``).
"""

from __future__ import annotations

import math

import onnx
from onnx import helper, shape_inference

from sslfeat.errors import EncoderFileError

MOST_ELEMENTS = 1 << 28  # per tensor: 1 GiB in float32, six times the attention of ViT-g at 518 px
MOST_WORK = 10**13  # multiplications: ten times ViT-g at 518 px
SMALL = 1024  # maximum elements of a constant that may be a shape
Shape = tuple[int, ...]


def refuse_boundless(model: onnx.ModelProto) -> None:
    """Raise EncoderFileError, naming the node, if a tensor or the total work exceeds the limit."""
    try:
        inferred = shape_inference.infer_shapes(_skeleton(model), data_prop=True)
    except (shape_inference.InferenceError, ValueError, RuntimeError):
        return  # invalid graph: onnxruntime reports the error
    known = [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]
    shapes = {info.name: shape for info in known if (shape := _shape(info)) is not None}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in inferred.graph.initializer}
    work = 0
    for node in model.graph.node:
        made = max((math.prod(shapes[name]) for name in node.output if name in shapes), default=0)
        if made > MOST_ELEMENTS:
            raise EncoderFileError(f"too large: {node.op_type} outputs {made} elements per image, the limit is {MOST_ELEMENTS}")
        work += made * _factors(node, shapes)
    if work > MOST_WORK:
        raise EncoderFileError(f"too much work: {work:.1e} multiplications per image, the limit is {MOST_WORK:.0e}")


def _factors(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """Multiplications per output element of the node."""

    def shape(place: int) -> Shape:
        """Shape of an input; (1,) if it is missing or scalar."""
        return (shapes.get(node.input[place]) if place < len(node.input) else None) or (1,)

    if node.op_type.startswith(("MatMul", "QLinearMatMul")):
        return shape(0)[-1]
    if node.op_type == "Gemm":
        return max(shape(0))
    if "Conv" in node.op_type:
        return math.prod(shape(3 if node.op_type == "QLinearConv" else 1)[1:])
    return 1


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph for one image, with large weights replaced by their shapes."""
    made = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = made.graph
    for port in model.graph.input:
        graph.input.add().CopyFrom(port)
        batch = graph.input[-1].type.tensor_type.shape.dim
        if batch:
            batch[0].dim_value = 1
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= SMALL:
            graph.initializer.add().CopyFrom(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    for node in model.graph.node:
        constant = next((item.t for item in node.attribute if item.HasField("t")), None)
        if node.op_type == "Constant" and constant is not None and math.prod(constant.dims) > SMALL:
            graph.input.append(helper.make_tensor_value_info(node.output[0], constant.data_type, list(constant.dims)))
        else:
            graph.node.add().CopyFrom(node)
    graph.output.extend(onnx.ValueInfoProto(name=port.name) for port in model.graph.output)
    return made


def _shape(info: onnx.ValueInfoProto) -> Shape | None:
    dims = info.type.tensor_type.shape.dim
    known = info.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims)
    return tuple(dim.dim_value for dim in dims) if known else None
