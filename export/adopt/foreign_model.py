"""Foreign ONNX models: which are taken, how images go in, and which output is the embedding."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, compose, version_converter

from sslfeat.data.transforms import FILTERS, Preprocess
from sslfeat.errors import EncoderFileError, InputError, UsageError
from sslfeat.inference.backends import brief
from sslfeat.inference.model_card import CARD_KEY
from sslfeat.inference.onnx_model import MAX_BYTES, refuse_unsafe

POOLS = ("none", "cls", "mean")
OLDEST_OPSET = 13
PREFIX = "model."
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers
FED = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8)
OWN_RANGES = "DynamicQuantizeLinear"  # the operator that takes its range from whatever is in the batch


@dataclass(frozen=True)
class AdoptRequest:
    """How images are fed: (x / 255 * ``scale`` - ``mean``) / ``std``, of images prepared as ``preprocess`` says; to a model
    that takes uint8, which scales inside, as they are.

    ``output`` is the one to take (None: the only, or first fitting), ``pool`` what becomes of tokens (N, T, D).
    """

    preprocess: Preprocess
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    scale: float = 1.0
    pool: str = "none"
    output: str | None = None
    name: str = "adopted"
    license: str = "not stated"

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise UsageError(f"pool {self.pool!r} is unknown: {', '.join(POOLS)}")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(value > 0 for value in self.std):
            raise UsageError(f"mean {self.mean} and std {self.std} are three numbers each, std above 0")
        if self.preprocess.filter not in FILTERS:
            raise UsageError(f"filter {self.preprocess.filter!r} is unknown: {', '.join(FILTERS)}")
        if not 1 <= self.preprocess.size <= self.preprocess.resize:
            raise UsageError(f"size {self.preprocess.size} must be from 1 to resize, {self.preprocess.resize}")


def read_preprocessor(file: Path) -> dict[str, Any]:
    """Fields of an AdoptRequest from a ``preprocessor_config.json`` of transformers. Raises InputError.

    Also for one that stretches images to a square: here they keep their shape, and other features would come of it.
    """
    try:
        config = json.loads(file.read_bytes())
        size, crop = _side(config["size"]), config.get("crop_size")
        cropped = bool(crop) and config.get("do_center_crop", True)
        if not cropped or (isinstance(config["size"], dict) and "shortest_edge" not in config["size"]):
            raise InputError(
                f"{file} stretches images to a square, which sslfeat does not: to keep their shape and cut the center "
                f"instead, with other features of images that are not square, give --size {size}, --mean and --std"
            )
        cut = _side(crop)
        resample = RESAMPLE.get(config.get("resample", 3))
        normal = config.get("do_normalize", True)
        scale = float(config.get("rescale_factor", 1 / 255)) * 255 if config.get("do_rescale", True) else 255.0
        return {
            "preprocess": Preprocess(max(size, cut), cut, str(resample)),
            "mean": tuple(map(float, config["image_mean"])) if normal else (0.0, 0.0, 0.0),
            "std": tuple(map(float, config["image_std"])) if normal else (1.0, 1.0, 1.0),
            "scale": scale,
        }
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is no preprocessor_config.json that can be followed: {error!r}") from error


def _side(size: Any) -> int:
    if isinstance(size, int):
        return size
    sides = {int(value) for key, value in size.items() if key in ("shortest_edge", "height", "width")}
    if len(sides) != 1:
        raise ValueError(f"the size {size} is not one side")
    return sides.pop()


def read_foreign(data: bytes) -> onnx.ModelProto:
    """A checked foreign model, every name in it prefixed so that it meets none of ours. Raises EncoderFileError."""
    if len(data) > MAX_BYTES:
        raise EncoderFileError(f"too large: {len(data)} bytes, the limit is {MAX_BYTES}")
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise EncoderFileError("not an ONNX file, or a truncated or damaged one") from error
    if not model.graph.node or not model.graph.output:
        raise EncoderFileError("not an ONNX model with a graph, or a truncated one")
    refuse_unsafe(model)
    if any(entry.key == CARD_KEY for entry in model.metadata_props):
        raise EncoderFileError("it carries an sslfeat card already: use it as it is")
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset is None:
        raise EncoderFileError("damaged: it does not say which opset it is of")
    if opset < OLDEST_OPSET:
        try:
            model = version_converter.convert_version(model, OLDEST_OPSET)
        except Exception as error:  # the converter raises what its C++ raises
            raise EncoderFileError(f"opset {opset} is too old, and cannot be raised to {OLDEST_OPSET}: {brief(error)}") from error
    try:
        renamed: onnx.ModelProto = compose.add_prefix(model, PREFIX)
    except (TypeError, ValueError) as error:  # bytes where there should be text
        raise EncoderFileError("damaged: a name in it is not text") from error
    return renamed


def image_port(model: onnx.ModelProto, size: int) -> tuple[onnx.ValueInfoProto, bool]:
    """The image's input, and whether its channels come last."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [port for port in model.graph.input if port.name not in weights]
    names = [port.name.removeprefix(PREFIX) for port in inputs]
    if len(inputs) != 1:
        raise EncoderFileError(
            f"it has {len(inputs)} inputs ({', '.join(names)}): one image is fed; export the part that takes it alone"
        )
    tensor = inputs[0].type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    what = f"its input {names[0]!r} is {TensorProto.DataType.Name(tensor.elem_type)} {shape}"
    if tensor.elem_type not in FED or len(shape) != 4:
        raise EncoderFileError(f"{what}, not float or uint8 (N, 3, S, S) or (N, S, S, 3)")
    last = shape[3] == 3 and shape[1] != 3
    if (shape[3] if last else shape[1]) not in (3, None):
        raise EncoderFileError(f"{what}: three channels are fed")
    if any(side not in (size, None) for side in (shape[1:3] if last else shape[2:])):
        raise EncoderFileError(f"{what}, not of {size} px: give another --size")
    return inputs[0], last


def embedding_port(model: onnx.ModelProto, request: AdoptRequest) -> onnx.ValueInfoProto:
    """The output that becomes the embedding. Raises UsageError, EncoderFileError."""
    names = [port.name.removeprefix(PREFIX) for port in model.graph.output]
    if request.output is not None:
        if request.output not in names:
            raise UsageError(f"output {request.output!r} is not there: {', '.join(names)}")
        return model.graph.output[names.index(request.output)]
    if len(names) == 1:
        return model.graph.output[0]
    ranks = {port.name.removeprefix(PREFIX): len(port.type.tensor_type.shape.dim) for port in model.graph.output}
    wanted = [name for name in names if ranks[name] in ((2,) if request.pool == "none" else (3, 4))]
    if len(wanted) != 1:
        raise EncoderFileError(f"it has {len(names)} outputs: choose one with --output: {', '.join(names)}")
    return model.graph.output[names.index(wanted[0])]


def batch_cure(port: onnx.ValueInfoProto) -> str:
    """How a model that takes no batches of any size is exported anew."""
    fixed = port.type.tensor_type.shape.dim[0].dim_value  # 0: not fixed
    name = port.name.removeprefix(PREFIX)
    made = f"it was exported for batches of {fixed}" if fixed else "it takes no batches"
    return (
        f"{made}: export it with a dynamic batch axis, with torch.onnx.export by dynamic_shapes="
        f"{{{name!r}: {{0: torch.export.Dim('batch')}}}}"
    )


def free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` as if its batch axis had never been fixed: whether that holds is seen when it is run."""
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    weights = {tensor.name for tensor in freed.graph.initializer}
    for port in [*(port for port in freed.graph.input if port.name not in weights), *freed.graph.output]:
        dims = port.type.tensor_type.shape.dim
        if dims:
            dims[0].Clear()
            dims[0].dim_param = "batch"
    del freed.graph.value_info[:]
    return freed
