"""Convert a third-party ONNX encoder to an encoder file: image input, embedding output, preprocessing inside, and a card."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from sslfeat import __version__
from sslfeat.data.decode import Pixels
from sslfeat.errors import EncoderFileError, ParityError, UsageError
from sslfeat.export.adopt.foreign_model import (
    OWN_RANGES,
    PREFIX,
    AdoptRequest,
    batch_cure,
    embedding_port,
    free_batch,
    image_port,
    read_foreign,
)
from sslfeat.export.adopt.towers import image_part
from sslfeat.inference.backends import OnnxRuntimeBackend, brief
from sslfeat.inference.model_card import Card, Parity, TrainingData
from sslfeat.inference.onnx_model import INPUT_NAME, OUTPUT_NAME, EncoderFile, check_encoder, with_card
from sslfeat.numerics.similarity import cosines, neighbor_overlap

BATCH_SIZES = (1, 3)
LARGEST = 1e15  # maximum value of a feature; squares of larger ones overflow
WITHIN, WITHIN_HALF = 1e-4, 2e-3  # relative to the largest component; the second for models with 16-bit input
UNKNOWN = TrainingData("not stated", 0, "not stated")


def adopt(data: bytes, request: AdoptRequest, pixels: Pixels, source: str) -> EncoderFile:
    """The encoder file of a third-party model, compared with the model itself on ``pixels`` uint8 (N, S, S, 3).

    Raises EncoderFileError for a model that is not supported, ParityError if the file gives other features.
    """
    model = image_part(read_foreign(data), None if request.output is None else PREFIX + request.output)
    port, _ = image_port(model, request.preprocess.size)
    kind = port.type.tensor_type.elem_type
    if kind == TensorProto.UINT8 and (request.mean, request.std, request.scale) != (
        AdoptRequest.mean,
        AdoptRequest.std,
        AdoptRequest.scale,
    ):
        raise UsageError("its input is uint8, so it scales and normalizes inside: omit --mean, --std and --preprocessor")
    reference, shape = _reference(model, request, pixels)
    layer, graph = (
        name.removeprefix(PREFIX) for name in (embedding_port(model, request.output, request.pool).name, model.graph.name)
    )
    card = Card(
        name=request.name, method="adopted", backbone=graph or "unnamed", layer=layer,
        dim=reference.shape[1], preprocess=request.preprocess, training_data=UNKNOWN, license=request.license,
        config_sha256=hashlib.sha256(data).hexdigest(), versions={"sslfeat": __version__, "onnx": onnx.__version__},
        parity=Parity(0, "none", (), 0.0, 0.0, 1.0, 1.0),
    )  # fmt: skip
    wrapped = _wrapped(model, request, reference.shape[1], shape)
    session = OnnxRuntimeBackend(with_card(wrapped, card), "cpu", 1)
    try:
        found = [np.concatenate([session.run(part) for part in _parts(pixels, size)]) for size in BATCH_SIZES]
    except EncoderFileError as error:
        raise EncoderFileError(batch_cure(port)) from error
    if any(rows.shape != reference.shape for rows in found):
        raise EncoderFileError(batch_cure(port))
    parity = Parity(
        images=len(pixels), source=source, batch_sizes=BATCH_SIZES,
        max_abs_diff=float(max(np.abs(rows - reference).max() for rows in found)),
        scale=float(np.abs(reference).max()), min_cosine=min(float(cosines(rows, reference).min()) for rows in found),
        neighbor_overlap=min(neighbor_overlap(rows, reference) for rows in found),
    )  # fmt: skip
    if not parity.max_abs_diff <= (WITHIN_HALF if kind == TensorProto.FLOAT16 else WITHIN) * parity.scale:
        raise ParityError(
            f"with larger batches the features of the model change by {parity.max_abs_diff:.3g} (scale {parity.scale:.3g}): "
            f"{_why_it_depends(model, port)}"
        )
    return check_encoder(with_card(wrapped, dataclasses.replace(card, parity=parity)))


def _why_it_depends(model: onnx.ModelProto, port: onnx.ValueInfoProto) -> str:
    """Why an image's features depend on the other images of its batch, and the cure."""
    if any(node.op_type == OWN_RANGES for node in model.graph.node):
        return (
            f"it was quantized with ranges computed from each batch ({OWN_RANGES}); adopt the original model instead, and "
            "quantize it with 'sslfeat export --target int8'"
        )
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    if any(attribute.name == "training_mode" and attribute.i for attribute in attributes):
        return "it was exported in training mode and normalizes by each batch: call eval() on it, then export it again"
    return batch_cure(port)


def _reference(model: onnx.ModelProto, request: AdoptRequest, pixels: Pixels) -> tuple[npt.NDArray[np.float32], tuple[int, ...]]:
    """Embeddings (N, D) by the original model, one image at a time, with input and pooling in NumPy; output shape for one image.

    The declared output shape of the model is not relied on.
    """
    from sslfeat.inference.backends import onnxruntime

    port, last = image_port(model, request.preprocess.size)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    mean, std = (np.array(values, np.float32) for values in (request.mean, request.std))
    kind = port.type.tensor_type.elem_type
    output = embedding_port(model, request.output, request.pool).name
    try:
        session = onnxruntime.InferenceSession(free_batch(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
        rows = []
        for image in pixels:
            fed = (image[None].astype(np.float32) / 255 * request.scale - mean) / std
            fed = image[None] if kind == TensorProto.UINT8 else fed
            fed = fed if last else fed.transpose(0, 3, 1, 2)
            (out,) = session.run([output], {port.name: fed.astype(helper.tensor_dtype_to_np_dtype(kind))})
            rows.append(_pooled(np.asarray(out), request.pool))
            if len(rows[-1]) != 1:
                raise EncoderFileError(f"its output has the shape {np.shape(out)} for one image: it is not an embedding")
    except Exception as error:  # onnxruntime's exceptions have no public base class
        if isinstance(error, EncoderFileError):
            raise
        fixed = port.type.tensor_type.shape.dim[0].dim_value > 1
        why = batch_cure(port) if fixed else f"onnxruntime cannot run it: {brief(error)}"
        raise EncoderFileError(why) from error
    found = np.concatenate(rows).astype(np.float32)
    if not (np.abs(found) < LARGEST).all():
        raise EncoderFileError("its features on these images are not finite, or too large")
    return found, np.shape(out)


def _pooled(out: npt.NDArray[Any], pool: str) -> npt.NDArray[Any]:
    if out.ndim == 4 and pool == "none" and 1 == out.shape[2] == out.shape[3]:
        return out[:, :, 0, 0]
    if out.ndim == 4 and pool == "mean":
        means: npt.NDArray[Any] = out.mean((1, 2) if _is_last(out.shape) else (2, 3))
        return means
    if out.ndim == 3 and pool in ("cls", "mean"):
        tokens: npt.NDArray[Any] = out[:, 0] if pool == "cls" else out.mean(1)
        return tokens
    if out.ndim == 2 and pool == "none":
        return out
    cure = {2: "omit --pool", 3: "choose --pool cls or mean", 4: "choose --pool mean"}.get(out.ndim, "choose another --output")
    raise EncoderFileError(f"its output has the shape {out.shape}, which --pool {pool} cannot convert to an embedding: {cure}")


def _is_last(shape: tuple[int, ...]) -> bool:
    """Whether a feature map is (N, S, S, D) instead of (N, D, S, S)."""
    return shape[1] == shape[2] != shape[3]


def _wrapped(model: onnx.ModelProto, request: AdoptRequest, dim: int, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The model with added image input and embedding output, for batches of any size."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, size = made.graph, request.preprocess.size
    port, last = image_port(made, size)
    into, constants = _way_in(port, last, request)
    out = _way_out(embedding_port(made, request.output, request.pool).name, shape, request.pool)
    nodes = [*into, *graph.node, *out]
    for part in (graph.node, graph.input, graph.output, graph.value_info):
        del part[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", size, size, 3]))
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", dim]))
    return made


def _way_in(port: onnx.ValueInfoProto, last: bool, request: AdoptRequest) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    if port.type.tensor_type.elem_type == TensorProto.UINT8:
        if last:
            return [helper.make_node("Identity", [INPUT_NAME], [port.name])], []
        return [helper.make_node("Transpose", [INPUT_NAME], [port.name], perm=[0, 3, 1, 2])], []
    std = np.array(request.std, np.float32)
    shape = (3,) if last else (3, 1, 1)
    constants = {"factor": request.scale / 255 / std, "shift": np.array(request.mean, np.float32) / std}
    nodes = [helper.make_node("Cast", [INPUT_NAME], ["float"], to=TensorProto.FLOAT)]
    if not last:
        nodes.append(helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]))
    nodes += [
        helper.make_node("Mul", ["float" if last else "planes", "factor"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "shift"], ["normal"]),
        helper.make_node("Cast", ["normal"], [port.name], to=port.type.tensor_type.elem_type),
    ]
    tensors = [numpy_helper.from_array(value.reshape(shape).astype(np.float32), name) for name, value in constants.items()]
    return nodes, tensors


def _way_out(name: str, shape: tuple[int, ...], pool: str) -> list[onnx.NodeProto]:
    """Pooling over the axes between batch and embedding, in 32 bits."""
    nodes = [helper.make_node("Cast", [name], ["whole"], to=TensorProto.FLOAT)]
    if pool == "cls":
        nodes += [
            helper.make_node("Constant", [], ["first"], value_int=0),
            helper.make_node("Gather", ["whole", "first"], [OUTPUT_NAME], axis=1),
        ]
    elif pool == "mean" and len(shape) == 3:
        nodes += [
            helper.make_node("Transpose", ["whole"], ["units"], perm=[0, 2, 1]),
            helper.make_node("GlobalAveragePool", ["units"], ["mean"]),
            helper.make_node("Flatten", ["mean"], [OUTPUT_NAME]),
        ]
    elif len(shape) == 4:
        first = [0, 3, 1, 2] if pool == "mean" and _is_last(shape) else [0, 1, 2, 3]
        nodes += [
            helper.make_node("Transpose", ["whole"], ["units"], perm=first),
            helper.make_node("GlobalAveragePool", ["units"], ["mean"]),
            helper.make_node("Flatten", ["mean"], [OUTPUT_NAME]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["whole"], [OUTPUT_NAME]))
    return nodes


def _parts(pixels: Pixels, size: int) -> list[Pixels]:
    return [pixels[start : start + size] for start in range(0, len(pixels), size)]
