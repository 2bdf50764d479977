"""Weights of timm's and torchvision's networks from a file: all of them, no others, and nothing but tensors."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from sslfeat.errors import InputError, TrainingError, UsageError
from sslfeat.export.pretrained import export_pretrained
from sslfeat.inference.onnx_model import read_encoder_file
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.backbones.weights_file import load_weights, read_state
from sslfeat.models.engine.config import TrainConfig, load_config
from sslfeat.models.engine.frozen import load_run
from sslfeat.models.engine.initial import with_source
from sslfeat.models.engine.trainer import train
from tests.conftest import sslfeat

timm: Any = pytest.importorskip("timm")
VIT = "vit_tiny_patch16_224"
SMALL: dict[str, Any] = {"image_size": 32, "batch_size": 8, "steps": 0, "precision": "32-true"}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT with a classifier of seven classes, for images of 224 px."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(timm.create_model(VIT, num_classes=7).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as training scripts write it: wrapped, by DistributedDataParallel's names."""
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    state = {f"module.{name}": value for name, value in models.resnet18().state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, path)
    return path


def test_they_give_what_timm_makes_of_them(vit: Path) -> None:
    """At another size too, where positions are resampled."""
    ours = build_backbone(f"timm/{VIT}", 64, True, vit).eval()
    as_theirs = {"file": str(vit), "num_classes": 7}
    theirs = timm.create_model(VIT, pretrained=True, pretrained_cfg_overlay=as_theirs, num_classes=0, img_size=64)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs.eval()(images))


def test_an_encoder_file_says_which_weights_it_has(resnet: Path, tmp_path: Path) -> None:
    file = export_pretrained("torchvision/resnet18", tmp_path / "theirs.onnx", weights=resnet, image_size=32)
    digest = hashlib.sha256(resnet.read_bytes()).hexdigest()
    assert file.card.training_data.name == f"resnet18.pth, sha256 {digest}"
    assert (file.card.method, file.card.license) == ("pretrained", "not stated")


def test_timm_from_a_file_is_exported(vit: Path, tmp_path: Path) -> None:
    file = export_pretrained(f"timm/{VIT}", tmp_path / "vit.onnx", weights=vit, image_size=32)
    assert file.card.parity.min_cosine > 0.99999
    assert "sha256" in file.card.training_data.name


def test_a_run_begins_with_them(resnet: Path, image_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig("simclr", (str(image_folder),), init="torchvision/resnet18", weights=str(resnet), **SMALL)
    train(config, tmp_path / "run")
    begun = load_run(tmp_path / "run")[0].encoder.state_dict()
    for name, value in read_state(resnet).items():
        if not name.startswith("fc."):
            torch.testing.assert_close(begun[f"body.{name}"], value, rtol=0, atol=0)
    kept = load_config(tmp_path / "run" / "config.yaml")
    assert kept.init_sha256 == hashlib.sha256(resnet.read_bytes()).hexdigest()


def test_a_run_goes_on_wherever_its_weights_lie_but_with_no_others(resnet: Path, image_folder: Path, tmp_path: Path) -> None:
    settings = {"init": "torchvision/resnet18", **SMALL}
    train(TrainConfig("simclr", (str(image_folder),), weights=str(resnet), **settings), tmp_path / "run")
    moved = tmp_path / "moved.pth"
    moved.write_bytes(resnet.read_bytes())
    train(TrainConfig("simclr", (str(image_folder),), weights=str(moved), **settings), tmp_path / "run", resume=True)
    torch.save(models.resnet18().state_dict(), moved)
    with pytest.raises(TrainingError, match="init_sha256"):
        train(TrainConfig("simclr", (str(image_folder),), weights=str(moved), **settings), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "x.pth"}, "name the network with --init"),
        ({"weights": "x.pth", "init": "sslfeat-tiny"}, "name the network with --init"),
        ({"weights": "x.pth", "init": "timm/resnet18"}, "x.pth cannot be read: No such file"),
    ],
)
def test_weights_of_nothing_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_source(TrainConfig("simclr", ("x",), **settings))  # type: ignore[arg-type]


def test_weights_of_another_network_are_refused_by_name(vit: Path, resnet: Path) -> None:
    with pytest.raises(InputError, match=r"not contain the weights of torchvision/resnet18: missing: conv1\.weight, .* more;"):
        build_backbone("torchvision/resnet18", 32, True, vit)
    with pytest.raises(InputError, match=rf"not contain the weights of timm/{VIT}: .*unexpected: conv1\.weight"):
        build_backbone(f"timm/{VIT}", 32, True, resnet)
    with pytest.raises(InputError, match=r"of another shape: layer1\.0\.conv1\.weight"):
        build_backbone("torchvision/resnet50", 32, True, resnet)


def test_a_missing_or_strange_weight_is_an_error_and_a_classifier_is_none(tmp_path: Path) -> None:
    network = nn.ModuleDict({"body": nn.Linear(2, 3), "fc": nn.Linear(3, 4)})
    state = {"body.weight": torch.ones(3, 2), "body.bias": torch.zeros(3), "fc.weight": torch.ones(9, 3)}
    save_file(state, tmp_path / "w.safetensors")
    load_weights(network, tmp_path / "w.safetensors", "timm/x", ("fc",))
    assert network.state_dict()["body.weight"].eq(1).all()
    for change, message in (({"tail.bias": torch.zeros(1)}, "unexpected: tail.bias"), ({}, "missing: body.bias")):
        save_file({**{k: v for k, v in state.items() if change or k != "body.bias"}, **change}, tmp_path / "w.safetensors")
        with pytest.raises(InputError, match=message):
            load_weights(network, tmp_path / "w.safetensors", "timm/x", ("fc",))


def test_only_tensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "args.pth"
    torch.save({"state_dict": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(InputError, match=r"args.pth is damaged, or contains pickled objects.*save_file"):
        read_state(path)


@pytest.mark.parametrize("name", ["junk.pth", "junk.safetensors", "cut.pth"])
def test_a_file_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1000)}, tmp_path / "whole.pth")
    junk = (tmp_path / "whole.pth").read_bytes()[:1000] if name == "cut.pth" else b"hello"
    (tmp_path / name).write_bytes(junk)
    with pytest.raises(InputError, match=f"{name} is not a file of weights, or is damaged"):
        read_state(tmp_path / name)
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(InputError, match="contains no named weights"):
        read_state(tmp_path / "list.pth")


def test_weights_in_a_copied_cache_of_the_hub_need_no_network(
    vit: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub" / f"models--{timm.get_pretrained_cfg(VIT).hf_hub_id.replace('/', '--')}"
    snapshot = cache / "snapshots" / ("a" * 40)
    for folder in (snapshot, cache / "refs"):
        folder.mkdir(parents=True)
    (cache / "refs" / "main").write_text("a" * 40)
    (snapshot / "model.safetensors").write_bytes(vit.read_bytes())
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = ("export", f"timm/{VIT}", "--image-size", "32", "--images", image_folder, "--out")
    cached = sslfeat(*command, tmp_path / "cached.onnx")
    assert cached.returncode == 0, cached.stderr
    given = sslfeat(*command, tmp_path / "given.onnx", "--weights", vit)
    assert given.returncode == 0, given.stderr
    same = [read_encoder_file(tmp_path / f"{name}.onnx").fingerprint for name in ("cached", "given")]
    assert same[0] == same[1]
    (cache / "refs" / "main").unlink()
    away = sslfeat(*command, tmp_path / "away.onnx")
    assert away.returncode == 1
    assert "--weights FILE" in away.stderr
