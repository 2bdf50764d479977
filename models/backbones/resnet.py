"""torchvision's ResNets with a stem for small images, and a ResNet-10 for CPUs."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, ResNet

from sslfeat.errors import TrainingError
from sslfeat.models.backbones.base import MEDIUM, SMALL, Backbone

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2")


class ConvBackbone(Backbone):
    """A ResNet, or a network with the same parts. Accepts images of any size; features are means over the maps."""

    def __init__(self, body: nn.Module, image_size: int, dims: dict[str, int]) -> None:
        super().__init__(image_size, dims)
        self.body = body

    def several_maps(self, images: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
        body = self.body
        maps: Tensor = body.maxpool(body.relu(body.bn1(body.conv1(images))))  # type: ignore[operator]
        found = {}
        for name in self.layers[: max(map(self.depth, layers))]:
            maps = self.stage(name, maps)
            if name in layers:
                found[name] = maps
        return found

    def stage(self, name: str, maps: Tensor) -> Tensor:
        """Maps of the layer ``name`` from those of the previous layer.

        In bfloat16 on a CPU, torch 2.14 leaves part of the weight gradient of a 3 x 3 convolution with stride 2 on maps of one
        pixel uninitialized (small parts of images reach one pixel); such maps are computed in float32.
        """
        stage: nn.Module = getattr(self.body, name)
        pixel = self.training and maps.device.type == "cpu" and maps.shape[-2:] == (1, 1)
        with torch.autocast("cpu", enabled=False) if pixel else contextlib.nullcontext():
            out: Tensor = stage(maps.float() if pixel else maps)
        return out

    def forward(self, images: Tensor, layer: str | None = None) -> Tensor:
        return self.maps(images, layer).mean((2, 3))


class NarrowResNet(nn.Module):
    """One basic block per stage, and half the resolution of a standard ResNet's small-image stem, for CPUs."""

    def __init__(self, width: int, image_size: int) -> None:
        super().__init__()
        kernel, padding = (3, 1) if image_size <= MEDIUM else (7, 3)
        self.conv1 = nn.Conv2d(3, width, kernel, 2, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if image_size > SMALL else nn.Identity()
        self.layer1 = BasicBlock(width, width)
        self.layer2 = _widening_block(width)
        self.layer3 = _widening_block(2 * width)
        self.layer4 = _widening_block(4 * width)
        for module in self.modules():  # initialized as torchvision's ResNets
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def narrow_resnet(width: int, image_size: int) -> ConvBackbone:
    """``resnet10_wN``: ``width`` channels in the first stage and 8 times as many in the last."""
    return ConvBackbone(NarrowResNet(width, image_size), image_size, _stage_dims(8 * width))


def resnet(name: str, image_size: int) -> ConvBackbone:
    """One of RESNETS, randomly initialized."""
    body = models.get_model(name, weights=None)
    if not isinstance(body, ResNet):
        raise TrainingError(f"torchvision's {name} is not a ResNet")
    if image_size <= MEDIUM:
        stride = 1 if image_size <= SMALL else 2
        body.conv1 = nn.Conv2d(3, body.conv1.out_channels, 3, stride, 1, bias=False)
        nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
        body.maxpool = nn.Identity()
    dim = body.fc.in_features
    body.fc = nn.Identity()
    return ConvBackbone(body, image_size, _stage_dims(dim))


def _widening_block(width: int) -> BasicBlock:
    """Double the channels at half the resolution."""
    shortcut = nn.Sequential(nn.Conv2d(width, 2 * width, 1, 2, bias=False), nn.BatchNorm2d(2 * width))
    return BasicBlock(width, 2 * width, 2, shortcut)


def _stage_dims(last: int) -> dict[str, int]:
    return {f"layer{n}": last >> (4 - n) for n in range(1, 5)}
