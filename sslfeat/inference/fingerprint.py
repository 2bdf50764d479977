"""Fingerprint of an encoder: a hash of everything that determines its features, independent of names and metadata.

It is a Merkle tree. A weight is hashed from its type, shape and bytes; the output of a node from the operator, its
attributes, the hashes of its inputs and the output number; the fingerprint from the hash of the embedding, the opset and
the preprocessing. It includes every bit of every weight, every attribute and every field of the preprocessing. It excludes
names of files, tensors, nodes and graphs, the order of independent nodes and weights, unused nodes, texts and figures of
the card, the producer, and the protobuf serialization.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable

import onnx
from onnx import numpy_helper

from sslfeat.data.transforms import Preprocess
from sslfeat.errors import EncoderFileError

SCHEME = b"sslfeat encoder 1"
Kind = onnx.AttributeProto


def fingerprint_of(model: onnx.ModelProto, output: str, preprocess: Preprocess) -> str:
    """Return 64 hexadecimal digits. The graph must have no subgraphs, inline weights and sorted nodes.

    Raises EncoderFileError for an invalid graph: a tensor that is undefined or defined twice.
    """
    facts = {"opset": sorted({entry.version for entry in model.opset_import}), "preprocess": preprocess.fields()}
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return _digest(SCHEME, text.encode(), _embedding(model.graph, output)).hex()


def _embedding(graph: onnx.GraphProto, output: str) -> bytes:
    made = {"": b""}  # an omitted optional input

    def make(name: str, digest: bytes) -> None:
        if name in made:
            raise EncoderFileError(f"damaged: the tensor {name!r} is defined twice")
        made[name] = digest

    for number, port in enumerate(graph.input):
        make(port.name, _digest(b"input", b"%d" % number))
    for tensor in graph.initializer:
        make(tensor.name, _tensor(tensor))
    for node in graph.node:
        missing = [name for name in node.input if name not in made]
        if missing:
            raise EncoderFileError(f"damaged: the input {missing[0]!r} of {node.op_type} is not defined before it")
        read = [made[name] for name in node.input]
        attributes = sorted(_digest(_text(item.name), _attribute(item)) for item in node.attribute)
        whole = _digest(_text(node.op_type), _digest(*read), _digest(*attributes))
        for number, name in enumerate(node.output):
            if name:
                make(name, _digest(whole, b"%d" % number))
    if output not in made:
        raise EncoderFileError(f"damaged: the output {output!r} is not defined")
    return made[output]


def _attribute(attribute: onnx.AttributeProto) -> bytes:
    """Hash the value selected by the attribute's type; runtimes ignore all other values."""
    kind = attribute.type
    values: Iterable[bytes]
    if kind in (Kind.FLOAT, Kind.FLOATS):
        floats = [attribute.f] if kind == Kind.FLOAT else attribute.floats
        values = [struct.pack(f"<{len(floats)}f", *floats)]
    elif kind in (Kind.INT, Kind.INTS):
        numbers = [attribute.i] if kind == Kind.INT else attribute.ints
        values = [struct.pack(f"<{len(numbers)}q", *numbers)]
    elif kind in (Kind.STRING, Kind.STRINGS):
        values = [attribute.s] if kind == Kind.STRING else attribute.strings
    elif kind in (Kind.TENSOR, Kind.TENSORS):
        values = map(_tensor, [attribute.t] if kind == Kind.TENSOR else attribute.tensors)
    else:
        raise EncoderFileError(f"its attribute {attribute.name!r} is neither numbers nor text nor a tensor")
    return _digest(b"%d" % kind, *values)


def _tensor(tensor: onnx.TensorProto) -> bytes:
    """The same for numbers kept as raw bytes and as a list."""
    try:
        raw = tensor if tensor.HasField("raw_data") else numpy_helper.from_array(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise EncoderFileError(f"damaged: the tensor {tensor.name!r} has no value") from error
    dims = struct.pack(f"<{len(tensor.dims)}q", *tensor.dims)
    return _digest(b"%d" % tensor.data_type, dims, raw.raw_data)


def _text(name: str | bytes) -> bytes:
    if isinstance(name, bytes):  # what protobuf gives for a text that is not UTF-8
        raise EncoderFileError("damaged: a name in it is not text")
    return name.encode()


def _digest(*parts: bytes) -> bytes:
    """Of the parts and where each ends, so that no two lists of parts are one text."""
    state = hashlib.sha256()
    for part in parts:
        state.update(b"%d:" % len(part))
        state.update(part)
    return state.digest()
