"""Batches in pieces, several processes, bf16 and compilation: the same training, arranged otherwise."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sslfeat.errors import UsageError
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.config import TrainConfig, with_defaults
from sslfeat.models.engine.trainer import Reporter, TrainProgress, train
from sslfeat.models.method import Recipe
from tests import doc_pages

PLAIN_METHOD = '''
import torch
from torch import nn
from torch.nn import functional
from sslfeat.models.ops.augment import to_float
from sslfeat.models.method import Method, register


@register("brightness")
class Brightness(Method):
    """No randomness, no batch statistics: the gradient of a batch is the mean of its pieces' gradients."""

    def __init__(self, encoder, config):
        super().__init__(encoder, config)
        self.head = nn.Linear(encoder.dim, 1)

    def views(self, batch, generator):
        return to_float(batch)

    def loss(self, views):
        return functional.mse_loss(self.head(self.encode(views))[:, 0], views.mean((1, 2, 3))), {}
'''


PAIRED_METHOD = '''
import os
from pathlib import Path

import torch
from sslfeat.models.ops.augment import to_float
from sslfeat.models.modules.heads import mlp
from sslfeat.models.method import Method, register
from sslfeat.models.methods.simclr import nt_xent


@register("paired")
class Paired(Method):
    """Each image and its mirror image among those of the batch; what it draws changes nothing, and is written down."""

    def __init__(self, encoder, config):
        super().__init__(encoder, config)
        self.projector = mlp(encoder.dim, encoder.dim, 16)

    def views(self, batch, generator):
        if self.training:
            with Path(__file__).with_name("draw-" + os.environ.get("RANK", "only")).open("a") as file:
                file.write(f"{float(torch.rand(1, generator=generator))} ")
        images = to_float(batch)
        return torch.cat([images, images.flip(3)])

    def loss(self, views):
        loss, figures = nt_xent(self.projector(self.encode(views)), 0.5)
        return loss, {**figures, "light": views.mean()}
'''


@pytest.fixture
def config(image_folder: Path, tmp_path: Path) -> TrainConfig:
    (tmp_path / "brightness.py").write_text(PLAIN_METHOD)
    return TrainConfig(
        str(tmp_path / "brightness.py"),
        (str(image_folder),),
        "vit_tiny",
        32,
        batch_size=8,
        steps=3,
        accelerator="cpu",
        precision="32-true",
    )


def difference(a: Path, b: Path, begin: Path) -> float:
    """How far two runs ended from each other, as a share of the way that the first came from ``begin``.

    Single weights say little: Adam takes a full step along the sign of a gradient that is zero but for rounding.
    """
    x, y, start = (load_file(run / "encoder.safetensors") for run in (a, b, begin))
    assert x.keys() == y.keys() == start.keys()
    apart, way = (sum(float(((x[n] - z[n]).double() ** 2).sum()) for n in x) ** 0.5 for z in (y, start))
    assert way > 0
    return float(apart / way)


def test_pieces_of_a_batch_add_up_to_the_batch(config: TrainConfig, tmp_path: Path) -> None:
    train(dataclasses.replace(config, steps=0), tmp_path / "begin")
    train(config, tmp_path / "whole")
    train(dataclasses.replace(config, accumulate=4), tmp_path / "pieces")
    train(dataclasses.replace(config, lr=2e-3), tmp_path / "other")
    assert difference(tmp_path / "whole", tmp_path / "pieces", tmp_path / "begin") < 0.02
    assert difference(tmp_path / "whole", tmp_path / "other", tmp_path / "begin") > 0.2


@pytest.mark.parametrize("pieces", [3, 4])
def test_the_gradient_of_pieces_is_that_of_the_batch(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    """Adam does not see how long a gradient is, plain descent does; three pieces of eight are not equally large."""

    def descent(method: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=1.0)

    monkeypatch.setattr("sslfeat.models.engine.trainer.make_optimizer", descent)
    config = dataclasses.replace(config, lr=0.01, clip=0.0, steps=2)
    train(dataclasses.replace(config, steps=0), tmp_path / "begin")
    train(config, tmp_path / "whole")
    train(dataclasses.replace(config, accumulate=pieces), tmp_path / "pieces")
    assert difference(tmp_path / "whole", tmp_path / "pieces", tmp_path / "begin") < 1e-3


def test_pieces_need_two_images(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="accumulate 5"):
        train(dataclasses.replace(config, accumulate=5), tmp_path / "run")


def test_two_processes_train_as_one(config: TrainConfig, tmp_path: Path) -> None:
    """torchrun with gloo: weights and figures are those of one process on the whole batch, and one process writes.

    The method contrasts all images of a batch and normalizes over them; the ranks draw different randomness.
    """
    (tmp_path / "brightness.py").write_text(PAIRED_METHOD)
    config = dataclasses.replace(config, backbone="resnet10_w8", steps=20)
    train(dataclasses.replace(config, steps=0), tmp_path / "begin")
    train(config, tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    options = ["--backbone", "resnet10_w8", "--image-size", "32", "--batch-size", "8", "--steps", "20"]
    options += ["--provider", "cpu", "--precision", "fp32"]
    program = [sys.executable, "-c", "from sslfeat.cli.app import main; main()"]
    finished = subprocess.run(
        [*command, *program, "train", config.method, *config.images, "--out", str(tmp_path / "two"), *options],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("20 steps") == 1
    assert not re.search(r"\[rank|Warning|Initializ", finished.stderr), finished.stderr
    assert difference(tmp_path / "one", tmp_path / "two", tmp_path / "begin") < 0.02
    one, two = (last_row(tmp_path / run / "metrics.csv") for run in ("one", "two"))
    assert one.keys() == two.keys()
    for name in ("loss", "accuracy", "chance", "light"):
        assert float(two[name]) == pytest.approx(float(one[name]), rel=5e-3), name
    draws = [(tmp_path / f"draw-{rank}").read_text().split() for rank in (0, 1)]
    assert len(draws[0]) == len(draws[1]) == 20
    assert not set(draws[0]) & set(draws[1])


def test_python_under_torchrun_is_quiet(image_folder: Path, tiny: Path, tmp_path: Path) -> None:
    """The lines of docs/scale.md, with a teacher: one process embeds for both and exports, and none says a word."""
    page = next(page for page in doc_pages.PAGES if page.name == "scale.md")
    code = next(block.text for block in doc_pages.blocks(page) if "run-of-several" in block.text)
    settings = "backbone='resnet10_w8', accelerator='cpu', options={'others': 16}"
    for said, instead in (
        ('"simclr"', f'"distill", teacher="{tiny}"'),
        ('"images/"', f'images="{image_folder}"'),
        ('"run-of-several"', 'out="run"'),
        ("minutes=60", f"steps=20, batch_size=8, image_size=32, {settings}"),
    ):
        assert code.count(said) == 1
        code = code.replace(said, instead)
    (tmp_path / "several.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "several.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(doc_pages.ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "several.onnx").is_file()


def last_row(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))[-1]


def test_ranks_take_equal_parts(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="must be a multiple of the number of processes, 3"):
        train(config, tmp_path / "run")
    filled = with_defaults(dataclasses.replace(config, batch_size=None), Recipe(batch_size=8), 1000, 32)
    assert filled.batch_size == 6


def test_bf16_learns(config: TrainConfig, tmp_path: Path) -> None:
    seen: list[TrainProgress] = []
    settings = dataclasses.replace(config, method="rotation", backbone="resnet10_w8", steps=20, precision="bf16-mixed")
    train(settings, tmp_path / "run", reporter=Reporter(training=seen.append))
    assert 0 < seen[-1].figures["loss"] < 3
    assert all(tensor.dtype != torch.bfloat16 for tensor in load_file(tmp_path / "run" / "encoder.safetensors").values())


def test_maps_of_one_pixel_stay_out_of_bf16_on_a_cpu() -> None:
    """There its convolutions with stride 2 leave parts of the gradient unwritten, which are 0 in truth."""
    backbone = build_backbone("resnet10_w8", 32)
    kinds: dict[str, torch.dtype] = {}
    for name, module in backbone.named_modules():
        if name.endswith(("layer3", "layer4")):
            module.register_forward_hook(lambda module, seen, out, name=name: kinds.update({name[-6:]: out.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        features = backbone(torch.rand(16, 3, 7, 7))
    assert kinds == {"layer3": torch.bfloat16, "layer4": torch.float32}
    features.float().square().sum().backward()
    gradient = backbone.get_parameter("body.layer4.conv1.weight").grad
    assert gradient is not None and bool(gradient[:, :, 1, 1].any())
    assert not bool(gradient[:, :, 0].any())


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_run_is_the_run(config: TrainConfig, tmp_path: Path, backend: str) -> None:
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("inductor compiles with g++, which is not installed")
    train(dataclasses.replace(config, steps=0), tmp_path / "begin")
    train(config, tmp_path / "plain")
    train(dataclasses.replace(config, compile=backend), tmp_path / "compiled")
    assert difference(tmp_path / "plain", tmp_path / "compiled", tmp_path / "begin") < 0.02
