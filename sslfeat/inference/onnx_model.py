"""Reading an encoder file without trusting it: size, structure, operators, inputs, outputs and card are checked first."""

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
TARGET_RECORD = "target.json"  # in a folder that ``export --target`` made
FINGERPRINT_KEY = "sslfeat.fingerprint"  # as of when the file was written: what was changed since is seen
Stamp = tuple[int, int, int, int, int]
INPUT_NAME, OUTPUT_NAME = "image", "embedding"


@dataclass(frozen=True)
class EncoderFile:
    """A checked encoder: its bytes as they were checked, its fingerprint (see ``fingerprint.py``), and the card.

    ``recorded``: the file carries its fingerprint, so that no weight was changed since it was written. ``path`` is where they
    were read, if anywhere, and ``stamp`` tells whether that file is still the same.
    """

    data: bytes = field(repr=False)
    fingerprint: str
    card: Card = field(repr=False)
    recorded: bool = True
    path: Path | None = None
    stamp: Stamp | None = None

    @property
    def sha256(self) -> str:
        """Of the file's bytes, card and names included: for telling files apart, where ``fingerprint`` tells features."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def identity(self) -> Identity:
        """Its name and fingerprint."""
        return Identity(self.card.name, self.fingerprint)

    def without_data(self) -> EncoderFile:
        """The same for a session that reads ``path`` itself: the bytes can be as large as all else in memory."""
        return dataclasses.replace(self, data=b"")

    def check_same(self) -> None:
        """Raise EncoderFileError if the file at ``path`` is not the one that was checked."""
        if self.path is not None and stamp_of(self.path) != self.stamp:
            raise EncoderFileError(f"{self.path} was changed while it was loaded")


def read_encoder_file(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> EncoderFile:
    """Read and check an encoder file. Raises EncoderFileError naming the file and the fault."""
    try:
        data, stamp = _read(Path(path), max_bytes)
        return dataclasses.replace(check_encoder(data), path=Path(path), stamp=stamp)
    except EncoderFileError as error:
        raise EncoderFileError(f"{os.fspath(path)}: {error}", _part_of(Path(path))) from error


def _part_of(path: Path) -> str:
    """What to give instead of a file in a folder that ``export --target`` made; empty for any other."""
    folder = next((folder for folder in path.parents[:3] if (folder / TARGET_RECORD).is_file()), None)
    if folder is None:
        return ""
    return (
        f"it is part of what 'sslfeat export --target' made: 'info', 'verify', 'compare' and 'bench' take the folder, {folder}; "
        "features come from the encoder file that it was made of"
    )


def check_encoder(data: bytes) -> EncoderFile:
    """Check an encoder's bytes against the contract: uint8 (N, S, S, 3) in, float32 (N, D) out, weights inline."""
    model = parse_model(data)
    text = _carried(model, CARD_KEY, "card")
    if text is None:
        raise EncoderFileError(
            "it carries no sslfeat card: 'sslfeat export' makes encoder files of what sslfeat trained, and 'sslfeat adopt' of "
            "any other ONNX encoder"
        )
    card = Card.from_json(text)
    size = card.preprocess.size
    uint8, float32 = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    _check_ports("input", model.graph.input, INPUT_NAME, uint8, (None, size, size, 3))
    _check_ports("output", model.graph.output, OUTPUT_NAME, float32, (None, card.dim))
    fingerprint, recorded = fingerprint_of(model, OUTPUT_NAME, card.preprocess), _carried(model, FINGERPRINT_KEY, "fingerprint")
    if recorded not in (None, fingerprint):
        raise EncoderFileError(
            "damaged, or changed after it was written: its graph, weights and preprocessing are not those that it names"
        )
    refuse_boundless(model)
    return EncoderFile(data, fingerprint, card, recorded is not None)


def _carried(model: onnx.ModelProto, key: str, what: str) -> str | None:
    found = [entry.value for entry in model.metadata_props if entry.key == key]
    if len(found) > 1:
        raise EncoderFileError(f"it carries {len(found)} {what}s: which one holds cannot be told")
    return found[0] if found else None


def parse_model(data: bytes) -> onnx.ModelProto:
    """The ONNX model in ``data``. Raises EncoderFileError if it is none, or unsafe."""
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:  # ValueError: bytes that are not UTF-8 in a text field
        raise EncoderFileError("not an ONNX file, or a truncated or damaged one") from error
    if not model.graph.node or not model.graph.output:
        raise EncoderFileError("not an ONNX model with a graph, or a truncated one")
    refuse_unsafe(model)
    return model


def with_card(model: onnx.ModelProto, card: Card, **more: str) -> bytes:
    """The model with its card, its fingerprint and ``more`` metadata, serialized the same way every time."""
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
                "a folder, not an encoder file (what 'export --target' makes, 'compare' and 'bench' take; features come from the "
                "encoder file that it was made of)"
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
    """What changes whenever the file at ``path`` does; None if there is no such file."""
    try:
        return _stamp(os.stat(path))
    except OSError:
        return None


def _stamp(status: os.stat_result) -> Stamp:
    """Which file, and when it was last changed: ``st_ctime`` is the system's, no program can set it."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every graph nested in its nodes' attributes."""
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
    """Raise EncoderFileError for a graph that reads other files, or does more than plain arithmetic on tensors."""
    for tensor in (tensor for graph in _graphs(model.graph) for tensor in _tensors(graph)):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise EncoderFileError(
                f"external data: the tensor {tensor.name!r} points to another file",
                "export it with external_data=False, or make one encoder file of it and its weights by 'sslfeat adopt'",
            )
    domains = {entry.domain for entry in model.opset_import}
    domains |= {node.domain for graph in _graphs(model.graph) for node in graph.node}
    foreign = sorted(domains.difference(STANDARD_DOMAINS))
    if foreign:
        raise EncoderFileError(f"foreign operator domain {', '.join(foreign)}: only standard ONNX operators are run")
    if model.functions or model.training_info:
        raise EncoderFileError("it defines functions or training graphs: only a plain graph is run")
    if model.graph.sparse_initializer:
        raise EncoderFileError("it has sparse weights: only plain ones are run")
    if len(model.graph.node) > MAX_NODES:
        raise EncoderFileError(f"it has {len(model.graph.node)} nodes: the limit is {MAX_NODES}")
    for node in model.graph.node:
        if node.op_type not in PLAIN_OPERATORS:
            raise EncoderFileError(f"operator {node.op_type}: only plain arithmetic on tensors is run")
        if node.op_type == "Dropout" and any(node.input[2:]):  # whether it is of training: it would draw at random
            raise EncoderFileError("operator Dropout with a switch for training: export the encoder for inference")


def _check_ports(kind: str, ports: Iterable[onnx.ValueInfoProto], name: str, element: int, shape: tuple[int | None, ...]) -> None:
    """One port, of this name, element type and shape; None stands for a dynamic axis."""
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
