"""Distillation: whose features an image is taught, found by content and made once; the losses against loops."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sslfeat.data.dataset import find_inputs
from sslfeat.errors import TrainingError, UsageError
from sslfeat.features.reader import Features
from sslfeat.features.writer import FeatureRun
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.checkpoint import read_tensors
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.data import Images, load_images, to_batch
from sslfeat.models.engine.reporting import Reporter
from sslfeat.models.engine.teacher_features import teacher_features
from sslfeat.models.engine.trainer import train
from sslfeat.models.methods.distill import Distill, relational
from tests.conftest import write_tiny

MODULE = "sslfeat.models.engine.teacher_features"


@pytest.fixture
def shuffled(image_folder: Path, tmp_path: Path) -> Path:
    """Nine of the drawn images under other names, in another order, one of them three times, and a broken file."""
    folder = tmp_path / "shuffled"
    folder.mkdir()
    originals = sorted(image_folder.rglob("*.jpg"))
    for k, number in enumerate((30, 2, 17, 2, 39, 5, 0, 21, 2, 11)):
        shutil.copy(originals[number], folder / f"{k}.jpg")
    (folder / "4-broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    return folder


def loaded(folder: Path, run: Path) -> Images:
    return load_images(find_inputs([folder]), 32, run)


def by_content(embedded: Path) -> dict[str, Any]:
    features = Features.load(embedded)
    return {
        hashlib.sha256(Path(path).read_bytes()).hexdigest(): row
        for path, row in zip(features.paths, features.embeddings, strict=True)
    }


def made(tiny: Path, images: Images, features: str = "", **options: Any) -> Distill:
    torch.manual_seed(0)
    config = Distill.Config(teacher=str(tiny), features=features, **options)
    method = Distill(build_backbone("resnet10_w8", 32), config)
    method.prepare(images)
    return method


def test_features_are_found_by_the_content_of_the_files(
    tiny: Path, embedded: Path, shuffled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their names and order; and nothing is embedded where features are given."""
    monkeypatch.setattr(f"{MODULE}.embed_to_folder", lambda *_: pytest.fail("embedded again"))
    images, known = loaded(shuffled, tmp_path), by_content(embedded)
    rows = teacher_features(str(tiny), str(embedded), images)
    assert len(images.failures) == 1
    assert rows.dtype == np.float16
    wanted = [known[hashlib.sha256(path.read_bytes()).hexdigest()] for path in sorted(shuffled.glob("?.jpg"))]
    np.testing.assert_array_equal(rows, np.asarray(wanted, np.float16))
    assert len({row.tobytes() for row in rows}) == 8


def test_an_image_without_features_is_named(tiny: Path, embedded: Path, shuffled: Path, tmp_path: Path) -> None:
    for name in ("6-new.png", "9-new.png"):
        Image.fromarray(np.full((40, 40, 3), ord(name[0]), np.uint8)).save(shuffled / name)
    with pytest.raises(TrainingError, match=r"2 of the images have no features.*6-new\.png.*sslfeat embed --update"):
        teacher_features(str(tiny), str(embedded), loaded(shuffled, tmp_path))


def test_features_of_another_encoder_are_refused(embedded: Path, shuffled: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "tiny.onnx", seed=1)
    with pytest.raises(TrainingError, match="features of another encoder than"):
        teacher_features(str(other), str(embedded), loaded(shuffled, tmp_path))


def test_images_are_embedded_once(
    tiny: Path, embedded: Path, shuffled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into a folder of the run; other images, and another encoder, into another one."""
    parts, commit = [], FeatureRun._commit

    def counted(run: FeatureRun, number: int, outcomes: Any) -> None:
        parts.append(number)
        commit(run, number, outcomes)

    monkeypatch.setattr(FeatureRun, "_commit", counted)
    run = tmp_path / "run"
    images = loaded(shuffled, run)
    rows = teacher_features(str(tiny), "", images)
    folders = list(run.glob("teacher-*"))
    assert (parts, len(folders)) == ([0], 1)
    np.testing.assert_allclose(rows, teacher_features(str(tiny), str(embedded), images), rtol=1e-3)
    again = teacher_features(str(tiny), "", images)
    np.testing.assert_array_equal(again, rows)
    assert (parts, list(run.glob("teacher-*"))) == ([0], folders)
    teacher_features(str(write_tiny(tmp_path / "tiny.onnx", seed=1)), "", images)
    (shuffled / "0.jpg").unlink()
    assert len(teacher_features(str(tiny), "", loaded(shuffled, run))) == 9
    assert (parts, len(list(run.glob("teacher-*")))) == ([0, 0, 0], 3)


def test_it_is_said_how_far_the_teacher_is(tiny: Path, shuffled: Path, tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    config = TrainConfig(
        "distill", (str(shuffled),), "resnet10_w8", 32, 8, steps=0, accelerator="cpu", options={"teacher": str(tiny)}
    )
    train(config, tmp_path / "run", reporter=Reporter(preparing=lambda *now: said.append(now)))
    assert said[-1] == ("images embedded by the teacher", 10, 10)


def test_without_a_run_folder_features_must_be_given(tiny: Path, shuffled: Path, tmp_path: Path) -> None:
    nowhere = dataclasses.replace(loaded(shuffled, tmp_path), folder=None)
    with pytest.raises(TrainingError, match="give features=FOLDER"):
        teacher_features(str(tiny), "", nowhere)


def test_without_a_teacher_there_is_nothing_to_learn(image_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig("distill", (str(image_folder),), "resnet10_w8", 32, 8, steps=1, accelerator="cpu")
    with pytest.raises(UsageError, match="--teacher"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_batch_of_unknown_images_cannot_be_taught(tiny: Path, embedded: Path, shuffled: Path, tmp_path: Path) -> None:
    images = loaded(shuffled, tmp_path)
    method = made(tiny, images, str(embedded))
    batch = to_batch(images.pixels, np.arange(4), torch.device("cpu"))
    for numbers in (None, torch.arange(5)):
        method.numbers = numbers
        with pytest.raises(UsageError, match="needs the indices of the images"):
            method(batch, torch.Generator())


def unit(row: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def naive_relational(
    predicted: list[list[float]], wanted: list[list[float]], others: list[list[float]], temperature: float
) -> float:
    """The sum of p log(p / q) over the others, the mean over rows."""
    total = 0.0
    for student, teacher in zip(predicted, wanted, strict=True):
        q, p = ([math.exp((dot(row, other) - 1) / temperature) for other in others] for row in (student, teacher))
        total += sum(y / sum(p) * math.log((y / sum(p)) / (x / sum(q))) for x, y in zip(q, p, strict=True))
    return total / len(predicted)


def test_similarities_diverge_row_by_row() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, wanted, others = (
        torch.nn.functional.normalize(torch.randn(count, 5, generator=generator), dim=1) for count in (6, 6, 20)
    )
    for temperature in (0.05, 0.5):
        found = float(relational(predicted, wanted, others, temperature))
        assert found == pytest.approx(
            naive_relational(predicted.tolist(), wanted.tolist(), others.tolist(), temperature), rel=1e-4
        )
        assert found > 0
        assert float(relational(wanted, wanted, others, temperature)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("views", "local_views"), [(1, 0), (2, 1)])
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_the_loss_image_by_image(
    views: int, local_views: int, weight: float, tiny: Path, embedded: Path, image_folder: Path, tmp_path: Path
) -> None:
    """Teacher's features less their mean over all images, each view of an image beside its own."""
    images = loaded(image_folder, tmp_path)
    options: dict[str, Any] = {"relational": weight, "others": 9, "views": views, "local_views": local_views}
    method = made(tiny, images, str(embedded), **options).eval()
    numbers = np.array([3, 8, 21, 30, 31])
    method.numbers = torch.from_numpy(numbers)
    seen = method.views(to_batch(images.pixels, numbers, torch.device("cpu")), torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.manual_seed(3)
        loss, figures = method.loss(seen)
        features = [method.encode(view) for view in (seen.whole, *([seen.local] if seen.local is not None else []))]
        rows = [unit(row) for row in method.head(torch.cat(features)).tolist()]
    torch.manual_seed(3)
    drawn = torch.randint(40, (9,)).tolist()
    truth = teacher_features(str(tiny), str(embedded), images).astype(np.float64)
    taught = [unit(row) for row in (truth - truth.mean(0)).tolist()]
    wanted = [taught[number] for number in numbers]
    repeated, cosines = wanted * (views + local_views), []
    assert len(rows) == len(repeated)
    for row, target in zip(rows, repeated, strict=True):
        cosines.append(dot(row, target))
    near = [max(range(5), key=[dot(row, target) for target in wanted].__getitem__) for row in rows]
    total = 2 - 2 * float(np.mean(cosines))
    if weight:
        others = wanted + [taught[number] for number in drawn]
        total += weight * naive_relational(rows, repeated, others, 0.05)
    assert float(loss) == pytest.approx(total, rel=2e-3)
    assert float(figures["cosine"]) == pytest.approx(float(np.mean(cosines)), abs=1e-3)
    right = [place == k % 5 for k, place in enumerate(near)]
    assert float(figures["accuracy"]) == pytest.approx(sum(right) / len(right), abs=1e-6)
    assert figures["chance"] == pytest.approx(1 / 5)


def test_a_run_does_not_go_on_with_another_teacher_in_the_same_file(image_folder: Path, tmp_path: Path) -> None:
    teacher = write_tiny(tmp_path / "teacher.onnx", seed=0)
    settings = {"image_size": 32, "batch_size": 8, "steps": 1, "options": {"teacher": str(teacher), "others": "4"}}
    config = TrainConfig("distill", (str(image_folder),), "resnet10_w8", **settings)  # type: ignore[arg-type]
    train(config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True)
    write_tiny(tmp_path / "teacher.onnx", seed=1)
    with pytest.raises(TrainingError, match="teacher_fingerprint"):
        train(config, tmp_path / "run", resume=True)


def test_a_run_learns_what_the_teacher_sees(tiny: Path, embedded: Path, image_folder: Path, tmp_path: Path) -> None:
    """The cosine rises, the map to the teacher's features is trained, and only the encoder is kept."""
    options = {"teacher": str(tiny), "features": str(embedded)}
    config = TrainConfig("distill", (str(image_folder),), "resnet10_w8", 32, 20, accelerator="cpu", options=options)
    train(dataclasses.replace(config, steps=60), tmp_path / "run")
    with open(tmp_path / "run" / "metrics.csv") as file:
        cosines = [float(row["cosine"]) for row in csv.DictReader(file) if row.get("cosine")]
    assert len(cosines) == 4  # of steps 1, 20, 40 and 60
    assert cosines[-1] > cosines[0] + 0.1
    tensors = read_tensors(tmp_path / "run" / "last.ckpt")[0]
    assert bool(tensors["optimizer.head.weight.exp_avg"].any())
    assert not list((tmp_path / "run").glob("teacher-*"))
    kept = read_tensors(tmp_path / "run" / "encoder.safetensors")[0]
    assert not [key for key in kept if "head" in key]
