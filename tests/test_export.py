"""Export: the same features, the same bytes, nothing of the machine, and no file when parity fails."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image

from sslfeat.data.decode import Preprocess
from sslfeat.errors import ExportError, InputError, ParityError
from sslfeat.export import parity, to_onnx
from sslfeat.export.convert import ExportRequest, convert
from sslfeat.export.from_run import Labels, export_random, export_run
from sslfeat.export.pretrained import export_pretrained
from sslfeat.export.sources import origin
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.onnx_model import EncoderFile, read_encoder_file
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.frozen import FrozenEncoder, load_run, random_encoder
from sslfeat.models.engine.trainer import train
from sslfeat.numerics import similarity
from tests.conftest import sslfeat


@pytest.fixture(scope="module")
def run(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training run."""
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = TrainConfig("simclr", (str(image_folder),), "resnet10_w8", image_size=32, batch_size=8, steps=30)
    train(dataclasses.replace(settings, accelerator="cpu"), out)
    return out


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "small.onnx"
    export_run(run, out, Labels(data_name="drawn", data_license="Apache-2.0", license="Apache-2.0"))
    return out


def plain_pixels(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """The documented preprocessing in plain Pillow, for RGB images without orientation."""
    with Image.open(path) as image:
        short = min(image.size)
        width, height = (size * side // short for side in image.size)
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def test_the_file_gives_the_features_of_the_torch_encoder(run: Path, exported: Path, image_folder: Path) -> None:
    """Independent of sslfeat's own check: plain Pillow, plain onnxruntime, the weights from the run."""
    module, config, meta = load_run(run)
    assert (meta.images, meta.steps) == (40, 30)
    paths = sorted(image_folder.rglob("*.jpg"))
    pixels = np.stack([plain_pixels(path, 32) for path in paths])
    with torch.inference_mode():
        wanted = module(torch.from_numpy(pixels)).numpy()
    session = onnxruntime.InferenceSession(exported.read_bytes(), providers=["CPUExecutionProvider"])
    for batch in (1, 3, 8, 40):
        parts = [session.run(None, {"image": pixels[i : i + batch]})[0] for i in range(0, 40, batch)]
        np.testing.assert_allclose(np.concatenate(parts), wanted, atol=1e-4 * float(np.abs(wanted).max()))
    embedded = np.stack(list(Encoder.load(exported, "cpu", 1).embed(paths, batch_size=8)))
    card = Encoder.load(exported, "cpu").card
    measured = float(np.abs(embedded - wanted).max())
    assert measured <= 2 * card.parity.max_abs_diff + 1e-6
    assert card.parity.max_abs_diff <= 1e-4 * card.parity.scale
    assert card.parity.scale == pytest.approx(float(np.abs(wanted).max()), rel=0.01)
    assert (card.parity.images, card.parity.batch_sizes, card.parity.source) == (40, (1, 3, 8), "training images")
    assert card.config_sha256 == config.sha256()


def test_trained_weights_are_what_is_exported(run: Path, exported: Path, image_folder: Path, tmp_path: Path) -> None:
    untrained = export_random("resnet10_w8", 32, 0, tmp_path / "untrained.onnx")
    image = next(image_folder.rglob("*.jpg"))
    (trained,) = Encoder.load(exported, "cpu").embed(image)
    (random,) = Encoder(untrained, "cpu").embed(image)
    assert not np.allclose(trained, random, atol=1e-2)
    assert untrained.card.method == "random-init"
    assert untrained.card.parity.source == "drawn by sslfeat"


def test_exported_twice_the_bytes_are_the_same(run: Path, exported: Path, tmp_path: Path) -> None:
    again = tmp_path / "small.onnx"
    labels = ("--data-name", "drawn", "--data-license", "Apache-2.0", "--license", "Apache-2.0")
    finished = sslfeat("export", run, "--out", again, *labels, "--json")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["encoder"]["fingerprint"] == read_encoder_file(exported).fingerprint
    assert again.read_bytes() == exported.read_bytes()


def test_a_name_is_not_part_of_what_an_encoder_is(run: Path, exported: Path, image_folder: Path, tmp_path: Path) -> None:
    """Exported under another name, from a renamed run, and with other labels: an index of the one takes the other."""
    moved = tmp_path / "a run renamed"
    shutil.copytree(run, moved)
    other = export_run(moved, tmp_path / "other.onnx", Labels(name="other", license="MIT"), [str(image_folder)])
    first = read_encoder_file(exported)
    assert other.fingerprint == first.fingerprint
    assert (other.card.name, first.card.name) == ("other", "small")
    assert other.sha256 != first.sha256
    origins = (origin(str(run), "one", [str(image_folder)]), origin(str(moved), "two", [str(image_folder)]))
    made = [convert(kind, ExportRequest("fp16", tmp_path / f"{n}.onnx", [str(image_folder)])) for n, kind in enumerate(origins)]
    assert len({read_encoder_file(report.out).fingerprint for report in made} | {first.fingerprint}) == 2
    features, index, query = tmp_path / "features", tmp_path / "index", next(image_folder.rglob("*.jpg"))
    assert sslfeat("embed", image_folder, "--encoder", exported, "--out", features).returncode == 0
    assert sslfeat("index", features, "--out", index).returncode == 0
    for file in (exported, tmp_path / "other.onnx"):
        found = sslfeat("search", index, query, "--encoder", file, "--top", "1")
        assert found.returncode == 0, found.stderr
        assert query.name in found.stdout
    refused = sslfeat("search", index, query, "--encoder", made[0].out, "--top", "1")
    assert refused.returncode == 1


def test_nothing_of_this_machine_is_in_the_file(run: Path, exported: Path) -> None:
    data = exported.read_bytes()
    places = (run, run.parent, Path(__file__).parent.parent, Path(sys.prefix), Path.home())
    for place in places:
        assert str(place).encode() not in data
    for word in (b"site-packages", b"Traceback", b".py", b"pkg.torch"):
        assert word not in data


@pytest.mark.parametrize("backbone", ["resnet18", "vit_tiny"])
def test_backbones_export_with_a_dynamic_batch(backbone: str, tmp_path: Path) -> None:
    file = export_random(backbone, 32, 0, tmp_path / "encoder.onnx")
    encoder = Encoder(file, "cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    together = encoder.run(pixels)
    apart = np.concatenate([encoder.run(pixels[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, apart, atol=1e-4 * float(np.abs(apart).max()))


def test_an_export_that_differs_is_refused_and_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The torch side sees pixels one gray level brighter: a preprocessing that differs, the commonest fault of all."""
    real = parity.reference_pixels

    def brighter(path: bytes, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
        return np.minimum(real(path, preprocess), 254) + np.uint8(1)

    monkeypatch.setattr(parity, "reference_pixels", brighter)
    with pytest.raises(ParityError, match="max abs diff"):
        export_run(run, tmp_path / "bad.onnx", Labels())
    assert list(tmp_path.iterdir()) == []


def test_a_diverged_encoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_folder: Path) -> None:
    module = random_encoder("resnet10_w8", 32, 0)
    next(module.parameters()).data[:] = float("nan")
    file = export_random("resnet10_w8", 32, 0, tmp_path / "good.onnx")
    with pytest.raises(ParityError, match="not finite"):
        parity.check_parity(module, file, [str(path).encode() for path in image_folder.rglob("*.jpg")], "test")


def test_overlap_and_cosine_against_naive_loops() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(30, 5)).astype(np.float32)
    b = a + rng.normal(scale=0.3, size=a.shape).astype(np.float32)

    def nearest(x: npt.NDArray[np.float32], i: int) -> set[int]:
        cosine = {j: float(x[i] @ x[j]) / float(np.linalg.norm(x[i]) * np.linalg.norm(x[j])) for j in range(30) if j != i}
        return set(sorted(cosine, key=lambda j: -cosine[j])[:10])

    naive = sum(len(nearest(a, i) & nearest(b, i)) / 10 for i in range(30)) / 30
    assert similarity.neighbor_overlap(a, b) == pytest.approx(naive)
    assert 0.3 < naive < 0.95
    cosines = [float(x @ y) / float(np.linalg.norm(x) * np.linalg.norm(y)) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(similarity.cosines(a, b), cosines, rtol=1e-5)


def test_what_was_not_trained_to_its_end_says_so(run: Path, tmp_path: Path) -> None:
    whole = sslfeat("export", run, "--out", tmp_path / "whole.onnx")
    assert "interrupted" not in whole.stderr
    cut = shutil.copytree(run, tmp_path / "cut")
    (cut / "result.json").unlink()
    assert f"was interrupted after 30 steps; to continue: sslfeat train --out {cut} --resume" in sslfeat(
        "export", cut, "--out", tmp_path / "cut.onnx"
    ).stderr.replace("\n", " ")
    again = sslfeat("train", "--out", cut, "--resume")
    assert "since resuming; in total training" in again.stdout


def test_refusals(run: Path, tmp_path: Path, exported: Path, image_folder: Path) -> None:
    with pytest.raises(ExportError, match="exists"):
        export_run(run, exported, Labels())
    with pytest.raises(ExportError, match="does not exist"):
        export_random("resnet10_w8", 32, 0, tmp_path / "no" / "such.onnx")
    with pytest.raises(ExportError, match="at least 8"):
        export_random("resnet10_w8", 32, 0, tmp_path / "x.onnx", [str(next(image_folder.rglob("*.jpg")))])
    assert sslfeat("export", tmp_path / "nothing", "--out", tmp_path / "x.onnx").returncode == 1
    for wrong in (
        ("--random-init", "resnet10_w8"),
        ("--random-init", "resnet10_w8", "--image-size", "0"),
        (run, "--random-init", "resnet10_w8"),
        (run, "--target", "magic"),
    ):
        assert sslfeat("export", *wrong, "--out", tmp_path / "x.onnx").returncode == 2
    assert sslfeat("export", run, "--out", exported).returncode == 2
    assert not (tmp_path / "x.onnx").exists()


def test_an_unexportable_encoder_is_an_export_error() -> None:
    class Unexportable(FrozenEncoder):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            bessel: torch.Tensor = torch.special.bessel_j0(image.float())  # ONNX has no such operator
            return bessel.mean((1, 2))

    good = random_encoder("resnet10_w8", 32, 0)
    with pytest.raises(ExportError, match="could not export"):
        to_onnx.to_onnx(Unexportable(good.input_transform, good.encoder), 32)


def test_the_card_travels_with_the_file(exported: Path) -> None:
    file: EncoderFile = read_encoder_file(exported)
    card = file.card
    assert (card.name, card.method, card.backbone, card.dim) == ("small", "simclr", "resnet10_w8", 64)
    assert (card.preprocess.size, card.preprocess.filter) == (32, "bicubic")
    assert card.training_data.images == 40
    assert {"sslfeat", "torch", "onnx"} <= set(card.versions)
    described = sslfeat("info", exported, "--json")
    assert json.loads(described.stdout)["encoder"]["fingerprint"] == file.fingerprint


@pytest.mark.parametrize(
    ("name", "preprocess"),
    [
        ("torchvision/mobilenet_v3_small", Preprocess(256, 224, "bilinear")),
        ("timm/convnext_atto", Preprocess(256, 224, "bicubic")),
    ],
)
def test_backbones_of_others_are_exported(name: str, preprocess: Preprocess, tmp_path: Path) -> None:
    file = export_pretrained(name, tmp_path / "theirs.onnx", weights=False)
    assert file.card.preprocess == preprocess
    assert (file.card.backbone, file.card.method) == (name, "random-init")
    assert file.card.parity.min_cosine > 0.99999
    smaller = export_pretrained(name, tmp_path / "smaller.onnx", weights=False, image_size=96)
    assert (smaller.card.preprocess.resize, smaller.card.preprocess.size) == (109, 96)
    with pytest.raises(InputError, match="no classifier"):
        export_pretrained("torchvision/resnet9", tmp_path / "x.onnx")
    with pytest.raises(InputError, match="no model"):
        export_pretrained("timm/resnet9", tmp_path / "x.onnx")
    with pytest.raises(InputError, match="timm/NAME"):
        export_pretrained("hub/resnet18", tmp_path / "x.onnx")


def test_vision_transformers_of_others_take_another_size(tmp_path: Path) -> None:
    file = export_pretrained("timm/vit_tiny_patch16_224", tmp_path / "vit.onnx", weights=False, image_size=64)
    assert (file.card.preprocess.size, file.card.license) == (64, "not stated")
    assert Encoder(file, "cpu").run(np.zeros((2, 64, 64, 3), np.uint8)).shape == (2, 192)
    with pytest.raises(InputError, match="does not accept images of 50 px"):
        export_pretrained("torchvision/vit_b_32", tmp_path / "x.onnx", weights=False, image_size=50)
