"""Adopting ONNX models with external weights: read from the same folder, and refused from anywhere else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sslfeat.errors import EncoderFileError
from sslfeat.export.adopt.external_data import read_whole
from tests.foreign import foreign


def outside(folder: Path, **changed: str) -> Path:
    """The model with its weights in ``w.data`` of the same folder, its first tensor said to be elsewhere."""
    path = folder / "model.onnx"
    onnx.save(onnx.load_model_from_string(foreign()), path, save_as_external_data=True, size_threshold=0, location="w.data")
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    told = {entry.key: entry.value for entry in tensor.external_data} | changed
    del tensor.external_data[:]
    for key, value in told.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_beside_the_model_are_taken_in(tmp_path: Path) -> None:
    whole = onnx.load_model_from_string(read_whole(outside(tmp_path)))
    wanted = onnx.load_model_from_string(foreign())
    found, first = (numpy_helper.to_array(model.graph.initializer[0]) for model in (whole, wanted))
    np.testing.assert_array_equal(found, first)
    (tmp_path / "plain.onnx").write_bytes(foreign())
    assert read_whole(tmp_path / "plain.onnx") == foreign()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"location": "../secret"}, "its weights are in"),
        ({"location": "/etc/passwd"}, "its weights are in"),
        ({"location": "a/../w.data"}, "its weights are in"),
        ({"location": ".."}, "its weights are in"),
        ({"location": ""}, "its weights are in"),
        ({"location": "link"}, "is a link"),
        ({"location": "pipe"}, "or not a file"),
        ({"location": "folder"}, "or not a file"),
        ({"location": "missing"}, "cannot be read"),
        ({"offset": "-8"}, "bytes in"),
        ({"offset": "x"}, "is not a number"),
        ({"length": "3"}, "3 bytes in"),
        ({"offset": "999999"}, "ends before"),
    ],
)
def test_weights_elsewhere_are_refused(changed: dict[str, str], said: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(10_000))
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    with pytest.raises(EncoderFileError, match=said):
        read_whole(outside(folder, **changed))


def test_weights_beyond_one_file_are_refused_unread(tmp_path: Path) -> None:
    path = outside(tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].dims[0] = 1 << 40
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EncoderFileError, match="2 GiB"):
        read_whole(path)
