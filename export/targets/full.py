"""Resize and crop inside the graph, for images of any size, uint8 (N, H, W, 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper

from sslfeat.data.read import read_image
from sslfeat.data.transforms import open_image, resize_crop
from sslfeat.data.upright import to_rgb
from sslfeat.errors import ExportError, ParityError
from sslfeat.export.targets.base import Device, Source, TargetCheck
from sslfeat.export.targets.pillow_graph import KERNELS, OPSET, pillow_graph
from sslfeat.inference.onnx_model import INPUT_NAME, OUTPUT_NAME, EncoderFile

MAIN = "encoder.onnx"
PIXELS = "pixels"
DEVICE = Device("`image`: uint8 (N, H, W, 3), any N, H and W", programs=("onnx_full.py.in",), any_size=True)
OTHERS = "choose a target for resized images, such as ort or openvino"
OLD = f"export the model again with opset {OPSET} or later (and adopt it), or choose a target such as ort or openvino"
MOST_UNEQUAL = 0.001  # maximum fraction of pixels that differ from Pillow's


def onnx_full(source: Source, out: Path) -> None:
    """``encoder.onnx``: for onnxruntime, on a CPU or in a browser."""
    (out / MAIN).write_bytes(full_model(source.file).SerializeToString(deterministic=True))


def full_model(file: EncoderFile, with_pixels: bool = False) -> onnx.ModelProto:
    """The encoder with its preprocessing in the graph; ``with_pixels``: the preprocessed image is a second output, for checks.

    Raises ExportError as ``check_takes`` does.
    """
    prep, model = file.card.preprocess, _taken(file)
    model = compose.add_prefix(model, "encoder.")
    graph, front = model.graph, compose.add_prefix(pillow_graph(prep), "resize.").graph
    nodes = [helper.make_node("Identity", [INPUT_NAME], [front.input[0].name]), *front.node,
             helper.make_node("Identity", [front.output[0].name], [f"encoder.{INPUT_NAME}"]), *graph.node,
             helper.make_node("Identity", [f"encoder.{OUTPUT_NAME}"], [OUTPUT_NAME])]  # fmt: skip
    ports = [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", file.card.dim])]
    if with_pixels:
        nodes.append(helper.make_node("Identity", [f"encoder.{INPUT_NAME}"], [PIXELS]))
        ports.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["batch", prep.size, prep.size, 3]))
    for part in (graph.node, graph.input, graph.output, graph.value_info):
        del part[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", "height", "width", 3]))
    graph.output.extend(ports)
    return model


def check_takes(file: EncoderFile) -> None:
    """Raises ExportError for an encoder that cannot be combined with the preprocessing graph."""
    _taken(file)


def _taken(file: EncoderFile) -> onnx.ModelProto:
    found = file.card.preprocess.filter
    if found not in KERNELS:
        raise ExportError(
            f"{file.card.name!r} needs the filter {found!r}, but the graph supports only {', '.join(KERNELS)}", OTHERS
        )
    model = onnx.load_model_from_string(file.data)
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < OPSET:
        raise ExportError(f"{file.card.name!r} has opset {opset}, but the preprocessing needs {OPSET}", OLD)
    return model


def check_full(source: Source, out: Path, images: Sequence[bytes]) -> TargetCheck:
    """Run image files through the graph. Raises ParityError if more than 0.1 % of the pixels differ from Pillow's."""
    from sslfeat.inference.backends import onnxruntime

    prep = source.file.card.preprocess
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    model = full_model(source.file, with_pixels=True).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows, unequal, count = [], 0, 0
    for image in images:
        upright = to_rgb(open_image(read_image(image)))
        embedding, pixels = session.run([OUTPUT_NAME, PIXELS], {INPUT_NAME: np.asarray(upright)[None]})
        differ = (pixels[0] != np.asarray(resize_crop(upright, prep))).any(-1)
        unequal, count = unequal + int(differ.sum()), count + differ.size
        rows.append(embedding)
    remark = f"{100 - 100 * unequal / count:.3f} % of pixels equal Pillow's"
    if unequal > MOST_UNEQUAL * count:
        raise ParityError(f"{remark}: at least 99.9 % are required")
    return TargetCheck(np.concatenate(rows), remark)
