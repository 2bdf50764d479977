"""Adopting ONNX models of other programs: the encoder computes the same features, or the model is refused with a reason."""

from __future__ import annotations

import collections
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sslfeat import Encoder
from sslfeat.data.transforms import Preprocess
from sslfeat.errors import EncoderFileError, InputError, ParityError, SslfeatError
from sslfeat.export.adopt.adopt import adopt
from sslfeat.export.adopt.foreign_model import AdoptRequest, side_of
from sslfeat.export.adopt.subprocess import adopt_in_subprocess
from tests.conftest import sslfeat
from tests.foreign import DIM, PIXELS, SIZE, WISH, by_hand, foreign


def without_opset() -> bytes:
    model = onnx.load_model_from_string(foreign())
    del model.opset_import[:]
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("pool", ["none", "cls", "mean"])
def test_the_features_are_those_by_hand(last: bool, pool: str, tmp_path: Path) -> None:
    request = AdoptRequest(WISH.preprocess, WISH.mean, WISH.std, pool=pool, name="theirs")
    file = adopt(foreign(last, tokens=0 if pool == "none" else 16), request, PIXELS, "given")
    found = Encoder(file, provider="cpu").run(PIXELS)
    assert found == pytest.approx(by_hand(PIXELS, pool), abs=1e-4)
    assert (file.card.name, file.card.backbone, file.card.layer, file.card.dim) == ("theirs", "theirs", "image", DIM)
    assert file.card.parity.min_cosine > 0.999999


def test_half_precision_is_fed_and_widened() -> None:
    file = adopt(foreign(half=True), WISH, PIXELS, "given")
    assert Encoder(file, provider="cpu").run(PIXELS) == pytest.approx(by_hand(PIXELS), abs=2e-2)


@pytest.mark.parametrize(
    ("data", "asked", "message"),
    [
        (foreign(twist="two inputs"), WISH, "2 inputs"),
        (foreign(twist="domain"), WISH, "com.microsoft"),
        (foreign(twist="fixed"), WISH, "does not accept batches: export it with a dynamic batch axis"),
        (foreign(twist="fixed", batch=1), WISH, "for batches of 1: export it with a dynamic batch axis"),
        (foreign(channels=4), WISH, "three channels"),
        (foreign(), AdoptRequest(Preprocess(32, 32)), "not of 32 px"),
        (foreign(tokens=16), WISH, "choose --pool"),
        (foreign(), AdoptRequest(WISH.preprocess, pool="cls"), "omit --pool"),
        (foreign()[:200], WISH, "damaged"),
        (without_opset(), WISH, "state its opset"),
        (b"", WISH, "not an ONNX"),
    ],
)
def test_what_is_refused(data: bytes, asked: AdoptRequest, message: str) -> None:
    with pytest.raises((EncoderFileError, ParityError), match=message):
        adopt(data, asked, PIXELS, "given")


def test_hostile_models_end_as_errors_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    huge = onnx.load_model_from_string(foreign())
    huge.graph.initializer.append(numpy_helper.from_array(np.array([1 << 42]), "terabytes"))
    huge.graph.node.insert(0, helper.make_node("ConstantOfShape", ["terabytes"], ["zeros"]))
    huge.graph.node.insert(1, helper.make_node("ReduceMax", ["zeros"], ["most"], keepdims=0))
    huge.graph.node[-1].output[0] = "before"
    huge.graph.node.append(helper.make_node("Add", ["before", "most"], ["image"]))
    with pytest.raises(EncoderFileError):
        adopt_in_subprocess(huge.SerializeToString(), WISH, PIXELS, "given")
    with pytest.raises(EncoderFileError, match="did not finish within"):
        adopt_in_subprocess(foreign(), WISH, PIXELS, "given", timeout=0.01)
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(EncoderFileError, match=r"the model crashed \(signal 11\)"):
        adopt_in_subprocess(foreign(), WISH, PIXELS, "given")


def test_damage_anywhere_is_named() -> None:
    outcomes = collections.Counter[str]()
    data = foreign()
    rng = random.Random(0)
    for _ in range(150):
        wounded = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            wounded[rng.randrange(len(wounded))] ^= 1 << rng.randrange(8)
        try:
            adopt(bytes(wounded), WISH, PIXELS, "given")
            outcomes["works"] += 1
        except SslfeatError:
            outcomes["named"] += 1
    assert min(outcomes["works"], outcomes["named"]) > 10


def test_wishes_that_make_no_sense() -> None:
    for wrong in (
        {"pool": "max"},
        {"std": (1, 0, 1)},
        {"mean": (123.7, 116.3, 103.5)},
        {"std": (58.4, 57.1, 57.4)},
        {"mean": (1, 2)},
        {"preprocess": Preprocess(8, 16)},
    ):
        with pytest.raises(InputError):
            AdoptRequest(**{"preprocess": WISH.preprocess, **wrong})  # type: ignore[arg-type]


def test_the_command_and_what_it_makes_is_embedded(image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs.onnx").write_bytes(foreign())
    options = ("--image-size", "16", "--mean", "0.5,0.4,0.3", "--std", "0.2,0.3,0.4", "--images", image_folder)
    done = sslfeat("adopt", tmp_path / "theirs.onnx", "--out", tmp_path / "ours.onnx", *options)
    assert done.returncode == 0, done.stderr
    assert "cosine 1.0000000" in done.stdout
    assert "assumption" not in done.stderr
    assert sslfeat("embed", image_folder, "--encoder", tmp_path / "ours.onnx", "--out", tmp_path / "f").returncode == 0
    again = sslfeat("adopt", tmp_path / "ours.onnx", "--out", tmp_path / "more.onnx", *options)
    assert "already has an sslfeat card" in again.stderr
    assert not (tmp_path / "more.onnx").exists()
    kept = sslfeat("adopt", tmp_path / "theirs.onnx", "--out", tmp_path / "ours.onnx", *options)
    assert kept.returncode == 2
    assert "--overwrite" in kept.stderr
    model = onnx.load(tmp_path / "theirs.onnx")
    onnx.save(model, tmp_path / "beside.onnx", save_as_external_data=True, size_threshold=0, location="beside.data")
    taken = sslfeat("adopt", tmp_path / "beside.onnx", "--out", tmp_path / "x.onnx", "--name", "ours", *options)
    assert taken.returncode == 0, taken.stderr
    assert Encoder.load(tmp_path / "x.onnx").fingerprint == Encoder.load(tmp_path / "ours.onnx").fingerprint
    (tmp_path / "beside.data").rename(tmp_path / "gone")
    refused = sslfeat("adopt", tmp_path / "beside.onnx", "--out", tmp_path / "y.onnx", *options)
    assert "external data" in refused.stderr
    assert "external_data=False" in refused.stderr
    given = sslfeat("adopt", tmp_path / "theirs.onnx", "--preprocessor", "c", "--out", tmp_path / "y.onnx", *options)
    assert "omit --image-size" in given.stderr
    for wrong in (
        ("--crop", "none"),
        ("--mean", "1,2"),
        ("--mean", "a,b,c"),
        ("--pool", "max"),
        ("--image-size", "0"),
        ("--std", "0,1,1"),
    ):
        done = sslfeat("adopt", tmp_path / "theirs.onnx", "--out", tmp_path / "z.onnx", "--image-size", "16", *wrong)
        assert done.returncode == 2, done.stderr


def test_the_side_is_the_models_own_where_it_is_fixed(tmp_path: Path) -> None:
    assert [side_of(foreign(last), None, "none") for last in (False, True)] == [SIZE, SIZE]
    assert side_of(of_any_size(), None, "none") is None
    (tmp_path / "theirs.onnx").write_bytes(foreign())
    done = sslfeat("adopt", tmp_path / "theirs.onnx", "--out", tmp_path / "x.onnx")
    assert done.returncode == 0, done.stderr
    assert Encoder.load(tmp_path / "x.onnx").card.preprocess == Preprocess(SIZE, SIZE)
    levels = sslfeat("adopt", tmp_path / "theirs.onnx", "--out", tmp_path / "y.onnx", "--mean", "123.675,116.28,103.53")
    assert (levels.returncode, "must be at most 1" in levels.stderr, "by 255" in levels.stderr) == (2, True, True)


def test_what_is_wrong_with_the_model_is_said_before_its_size_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "any.onnx"
    path.write_bytes(of_any_size())
    for options, message in (
        ((), "give --image-size"),
        (("--output", "nope"), "there is no output 'nope': the model has image"),
        (("--pool", "cls"), "omit --pool"),
    ):
        refused = sslfeat("adopt", path, "--out", tmp_path / "x.onnx", *options)
        assert (refused.returncode != 0, message in refused.stderr) == (True, True), refused.stderr
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0, location="beside.data")
    (tmp_path / "beside.data").unlink()
    assert "beside.data cannot be read" in sslfeat("adopt", path, "--out", tmp_path / "x.onnx").stderr


def of_any_size() -> bytes:
    model = onnx.load_model_from_string(foreign())
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "side"
    data: bytes = model.SerializeToString()
    return data


def test_a_batch_axis_that_was_only_declared_is_freed() -> None:
    for batch in (1, 8):
        file = adopt(foreign(batch=batch), WISH, PIXELS, "given")
        assert Encoder(file, provider="cpu").run(PIXELS) == pytest.approx(by_hand(PIXELS), abs=1e-4)


@pytest.mark.parametrize("last", [False, True])
def test_maps_are_averaged_over_their_cells_wherever_their_channels_are(last: bool) -> None:
    model = onnx.load_model_from_string(foreign())
    del model.graph.node[1:]
    if last:
        model.graph.node.append(helper.make_node("Transpose", ["float"], ["image"], perm=[0, 2, 3, 1]))
    else:
        model.graph.node[0].output[0] = "image"
    shape: list[Any] = ["n", 4, 4, DIM] if last else ["n", DIM, 4, 4]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, shape))
    request = AdoptRequest(WISH.preprocess, WISH.mean, WISH.std, pool="mean")
    file = adopt(model.SerializeToString(), request, PIXELS, "given")
    assert Encoder(file, provider="cpu").run(PIXELS) == pytest.approx(by_hand(PIXELS), abs=1e-4)
    with pytest.raises(EncoderFileError, match="choose --pool mean"):
        adopt(model.SerializeToString(), WISH, PIXELS, "given")


@pytest.mark.parametrize("last", [False, True])
def test_a_model_that_scales_inside_is_fed_as_images_are(last: bool) -> None:
    model = onnx.load_model_from_string(foreign(last))
    graph = model.graph
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    graph.node[0].input[0] = "scaled"
    for number, node in enumerate(
        (
            helper.make_node("Cast", ["embedding"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["cast", "most"], ["scaled"]),
        )
    ):
        graph.node.insert(number, node)
    graph.initializer.append(numpy_helper.from_array(np.array(255, np.float32), "most"))
    plain = AdoptRequest(WISH.preprocess)
    found = Encoder(adopt(model.SerializeToString(), plain, PIXELS, "given"), provider="cpu").run(PIXELS)
    unscaled = AdoptRequest(WISH.preprocess, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    wanted = Encoder(adopt(foreign(last), unscaled, PIXELS, "given"), provider="cpu").run(PIXELS)
    assert found == pytest.approx(wanted, abs=1e-4)
    with pytest.raises(InputError, match="omit --mean"):
        adopt(model.SerializeToString(), WISH, PIXELS, "given")


def two_towers() -> onnx.ModelProto:
    """As CLIP is exported: images and text go in; an embedding of each, and their product, come out."""
    model = onnx.load_model_from_string(foreign())
    graph = model.graph
    graph.input.append(helper.make_tensor_value_info("ids", TensorProto.FLOAT, ["n", DIM]))
    graph.initializer.append(numpy_helper.from_array(np.eye(DIM, dtype=np.float32), "words"))
    graph.node.append(helper.make_node("MatMul", ["ids", "words"], ["text"]))
    graph.node.append(helper.make_node("Mul", ["text", "image"], ["product"]))
    for name in ("text", "product"):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", DIM]))
    return model


def test_the_tower_of_the_image_is_taken_alone() -> None:
    data = two_towers().SerializeToString()
    file = adopt(data, WISH, PIXELS, "given")
    assert Encoder(file, provider="cpu").run(PIXELS) == pytest.approx(by_hand(PIXELS), abs=1e-4)
    kept = onnx.load_model_from_string(file.data)
    assert not [tensor.name for tensor in kept.graph.initializer if tensor.name.endswith("words")]
    for output in ("text", "product"):
        with pytest.raises(InputError, match="depends on other inputs"):
            adopt(data, AdoptRequest(WISH.preprocess, output=output), PIXELS, "given")


def test_why_features_change_with_the_batch_is_said(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    (tmp_path / "float.onnx").write_bytes(foreign())
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "quantized.onnx")
    with pytest.raises(ParityError, match="ranges computed from each batch"):
        adopt((tmp_path / "quantized.onnx").read_bytes(), WISH, PIXELS, "given")
    model = onnx.load_model_from_string(foreign())
    model.graph.node[0].output[0] = "raw"
    names = ["scale", "bias", "mean_", "variance"]
    model.graph.node.insert(
        1, helper.make_node("BatchNormalization", ["raw", *names], ["float", "new_mean", "new_variance"], training_mode=1)
    )
    for name, value in zip(names, (1, 0, 0, 1), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.full(DIM, value, np.float32), name))
    with pytest.raises(ParityError, match="call eval"):
        adopt(model.SerializeToString(), WISH, PIXELS, "given")
