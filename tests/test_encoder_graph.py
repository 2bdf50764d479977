"""Encoder files whose graph is unsafe or unsupported: each is refused with its fault, before anything is run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sslfeat import Encoder
from sslfeat.errors import EncoderFileError
from sslfeat.inference.onnx_model import check_encoder
from tests.conftest import TINY_DIM, TINY_SIZE, signed, tiny_model


def external(tensor: TensorProto) -> TensorProto:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def external_weights(model: onnx.ModelProto) -> None:
    external(model.graph.initializer[0])


def external_in_attribute(model: onnx.ModelProto) -> None:
    tensor = external(numpy_helper.from_array(np.zeros(4, np.float32), "hidden"))
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))


def external_in_branch(model: onnx.ModelProto) -> None:
    tensor = external(numpy_helper.from_array(np.zeros(4, np.float32), "hidden"))
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [4])
    branch = helper.make_graph([helper.make_node("Constant", [], ["out"], value=tensor)], "branch", [], [output])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    model.graph.node.append(helper.make_node("If", ["condition"], ["x"], then_branch=branch, else_branch=branch))


def external_sparse(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(external(numpy_helper.from_array(np.zeros(2, np.float32), "sparse")))


def foreign_node(model: onnx.ModelProto) -> None:
    model.graph.node[3].domain = "com.microsoft"


def foreign_import(model: onnx.ModelProto) -> None:
    model.opset_import.add(domain="my.ops", version=1)


def functions(model: onnx.ModelProto) -> None:
    model.functions.add(name="f", domain="")


def training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def endless_loop(model: onnx.ModelProto) -> None:
    """2^62 rounds: it would run for ever, and be deaf to signals meanwhile."""
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, None)
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    ports = [helper.make_tensor_value_info("round", TensorProto.INT64, []), flag, state]
    body = helper.make_graph(
        [helper.make_node("Identity", ["flag"], ["on"]), helper.make_node("Relu", ["state"], ["next"])],
        "body",
        ports,
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("next", 1, None)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(1 << 62), "rounds"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "go"))
    model.graph.node[4].output[0] = "once"
    model.graph.node.append(helper.make_node("Loop", ["rounds", "go", "once"], ["embedding"], body=body))


def branch(model: onnx.ModelProto) -> None:
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    inner = helper.make_graph([helper.make_node("Relu", ["active"], ["out"])], "branch", [], [output])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    model.graph.node.append(helper.make_node("If", ["condition"], ["x"], then_branch=inner, else_branch=inner))


def graph_in_a_plain_node(model: onnx.ModelProto) -> None:
    model.graph.node[3].attribute.append(helper.make_attribute("body", onnx.GraphProto(name="hidden")))


def sparse_weights(model: onnx.ModelProto) -> None:
    """Eight bytes that would be unpacked to terabytes."""
    sparse = model.graph.sparse_initializer.add(dims=[1 << 42])
    sparse.values.CopyFrom(numpy_helper.from_array(np.zeros(1, np.float32), "sparse"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "places"))


def operator(name: str, *inputs: str) -> Any:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        model.graph.node.append(helper.make_node(name, list(inputs), ["unused"]))

    return change


def too_many_nodes(model: onnx.ModelProto) -> None:
    model.graph.node.extend(helper.make_node("Relu", ["active"], [f"n{number}"]) for number in range(100_001))


def set_input(name: str = "image", kind: int = TensorProto.UINT8, shape: Any = ("n", TINY_SIZE, TINY_SIZE, 3)) -> Any:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info(name, kind, list(shape)))

    return change


def set_output(name: str = "embedding", kind: int = TensorProto.FLOAT, shape: Any = ("n", TINY_DIM)) -> Any:
    def change(model: onnx.ModelProto) -> None:
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info(name, kind, list(shape)))

    return change


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("maps", TensorProto.FLOAT, None))


def no_nodes(model: onnx.ModelProto) -> None:
    del model.graph.node[:]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (external_weights, "external_data=False, or combine it with its weights by 'sslfeat adopt'"),
        (external_in_attribute, "external data: the tensor 'hidden'"),
        (external_in_branch, "external data: the tensor 'hidden'"),
        (external_sparse, "external data: the tensor 'sparse'"),
        (foreign_node, "foreign operator domain com.microsoft"),
        (foreign_import, "foreign operator domain my.ops"),
        (functions, "functions or training graphs"),
        (training, "functions or training graphs"),
        (endless_loop, "operator Loop is not supported"),
        (branch, "operator If is not supported"),
        (graph_in_a_plain_node, "its attribute 'body' is neither numbers"),
        (operator("RandomNormalLike", "active"), "operator RandomNormalLike"),
        (operator("SequenceConstruct", "active"), "operator SequenceConstruct"),
        (operator("NoSuchThing", "active"), "operator NoSuchThing"),
        (operator("Dropout", "active", "", "yes"), "operator Dropout with a training_mode input"),
        (sparse_weights, "sparse weights"),
        (too_many_nodes, "it has 100006 nodes: the limit is 100000"),
        (set_input(name="pixel_values"), "wrong inputs: pixel_values UINT8"),
        (set_input(kind=TensorProto.FLOAT), "wrong inputs: image FLOAT"),
        (set_input(shape=("n", 3, TINY_SIZE, TINY_SIZE)), "wrong inputs"),
        (set_input(shape=(1, TINY_SIZE, TINY_SIZE, 3)), "wrong inputs"),
        (set_input(shape=("n", 32, 32, 3)), "wrong inputs"),
        (set_output(name="features"), "wrong outputs: features"),
        (set_output(kind=TensorProto.FLOAT16), "wrong outputs: embedding FLOAT16"),
        (set_output(shape=("n", 9)), "wrong outputs"),
        (set_output(shape=("n", TINY_DIM, 1, 1)), "wrong outputs"),
        (second_input, "wrong inputs"),
        (second_output, "wrong outputs"),
        (no_nodes, "not an ONNX model with a graph"),
    ],
)
def test_each_fault_is_refused_by_name(change: Callable[[onnx.ModelProto], None], fault: str, tmp_path: Path) -> None:
    model = tiny_model()
    change(model)
    path = tmp_path / "hostile.onnx"
    path.write_bytes(signed(model))
    with pytest.raises(EncoderFileError) as raised:
        Encoder.load(path)
    assert fault in str(raised.value)
    assert str(path) in str(raised.value)


def test_the_unchanged_file_is_accepted() -> None:
    """What the hostile ones are made from is not refused for some other reason."""
    assert check_encoder(signed(tiny_model())).card.dim == TINY_DIM


def test_a_graph_that_asks_for_terabytes_ends_as_an_error(tmp_path: Path) -> None:
    """It passes every check of form; it must fail where it is run, as one line and not as a dead machine."""
    model = tiny_model()
    shape = numpy_helper.from_array(np.array([1 << 40]), "huge")
    model.graph.initializer.append(shape)
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    del model.graph.node[4]
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["active", "axes"], ["mean"], keepdims=0),
            helper.make_node("ConstantOfShape", ["huge"], ["terabytes"], value=one),
            helper.make_node("ReduceMax", ["terabytes"], ["top"], keepdims=0),
            helper.make_node("Mul", ["mean", "top"], ["embedding"]),
        ]
    )
    path = tmp_path / "huge.onnx"
    path.write_bytes(signed(model))
    code = (
        "import sys, numpy as np\n"
        "from sslfeat import Encoder\nfrom sslfeat.errors import SslfeatError\n"
        "try:\n    list(Encoder.load(sys.argv[1], 'cpu').embed(np.zeros((2, 16, 16, 3), np.uint8)))\n"
        "except SslfeatError as error:\n    print('refused:', error)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=120)
    assert finished.stdout.startswith("refused:"), finished.stderr
