"""Normalization as one node: the same embeddings, and only where there is a normalization."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from sslfeat import Encoder
from sslfeat.export.sources import origin
from sslfeat.inference.backends import OnnxRuntimeBackend
from sslfeat.inference.quantization import normalize_in_one


def test_the_embeddings_are_the_same() -> None:
    file = origin("simclr-resnet10").file
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
    model = onnx.load_model_from_string(origin("simclr-resnet10").file.data)
    centered = next(node for node in model.graph.node if node.op_type == "Sub")
    model.graph.node.append(onnx.helper.make_node("Neg", [centered.output[0]], ["more"]))
    assert normalize_in_one(model) == model
