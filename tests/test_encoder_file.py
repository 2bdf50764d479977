"""Damaged, altered or foreign encoder files, and model cards with invalid fields: each is refused with its fault."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from sslfeat import Encoder
from sslfeat.errors import EncoderFileError
from sslfeat.inference.model_card import Card
from sslfeat.inference.onnx_model import check_encoder, read_encoder_file, with_card
from sslfeat.inference.registry import names, resolve
from tests.conftest import TINY_SIZE, signed, tiny_card, tiny_model, write_tiny


def altered(**fields: Any) -> str:
    return json.dumps({**json.loads(tiny_card().to_json()), **fields})


def within(part: str, **fields: Any) -> str:
    """The card with fields of one of its parts changed."""
    card = json.loads(tiny_card().to_json())
    return json.dumps({**card, part: {**card[part], **fields}})


@pytest.mark.parametrize(
    ("card", "fault"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
        ("[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("1" * 5000, "not JSON"),
        ("[]", "card is a list of 0, not an object"),
        (tiny_card().to_json()[:-1] + ',"dim":8}', "duplicate field"),
        (altered(format=3), "upgrade sslfeat"),
        (altered(format=True), "has format True"),
        (altered(dim="8"), "card: dim is '8', not int"),
        (altered(dim=True), "card: dim is True"),
        (altered(dim=10**300), "card: dim is 1000"),
        (altered(dim=0), "card: dim is 0"),
        (altered(dim=8.0), "card: dim is 8.0"),
        (altered(name=None), "card: name is None"),
        (altered(name=["a"] * 10**5), "card: name is a list of 100000, not str"),
        (altered(name="a\nb"), "card: name is 'a\\nb': it must be one line"),
        (altered(name="\x1b[2J"), "it must be one line"),
        (altered(name="x" * 1001), "it must be one line of at most 1000 characters"),
        (altered(name="\ud800"), "card: name is"),
        (altered(versions={"torch": 2}), "card: versions.torch is 2, not str"),
        (altered(versions={"torch": "2\n"}), "card: versions.torch is"),
        (altered(config_sha256="0" * 63), "config_sha256 is"),
        (altered(config_sha256="x" * 64), "not 64 hexadecimal digits"),
        (altered(surprise=1), "'surprise' is no field"),
        (altered(preprocess={"resize": 16}), "card: preprocess: 'size' is missing"),
        (altered(preprocess=[16, 16]), "card: preprocess is a list of 2"),
        (altered(parity=None), "card: parity is None"),
        (within("preprocess", filter="nearest"), "filter is 'nearest'"),
        (within("preprocess", filter=[]), "filter is a list"),
        (within("preprocess", antialias=False), "antialias is False"),
        (within("preprocess", antialias=1), "antialias is 1, not bool"),
        (within("preprocess", crop="none"), "crop is 'none'"),
        (within("preprocess", color="BGR"), "color is 'BGR'"),
        (within("preprocess", resize=10**9), "resize 1000000000"),
        (within("preprocess", size=0), "size 0"),
        (within("preprocess", size=17), "size 17 and resize 16"),
        (within("training_data", images=-1), "-1 images"),
        (within("training_data", images=1e9), "images is 1000000000.0, not int"),
        (within("training_data", license="a\rb"), "training_data.license is"),
        (within("parity", images=-1), "-1 images"),
        (within("parity", min_cosine=1.5), "a cosine of 1.5"),
        (within("parity", min_cosine=float("nan")), "min_cosine is nan, not float"),
        (within("parity", neighbor_overlap=-0.1), "a share of -0.1 neighbors"),
        (within("parity", batch_sizes=[0]), "batch sizes (0,)"),
        (within("parity", batch_sizes=[True]), "batch_sizes[0] is True, not int"),
        (within("parity", scale=float("inf")), "scale is inf"),
        (within("parity", source="a\tb"), "parity.source is"),
        (altered(dim=9), "wrong outputs"),
    ],
)
def test_cards_that_do_not_hold(card: str, fault: str) -> None:
    with pytest.raises(EncoderFileError) as raised:
        check_encoder(signed(tiny_model(), card))
    assert fault in str(raised.value)


def test_no_card_and_two_cards() -> None:
    with pytest.raises(EncoderFileError, match=r"no sslfeat card: .*'sslfeat adopt' from other ONNX encoders"):
        check_encoder(tiny_model().SerializeToString())
    model = tiny_model()
    signed(model)
    with pytest.raises(EncoderFileError, match="2 cards"):
        check_encoder(signed(model))


def test_a_card_survives_its_text() -> None:
    card = dataclasses.replace(tiny_card(), name="Büro 写真", versions={"torch": "2"})
    assert Card.from_json(card.to_json()) == card


@pytest.mark.parametrize("data", [b"", b"\x00", b"not onnx at all", pickle.dumps({"a": [1, 2]}), b"PK\x03\x04" * 9])
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(EncoderFileError, match=r"x\.onnx: not an ONNX"):
        read_encoder_file(tmp_path / "x.onnx")


def test_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(3 << 30)  # sparse: takes no room
    with pytest.raises(EncoderFileError, match="too large: 3221225472 bytes"):
        read_encoder_file(path)
    with pytest.raises(EncoderFileError, match="a folder, not an encoder file"):
        read_encoder_file(tmp_path)
    with pytest.raises(EncoderFileError, match="no such file"):
        read_encoder_file(tmp_path / "absent.onnx")


def test_truncated_at_any_length() -> None:
    data = signed(tiny_model())
    for length in range(0, len(data), 7):
        with pytest.raises(EncoderFileError):
            check_encoder(data[:length])


def test_damage_anywhere_is_refused_or_told_by_the_fingerprint() -> None:
    """A flipped byte in a weight is another encoder; one in a name is the same, and then its features are too."""
    whole = signed(tiny_model())
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, TINY_SIZE, TINY_SIZE, 3), np.uint8)
    sound = check_encoder(whole)
    features = Encoder(sound, "cpu").run(pixels)
    same = other = 0
    for number in range(900):
        data = bytearray(whole)
        places = rng.integers(0, len(data), 3) if number % 2 else rng.integers(len(data) - 900, len(data), 1)
        for where in places:
            data[where] ^= int(rng.integers(1, 256))
        try:
            file = check_encoder(bytes(data))
            if file.fingerprint == sound.fingerprint:
                np.testing.assert_array_equal(Encoder(file, "cpu").run(pixels), features)
                same += 1
            else:
                other += 1
        except EncoderFileError:
            continue
    assert same > 10
    assert other > 20


def test_a_file_that_changes_while_it_is_loaded_is_refused(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.onnx")
    file = read_encoder_file(path).without_data()
    assert Encoder(file, "cpu").fingerprint == file.fingerprint
    write_tiny(path, seed=1)
    with pytest.raises(EncoderFileError, match="changed while it was loaded"):
        Encoder(file, "cpu")


def test_a_weight_that_was_changed_is_seen() -> None:
    model, card = tiny_model(), tiny_card()
    data = with_card(model, card)
    assert check_encoder(data).recorded
    weight = np.array(numpy_helper.to_array(model.graph.initializer[0]))
    place = data.index(weight.tobytes())
    changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    with pytest.raises(EncoderFileError, match="changed after it was written"):
        check_encoder(changed)
    del model.metadata_props[1:]  # a file without its fingerprint is read, and does not claim to be unaltered
    assert not check_encoder(model.SerializeToString()).recorded


@pytest.mark.parametrize("name", names())
def test_the_encoders_in_the_box_carry_their_fingerprint(name: str) -> None:
    assert read_encoder_file(resolve(name)).recorded


def test_an_encoder_is_shown_in_a_line(tiny: Path) -> None:
    assert len(repr(read_encoder_file(tiny))) < 300
