"""Third-party ONNX models: requirements, image input, and choice of the output."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto, compose, version_converter

from sslfeat.data.transforms import CROPS, FILTERS, Preprocess
from sslfeat.errors import EncoderFileError, UsageError
from sslfeat.export.adopt.towers import image_part
from sslfeat.inference.backends import brief
from sslfeat.inference.model_card import CARD_KEY
from sslfeat.inference.onnx_model import MAX_BYTES, parse_model

POOLS = ("none", "cls", "mean")
OLDEST_OPSET = 13
PREFIX = "model."
FED = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8)
OWN_RANGES = "DynamicQuantizeLinear"  # operator that computes its range from the batch


@dataclass(frozen=True)
class AdoptRequest:
    """Input of the model: (x / 255 * ``scale`` - ``mean``) / ``std`` for images prepared according to ``preprocess``; models
    with uint8 input, which scale inside, receive them unchanged.

    ``output``: name of the output (None: the only, or first suitable one). ``pool``: pooling of tokens (N, T, D).
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
            raise UsageError(f"unknown pool {self.pool!r}: choose one of {', '.join(POOLS)}")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(value > 0 for value in self.std):
            raise UsageError(f"mean {self.mean} and std {self.std} must be three numbers each, with std above 0")
        if self.scale == 1 and max(*self.mean, *self.std) > 1:
            raise UsageError(
                f"mean {self.mean} and std {self.std} must be at most 1, for pixels from 0 to 1",
                "divide values from 0 to 255 by 255",
            )
        if self.preprocess.filter not in FILTERS:
            raise UsageError(f"unknown filter {self.preprocess.filter!r}: choose one of {', '.join(FILTERS)}")
        if not 1 <= self.preprocess.size <= self.preprocess.resize:
            raise UsageError(f"size {self.preprocess.size} must be from 1 to resize, {self.preprocess.resize}")
        if self.preprocess.crop not in CROPS:
            raise UsageError(f"unknown crop {self.preprocess.crop!r}: choose one of {', '.join(CROPS)}")


def read_foreign(data: bytes) -> onnx.ModelProto:
    """A checked third-party model, with a prefix on all names to avoid collisions. Raises EncoderFileError."""
    if len(data) > MAX_BYTES:
        raise EncoderFileError(f"too large: {len(data)} bytes, the limit is {MAX_BYTES}")
    model = parse_model(data)
    if any(entry.key == CARD_KEY for entry in model.metadata_props):
        raise EncoderFileError("it already has an sslfeat card: use it directly")
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset is None:
        raise EncoderFileError("damaged: it does not state its opset")
    if opset < OLDEST_OPSET:
        try:
            model = version_converter.convert_version(model, OLDEST_OPSET)
        except Exception as error:  # the converter may raise any exception
            raise EncoderFileError(
                f"opset {opset} is too old, and cannot be converted to {OLDEST_OPSET}: {brief(error)}"
            ) from error
    try:
        renamed: onnx.ModelProto = compose.add_prefix(model, PREFIX)
    except (TypeError, ValueError) as error:  # bytes instead of text
        raise EncoderFileError("damaged: a name in it is not text") from error
    return renamed


def side_of(data: bytes, output: str | None, pool: str) -> int | None:
    """Side in px of the images that a third-party model accepts; None if any.

    Raises EncoderFileError, UsageError for a model that is not supported, or an ``output`` or ``pool`` that does not exist.
    """
    model = image_part(read_foreign(data), None if output is None else PREFIX + output)
    port, last = image_port(model, None)
    rank = len(embedding_port(model, output, pool).type.tensor_type.shape.dim)
    if rank and pool != "none" and rank not in (3, 4):
        raise EncoderFileError(f"its output has {rank} axes, which --pool {pool} cannot convert to an embedding: omit --pool")
    return _shape(port)[1 if last else 2]


def _shape(port: onnx.ValueInfoProto) -> list[int | None]:
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in port.type.tensor_type.shape.dim]


def image_port(model: onnx.ModelProto, size: int | None) -> tuple[onnx.ValueInfoProto, bool]:
    """The image input, and whether its channels come last; it must accept squares of ``size`` px (None: any size)."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [port for port in model.graph.input if port.name not in weights]
    names = [port.name.removeprefix(PREFIX) for port in inputs]
    if len(inputs) != 1:
        raise EncoderFileError(
            f"it has {len(inputs)} inputs ({', '.join(names)}), but only an image is given: export the image encoder alone"
        )
    tensor = inputs[0].type.tensor_type
    shape = _shape(inputs[0])
    what = f"its input {names[0]!r} is {TensorProto.DataType.Name(tensor.elem_type)} {shape}"
    if tensor.elem_type not in FED or len(shape) != 4:
        raise EncoderFileError(f"{what}, not float or uint8 (N, 3, S, S) or (N, S, S, 3)")
    last = shape[3] == 3 and shape[1] != 3
    if (shape[3] if last else shape[1]) not in (3, None):
        raise EncoderFileError(f"{what}, but images have three channels")
    sides = shape[1:3] if last else shape[2:]
    if len({*sides, size} - {None}) > 1:
        cure = "but images are squares" if size is None else f"not of {size} px: give another --image-size"
        raise EncoderFileError(f"{what}, {cure}")
    return inputs[0], last


def embedding_port(model: onnx.ModelProto, output: str | None, pool: str) -> onnx.ValueInfoProto:
    """The output to use as embedding, as requested by an AdoptRequest. Raises UsageError, EncoderFileError."""
    names = [port.name.removeprefix(PREFIX) for port in model.graph.output]
    if output is not None:
        if output not in names:
            raise UsageError(f"there is no output {output!r}: the model has {', '.join(names)}")
        return model.graph.output[names.index(output)]
    if len(names) == 1:
        return model.graph.output[0]
    ranks = {port.name.removeprefix(PREFIX): len(port.type.tensor_type.shape.dim) for port in model.graph.output}
    fitting = [name for name in names if ranks[name] in ((2,) if pool == "none" else (3, 4))]
    if len(fitting) != 1:
        cure = "choose one with --output NAME, and --pool cls or mean for tokens (N, T, D) or maps (N, D, H, W)"
        raise EncoderFileError(f"it has {len(names)} outputs: {_listed(model)}", cure)
    return model.graph.output[names.index(fitting[0])]


def chosen_output(data: bytes, output: str | None, pool: str) -> str:
    """Explain which of several outputs of a third-party model is used as embedding; empty if there is only one.

    Raises EncoderFileError, UsageError for a model that is not supported.
    """
    model = read_foreign(data)
    if output is not None or len(model.graph.output) < 2:
        return ""
    part = image_part(model, None)
    name = embedding_port(part, None, pool).name.removeprefix(PREFIX)
    why = "the only one of shape (N, D)" if pool == "none" else f"the only one that --pool {pool} can convert to an embedding"
    if len(part.graph.output) == 1:
        why = "the only one that depends on the image alone"
    return (
        f"it has {len(model.graph.output)} outputs: {_listed(model)}. Using {name!r}, {why}; to use another, give its name "
        "with --output, and --pool cls or mean for tokens or maps"
    )


def _listed(model: onnx.ModelProto) -> str:
    """The outputs, each with its shape."""
    found = []
    for port in model.graph.output:
        sides = [dim.dim_param.removeprefix(PREFIX) or str(dim.dim_value or "?") for dim in port.type.tensor_type.shape.dim]
        found.append(f"{port.name.removeprefix(PREFIX)} ({', '.join(sides) or 'of any shape'})")
    return ", ".join(found)


def batch_cure(port: onnx.ValueInfoProto) -> str:
    """How to export a model that does not accept batches of any size."""
    fixed = port.type.tensor_type.shape.dim[0].dim_value  # 0: not fixed
    made = f"it was exported for batches of {fixed}" if fixed else "it does not accept batches"
    return (
        f"{made}: export it with a dynamic batch axis, with torch.onnx.export by "
        "dynamic_shapes=({0: torch.export.Dim('batch')},)"
    )


def free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with a dynamic batch axis; whether this works is checked by running it."""
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
