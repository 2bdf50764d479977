"""Normalization as one node, where there is one, and weights alone in 8 bits: nearly the same embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from sslfeat import Encoder
from sslfeat.export.sources import origin
from sslfeat.inference.backends import OnnxRuntimeBackend
from sslfeat.inference.quantization import normalize_in_one, quantize
from sslfeat.inference.quantized_weights import head_nodes
from sslfeat.numerics.similarity import cosines


def test_the_embeddings_are_the_same() -> None:
    file = origin("sslfeat-small").file
    size = file.card.preprocess.size
    before = onnx.load_model_from_string(file.data)
    after = normalize_in_one(before)
    assert "BatchNormalization" in {node.op_type for node in after.graph.node}
    assert len(after.graph.node) == len(before.graph.node) - 1
    assert before.SerializeToString() == onnx.load_model_from_string(file.data).SerializeToString()
    used = {name for node in after.graph.node for name in node.input}
    assert {tensor.name for tensor in after.graph.initializer} <= used
    onnx.checker.check_model(after)
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    wanted = Encoder(file, provider="cpu").run(pixels)
    found = OnnxRuntimeBackend(after.SerializeToString(), "cpu", 1).run(pixels)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_graph_without_normalization_stays(tiny: Path) -> None:
    model = onnx.load(tiny)
    assert normalize_in_one(model) == model


def test_a_difference_that_is_wanted_elsewhere_stays() -> None:
    model = onnx.load_model_from_string(origin("sslfeat-small").file.data)
    centered = next(node for node in model.graph.node if node.op_type == "Sub")
    model.graph.node.append(onnx.helper.make_node("Neg", [centered.output[0]], ["more"]))
    assert normalize_in_one(model) == model


def test_weights_alone_in_8_bits_are_nearly_the_same_and_a_quarter_of_the_size() -> None:
    file = origin("sslfeat-small").file
    size = file.card.preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)
    small = quantize(file.data, pixels, "weights")
    assert len(small) < 0.27 * len(file.data)
    rows = Encoder(file, provider="cpu").run(pixels)
    assert cosines(OnnxRuntimeBackend(small, "cpu", 1).run(pixels), rows).min() > 0.999
    kinds = {tensor.data_type for tensor in onnx.load_model_from_string(small).graph.initializer if len(tensor.dims) == 4}
    assert onnx.TensorProto.INT8 in kinds


def test_the_head_is_what_no_convolution_follows() -> None:
    """Of the shipped encoder: its pooling and whitening; of one without a product behind its convolutions nothing."""
    graph = onnx.load_model_from_string(origin("sslfeat-small").file.data).graph
    kinds = [node.op_type for node in head_nodes(graph)]
    assert "MatMul" in kinds and "Conv" not in kinds
    product = next(node for node in graph.node if node.op_type == "MatMul")
    product.op_type = "Identity"
    del product.input[1:]
    assert head_nodes(graph) == []
