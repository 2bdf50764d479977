"""The public face: the same results as the command line, by functions that say what they take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sslfeat
from sslfeat.errors import FeaturesError, UsageError
from sslfeat.inference.model_card import Card
from sslfeat.inference.onnx_model import EncoderFile, read_encoder_file
from tests.conftest import contents, however_asked
from tests.conftest import sslfeat as command


@pytest.fixture(scope="module")
def features(tiny: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> sslfeat.Features:
    return sslfeat.embed(image_folder, tmp_path_factory.mktemp("api") / "f", tiny)


def test_the_names_are_shown_and_typed() -> None:
    assert set(sslfeat.__all__) <= set(dir(sslfeat))
    for name in sslfeat.__all__:
        thing = getattr(sslfeat, name)
        assert isinstance(thing, str) or thing.__doc__, name
    code = "import sslfeat, sys; dir(sslfeat); assert 'numpy' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_embedded_by_function_and_by_command_the_folder_is_the_same(
    features: sslfeat.Features, tiny: Path, image_folder: Path, tmp_path: Path
) -> None:
    done = command("embed", image_folder, "--encoder", tiny, "--out", tmp_path / "f", "--provider", "cpu")
    assert done.returncode == 0, done.stderr
    again = sslfeat.embed([image_folder], tmp_path / "g", sslfeat.Encoder.load(tiny, "cpu"))
    assert however_asked(contents(tmp_path / "f")) == however_asked(contents(tmp_path / "g"))
    np.testing.assert_array_equal(again.embeddings, features.embeddings)
    with pytest.raises(FeaturesError, match="other"):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").touch()
        sslfeat.embed(image_folder, tmp_path / "mine", tiny)
    with pytest.raises(UsageError):
        sslfeat.embed(image_folder, tmp_path / "g", tiny, update=True, overwrite=True)
    assert sslfeat.embed(image_folder, tmp_path / "g", tiny, update=True).paths == again.paths


def test_features_are_arrays_and_tables(features: sslfeat.Features) -> None:
    frame = features.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    np.testing.assert_array_equal(np.stack(list(frame["embedding"])), features.embeddings)
    assert list(frame["path"]) == features.paths
    assert repr(features) == "Features(40 x 8, 4 labels, encoder 'tiny')"


def test_probe_cluster_and_duplicates(features: sslfeat.Features, tmp_path: Path) -> None:
    probed = sslfeat.probe(features, seed=1)
    assert 0 <= probed.result.linear.top1 <= 1  # type: ignore[union-attr]
    found = sslfeat.cluster(features, 4, restarts=2)
    assert sorted(found.sizes, reverse=True) == found.sizes
    np.testing.assert_array_equal(sslfeat.cluster(features.embeddings, 4, restarts=2).assignments, found.assignments)
    twice = np.concatenate([features.embeddings, features.embeddings[:3]])
    assert len(sslfeat.find_duplicates(twice).groups) >= 3
    index = sslfeat.Index.build(features.embeddings)
    assert repr(index).startswith("Index(Flat, 40 x 8, cosine")


def test_trained_and_exported(image_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    result = sslfeat.train("rotation", image_folder, tmp_path / "run", backbone="resnet10_w8", image_size=32, steps=2)
    file = sslfeat.export_encoder(result.run, tmp_path / "e.onnx", images=image_folder)
    assert sslfeat.Encoder.load(tmp_path / "e.onnx").fingerprint == file.fingerprint
    assert repr(sslfeat.Encoder.load(tmp_path / "e.onnx", "cpu")).startswith("Encoder('e', ")
    made = sslfeat.export_encoder(tmp_path / "e.onnx", tmp_path / "small.onnx", target="fp16", images=image_folder)
    assert made.fingerprint == file.fingerprint
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "e.onnx").stat().st_size


def test_a_run_is_extended_resumed_and_exported_otherwise(image_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    tiny_run: dict[str, Any] = {"backbone": "resnet10_w8", "image_size": 32, "batch_size": 8, "accelerator": "cpu"}
    sslfeat.train("simclr", image_folder, tmp_path / "run", steps=2, options={"gray": 0.1}, **tiny_run)
    assert sslfeat.train(out=tmp_path / "run", resume=True).steps == 2
    more = sslfeat.train(extend=tmp_path / "run", steps=3)
    assert (more.run, more.steps) == (tmp_path / "run-extended", 3)
    small = sslfeat.export_encoder(tmp_path / "run", tmp_path / "l.onnx", images=image_folder, layer="layer2", image_size=40)
    assert small.card.preprocess.size == 40
    made = [
        sslfeat.export_encoder("resnet10_w8", tmp_path / f"r{seed}.onnx", random_init=True, image_size=32, seed=seed)
        for seed in (0, 1)
    ]
    assert made[0].fingerprint != made[1].fingerprint
    with pytest.raises(UsageError, match="random_init"):
        sslfeat.export_encoder(tmp_path / "run", tmp_path / "x.onnx", seed=1)


def test_errors_name_the_keyword_as_well_as_the_option(tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    sslfeat.embed(image_folder, tmp_path / "f", tiny, part_size=16)
    with pytest.raises(FeaturesError, match=r"part_size = 16, not 8: .* --overwrite \(overwrite=True in Python\)") as refused:
        sslfeat.embed(image_folder, tmp_path / "f", tiny, part_size=8)
    assert "--" in refused.value.cure and "--" not in str(refused.value).removesuffix(refused.value.cure)


def test_a_shipped_encoder_exported_otherwise_keeps_what_is_true_of_it(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hours of its training and its licenses are; figures of quality are of other features."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from sslfeat.export import from_run
    from sslfeat.export.sources import origin
    from sslfeat.inference.registry import resolve

    cards: list[Card] = []

    def written(encoder: object, card: Card, *_: object) -> EncoderFile:
        cards.append(card)
        return shipped

    shipped = read_encoder_file(resolve("sslfeat-tiny"))
    monkeypatch.setattr(from_run, "_export", written)
    sslfeat.export_encoder("sslfeat-tiny", tmp_path / "x.onnx", images=image_folder, layer="layer4")
    origin("sslfeat-tiny", images=[str(image_folder)], layer="layer4")
    assert len(cards) == 2
    ours = shipped.card
    assert ours.training.hours > 0 and ours.training.quality
    for card in cards:
        assert (card.training.hours, card.training.quality) == (ours.training.hours, {})
        assert (card.license, card.training_data) == (ours.license, ours.training_data)


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"minuts": 1}, "did you mean 'minutes'"),
        ({"set": {"gray": 1}}, "options="),
        ({"provider": "cpu"}, "accelerator"),
        ({"teacher": "sslfeat-small"}, "teacher is an option of distill"),
    ],
)
def test_keywords_that_are_none_are_usage_errors(
    image_folder: Path, tmp_path: Path, keywords: dict[str, object], said: str
) -> None:
    pytest.importorskip("torch")
    with pytest.raises(UsageError, match=said):
        sslfeat.train("simclr", image_folder, tmp_path / "run", **keywords)  # type: ignore[arg-type]


def test_keywords_of_the_other_functions_are_checked(image_folder: Path, features: sslfeat.Features, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'batch_size'"):
        sslfeat.embed(image_folder, tmp_path / "f", batchsize=4)
    with pytest.raises(UsageError, match=r"images, out, encoder, labels, .*, batch_size, .*: did you mean 'overwrite'"):
        sslfeat.embed(image_folder, tmp_path / "f", overwrit=True)
    with pytest.raises(UsageError, match=r"only features, k, .*method, "):
        sslfeat.cluster(features, clusters=4)
    with pytest.raises(UsageError, match="did you mean 'seed'"):
        sslfeat.probe(features, seeed=1)
    with pytest.raises(UsageError, match="did you mean 'restarts'"):
        sslfeat.cluster(features, 4, restart=2)
    with pytest.raises(UsageError, match="requires a method and images"):
        sslfeat.train("simclr")
