"""Safe reading of encoder files: size, structure, operators, inputs, outputs and card are checked first."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from sslfeat.errors import EncoderFileError
from sslfeat.inference.fingerprint import fingerprint_of
from sslfeat.inference.model_card import CARD_KEY, Card, Identity
from sslfeat.inference.operators import PLAIN_OPERATORS
from sslfeat.inference.workload import refuse_boundless

MAX_BYTES = 2 << 30  # protobuf's own limit
MAX_NODES = 100_000  # forty times those of the largest vision transformers
STANDARD_DOMAINS = ("", "ai.onnx")
TARGET_RECORD = "target.json"  # in folders written by ``export --target``
FINGERPRINT_KEY = "sslfeat.fingerprint"  # recorded when the file is written, to detect later changes
Stamp = tuple[int, int, int, int, int]
INPUT_NAME, OUTPUT_NAME = "image", "embedding"


@dataclass(frozen=True)
class EncoderFile:
    """A checked encoder: its bytes, its fingerprint (see ``fingerprint.py``), and its card.

    ``recorded``: the file contains its fingerprint, so no weight has changed since it was written. ``path`` is the file it was
    read from, if any; ``stamp`` detects changes of that file.
    """

    data: bytes = field(repr=False)
    fingerprint: str
    card: Card = field(repr=False)
    recorded: bool = True
    path: Path | None = None
    stamp: Stamp | None = None

    @property
    def sha256(self) -> str:
        """sha256 of the bytes, including card and names: identifies the file, whereas ``fingerprint`` identifies the features."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def identity(self) -> Identity:
        """Name and fingerprint."""
        return Identity(self.card.name, self.fingerprint)

    def without_data(self) -> EncoderFile:
        """Copy without the bytes, for a session that reads ``path`` itself, to save memory."""
        return dataclasses.replace(self, data=b"")

    def check_same(self) -> None:
        """Raise EncoderFileError if the file at ``path`` has changed since it was checked."""
        if self.path is not None and stamp_of(self.path) != self.stamp:
            raise EncoderFileError(f"{self.path} changed while it was loaded")


def read_encoder_file(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> EncoderFile:
    """Read and check an encoder file. Raises EncoderFileError naming the file and the problem."""
    try:
        data, stamp = _read(Path(path), max_bytes)
        return dataclasses.replace(check_encoder(data), path=Path(path), stamp=stamp)
    except EncoderFileError as error:
        raise EncoderFileError(f"{os.fspath(path)}: {error}", _part_of(Path(path))) from error


def _part_of(path: Path) -> str:
    """Cure for a file in a folder written by ``export --target``; empty for any other file."""
    folder = next((folder for folder in path.parents[:3] if (folder / TARGET_RECORD).is_file()), None)
    if folder is None:
        return ""
    return (
        f"it is part of an export with --target: pass the folder {folder} to 'info', 'verify', 'compare' and 'bench'; "
        "for features, use the original encoder file"
    )


def check_encoder(data: bytes) -> EncoderFile:
    """Check the bytes of an encoder: input uint8 (N, S, S, 3), output float32 (N, D), weights inline."""
    model = parse_model(data)
    text = _carried(model, CARD_KEY, "card")
    if text is None:
        raise EncoderFileError(
            "it contains no sslfeat card: create encoder files with 'sslfeat export' from models trained with sslfeat, or with "
            "'sslfeat adopt' from other ONNX encoders"
        )
    card = Card.from_json(text)
    size = card.preprocess.size
    uint8, float32 = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    _check_ports("input", model.graph.input, INPUT_NAME, uint8, (None, size, size, 3))
    _check_ports("output", model.graph.output, OUTPUT_NAME, float32, (None, card.dim))
    fingerprint, recorded = fingerprint_of(model, OUTPUT_NAME, card.preprocess), _carried(model, FINGERPRINT_KEY, "fingerprint")
    if recorded not in (None, fingerprint):
        raise EncoderFileError(
            "damaged, or changed after it was written: graph, weights and preprocessing do not match the recorded fingerprint"
        )
    refuse_boundless(model)
    return EncoderFile(data, fingerprint, card, recorded is not None)


def _carried(model: onnx.ModelProto, key: str, what: str) -> str | None:
    found = [entry.value for entry in model.metadata_props if entry.key == key]
    if len(found) > 1:
        raise EncoderFileError(f"it contains {len(found)} {what}s, expected one")
    return found[0] if found else None


def parse_model(data: bytes) -> onnx.ModelProto:
    """Parse the ONNX model in ``data``. Raises EncoderFileError if it is invalid or unsafe."""
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:  # ValueError: invalid UTF-8 in a text field
        raise EncoderFileError("not an ONNX file, or a truncated or damaged one") from error
    if not model.graph.node or not model.graph.output:
        raise EncoderFileError("not an ONNX model with a graph, or a truncated one")
    refuse_unsafe(model)
    return model


def with_card(model: onnx.ModelProto, card: Card, **more: str) -> bytes:
    """Serialize the model with its card, fingerprint and ``more`` metadata, deterministically."""
    del model.metadata_props[:]
    fingerprint = fingerprint_of(model, OUTPUT_NAME, card.preprocess)
    for key, value in {CARD_KEY: card.to_json(), FINGERPRINT_KEY: fingerprint, **more}.items():
        model.metadata_props.add(key=key, value=value)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _read(path: Path, max_bytes: int) -> tuple[bytes, Stamp]:
    try:
        if path.is_dir():
            raise EncoderFileError(
                "a folder, not an encoder file (pass exports with --target to 'compare' and 'bench'; for features, use the "
                "original encoder file)"
            )
        if not path.is_file():
            raise EncoderFileError("no such file")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size > max_bytes:
                raise EncoderFileError(f"too large: {status.st_size} bytes, the limit is {max_bytes}")
            return file.read(), _stamp(status)
    except OSError as error:
        raise EncoderFileError(f"cannot be read: {error.strerror}") from error


def stamp_of(path: str | os.PathLike[str]) -> Stamp | None:
    """Return a value that changes whenever the file at ``path`` does; None if there is no such file."""
    try:
        return _stamp(os.stat(path))
    except OSError:
        return None


def _stamp(status: os.stat_result) -> Stamp:
    """Identity and change time of a file; programs cannot set ``st_ctime``."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph and all its subgraphs."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            nested = [attribute.g] if attribute.HasField("g") else []
            for inner in [*nested, *attribute.graphs]:
                yield from _graphs(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            sparse_tensors = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for sparse in [*sparse_tensors, *attribute.sparse_tensors]:
                yield from (sparse.values, sparse.indices)


def refuse_unsafe(model: onnx.ModelProto) -> None:
    """Raise EncoderFileError for a graph that reads other files or uses operators other than arithmetic on tensors."""
    for tensor in (tensor for graph in _graphs(model.graph) for tensor in _tensors(graph)):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise EncoderFileError(
                f"external data: the tensor {tensor.name!r} points to another file",
                "export it with external_data=False, or combine it with its weights by 'sslfeat adopt'",
            )
    domains = {entry.domain for entry in model.opset_import}
    domains |= {node.domain for graph in _graphs(model.graph) for node in graph.node}
    foreign = sorted(domains.difference(STANDARD_DOMAINS))
    if foreign:
        raise EncoderFileError(f"foreign operator domain {', '.join(foreign)}: only standard ONNX operators are supported")
    if model.functions or model.training_info:
        raise EncoderFileError("it defines functions or training graphs, which are not supported")
    if model.graph.sparse_initializer:
        raise EncoderFileError("it has sparse weights, which are not supported")
    if len(model.graph.node) > MAX_NODES:
        raise EncoderFileError(f"it has {len(model.graph.node)} nodes: the limit is {MAX_NODES}")
    for node in model.graph.node:
        if node.op_type not in PLAIN_OPERATORS:
            raise EncoderFileError(f"operator {node.op_type} is not supported: only arithmetic on tensors is")
        if node.op_type == "Dropout" and any(node.input[2:]):  # training mode would be random
            raise EncoderFileError("operator Dropout with a training_mode input: export the encoder in inference mode")


def _check_ports(kind: str, ports: Iterable[onnx.ValueInfoProto], name: str, element: int, shape: tuple[int | None, ...]) -> None:
    """Require exactly one port of this name, element type and shape; None is a dynamic axis."""
    found = [(port.name, port.type.tensor_type.elem_type, _shape(port)) for port in ports]
    if found != [(name, element, shape)]:
        seen = ", ".join(f"{port} {_type_name(kind)} {dims}" for port, kind, dims in found)
        expected = f"{name} {_type_name(element)} {shape}"
        raise EncoderFileError(f"wrong {kind}s: {seen or 'none'}; an encoder has exactly {expected} (None: dynamic)")


def _shape(port: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    dims = port.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)


def _type_name(element: int) -> str:
    known = element in onnx.TensorProto.DataType.values()
    return onnx.TensorProto.DataType.Name(element) if known else f"type {element}"
