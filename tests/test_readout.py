"""Features of several layers side by side, pooled in several ways, whitened: against NumPy, and through an export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sslfeat.data.dataset import find_inputs
from sslfeat.errors import TrainingError, UsageError
from sslfeat.export.from_run import Labels, export_run
from sslfeat.inference.encoder import Encoder
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.data import load_images
from sslfeat.models.engine.frozen import WHITENING_NAME, load_run
from sslfeat.models.engine.readout import EPSILON, Readout, Whitening
from sslfeat.models.engine.trainer import train
from tests.conftest import sslfeat

SPEC = "layer2:std+layer3:2x2+layer4,whiten=0.25,dim=20"


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_backbone("resnet10_w8", 64).eval()


@pytest.mark.parametrize("text", ["layer4", "layer3", "layer2:std+layer3:2x2+layer4", SPEC, "layer4,whiten=0.5"])
def test_text_and_back(text: str) -> None:
    assert str(Readout.parse(text, build_backbone("resnet10_w8", 64))) == text


@pytest.mark.parametrize(
    "text", ["layer9", "layer4:max", "layer4,dim=8", "layer4,whiten=x", "layer4,whiten=0.2,dim=0", "layer4,scale=2", "", "+"]
)  # fmt: skip
def test_what_cannot_be_is_refused(text: str) -> None:
    backbone = build_backbone("resnet10_w8", 64)
    if not text:
        assert str(Readout.parse(text, backbone)) == "layer4"
        return
    with pytest.raises(UsageError):
        Readout.parse(text, backbone)


def test_parts_against_numpy() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet10_w8", 64).eval()
    images = torch.rand(3, 3, 64, 64)
    readout = Readout.parse("layer2:std+layer3:2x2+layer4", backbone)
    with torch.no_grad():
        found = readout.pooled(backbone, images).numpy()
        two, three, four = (backbone.maps(images, f"layer{n}").numpy() for n in (2, 3, 4))
    assert found.shape == (3, readout.width(backbone)) == (3, 16 + 4 * 32 + 64)
    for n in range(3):
        half = three.shape[2] // 2
        quarters = [[three[n, c, y : y + half, x : x + half].mean() for y in (0, half) for x in (0, half)] for c in range(32)]
        parts = (np.sqrt(two[n].var((1, 2)) + EPSILON), np.ravel(quarters), four[n].mean((1, 2)))
        wanted = np.concatenate([part / np.linalg.norm(part) for part in parts])
        np.testing.assert_allclose(found[n], wanted, atol=1e-4)


def test_whitening_evens_out_what_images_share() -> None:
    """Power 1/2 gives every axis a variance of 1, power 1/4 the root of what it had; axes stay uncorrelated."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    rows = (rng.standard_normal((4000, 6)) * (8, 4, 2, 1, 0.5, 0.25) @ turn).astype(np.float32)
    values = np.sort(np.linalg.eigvalsh(np.cov(rows.T)))[::-1]
    for power in (0.5, 0.25):
        whitening = Whitening(6, 4)
        whitening.learn(rows + 3, power)
        covariance = np.cov(whitening(torch.from_numpy(rows + 3)).numpy().T)
        np.testing.assert_allclose(covariance, np.diag(values[:4] ** (1 - 2 * power)), atol=2e-3 * values[0] ** (1 - 2 * power))
        again = Whitening(6, 4)
        again.learn(rows[::-1] + 3, power)
        torch.testing.assert_close(again.axes, whitening.axes, atol=1e-4, rtol=1e-4)


def test_more_axes_than_images_are_refused() -> None:
    with pytest.raises(UsageError, match="too few"):
        Whitening(8, 8).learn(np.zeros((5, 8), np.float32), 0.25)


def test_an_export_whitens_as_torch_does_and_keeps_what_it_learned(image_folder: Path, tmp_path: Path) -> None:
    settings = {"image_size": 64, "batch_size": 8, "steps": 2}
    train(TrainConfig("simclr", (str(image_folder),), "resnet10_w8", **settings), tmp_path / "run")  # type: ignore[arg-type]
    first = export_run(tmp_path / "run", tmp_path / "a.onnx", Labels("a"), layer=SPEC)
    assert (first.card.layer, first.card.dim) == (SPEC, 20)
    assert first.card.parity.min_cosine > 0.9999
    kept = (tmp_path / "run" / WHITENING_NAME).read_bytes()
    again = export_run(tmp_path / "run", tmp_path / "b.onnx", Labels("a"), layer=SPEC)
    assert first.data == again.data and (tmp_path / "run" / WHITENING_NAME).read_bytes() == kept
    encoder = Encoder.load(tmp_path / "a.onnx")
    assert encoder.dim == 20
    rows = load_run(tmp_path / "run", SPEC)[0]
    mean = rows.pooled(np.zeros((2, 64, 64, 3), np.uint8))
    assert mean.shape == (2, 16 + 4 * 32 + 64)


def test_a_whitening_of_images_that_are_gone_is_refused_unless_it_is_kept(image_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.symlink_to(image_folder)
    settings = {"image_size": 64, "batch_size": 8, "steps": 1}
    train(TrainConfig("simclr", (str(images),), "resnet10_w8", **settings), tmp_path / "run")  # type: ignore[arg-type]
    load_run(tmp_path / "run", SPEC)
    images.unlink()
    load_run(tmp_path / "run", SPEC)
    with pytest.raises(TrainingError, match="no longer exist"):
        load_run(tmp_path / "run", "layer4,whiten=0.25,dim=20")
    load_run(tmp_path / "run", "layer4,whiten=0.25,dim=20", images=find_inputs([image_folder], "none"))
    with pytest.raises(TrainingError, match="no longer exist"):  # of others it is not kept
        load_run(tmp_path / "run", "layer4,whiten=0.25,dim=20")


def test_images_of_another_size_than_in_training(image_folder: Path, tmp_path: Path) -> None:
    settings = {"image_size": 32, "batch_size": 8, "steps": 1}
    train(TrainConfig("simclr", (str(image_folder),), "resnet10_w8", **settings), tmp_path / "run")  # type: ignore[arg-type]
    small = export_run(tmp_path / "run", tmp_path / "a.onnx", Labels("a"), layer="layer4,whiten=0.25,dim=20")
    large = export_run(tmp_path / "run", tmp_path / "b.onnx", Labels("b"), layer=small.card.layer, image_size=48)
    assert (small.card.preprocess.size, large.card.preprocess.size) == (32, 48)
    assert large.card.parity.min_cosine > 0.9999
    encoder = load_run(tmp_path / "run", small.card.layer, image_size=48)[0]
    pixels = load_images(find_inputs([image_folder], "none"), 48, tmp_path).pixels
    with torch.no_grad():
        centered = encoder(torch.from_numpy(pixels)).mean(0)
    assert float(centered.abs().max()) < 1e-3  # the whitening was learned from images of that size


def test_a_shipped_encoder_is_exported_again_with_what_its_card_says(image_folder: Path, tmp_path: Path) -> None:
    out, known = tmp_path / "again.onnx", Encoder.load("sslfeat-tiny").card
    more = ("--layer", "layer3", "--image-size", "48", "--images", image_folder)
    done = sslfeat("export", "sslfeat-tiny", *more, "--out", out)
    assert done.returncode == 0, done.stderr
    card = Encoder.load(out).card
    assert (card.layer, card.preprocess.size, card.license) == ("layer3", 48, known.license)
    assert (card.training_data.name, card.training_data.license) == (
        known.training_data.name,
        known.training_data.license,
    )
    done = sslfeat("export", out, "--target", "fp16", "--layer", "layer4", "--out", tmp_path / "x.onnx")
    assert done.returncode == 2 and "is an encoder file" in done.stderr
