"""Tensors of the Open Inference Protocol: in JSON, or as binary data after it."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from sslfeat.data.decode import Content, Pixels
from sslfeat.numerics.arrays import FloatArray
from sslfeat.serving.answers import Refusal
from sslfeat.serving.bodies import parse_model

LENGTH_HEADER = "inference-header-content-length"
LENGTH = struct.Struct("<I")
KINDS = ("UINT8", "BYTES")
Dimension = Annotated[int, Field(ge=0, le=1 << 31)]


class Open(BaseModel):
    """Allows unknown fields, as the protocol does."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class InputTensor(Open):
    """An input: ``data``, or ``binary_data_size`` bytes after the JSON."""

    name: str
    datatype: str
    shape: Annotated[list[Dimension], Field(max_length=8)]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class OutputTensor(Open):
    """A requested output."""

    name: str
    parameters: dict[str, Any] = {}


class InferBody(Open):
    """A request."""

    id: str | None = None
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=8)]
    outputs: list[OutputTensor] = []
    parameters: dict[str, Any] = {}


@dataclass(frozen=True)
class Tensor:
    """A received input: bytes in row-major order, little endian, or JSON."""

    name: str
    datatype: str
    shape: list[int]
    raw: bytes | None
    data: list[Any] | None


def unpack(body: bytes, header_length: str | None) -> tuple[InferBody, Tensor]:
    """Parse a request and its single input. Raises Refusal, 422."""
    length = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or len(header_length) > 12 or int(header_length) > len(body):
            raise Refusal(422, f"{LENGTH_HEADER} is {header_length[:20]!r}", "it must be the length of the JSON")
        length = int(header_length)
    asked = parse_model(InferBody, body[:length])
    if len(asked.inputs) != 1:
        raise Refusal(422, f"{len(asked.inputs)} inputs given", "send one input")
    given = asked.inputs[0]
    size = given.parameters.get("binary_data_size")
    if (size is None) == (given.data is None):
        raise Refusal(422, "an input has no data, or has it twice", "send data in the JSON, or after it with binary_data_size")
    if given.datatype not in KINDS:
        raise Refusal(422, f"the datatype is {given.datatype[:20]!r}", "it must be UINT8 or BYTES")
    if size is not None and (type(size) is not int or size != len(body) - length):
        raise Refusal(422, f"binary_data_size is {str(size)[:20]}", f"{len(body) - length} bytes follow the JSON")
    raw = None if size is None else body[length:]
    return asked, Tensor(given.name, given.datatype, given.shape, raw, given.data)


def pixels_of(tensor: Tensor, side: int) -> Pixels:
    """uint8 (N, S, S, 3). Raises Refusal, 422."""
    if tensor.datatype != "UINT8" or tensor.shape[1:] != [side, side, 3]:
        what = f"{tensor.datatype} {tensor.shape[:8]}"
        raise Refusal(
            422, f"the input is {what}", f"this model takes UINT8 [N, {side}, {side}, 3]; use the other model for files"
        )
    count = math.prod(tensor.shape)
    if tensor.raw is not None:
        if len(tensor.raw) != count:
            raise Refusal(422, f"{len(tensor.raw)} bytes of pixels given", f"the shape requires {count}")
        return np.frombuffer(tensor.raw, np.uint8).reshape(tensor.shape)
    try:
        values = np.array(tensor.data, np.float64).reshape(-1)  # flat, or nested like the shape
    except (ValueError, TypeError) as error:
        raise Refusal(422, "the data are not numbers", "pixels are integers from 0 to 255") from error
    if values.size != count or not ((values >= 0) & (values <= 255) & (values == np.floor(values))).all():
        raise Refusal(422, "the data do not match the shape, or are outside 0 to 255", "binary data is smaller and faster")
    return values.astype(np.uint8).reshape(tensor.shape)


def contents_of(tensor: Tensor) -> list[Content]:
    """Image files, base64 in JSON. Raises Refusal, 422."""
    from sslfeat.serving.bodies import decoded

    if tensor.datatype != "BYTES" or len(tensor.shape) > 2 or tensor.shape[1:] not in ([], [1]):
        raise Refusal(422, f"the input is {tensor.datatype} {tensor.shape[:8]}", "this model takes BYTES [N]")
    if tensor.raw is None:
        texts = [item[0] if isinstance(item, list) and len(item) == 1 else item for item in tensor.data or []]
        if not all(isinstance(text, str) for text in texts):
            raise Refusal(422, "the data are not strings", "files in JSON must be base64")
        found = [decoded(text) for text in texts]
    else:
        found = _elements(tensor.raw)
    if len(found) != tensor.shape[0] or not all(found):
        raise Refusal(422, f"{len(found)} files given, or some are empty", f"the shape requires {tensor.shape[0]}")
    return [Content(file) for file in found]


def _elements(raw: bytes) -> list[bytes]:
    """Split elements, each preceded by its length in 4 bytes."""
    found, place = [], 0
    while place < len(raw):
        if place + LENGTH.size > len(raw):
            raise Refusal(422, "the last element is truncated", "an element is a 4-byte length followed by that many bytes")
        (length,) = LENGTH.unpack_from(raw, place)
        place += LENGTH.size
        if place + length > len(raw):
            raise Refusal(422, "an element is longer than the data", "an element is a 4-byte length followed by that many bytes")
        found.append(raw[place : place + length])
        place += length
    return found


def pack(asked: InferBody, made_by: Mapping[str, str], name: str, rows: FloatArray) -> Response:
    """Response with the output ``name``, float32 (N, D), as binary data if requested. Raises Refusal, 422."""
    if any(output.name != name for output in asked.outputs):
        raise Refusal(422, "unknown output", f"the output is {name!r}")
    binary = asked.parameters.get("binary_data_output") is True
    for output in asked.outputs:
        binary = output.parameters.get("binary_data", binary) is True
    tensor: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(rows.shape)}
    answer: dict[str, Any] = {**made_by, **({"id": asked.id} if asked.id is not None else {}), "outputs": [tensor]}
    if not binary:
        tensor["data"] = rows.ravel().tolist()
        return Response(json.dumps(answer).encode(), media_type="application/json")
    raw = rows.astype("<f4").tobytes()
    tensor["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps(answer).encode()
    return Response(head + raw, headers={LENGTH_HEADER: str(len(head))}, media_type="application/octet-stream")
