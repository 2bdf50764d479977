"""A foreign ONNX encoder becomes an encoder file: pictures in, an embedding out, its preprocessing inside, a card on it."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from sslfeat import __version__
from sslfeat.card import CARD_KEY, Card, Parity, TrainingData
from sslfeat.encoder_file import INPUT_NAME, OUTPUT_NAME, EncoderFile, check_encoder
from sslfeat.errors import EncoderFileError, ParityError
from sslfeat.export.foreign import PREFIX, Wish, embedding_port, picture_port, read_foreign
from sslfeat.images import Pixels
from sslfeat.likeness import cosines, neighbour_overlap
from sslfeat.sessions import OnnxSession, brief

BATCH_SIZES = (1, 3)
LARGEST = 1e15  # of a feature: the squares of larger ones are not finite
WITHIN, WITHIN_HALF = 1e-4, 2e-3  # of the largest component; of a model that is fed 16 bits
UNKNOWN = TrainingData("not stated", 0, "not stated")


def adopt(data: bytes, wish: Wish, pixels: Pixels, source: str) -> EncoderFile:
    """The encoder file of a foreign model, checked on ``pixels`` uint8 (N, S, S, 3) against the model itself.

    Raises EncoderFileError for a model that is refused, saying why, ParityError if the file gives other features.
    """
    model = read_foreign(data)
    wanted, rank = _reference(model, wish, pixels)
    layer, graph = (name.removeprefix(PREFIX) for name in (embedding_port(model, wish).name, model.graph.name))
    card = Card(
        name=wish.name, method="adopted", backbone=graph or "unnamed", layer=layer,
        dim=wanted.shape[1], preprocess=wish.preprocess, training_data=UNKNOWN, licence=wish.licence,
        config_sha256=hashlib.sha256(data).hexdigest(), versions={"sslfeat": __version__, "onnx": onnx.__version__},
        parity=Parity(0, "none", (), 0.0, 0.0, 1.0, 1.0),
    )  # fmt: skip
    wrapped = _wrapped(model, wish, wanted.shape[1], rank)
    session = OnnxSession(_bytes(wrapped, card), "cpu", 1)
    try:
        found = [np.concatenate([session.run(part) for part in _parts(pixels, size)]) for size in BATCH_SIZES]
    except EncoderFileError as error:
        raise EncoderFileError(f"it takes no batches: export it with a dynamic batch axis ({error})") from error
    if any(rows.shape != wanted.shape for rows in found):
        raise EncoderFileError("it takes no batches: of three pictures it gives other than three embeddings")
    parity = Parity(
        images=len(pixels), source=source, batch_sizes=BATCH_SIZES,
        max_abs_diff=float(max(np.abs(rows - wanted).max() for rows in found)),
        scale=float(np.abs(wanted).max()), min_cosine=min(float(cosines(rows, wanted).min()) for rows in found),
        neighbour_overlap=min(neighbour_overlap(rows, wanted) for rows in found),
    )  # fmt: skip
    half = picture_port(model, wish.preprocess.size)[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    if not parity.max_abs_diff <= (WITHIN_HALF if half else WITHIN) * parity.scale:
        raise ParityError(
            f"in batches the model gives other features, by {parity.max_abs_diff:.3g} of {parity.scale:.3g}: it was not "
            "exported for batches of any size"
        )
    return check_encoder(_bytes(wrapped, dataclasses.replace(card, parity=parity)))


def _reference(model: onnx.ModelProto, wish: Wish, pixels: Pixels) -> tuple[npt.NDArray[np.float32], int]:
    """Embeddings (N, D) by the foreign model itself, a picture at a time, fed and pooled by NumPy; its output's rank.

    What the model declares of its output need not be true.
    """
    import onnxruntime

    port, last = picture_port(model, wish.preprocess.size)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    mean, std = (np.array(values, np.float32) for values in (wish.mean, wish.std))
    half = port.type.tensor_type.elem_type == TensorProto.FLOAT16
    output = embedding_port(model, wish).name
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        rows = []
        for picture in pixels:
            fed = (picture[None].astype(np.float32) / 255 * wish.scale - mean) / std
            fed = fed if last else fed.transpose(0, 3, 1, 2)
            (out,) = session.run([output], {port.name: fed.astype(np.float16 if half else np.float32)})
            rows.append(_pooled(np.asarray(out), wish.pool))
            if len(rows[-1]) != 1:
                raise EncoderFileError(
                    f"its output has the shape {np.shape(out)} for one picture: it is not an embedding"
                )
    except Exception as error:  # onnxruntime's exceptions share no public base
        if isinstance(error, EncoderFileError):
            raise
        raise EncoderFileError(f"onnxruntime cannot run it: {brief(error)}") from error
    found = np.concatenate(rows).astype(np.float32)
    if not (np.abs(found) < LARGEST).all():
        raise EncoderFileError("its features are not finite, or beyond reason, on these pictures")
    return found, np.ndim(out)


def _pooled(out: npt.NDArray[Any], pool: str) -> npt.NDArray[Any]:
    if out.ndim == 4 and pool == "none" and out.shape[2:] == (1, 1):
        return out[:, :, 0, 0]
    if out.ndim == 4 and pool == "mean":
        means: npt.NDArray[Any] = out.mean((2, 3))
        return means
    if out.ndim == 3 and pool in ("cls", "mean"):
        tokens: npt.NDArray[Any] = out[:, 0] if pool == "cls" else out.mean(1)
        return tokens
    if out.ndim == 2 and pool == "none":
        return out
    cure = "choose --pool cls or mean" if out.ndim > 2 else "leave --pool out"
    raise EncoderFileError(
        f"its output has the shape {out.shape}, which pool {pool!r} does not make an embedding of: {cure}"
    )


def _wrapped(model: onnx.ModelProto, wish: Wish, dim: int, rank: int) -> onnx.ModelProto:
    """The model between a way in for pictures and a way out for embeddings, for batches of any size."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, size = made.graph, wish.preprocess.size
    port, last = picture_port(made, size)
    into, constants = _way_in(port, last, wish)
    out = _way_out(embedding_port(made, wish).name, rank, wish.pool)
    nodes = [*into, *graph.node, *out]
    for part in (graph.node, graph.input, graph.output, graph.value_info):
        del part[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", size, size, 3]))
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", dim]))
    return made


def _way_in(port: onnx.ValueInfoProto, last: bool, wish: Wish) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    std = np.array(wish.std, np.float32)
    shape = (3,) if last else (3, 1, 1)
    constants = {"factor": wish.scale / 255 / std, "shift": np.array(wish.mean, np.float32) / std}
    nodes = [helper.make_node("Cast", [INPUT_NAME], ["float"], to=TensorProto.FLOAT)]
    if not last:
        nodes.append(helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]))
    nodes += [
        helper.make_node("Mul", ["float" if last else "planes", "factor"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "shift"], ["normal"]),
        helper.make_node("Cast", ["normal"], [port.name], to=port.type.tensor_type.elem_type),
    ]
    tensors = [
        numpy_helper.from_array(value.reshape(shape).astype(np.float32), name) for name, value in constants.items()
    ]
    return nodes, tensors


def _way_out(name: str, rank: int, pool: str) -> list[onnx.NodeProto]:
    """Pooling over the axes between the first and the embedding's, in 32 bits."""
    nodes = [helper.make_node("Cast", [name], ["whole"], to=TensorProto.FLOAT)]
    if pool == "cls":
        nodes += [
            helper.make_node("Constant", [], ["first"], value_int=0),
            helper.make_node("Gather", ["whole", "first"], [OUTPUT_NAME], axis=1),
        ]
    elif pool == "mean" and rank == 3:
        nodes += [
            helper.make_node("Transpose", ["whole"], ["units"], perm=[0, 2, 1]),
            helper.make_node("GlobalAveragePool", ["units"], ["mean"]),
            helper.make_node("Flatten", ["mean"], [OUTPUT_NAME]),
        ]
    elif rank == 4:
        nodes += [
            helper.make_node("GlobalAveragePool", ["whole"], ["mean"]),
            helper.make_node("Flatten", ["mean"], [OUTPUT_NAME]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["whole"], [OUTPUT_NAME]))
    return nodes


def _parts(pixels: Pixels, size: int) -> list[Pixels]:
    return [pixels[start : start + size] for start in range(0, len(pixels), size)]


def _bytes(model: onnx.ModelProto, card: Card) -> bytes:
    del model.metadata_props[:]
    model.metadata_props.add(key=CARD_KEY, value=card.to_json())
    data: bytes = model.SerializeToString(deterministic=True)
    return data
