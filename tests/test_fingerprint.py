"""The fingerprint is of what decides features, and of nothing else."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sslfeat.data.decode import Preprocess
from sslfeat.errors import EncoderFileError
from sslfeat.inference.fingerprint import fingerprint_of
from sslfeat.inference.model_card import CARD_KEY, Parity, TrainingData
from sslfeat.inference.onnx_model import check_encoder, read_encoder_file
from tests.conftest import TINY_SIZE, sslfeat, tiny_card, tiny_model, write_tiny

Change = Callable[[onnx.ModelProto], object]
PREPROCESS = Preprocess(resize=TINY_SIZE, size=TINY_SIZE)


def fingerprint(model: onnx.ModelProto, preprocess: Preprocess = PREPROCESS) -> str:
    return fingerprint_of(model, "embedding", preprocess)


def rename_tensors(model: onnx.ModelProto) -> None:
    kept = ("image", "embedding")
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name if name in kept else f"other.{name}" for name in names]
    for tensor in model.graph.initializer:
        tensor.name = f"other.{tensor.name}"


def describe(model: onnx.ModelProto) -> None:
    """Everything that a model says of itself."""
    parts: list[Any] = [model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input]
    for part in parts:
        part.doc_string = "prose"
        part.metadata_props.add(key="who", value="me")
    model.graph.name, model.producer_name, model.producer_version, model.domain = "g", "p", "7", "d"
    model.model_version, model.ir_version = 5, 11
    for number, node in enumerate(model.graph.node):
        node.name = f"node {number}"
        for attribute in node.attribute:
            attribute.doc_string = "prose"
    model.graph.value_info.append(helper.make_tensor_value_info("maps", TensorProto.FLOAT, None))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "any"


def numbers_as_a_list(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    values = numpy_helper.to_array(weight).ravel().tolist()
    weight.ClearField("raw_data")
    weight.float_data.extend(values)


def reverse_weights(model: onnx.ModelProto) -> None:
    tensors = list(model.graph.initializer)[::-1]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)


def reverse_attributes(model: onnx.ModelProto) -> None:
    node = model.graph.node[4]
    attributes = [*node.attribute, helper.make_attribute("noop_with_empty_axes", 0)]
    del node.attribute[:]
    node.attribute.extend(attributes[::-1])


def add_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[4].attribute.append(helper.make_attribute("noop_with_empty_axes", 0))


def dead_parts(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unread"))
    model.graph.node.insert(1, helper.make_node("Neg", ["float"], ["dead"]))


def spell_domain(model: onnx.ModelProto) -> None:
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node:
        node.domain = "ai.onnx"


@pytest.mark.parametrize(
    "change",
    [rename_tensors, describe, numbers_as_a_list, reverse_weights, dead_parts, spell_domain],
    ids=lambda change: change.__name__,
)
def test_what_decides_nothing_is_no_part(change: Change) -> None:
    model = tiny_model()
    change(model)
    assert model.SerializeToString() != tiny_model().SerializeToString()
    assert fingerprint(model) == fingerprint(tiny_model())


def test_the_order_of_attributes_is_no_part() -> None:
    one, other = tiny_model(), tiny_model()
    add_attribute(one)
    reverse_attributes(other)
    assert fingerprint(one) == fingerprint(other) != fingerprint(tiny_model())


def flip_a_bit(model: onnx.ModelProto) -> None:
    data = bytearray(model.graph.initializer[0].raw_data)
    data[-4] ^= 1
    model.graph.initializer[0].raw_data = bytes(data)


def other_axes(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array([2, 2]), "axes"))


def other_shape(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [8, 5, 3, 5]


def other_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = TensorProto.INT32


def other_stride(model: onnx.ModelProto) -> None:
    model.graph.node[2].attribute[0].ints[1] = 3


def other_operator(model: onnx.ModelProto) -> None:
    model.graph.node[3].op_type = "Sigmoid"


def less_by_one(model: onnx.ModelProto) -> None:
    del model.graph.node[3]
    model.graph.node[3].input[0] = "maps"


def other_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 19


def left_out(model: onnx.ModelProto) -> None:
    model.graph.node[4].input.pop()


@pytest.mark.parametrize(
    "change",
    [flip_a_bit, other_axes, other_shape, other_type, other_stride, other_operator, less_by_one, other_opset, left_out],
    ids=lambda change: change.__name__,
)
def test_what_decides_is_a_part(change: Change) -> None:
    model = tiny_model()
    change(model)
    assert fingerprint(model) != fingerprint(tiny_model())


@pytest.mark.parametrize(
    "fields", [{"filter": "bilinear"}, {"resize": 17}, {"size": 15}, {"color": "BGR"}, {"antialias": False}, {"crop": "x"}]
)  # fmt: skip
def test_every_field_of_the_preprocessing_is_a_part(fields: dict[str, Any]) -> None:
    changed = dataclasses.replace(PREPROCESS, **fields)
    assert fingerprint(tiny_model(), changed) != fingerprint(tiny_model())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (helper.make_node("Sub", ["a", "b"], ["x"]), helper.make_node("Sub", ["b", "a"], ["x"])),
        (helper.make_node("Sub", ["a", "b"], ["x"]), helper.make_node("Sub", ["a", "a"], ["x"])),
        (helper.make_node("Split", ["a"], ["x", "y"]), helper.make_node("Split", ["a"], ["y", "x"])),
        (helper.make_node("Clip", ["a", "", "b"], ["x"]), helper.make_node("Clip", ["a", "b"], ["x"])),
        (helper.make_node("Elu", ["a"], ["x"], alpha=1.0), helper.make_node("Elu", ["a"], ["x"], alpha=1)),
        (helper.make_node("Elu", ["a"], ["x"], alpha=1.0), helper.make_node("Elu", ["a"], ["x"], beta=1.0)),
        (helper.make_node("Elu", ["a"], ["x"], p="1", q="23"), helper.make_node("Elu", ["a"], ["x"], p="12", q="3")),
        (helper.make_node("Elu", ["a"], ["x"], p=["1", "23"]), helper.make_node("Elu", ["a"], ["x"], p=["12", "3"])),
        (
            helper.make_node("Constant", [], ["x"], value=numpy_helper.from_array(np.array([1, 2]))),
            helper.make_node("Constant", [], ["x"], value=numpy_helper.from_array(np.array([1, 3]))),
        ),
    ],
)
def test_one_node_is_not_another(first: onnx.NodeProto, second: onnx.NodeProto) -> None:
    def of(node: onnx.NodeProto) -> str:
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "ab"]
        return fingerprint_of(helper.make_model(helper.make_graph([node], "g", ports, [])), "x", PREPROCESS)

    assert of(first) != of(second)
    assert of(first) == of(first)


def unmade(model: onnx.ModelProto) -> None:
    model.graph.node[3].input[0] = "nowhere"


def unsorted(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def made_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "weight"))


def no_output(model: onnx.ModelProto) -> None:
    model.graph.node[4].output[0] = "another"


def no_value(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].ClearField("raw_data")


def no_type(model: onnx.ModelProto) -> None:
    model.graph.node[2].attribute[0].type = onnx.AttributeProto.UNDEFINED


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (unmade, "the input 'nowhere' of Relu is not defined before it"),
        (unsorted, "the input 'active' of ReduceMean is not defined before it"),
        (made_twice, "the tensor 'weight' is defined twice"),
        (no_output, "the output 'embedding' is not defined"),
        (no_value, "the tensor 'weight' has no value"),
        (no_type, "its attribute 'strides' is neither numbers"),
    ],
)
def test_a_graph_that_makes_no_sense_is_refused(change: Change, said: str) -> None:
    model = tiny_model()
    change(model)
    with pytest.raises(EncoderFileError, match=said):
        fingerprint(model)


def test_cards_may_be_rewritten() -> None:
    card = tiny_card()
    others = [
        dataclasses.replace(card, **fields)
        for fields in (
            {"name": "another"},
            {"license": "MIT", "method": "m", "backbone": "b", "layer": "l"},
            {"training_data": TrainingData("more", 5, "CC0"), "config_sha256": "1" * 64, "versions": {"torch": "9"}},
            {"parity": Parity(9, "x", (1,), 0.1, 2.0, 0.9, 0.9)},
        )
    ]
    found = set()
    for one in (card, *others):
        model = tiny_model()
        model.metadata_props.add(key=CARD_KEY, value=one.to_json())
        found.add(check_encoder(model.SerializeToString()).fingerprint)
    assert found == {fingerprint(tiny_model())}


def test_features_and_index_take_the_encoder_under_another_name(
    tiny: Path, embedded: Path, image_folder: Path, tmp_path: Path
) -> None:
    """What the same weights made can be searched, whatever the file and the card are called."""
    renamed = write_tiny(tmp_path / "renamed.onnx")
    assert renamed.read_bytes() != tiny.read_bytes()
    assert read_encoder_file(renamed).sha256 != read_encoder_file(tiny).sha256
    assert read_encoder_file(renamed).fingerprint == read_encoder_file(tiny).fingerprint
    again = sslfeat("embed", image_folder, "--encoder", renamed, "--out", shutil.copytree(embedded, tmp_path / "features"))
    assert again.returncode == 0, again.stderr
    made = sslfeat("index", embedded, "--out", tmp_path / "index")
    assert made.returncode == 0, made.stderr
    query = next(image_folder.rglob("*.jpg"))
    found = sslfeat("search", tmp_path / "index", query, "--encoder", renamed)
    assert found.returncode == 0, found.stderr
    other = sslfeat("search", tmp_path / "index", query, "--encoder", write_tiny(tmp_path / "other.onnx", seed=1))
    assert other.returncode == 1
