"""Resize and crop inside the graph: pictures of any size go in, as uint8 (N, H, W, 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from sslfeat.encoder_file import INPUT_NAME, OUTPUT_NAME, EncoderFile
from sslfeat.errors import ExportError, ParityError
from sslfeat.export.targets.target import Checked, Source
from sslfeat.preprocess import Preprocess, open_picture, read_file, resize_crop, to_rgb

MAIN = "encoder.onnx"
PIXELS = "pixels"
MODES = {"bicubic": "cubic", "bilinear": "linear"}
MOST_OFF = 0.001  # of the pixels may differ from Pillow's by more than a level
OPSET = 18  # the first whose Resize filters as it shrinks


def onnx_full(source: Source, out: Path) -> None:
    """``encoder.onnx``: for onnxruntime, on a CPU or in a browser. Other runtimes ignore or refuse the filter of Resize."""
    (out / MAIN).write_bytes(full_model(source.file).SerializeToString(deterministic=True))


def full_model(file: EncoderFile, with_pixels: bool = False) -> onnx.ModelProto:
    """The encoder behind its preprocessing; ``with_pixels`` it also gives what it makes of a picture, to be checked.

    Raises ExportError for a filter that ONNX lacks.
    """
    prep = file.card.preprocess
    if prep.filter not in MODES:
        raise ExportError(f"ONNX cannot resize with the filter {prep.filter!r}: {' or '.join(MODES)}")
    model = onnx.load_model_from_string(file.data)
    if max(entry.version for entry in model.opset_import if entry.domain == "") < OPSET:
        raise ExportError(f"the encoder's opset is below {OPSET}: export it again")
    model = compose.add_prefix(model, "encoder.")
    graph = model.graph
    nodes = [*_resize(prep, f"encoder.{INPUT_NAME}"), *graph.node,
             helper.make_node("Identity", [f"encoder.{OUTPUT_NAME}"], [OUTPUT_NAME])]  # fmt: skip
    ports = [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", file.card.dim])]
    if with_pixels:
        nodes.append(helper.make_node("Identity", [f"encoder.{INPUT_NAME}"], [PIXELS]))
        ports.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["batch", prep.size, prep.size, 3]))
    for part in (graph.node, graph.input, graph.output, graph.value_info):
        del part[:]
    graph.node.extend(nodes)
    graph.initializer.extend(_constants(prep))
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", "height", "width", 3]))
    graph.output.extend(ports)
    return model


def _constants(prep: Preprocess) -> list[onnx.TensorProto]:
    values = {
        "zero": np.array([0]), "two": np.array([2]), "four": np.array([4]), "plane": np.array([2, 3]),
        "resize": np.array([prep.resize]), "size": np.array([prep.size]), "half": np.array([2.0], np.float32),
    }  # fmt: skip
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def _resize(prep: Preprocess, out: str) -> list[onnx.NodeProto]:
    """Whole numbers throughout, as Pillow's reference; Round is to the even neighbour, as Python's."""
    node = helper.make_node
    return [
        node("Transpose", [INPUT_NAME], ["planes"], perm=[0, 3, 1, 2]),
        node("Shape", ["planes"], ["shape"]),
        node("Slice", ["shape", "two", "four"], ["sides"]),
        node("ReduceMin", ["sides"], ["shorter"], keepdims=1),
        node("Mul", ["sides", "resize"], ["grown"]),
        node("Div", ["grown", "shorter"], ["wanted"]),
        node("Slice", ["shape", "zero", "two"], ["first"]),
        node("Concat", ["first", "wanted"], ["sizes"], axis=0),
        node("Resize", ["planes", "", "", "sizes"], ["resized"], mode=MODES[prep.filter], antialias=1, exclude_outside=1,
             cubic_coeff_a=-0.5, coordinate_transformation_mode="half_pixel"),
        node("Sub", ["wanted", "size"], ["over"]),
        node("Cast", ["over"], ["over.float"], to=TensorProto.FLOAT),
        node("Div", ["over.float", "half"], ["margin"]),
        node("Round", ["margin"], ["margin.whole"]),
        node("Cast", ["margin.whole"], ["start"], to=TensorProto.INT64),
        node("Add", ["start", "size"], ["end"]),
        node("Slice", ["resized", "start", "end", "plane"], ["cut"]),
        node("Transpose", ["cut"], [out], perm=[0, 2, 3, 1]),
    ]  # fmt: skip


def check_full(source: Source, out: Path, pictures: Sequence[bytes]) -> Checked:
    """Picture files through the graph. Raises ParityError if more than 0.1 % of pixels are over a level from Pillow's."""
    import onnxruntime

    prep = source.file.card.preprocess
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    model = full_model(source.file, with_pixels=True).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows, unequal, off, count = [], 0, 0, 0
    for picture in pictures:
        upright = to_rgb(open_picture(read_file(picture)))
        embedding, pixels = session.run([OUTPUT_NAME, PIXELS], {INPUT_NAME: np.asarray(upright)[None]})
        difference = np.abs(pixels[0].astype(np.int16) - np.asarray(resize_crop(upright, prep))).max(-1)
        unequal, off = unequal + int((difference > 0).sum()), off + int((difference > 1).sum())
        count += difference.size
        rows.append(embedding)
    told = f"{100 - 100 * unequal / count:.3f} % of pixels are Pillow's, {100 * off / count:.3f} % over a level off"
    if off > MOST_OFF * count:
        raise ParityError(f"{told}: at most 0.1 % may be")
    return Checked(np.concatenate(rows), told)
