"""A few bytes of graph that ask for terabytes, or for years, are refused before anything is run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sslfeat.errors import EncoderFileError
from sslfeat.inference.workload import MOST_ELEMENTS, refuse_boundless
from tests.conftest import TINY_SIZE, tiny_model
from tests.test_signals import busy_model

Bomb = Callable[[onnx.ModelProto], None]


def constant(model: onnx.ModelProto, name: str, value: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))


def node(kind: str, *inputs: str, constants: dict[str, Any] | None = None, **attributes: Any) -> Bomb:
    def put(model: onnx.ModelProto) -> None:
        for name, value in (constants or {}).items():
            constant(model, name, value)
        model.graph.node.append(helper.make_node(kind, list(inputs), ["x"], **attributes))

    return put


def doubling(model: onnx.ModelProto) -> None:
    for number in range(40):
        model.graph.node.append(
            helper.make_node("Concat", [f"x{number}" if number else "embedding"] * 2, [f"x{number + 1}"], axis=0)
        )


def hidden_in_arithmetic(model: onnx.ModelProto) -> None:
    """The shape is itself computed."""
    constant(model, "half", np.array([1 << 20]))
    model.graph.node.append(helper.make_node("Mul", ["half", "half"], ["whole"]))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["whole"], ["x"]))


def large_constant_node(model: onnx.ModelProto) -> None:
    value = numpy_helper.from_array(np.ones((2000, 8), np.float32))
    model.graph.node.append(helper.make_node("Constant", [], ["rows"], value=value))
    constant(model, "many", np.array([20, 1000]))
    model.graph.node.append(helper.make_node("Tile", ["rows", "many"], ["x"]))


@pytest.mark.parametrize(
    ("bomb", "kind"),
    [
        (node("ConstantOfShape", "s", constants={"s": [1 << 40]}), "ConstantOfShape"),
        (node("Tile", "embedding", "s", constants={"s": [1 << 20, 1 << 20]}), "Tile"),
        (node("Expand", "embedding", "s", constants={"s": [1 << 30, 1, 8]}), "Expand"),
        (node("Pad", "embedding", "s", constants={"s": [0, 0, 0, 1 << 38]}), "Pad"),
        (node("Range", "a", "b", "c", constants={"a": np.float32(0), "b": np.float32(1e12), "c": np.float32(1)}), "Range"),
        (node("Resize", "nchw", "", "s", constants={"s": np.array([1, 1, 1 << 18, 1 << 18], np.float32)}), "Resize"),
        (node("Conv", "nchw", "weight", pads=[1 << 20] * 4), "Conv"),
        (doubling, "Concat"),
        (hidden_in_arithmetic, "ConstantOfShape"),
        (large_constant_node, "Tile"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tensors_without_measure(bomb: Bomb, kind: str) -> None:
    model = tiny_model()
    bomb(model)
    began = time.monotonic()
    with pytest.raises(EncoderFileError, match=rf"too large: {kind} outputs \d+ elements per image"):
        refuse_boundless(model)
    assert time.monotonic() - began < 5


def test_the_limit_is_where_it_says() -> None:
    for elements, refused in ((MOST_ELEMENTS, False), (MOST_ELEMENTS + 1, True)):
        model = tiny_model()
        node("ConstantOfShape", "s", constants={"s": [elements]})(model)
        if refused:
            with pytest.raises(EncoderFileError, match="too large"):
                refuse_boundless(model)
        else:
            refuse_boundless(model)


def gemm(model: onnx.ModelProto) -> None:
    constant(model, "sides", [16000, 16000])
    model.graph.node.append(helper.make_node("ConstantOfShape", ["sides"], ["g0"]))
    for number in range(3):
        model.graph.node.append(helper.make_node("Gemm", [f"g{number}", "g0"], [f"g{number + 1}"]))


def wide_convolutions(model: onnx.ModelProto) -> None:
    """8,192 channels of 180 x 180 px, again and again."""
    constant(model, "planes", [1, 8192, 180, 180])
    constant(model, "kernel", [8192, 8192, 1, 1])
    model.graph.node.append(helper.make_node("ConstantOfShape", ["planes"], ["c0"]))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["kernel"], ["k"]))
    for number in range(5):
        model.graph.node.append(helper.make_node("Conv", [f"c{number}", "k"], [f"c{number + 1}"]))


@pytest.mark.parametrize("bomb", [gemm, wide_convolutions])
def test_work_without_measure(bomb: Bomb) -> None:
    model = tiny_model()
    bomb(model)
    with pytest.raises(EncoderFileError, match=r"too much work: 1\.\de\+13 multiplications"):
        refuse_boundless(model)


def test_many_products() -> None:
    with pytest.raises(EncoderFileError, match=r"too much work: 1\.6e\+13 multiplications"):
        refuse_boundless(busy_model(foreseeable=True))
    refuse_boundless(busy_model())  # which is what signals are for


def test_an_encoder_is_within_bounds() -> None:
    refuse_boundless(tiny_model())
    model = tiny_model()
    model.graph.node[2].attribute[0].ints[0] = 0  # a stride that makes no sense: onnxruntime says so
    refuse_boundless(model)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"  # what was checked is not changed
    assert tiny_model().graph.input[0].type.tensor_type.shape.dim[1].dim_value == TINY_SIZE
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
