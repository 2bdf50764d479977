"""A small ONNX encoder as other programs export it, its features computed in NumPy, and a request to adopt it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from sslfeat.data.decode import Pixels
from sslfeat.data.transforms import Preprocess
from sslfeat.export.adopt.foreign_model import AdoptRequest

SIZE, DIM = 16, 6
PIXELS = np.random.default_rng(0).integers(0, 256, (9, SIZE, SIZE, 3), dtype=np.uint8)
WISH = AdoptRequest(Preprocess(SIZE, SIZE), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def foreign(
    last: bool = False, half: bool = False, batch: Any = "n", tokens: int = 0, channels: int = 3, twist: str = ""
) -> bytes:
    """One convolution, its planes averaged, or its cells as tokens; names that collide with ours on purpose."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    weight = np.random.default_rng(1).normal(0, 0.3, (DIM, channels, 4, 4)).astype(np.float16 if half else np.float32)
    nodes = [helper.make_node("Transpose", ["embedding"], ["planes"], perm=[0, 3, 1, 2])] if last else []
    nodes.append(helper.make_node("Conv", ["planes" if last else "embedding", "factor"], ["float"], strides=[4, 4]))
    if tokens:
        nodes.append(helper.make_node("Reshape", ["float", "shape"], ["flat"]))
        nodes.append(helper.make_node("Transpose", ["flat"], ["image"], perm=[0, 2, 1]))
    else:
        nodes.append(helper.make_node("GlobalAveragePool", ["float"], ["mean"]))
        nodes.append(helper.make_node("Flatten", ["mean"], ["image"]))
    if twist == "domain":
        nodes.append(helper.make_node("Gelu", ["image"], ["other"], domain="com.microsoft"))
    if twist == "fixed":  # as exporters bake it in
        nodes[-1] = helper.make_node("Reshape", ["mean", "one"], ["image"])
    shape = [batch, SIZE, SIZE, channels] if last else [batch, channels, SIZE, SIZE]
    out = [batch, tokens, DIM] if tokens else [batch, DIM]
    inputs = [helper.make_tensor_value_info("embedding", kind, shape)]
    if twist == "two inputs":
        inputs.append(helper.make_tensor_value_info("mask", kind, [1]))
        nodes.append(helper.make_node("Mul", ["unmasked", "mask"], ["image"]))
        nodes[-2].output[0] = "unmasked"
    constants = [numpy_helper.from_array(weight, "factor")]
    constants += [numpy_helper.from_array(np.array([0, DIM, tokens]), "shape")] if tokens else []
    constants += [numpy_helper.from_array(np.array([1, DIM]), "one")] if twist == "fixed" else []
    graph = helper.make_graph(nodes, "theirs", inputs, [helper.make_tensor_value_info("image", kind, out)], constants)
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid("com.microsoft", 1)] if twist == "domain" else [])]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return data


def by_hand(pixels: Pixels, pool: str = "") -> npt.NDArray[np.float64]:
    """The same in NumPy, in 64 bits."""
    weight = np.random.default_rng(1).normal(0, 0.3, (DIM, 3, 4, 4)).astype(np.float32).astype(np.float64)
    fed = (pixels / 255 - np.array(WISH.mean)) / np.array(WISH.std)
    cells = fed.reshape(len(fed), 4, 4, 4, 4, 3).transpose(0, 1, 3, 5, 2, 4)  # by cell, then channel, row, column
    planes = np.einsum("nrcahw,dahw->nrcd", cells, weight).reshape(len(fed), 16, DIM)
    found: npt.NDArray[np.float64] = planes[:, 0] if pool == "cls" else planes.mean(1)
    return found
