"""Foreign ONNX models: which are taken, how images go in, and which output is the embedding."""

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
        if self.scale == 1 and max(*self.mean, *self.std) > 1:
            raise UsageError(
                f"mean {self.mean} and std {self.std} must be 1 or less, as pixels are from 0 to 1",
                "divide values from 0 to 255 by 255",
            )
        if self.preprocess.filter not in FILTERS:
            raise UsageError(f"filter {self.preprocess.filter!r} is unknown: {', '.join(FILTERS)}")
        if not 1 <= self.preprocess.size <= self.preprocess.resize:
            raise UsageError(f"size {self.preprocess.size} must be from 1 to resize, {self.preprocess.resize}")
        if self.preprocess.crop not in CROPS:
            raise UsageError(f"crop {self.preprocess.crop!r} is unknown: {', '.join(CROPS)}")


def read_foreign(data: bytes) -> onnx.ModelProto:
    """A checked foreign model, every name in it prefixed so that it meets none of ours. Raises EncoderFileError."""
    if len(data) > MAX_BYTES:
        raise EncoderFileError(f"too large: {len(data)} bytes, the limit is {MAX_BYTES}")
    model = parse_model(data)
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


def side_of(data: bytes, output: str | None, pool: str) -> int | None:
    """The side in px of the images that a foreign model takes; None if any goes in.

    Raises EncoderFileError, UsageError for a model that is refused, and for an ``output`` or ``pool`` that it does not have.
    """
    model = image_part(read_foreign(data), None if output is None else PREFIX + output)
    port, last = image_port(model, None)
    rank = len(embedding_port(model, output, pool).type.tensor_type.shape.dim)
    if rank and pool != "none" and rank not in (3, 4):
        raise EncoderFileError(f"its output has {rank} axes, which pool {pool!r} does not make an embedding of: leave --pool out")
    return _shape(port)[1 if last else 2]


def _shape(port: onnx.ValueInfoProto) -> list[int | None]:
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in port.type.tensor_type.shape.dim]


def image_port(model: onnx.ModelProto, size: int | None) -> tuple[onnx.ValueInfoProto, bool]:
    """The image's input, and whether its channels come last; it must take squares of ``size`` px (None: of any)."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [port for port in model.graph.input if port.name not in weights]
    names = [port.name.removeprefix(PREFIX) for port in inputs]
    if len(inputs) != 1:
        raise EncoderFileError(
            f"it has {len(inputs)} inputs ({', '.join(names)}): one image is fed; export the part that takes it alone"
        )
    tensor = inputs[0].type.tensor_type
    shape = _shape(inputs[0])
    what = f"its input {names[0]!r} is {TensorProto.DataType.Name(tensor.elem_type)} {shape}"
    if tensor.elem_type not in FED or len(shape) != 4:
        raise EncoderFileError(f"{what}, not float or uint8 (N, 3, S, S) or (N, S, S, 3)")
    last = shape[3] == 3 and shape[1] != 3
    if (shape[3] if last else shape[1]) not in (3, None):
        raise EncoderFileError(f"{what}: three channels are fed")
    sides = shape[1:3] if last else shape[2:]
    if len({*sides, size} - {None}) > 1:
        cure = "squares are fed" if size is None else f"not of {size} px: give another --image-size"
        raise EncoderFileError(f"{what}, {cure}")
    return inputs[0], last


def embedding_port(model: onnx.ModelProto, output: str | None, pool: str) -> onnx.ValueInfoProto:
    """The output that becomes the embedding, as an AdoptRequest names it. Raises UsageError, EncoderFileError."""
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
    """In words, which of several outputs of a foreign model becomes the embedding, and why; empty if there was no choice.

    Raises EncoderFileError, UsageError for a model that is refused.
    """
    model = read_foreign(data)
    if output is not None or len(model.graph.output) < 2:
        return ""
    part = image_part(model, None)
    name = embedding_port(part, None, pool).name.removeprefix(PREFIX)
    why = "the only one of shape (N, D)" if pool == "none" else f"the only one that --pool {pool} makes an embedding of"
    if len(part.graph.output) == 1:
        why = "the only one that is made of the image alone"
    return (
        f"it has {len(model.graph.output)} outputs: {_listed(model)}. Taken is {name!r}, {why}; to take another, give its name "
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
    """How a model that takes no batches of any size is exported anew."""
    fixed = port.type.tensor_type.shape.dim[0].dim_value  # 0: not fixed
    made = f"it was exported for batches of {fixed}" if fixed else "it takes no batches"
    return (
        f"{made}: export it with a dynamic batch axis, with torch.onnx.export by "
        "dynamic_shapes=({0: torch.export.Dim('batch')},)"
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
