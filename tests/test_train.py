"""Training: resume to the same weights, methods from outside, refusals, what a run folder holds."""

from __future__ import annotations

import csv
import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sslfeat.errors import TrainingError, UsageError
from sslfeat.models.engine.checkpoint import load_checkpoint
from sslfeat.models.engine.config import TrainConfig, load_config
from sslfeat.models.engine.data import Order
from sslfeat.models.engine.trainer import Reporter, TrainProgress, train
from tests.conftest import sslfeat

TINY_RUN = ("--backbone", "resnet10_w8", "--image-size", "32", "--batch-size", "8", "--provider", "cpu")
TOY = '''
"""A toy: say whether an image was turned upside down."""
import torch
from torch import nn
from torch.nn import functional
from sslfeat.models.ops.augment import random_flip, to_float
from sslfeat.models.method import Method, register


@register("upside-down")
class UpsideDown(Method):
    def __init__(self, encoder, config):
        super().__init__(encoder, config)
        self.head = nn.Linear(encoder.dim, 2)

    def views(self, batch, generator):
        images = random_flip(to_float(batch), generator)
        return torch.cat([images, images.flip(2)]), torch.arange(2).repeat_interleave(len(batch))

    def loss(self, views):
        images, turned = views
        logits = self.head(self.encode(images))
        return functional.cross_entropy(logits, turned), {"accuracy": (logits.argmax(1) == turned).float().mean(), "chance": 0.5}
'''


@pytest.fixture(scope="module")
def config(image_folder: Path) -> TrainConfig:
    return TrainConfig("simclr", (str(image_folder),), "resnet10_w8", image_size=32, batch_size=8, steps=12, accelerator="cpu")


def weights(run: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load_file(run / "encoder.safetensors")
    return loaded


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def start(image_folder: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    code = "from sslfeat.cli.app import main; main()"
    settings = [*TINY_RUN, "--steps", "120", "--checkpoint-steps", "5"]
    command = [sys.executable, "-c", code, "train", "rotation", str(image_folder), "--out", str(out), *settings, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_killed_or_interrupted_by_the_command_line(image_folder: Path, tmp_path: Path, signum: signal.Signals) -> None:
    start(image_folder, tmp_path / "whole").communicate()
    process = start(image_folder, tmp_path / "cut")
    while not (tmp_path / "cut" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signum)
    stderr = process.communicate(timeout=30)[1]
    assert process.returncode == (130 if signum == signal.SIGINT else -signum), stderr
    assert signum == signal.SIGKILL or "--resume" in stderr
    refused = start(image_folder, tmp_path / "cut")  # a run is never overwritten unasked
    assert "already contains a run" in refused.communicate()[1]
    assert refused.returncode == 1
    again = start(image_folder, tmp_path / "cut", "--resume")
    assert again.communicate()[1] is not None
    assert again.returncode == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    with (tmp_path / "cut" / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [1, *range(20, 121, 20)]


def test_the_run_folder_holds_what_reproduces_it(config: TrainConfig, tmp_path: Path) -> None:
    result = train(dataclasses.replace(config, epochs=8, steps=None), tmp_path / "run")
    assert result.steps == 40
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.yaml", "metrics.csv", "last.ckpt", "encoder.safetensors", "failures.csv"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    again = sslfeat("train", "--config", tmp_path / "run" / "config.yaml", "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert same(weights(tmp_path / "run"), weights(tmp_path / "again"))
    assert load_config(tmp_path / "run" / "config.yaml") == load_config(tmp_path / "again" / "config.yaml")


def test_a_method_file_from_outside_trains_and_exports(image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    trained = sslfeat("train", tmp_path / "toy.py", image_folder, "--out", tmp_path / "run", *TINY_RUN, "--steps", "40")
    assert trained.returncode == 0, trained.stderr
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["chance"]) == 0.5
    refused = sslfeat("export", tmp_path / "run", "--out", tmp_path / "toy.onnx")
    assert refused.returncode == 1
    assert "toy.py, the same file as in training" in refused.stderr
    exported = sslfeat("export", tmp_path / "run", "--out", tmp_path / "toy.onnx", "--trust-code")
    assert exported.returncode == 0, exported.stderr
    assert str(tmp_path).encode() not in (tmp_path / "toy.onnx").read_bytes()
    (tmp_path / "toy.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{TOY}")
    for more in ((), ("--trust-code",), ("--target", "ort"), ("--target", "ort", "--trust-code")):
        refused = sslfeat("export", tmp_path / "run", "--out", tmp_path / "other", *more)
        assert refused.returncode == 1
        assert "toy.py, which differs from the file used in training" in refused.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "other").exists()


def test_rotation_learns_on_drawn_images(config: TrainConfig, tmp_path: Path) -> None:
    """Frame-fixed gradients make the turn easy: the loss must fall well below chance level ln 4."""
    from PIL import Image

    (tmp_path / "ramps").mkdir()
    for index in range(32):
        ramp = Image.linear_gradient("L").resize((32, 32)).point(lambda value, shift=index: (value + 2 * shift) // 2)
        ramp.convert("RGB").save(tmp_path / "ramps" / f"{index}.png")
    seen: list[TrainProgress] = []
    settings = dataclasses.replace(config, method="rotation", images=(str(tmp_path / "ramps"),), steps=100)
    train(settings, tmp_path / "run", reporter=Reporter(training=seen.append))
    assert seen[-1].figures["accuracy"] > 0.9
    assert seen[-1].figures["loss"] < 0.5


def test_bad_images_are_listed_and_the_rest_is_trained_on(image_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(image_folder, images)
    (images / "broken.jpg").write_bytes(b"broken")
    finished = sslfeat("train", "rotation", images, "--out", tmp_path / "run", *TINY_RUN, "--steps", "2")
    assert finished.returncode == 3, finished.stderr
    assert "broken.jpg" in (tmp_path / "run" / "failures.csv").read_text()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"batch_size": 41}, "larger than the number of images, 40"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"backbone": "resnet11"}, "unknown backbone"),
        ({"precision": "16"}, "precision is '16'"),
        ({"accelerator": "tpu"}, "accelerator is 'tpu'"),
        ({"options": {"temperature": "x"}}, "temperature"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": 1e30, "steps": 400}, "the loss is"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    config: TrainConfig, tmp_path: Path, change: dict[str, object], fault: str
) -> None:
    with pytest.raises((TrainingError, UsageError), match=fault):
        train(dataclasses.replace(config, **change), tmp_path / "run")  # type: ignore[arg-type]


def test_resuming_with_other_settings_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    train(config, tmp_path / "run")
    with pytest.raises(TrainingError, match="batch_size = 8, but now it is 16"):
        train(dataclasses.replace(config, batch_size=16), tmp_path / "run", resume=True)
    with pytest.raises(TrainingError, match="already contains a run"):
        train(config, tmp_path / "run")


def test_a_pickle_is_no_checkpoint(config: TrainConfig, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (canary,)

    torch.save(Bomb(), tmp_path / "evil.ckpt")
    module = torch.nn.Linear(1, 1)
    with pytest.raises(TrainingError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "evil.ckpt", module, torch.optim.AdamW(module.parameters()))
    assert not canary.exists()


def test_a_task_at_chance_is_said(config: TrainConfig, tmp_path: Path) -> None:
    said: list[str] = []
    settings = dataclasses.replace(config, method="rotation", lr=0.0, steps=100)
    train(settings, tmp_path / "run", reporter=Reporter(warn=said.append))
    assert len([word for word in said if "chance" in word]) == 1


def test_an_epoch_visits_every_image_once_and_epochs_differ() -> None:
    order = Order(40, 8, seed=0)
    epochs = [[index for step in range(5) for index in order.indices(5 * epoch + step)] for epoch in range(2)]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert list(Order(40, 8, seed=0).indices(7)) == list(order.indices(7))
    assert list(Order(40, 8, seed=1).indices(7)) != list(order.indices(7))


@pytest.mark.parametrize(("steps", "rows"), [(1, [1]), (5, [1, 5]), (20, [1, 20]), (23, [1, 20, 23])])
def test_the_first_and_the_last_step_have_a_row(config: TrainConfig, tmp_path: Path, steps: int, rows: list[int]) -> None:
    train(dataclasses.replace(config, steps=steps), tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == rows


def test_strict_fails_before_the_first_step(image_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(image_folder, images)
    (images / "broken.jpg").write_bytes(b"broken")
    done = sslfeat("train", "rotation", images, "--out", tmp_path / "run", *TINY_RUN, "--steps", "2", "--strict")
    assert done.returncode == 1
    assert "1 image cannot be read, an error with --strict: " in done.stderr
    assert "broken.jpg" in done.stderr
    assert not list(tmp_path.glob("run/*.ckpt"))


def test_seconds_are_of_all_sessions(config: TrainConfig, tmp_path: Path) -> None:
    """A resume of a run that is finished takes no step: its seconds are those before."""
    first = train(config, tmp_path / "run")
    assert first.seconds > 0
    assert first.looking > 0
    said: list[str] = []
    again = train(config, tmp_path / "run", resume=True, reporter=Reporter(warn=said.append))
    assert f"already complete at step {first.steps}: --extend {tmp_path / 'run'} trains it further" in said[-1]
    assert again.steps == first.steps
    assert again.seconds >= first.seconds - 1e-3
    assert again.looking > 0
