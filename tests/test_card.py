"""What a card says of training and licenses: steps, epochs, figures, and which license may stand over which images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sslfeat.errors import EncoderFileError, UsageError
from sslfeat.export.from_run import Labels, export_run
from sslfeat.inference.model_card import Card, Training
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.trainer import train
from tests.conftest import sslfeat


def test_a_card_says_how_long_and_how_good(image_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(TrainConfig("simclr", (str(image_folder),), "resnet10_w8", image_size=32, batch_size=8, steps=10), run)
    figures = {"garments, linear": 61.5}
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    out = tmp_path / "a.onnx"
    done = sslfeat("export", run, "--out", out, "--quality", tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    training = json.loads(sslfeat("info", out, "--json").stdout)["about"]["training"]
    assert (training["steps"], training["epochs"], training["quality"]) == (10, 2.0, figures)  # 10 steps of 8 of 40 images
    plain = export_run(run, tmp_path / "b.onnx", Labels("a"))
    assert plain.card.training.quality == {}
    (tmp_path / "figures.json").write_text("[1, 2]")
    refused = sslfeat("export", run, "--out", out, "--overwrite", "--quality", tmp_path / "figures.json")
    assert refused.returncode == 1 and "--quality" in refused.stderr


@pytest.mark.parametrize("license", ["Apache-2.0", "MIT", "CC BY 4.0", "BSD-3-Clause"])
@pytest.mark.parametrize("data", ["CC BY-NC 4.0", "research, non-commercial", "noncommercial use"])
def test_a_permissive_license_over_other_images_is_said_in_words(license: str, data: str) -> None:
    with pytest.raises(UsageError, match="if intended, state it"):
        Labels(data_license=data, license=license)
    Labels(data_license=data, license=f"{license}, trained on non-commercial images")
    Labels(data_license=data)
    Labels(data_license="CC BY 4.0", license=license)


def test_a_card_of_before_has_no_figures(tiny: Path) -> None:
    from sslfeat.inference.onnx_model import read_encoder_file

    values = json.loads(read_encoder_file(tiny).card.to_json())
    del values["training"]
    assert Card.from_json(json.dumps(values)).training == Training()
    values["training"] = {"steps": -1}
    with pytest.raises(EncoderFileError, match="steps"):
        Card.from_json(json.dumps(values))
