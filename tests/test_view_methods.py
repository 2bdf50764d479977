"""Every method of views on ResNets and transformers, with small views and aware of how they differ; tokens of any grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sslfeat.errors import UsageError
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.backbones.vit import ViTBackbone
from sslfeat.models.engine.checkpoint import read_tensors
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.frozen import build_method
from sslfeat.models.engine.trainer import train
from sslfeat.models.method import find_method, method_names
from sslfeat.models.multi_view import MultiView

VIEWED = [name for name in method_names() if issubclass(find_method(name), MultiView)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 6, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator(9))


def config(name: str, image_folder: Path, backbone: str = "resnet10_w8", steps: int = 4, **options: str) -> TrainConfig:
    if name == "distill":
        options["teacher"] = "sslfeat-small"
    return TrainConfig(name, (str(image_folder),), backbone, 32, 8, steps=steps, accelerator="cpu", options=options)


def vit(size: int = 32) -> ViTBackbone:
    torch.manual_seed(0)
    backbone = build_backbone("vit_tiny", size).eval()
    assert isinstance(backbone, ViTBackbone)
    return backbone


def test_the_methods_of_views_are_found() -> None:
    assert VIEWED == ["barlow", "byol", "dino", "distill", "lejepa", "moco", "simclr", "swav", "vicreg"]


@pytest.mark.parametrize("name", VIEWED)
def test_a_run_that_is_aware_of_small_views(name: str, image_folder: Path, tmp_path: Path) -> None:
    """Encoder and the predictor of differences are trained; the latter is not kept."""
    settings = config(name, image_folder, aware="1", local_views="1", views="2")
    result = train(settings, tmp_path / "run")
    assert result.steps == 4
    before = build_method(settings).state_dict()
    whole = read_tensors(tmp_path / "run" / "last.ckpt")[0]
    kept = load_file(tmp_path / "run" / "encoder.safetensors")
    assert all(bool(value.isfinite().all()) for value in whole.values())
    for part in ("encoder.", "difference."):
        changed = [not torch.equal(before[key], whole[f"module.{key}"]) for key in before if key.startswith(part)]
        assert sum(changed) > len(changed) / 2, part
    assert not any("difference" in key for key in kept)


@pytest.mark.parametrize("name", ["dino", "simclr", "byol", "swav"])
def test_a_transformer_sees_views_of_every_size(name: str, image_folder: Path, tmp_path: Path) -> None:
    """Whole views that grow from 16 to 32 px, and local ones half as wide."""
    settings = config(name, image_folder, "vit_tiny", steps=6, local_views="2", grow="true")
    assert train(settings, tmp_path / "run").steps == 6
    kept = load_file(tmp_path / "run" / "encoder.safetensors")
    before = build_method(settings).encoder.state_dict()
    assert all(bool(value.isfinite().all()) for value in kept.values())
    key = "body.encoder.pos_embedding"
    assert not torch.equal(kept[f"encoder.{key}"], before[key])


@pytest.mark.parametrize(("size", "side"), [(16, 4), (24, 6), (32, 8), (48, 12), (20, 5), (18, 4)])
def test_images_of_another_size_are_another_number_of_tokens(size: int, side: int) -> None:
    backbone, images = vit(), torch.rand(2, 3, size, size, generator=generator())
    with torch.no_grad():
        assert backbone.embed(images).shape == (2, side * side, 128)
        assert backbone.maps(images).shape == (2, 128, side, side)
        assert backbone(images).shape == (2, 128)


def test_at_its_own_size_positions_are_torchvisions() -> None:
    backbone, images = vit(), torch.rand(3, 3, 32, 32, generator=generator())
    torch.nn.init.normal_(backbone.body.encoder.pos_embedding, generator=generator(1))
    with torch.no_grad():
        tokens = backbone.body.conv_proj(images).flatten(2).transpose(1, 2)
        assert torch.equal(backbone.embed(images), tokens + backbone.body.encoder.pos_embedding[:, 1:])
        torch.testing.assert_close(backbone(images), backbone.body(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [16, 24, 48, 64])
def test_positions_between_those_that_were_learned(size: int) -> None:
    """A table that holds the place of each patch gives the places of the patches of another grid."""
    backbone = vit()
    places = torch.zeros(1, 65, 128)
    for row in range(8):
        for column in range(8):
            places[0, 1 + 8 * row + column, :2] = torch.tensor([row + 0.5, column + 0.5]) / 8
            places[0, 1 + 8 * row + column, 2] = 3.0
    backbone.body.encoder.pos_embedding.data.copy_(places)
    torch.nn.init.zeros_(backbone.body.conv_proj.weight)
    torch.nn.init.zeros_(backbone.body.conv_proj.bias)
    side = size // 4
    with torch.no_grad():
        found = backbone.embed(torch.rand(1, 3, size, size)).view(side, side, 128)
    for row in range(side):
        for column in range(side):
            wanted = [(row + 0.5) / side, (column + 0.5) / side, 3.0, 0.0]
            assert found[row, column, :4].tolist() == pytest.approx(wanted, abs=0.03), (row, column)


@pytest.mark.parametrize("name", ["dino", "swav"])
def test_prototypes_rest_at_first(name: str) -> None:
    """For 3 % of the run; the rest of the head does not."""
    torch.manual_seed(0)
    kind: Any = find_method(name)
    method: Any = kind(build_backbone("resnet10_w8", 32), kind.Config(prototypes=12))
    for share, moves in ((0.0, False), (0.029, False), (0.031, True)):
        method.share = share
        method.zero_grad()
        torch.autograd.backward(method(batch(), generator())[0])
        assert (method.prototypes.weight.grad is not None) is moves
        assert all(parameter.grad is not None for parameter in method.projector.parameters())


def test_a_contrast_of_no_images_is_refused() -> None:
    """A tenth of a batch of 6 is none, and among one image there is nothing to contrast."""
    for share, count in ((0.1, 6), (0.25, 4)):
        method = build_method(TrainConfig("simclr", (), "resnet10_w8", 32, options={"keep_color": str(share)}))
        with pytest.raises(UsageError, match="keep_color"):
            method(batch(count), generator())


def test_one_view_differs_from_none() -> None:
    with pytest.raises(UsageError, match="aware"):
        build_method(TrainConfig("distill", (), "resnet10_w8", 32, options={"aware": "1"}))
