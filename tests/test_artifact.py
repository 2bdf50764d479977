"""A target's folder is run only if its record holds: fields that lie, files that were altered or lie elsewhere are named."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

from sslfeat.errors import EncoderFileError
from sslfeat.export.artifact import ABOUT, CARD, hash_folder, read_artifact
from sslfeat.export.backends import described, open_artifact
from sslfeat.export.benchmark import bench
from sslfeat.export.convert import ExportRequest, convert
from sslfeat.export.sources import Origin
from sslfeat.inference.model_card import CARD_KEY
from sslfeat.inference.onnx_model import read_encoder_file
from tests.conftest import sslfeat, tiny_card, tiny_model, write_tiny

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
MODEL = Path("encoder") / "1" / "model.onnx"


@pytest.fixture(scope="module")
def made(tiny: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ort`` and ``triton``, of the tiny encoder."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("ort", "triton"):
        convert(Origin(read_encoder_file(tiny), None), ExportRequest(name, folder / name, [str(image_folder)]))
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copied")
    return tmp_path / "copied"


def sign(folder: Path, change: Callable[[dict[str, Any]], object] = lambda told: None) -> None:
    """Write the record again with all hashes right, changed: what is behind the hashes is reached."""
    told = json.loads((folder / ABOUT).read_text())
    told["files"] = hash_folder(folder)
    change(told)
    (folder / ABOUT).write_text(json.dumps(told))


def test_every_file_is_recorded_and_the_folder_may_be_moved(made: Path, copied: Path, tiny: Path) -> None:
    about, card = read_artifact(made / "triton")
    for_the_device = {"README.md", "golden.rgb", "golden.f32", "check.py"}
    assert set(about.files) == {CARD, "encoder/1/model.onnx", "encoder/config.pbtxt", *for_the_device}
    assert about.files["encoder/1/model.onnx"] == hashlib.sha256(tiny.read_bytes()).hexdigest()
    assert card == read_encoder_file(tiny).card
    for name in ("ort", "triton"):
        found, wanted = (open_artifact(path / name).run(PIXELS) for path in (copied, made))
        np.testing.assert_array_equal(found, wanted)
    told = json.loads(sslfeat("info", copied / "ort", "--json").stdout)["about"]
    assert told["files"].keys() == {CARD, "encoder.ort", "check.kt", *for_the_device}
    assert next(bench(str(copied / "ort"), ["cpu"], [1], [1], 0.01)).provider == "onnxruntime"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("target", "magic", "'magic' is not known"),
        ("target", "triton", "main 'encoder.ort' is not that of target triton"),
        ("runtime", "openvino", "runtime 'openvino' is not that of target ort"),
        ("runtime", None, "runtime None is not that of target ort"),
        ("runtime", 3, "runtime is 3"),
        ("main", "../../ort/encoder.ort", "main '../../ort/encoder.ort' is not that of target ort"),
        ("main", "/etc/passwd", "main '/etc/passwd'"),
        ("of", ["x"], "of is a list"),
        ("files", {}, "files does not list card.json"),
        ("files", [], "files is a list"),
        ("likeness", {"images": "many"}, "likeness"),
        ("gates", "all passed", "gates is"),
        ("format", 1, "format 1"),
        ("more", 1, "'more' is no field"),
    ],
)
def test_a_field_that_lies_is_named(field: str, value: Any, said: str, copied: Path) -> None:
    folder = copied / "ort"
    sign(folder, lambda told: told.update({field: value}))
    for opened in (open_artifact, described):
        with pytest.raises(EncoderFileError, match=said) as refused:
            opened(folder)
        assert ABOUT in str(refused.value)
    done = sslfeat("bench", folder, "--seconds", "0.01")
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.parametrize("name", ["../ort/encoder.ort", "/etc/passwd", "a/../../b", "..", "", "C:/x", "a\\b", "x\0y"])
def test_files_outside_are_not_looked_at(name: str, copied: Path) -> None:
    sign(copied / "ort", lambda told: told["files"].update({name: "0" * 64}))
    with pytest.raises(EncoderFileError, match="is not a path inside the folder"):
        read_artifact(copied / "ort")


@pytest.mark.parametrize("name", ["encoder.ort", CARD])
def test_an_altered_file_is_named(name: str, copied: Path) -> None:
    path = copied / "ort" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(EncoderFileError, match=f"{name} was modified"):
        open_artifact(copied / "ort")
    path.write_bytes(bytes(data[:100]))
    with pytest.raises(EncoderFileError, match=rf"{name} was modified .*, or truncated \(100 bytes\): copy the folder again"):
        open_artifact(copied / "ort")
    path.unlink()
    with pytest.raises(EncoderFileError, match=f"{name} is missing"):
        open_artifact(copied / "ort")


def test_a_file_of_a_folder_points_to_the_folder(copied: Path) -> None:
    for name in ("ort/encoder.ort", "triton/encoder/config.pbtxt"):
        with pytest.raises(
            EncoderFileError, match=rf"not an ONNX.* pass the folder {copied / name.split('/')[0]} to .*; for features"
        ):
            open_artifact(copied / name)
    shutil.copy(copied / "ort" / "encoder.ort", copied / "alone.ort")
    with pytest.raises(EncoderFileError, match=r"alone\.ort: not an ONNX file, or a truncated or damaged one$"):
        open_artifact(copied / "alone.ort")


def test_links_are_refused_wherever_they_lead(copied: Path) -> None:
    model = copied / "triton" / MODEL
    kept = model.rename(copied / "kept.onnx")
    model.symlink_to(kept)
    with pytest.raises(EncoderFileError, match=r"model\.onnx is a link"):
        open_artifact(copied / "triton")
    model.unlink()
    shutil.move(model.parent, copied / "apart")
    (copied / "apart" / "model.onnx").write_bytes(kept.read_bytes())
    model.parent.symlink_to(copied / "apart")
    with pytest.raises(EncoderFileError, match="1 is a link"):
        open_artifact(copied / "triton")
    about = copied / "ort" / ABOUT
    about.rename(copied / "about.json")
    about.symlink_to(copied / "about.json")
    with pytest.raises(EncoderFileError, match=r"target\.json is a link"):
        open_artifact(copied / "ort")


def test_weights_that_nobody_recorded_are_not_read(copied: Path) -> None:
    """OpenVINO and ncnn read the .bin beside their main file unasked."""
    (copied / "ort" / "encoder.bin").write_bytes(b"weights")
    with pytest.raises(EncoderFileError, match=r"files does not list encoder\.bin"):
        open_artifact(copied / "ort")
    (copied / "ort" / "notes.txt").write_text("mine")  # what no runtime reads may lie there
    sign(copied / "ort")
    open_artifact(copied / "ort")


def outside(card: str) -> bytes:
    """The tiny encoder with its weights in another file."""
    model = tiny_model(0)
    weight = model.graph.initializer[0]
    raw = numpy_helper.to_array(weight).tobytes()
    weight.ClearField("float_data")
    weight.raw_data = raw
    set_external_data(weight, "weights.bin", 0, len(raw))
    weight.ClearField("raw_data")
    model.metadata_props.add(key=CARD_KEY, value=card)
    data: bytes = model.SerializeToString()
    return data


def test_a_model_is_checked_as_an_encoder_file_is(copied: Path, tmp_path: Path) -> None:
    folder = copied / "triton"
    original = (folder / MODEL).read_bytes()
    foreign = onnx.load_model_from_string(original)
    foreign.graph.node[0].domain = "com.example"
    other = write_tiny(tmp_path / "tiny.onnx", seed=1).read_bytes()
    (folder / MODEL).with_name("weights.bin").write_bytes(bytes(5000))
    for data, said in (
        (outside(tiny_card("tiny").to_json()), "external data"),
        (foreign.SerializeToString(), "com.example"),
        (original[:100], "damaged"),
        (b"", "not an ONNX"),
        (other, "is not the encoder recorded in target.json"),
    ):
        (folder / MODEL).write_bytes(data)
        sign(folder)
        with pytest.raises(EncoderFileError, match=said):
            open_artifact(folder)
    (folder / MODEL).write_bytes(original)
    sign(folder)
    open_artifact(folder)


def test_a_folder_without_hashes_is_no_artifact(copied: Path) -> None:
    about = copied / "ort" / ABOUT
    about.write_text(json.dumps({"target": "ort", "runtime": "onnxruntime", "main": "encoder.ort", "unrun": ""}))
    with pytest.raises(EncoderFileError, match="format"):
        open_artifact(copied / "ort")
    for text in ("{", "[" * 100_000, "[]", "\xff"):
        about.write_text(text)
        with pytest.raises(EncoderFileError, match=rf"{ABOUT}.*: copy the folder again, or export again$"):
            open_artifact(copied / "ort")
    about.unlink()
    with pytest.raises(EncoderFileError, match=r"was not made by 'sslfeat export --target': it has no target\.json: give an"):
        open_artifact(copied / "ort")
