"""torchvision networks in their original form, compatible with their pretrained weights: ``torchvision/resnet50``, ..."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import ResNet

from sslfeat.errors import TrainingError, UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.backbones.resnet import ConvBackbone
from sslfeat.models.backbones.timm_network import AWAY
from sslfeat.models.backbones.weights_file import load_weights

PREFIX = "torchvision/"
HEADS = ("fc", "classifier", "heads", "head")  # names of the last layers
AUXILIARY = ("aux1", "aux2", "AuxLogits")  # auxiliary classifiers, used only in training
SEQUENTIAL = ("mobilenet", "efficientnet", "convnext")


class SequentialBackbone(Backbone):
    """A network whose convolutions are one sequence ``features``, such as MobileNet, EfficientNet, ConvNeXt.

    Its layers are the last parts of the sequence before each reduction of the resolution, and the last part.
    """

    def __init__(self, body: nn.Sequential, image_size: int) -> None:
        super().__init__(image_size, _dims(body, image_size))
        self.body = body

    def several_maps(self, images: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
        found, maps = {}, images
        for name, part in self.body.named_children():
            maps = part(maps)
            if f"features{name}" in layers:
                found[f"features{name}"] = maps
            if len(found) == len(set(layers)):
                break
        return found

    def forward(self, images: Tensor, layer: str | None = None) -> Tensor:
        return self.maps(images, layer).mean((2, 3))


def torchvision_network(name: str, image_size: int, pretrained: bool = False, weights: Path | None = None) -> Backbone:
    """The network ``name`` (without prefix), randomly initialized, with torchvision's default weights, or with those of a file.

    Raises UsageError for an unknown name or a network without feature maps, TrainingError for weights that cannot be
    downloaded, InputError for a file with other weights.
    """
    if name not in models.list_models(models):
        raise UsageError(f"torchvision has no image classifier {name!r}")
    try:
        body = models.get_model(name, weights="DEFAULT" if pretrained and weights is None else None)
        if weights is not None:
            load_weights(body, weights, f"torchvision/{name}", (*HEADS, *AUXILIARY))
    except (OSError, RuntimeError) as error:
        raise TrainingError(f"torchvision/{name} cannot be loaded: {str(error).splitlines()[0]}", AWAY) from error
    if isinstance(body, ResNet):
        dim = body.fc.in_features
        body.fc = nn.Identity()
        return ConvBackbone(body, image_size, {f"layer{n}": dim >> (4 - n) for n in range(1, 5)})
    if name.startswith(SEQUENTIAL):
        return SequentialBackbone(body.features, image_size)
    raise UsageError(f"torchvision/{name} is not supported: choose a ResNet, {', '.join(SEQUENTIAL)}, or timm/NAME")


@torch.no_grad()
def _dims(parts: nn.Sequential, image_size: int) -> dict[str, int]:
    """Channels of the last part before each reduction of the resolution, and of the last part."""
    maps, shapes = torch.zeros(1, 3, image_size, image_size), {}
    parts.eval()
    for name, part in parts.named_children():
        maps = part(maps)
        shapes[f"features{name}"] = maps.shape
    parts.train()
    names = list(shapes)
    ends = [name for name, after in itertools.pairwise(names) if shapes[after][-1] < shapes[name][-1]]
    return {name: shapes[name][1] for name in dict.fromkeys((*ends, names[-1]))}
