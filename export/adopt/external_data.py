"""Read a third-party model with external weights, as exported by torch, into a single model."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from sslfeat.errors import EncoderFileError, InputError
from sslfeat.inference.onnx_model import MAX_BYTES

ROOM = 1 << 20  # minimum number of bytes for the model besides its weights


def read_whole(path: Path) -> bytes:
    """The model with all weights inside.

    Weights are read only from files in the model's own folder, given by a plain name, not a link, and up to 2 GiB, the limit of
    a single file. Raises InputError, EncoderFileError.
    """
    data = _read(path)
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError):
        return data  # the error is reported where the model is checked
    outside = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    if not outside:
        return data
    left = MAX_BYTES - ROOM - len(data)
    for tensor in outside:
        left -= _length(tensor)
        if left < 0:
            raise EncoderFileError(f"{path} with its external weights exceeds 2 GiB, the limit of an ONNX file")
        _fill(tensor, path.parent)
    whole: bytes = model.SerializeToString(deterministic=True)
    return whole


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise InputError(f"{path} is not a file")
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is too large: {path.stat().st_size} bytes, the limit is {MAX_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _length(tensor: onnx.TensorProto) -> int:
    """Size of the tensor's values in bytes, from its shape."""
    try:
        each = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError as error:
        raise EncoderFileError(f"the tensor {tensor.name!r} is of an unknown type") from error
    if any(side < 0 for side in tensor.dims):
        raise EncoderFileError(f"the tensor {tensor.name!r} has the shape {list(tensor.dims)}")
    return math.prod(tensor.dims) * each


def _fill(tensor: onnx.TensorProto, folder: Path) -> None:
    """Read a tensor's values and remove the reference to the file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name, expected = entries.get("location", ""), _length(tensor)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", expected))
    except ValueError as error:
        raise EncoderFileError(f"the offset or length of the tensor {tensor.name!r} in {name!r} is not a number") from error
    if offset < 0 or length != expected:
        raise EncoderFileError(f"the tensor {tensor.name!r} has {length} bytes in {name!r}, not {expected}")
    with _opened(folder, name) as file:
        values = os.pread(file, expected, offset) if expected <= ROOM else _pieces(file, expected, offset)
    if len(values) != expected:
        raise EncoderFileError(f"{folder / name} ends before the end of the tensor {tensor.name!r}: it is truncated")
    tensor.raw_data = values
    del tensor.external_data[:]
    tensor.data_location = TensorProto.DEFAULT


def _pieces(file: int, length: int, offset: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        piece = os.pread(file, min(length - len(found), 1 << 26), offset + len(found))
        if not piece:
            break
        found += piece
    return bytes(found)


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[int]:
    """Open a file. Raises EncoderFileError for a name that does not refer to a regular file in the folder."""
    cure = "put the weights into the model's own folder, or export with external_data=False"
    if not name or name in (".", "..") or any(letter in name for letter in "/\\:\0"):
        raise EncoderFileError(f"external data: its weights are in {name!r}, outside its folder: {cure}")
    path = folder / name
    try:
        if stat.S_ISLNK(path.lstat().st_mode) or not stat.S_ISREG(path.lstat().st_mode):
            raise EncoderFileError(f"external data: {path} is a link, or not a file: {cure}")
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise EncoderFileError(f"external data: {path} cannot be read ({error.strerror}): {cure}") from error
    try:
        yield file
    finally:
        os.close(file)
