"""How large an encoder's tensors are and how much work it is, for one image, worked out from the graph alone.

A few bytes of graph can ask for terabytes or for years. What ONNX's shape inference can foretell is bounded here; shapes
that depend on pixels it cannot, and then it is the allocation that fails, or a signal that ends the run (``system/signals.py``).
"""

from __future__ import annotations

import math

import onnx
from onnx import helper, shape_inference

from sslfeat.errors import EncoderFileError

MOST_ELEMENTS = 1 << 28  # of one tensor: 1 GiB in float32, six times those of ViT-g's attention at 518 px
MOST_WORK = 10**13  # multiplications: ten times those of ViT-g at 518 px
SMALL = 1024  # elements of a constant that may be a shape
Shape = tuple[int, ...]


def refuse_boundless(model: onnx.ModelProto) -> None:
    """Raise EncoderFileError, naming the node, for a tensor or a product that is larger than any encoder's."""
    try:
        inferred = shape_inference.infer_shapes(_skeleton(model), data_prop=True)
    except (shape_inference.InferenceError, ValueError, RuntimeError):
        return  # nonsense, which onnxruntime refuses in its own words
    known = [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]
    shapes = {info.name: shape for info in known if (shape := _shape(info)) is not None}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in inferred.graph.initializer}
    work = 0
    for node in model.graph.node:
        made = max((math.prod(shapes[name]) for name in node.output if name in shapes), default=0)
        if made > MOST_ELEMENTS:
            raise EncoderFileError(f"too large: {node.op_type} makes {made} numbers of one image, at most {MOST_ELEMENTS}")
        work += made * _factors(node, shapes)
    if work > MOST_WORK:
        raise EncoderFileError(f"too much work: {work:.1e} multiplications for one image, at most {MOST_WORK:.0e}")


def _factors(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """Multiplications for each number that the node makes."""

    def shape(place: int) -> Shape:
        """Of an input; 1 where it is missing or a single number."""
        return (shapes.get(node.input[place]) if place < len(node.input) else None) or (1,)

    if node.op_type.startswith(("MatMul", "QLinearMatMul")):
        return shape(0)[-1]
    if node.op_type == "Gemm":
        return max(shape(0))
    if "Conv" in node.op_type:
        return math.prod(shape(3 if node.op_type == "QLinearConv" else 1)[1:])
    return 1


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph for one image, its weights stood for by their shapes."""
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
