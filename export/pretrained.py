"""Backbones that others trained, from torchvision or timm, as encoder files: ``torchvision/resnet50``, ``timm/NAME``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslfeat.card import Card, TrainingData
from sslfeat.encoder_file import EncoderFile
from sslfeat.errors import ExportError, MissingExtraError, UsageError
from sslfeat.export.run import NO_PARITY, export_module, versions
from sslfeat.preprocess import Preprocess

SOURCES = ("torchvision", "timm")
HEADS = ("fc", "classifier", "heads", "head")  # what torchvision's networks call their last layers


class Pretrained(nn.Module):
    """``network`` (N, 3, S, S) to (N, D), fed with pictures as they are stored, uint8 (N, S, S, 3)."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], dim: int) -> None:
        super().__init__()
        self.network, self.layer, self.dim = network, "end", dim
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """float32 (N, D)."""
        pixels = image.permute(0, 3, 1, 2).to(torch.float32) / 255
        embedding: Tensor = self.network((pixels - self.mean) / self.std)
        return embedding.flatten(1)


def export_pretrained(
    name: str, out: Path, images: Sequence[str] = (), licence: str = "not stated", overwrite: bool = False,
    weights: bool = True,
) -> EncoderFile:  # fmt: skip
    """Export ``torchvision/NAME`` or ``timm/NAME``; without ``weights`` at random initialisation.

    Raises UsageError for an unknown name, ExportError for weights that cannot be fetched, or a network that is not exported.
    """
    source, _, network = name.partition("/")
    if source not in SOURCES or not network:
        raise UsageError(f"{name!r} is not torchvision/NAME or timm/NAME")
    load: Callable[[str, bool], tuple[Pretrained, Preprocess, str]] = _torchvision if source == "torchvision" else _timm
    try:
        encoder, preprocess, data = load(network, weights)
    except (OSError, RuntimeError) as error:  # a network that cannot be reached, a file that is damaged
        raise ExportError(f"{name} cannot be loaded: {str(error).splitlines()[0]}") from error
    card = Card(
        name=out.stem,
        method="pretrained" if weights else "random-init",
        backbone=name,
        layer=encoder.layer,
        dim=encoder.dim,
        preprocess=preprocess,
        training_data=TrainingData(data, 0, "not stated"),
        licence=licence,
        config_sha256=hashlib.sha256(f"{name} {data}".encode()).hexdigest(),
        versions=versions(source),
        parity=NO_PARITY,
    )
    return export_module(encoder.eval().requires_grad_(False), card, images, out, overwrite)


def _torchvision(name: str, weights: bool) -> tuple[Pretrained, Preprocess, str]:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise UsageError(f"torchvision has no classifier {name!r}")
    default = models.get_model_weights(name).DEFAULT
    network = models.get_model(name, weights=default if weights else None)
    head = next((part for part in HEADS if hasattr(network, part)), None)
    if head is None:
        raise ExportError(f"torchvision/{name}: its classifier was not found among {', '.join(HEADS)}")
    setattr(network, head, nn.Identity())
    prep = default.transforms()
    size, resize = prep.crop_size[0], prep.resize_size[0]
    encoder = Pretrained(network, prep.mean, prep.std, _dim(network, size))
    return encoder, Preprocess(resize, size, prep.interpolation.value), f"{default}" if weights else "none"


def _timm(name: str, weights: bool) -> tuple[Pretrained, Preprocess, str]:
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("timm", "timm") from error
    try:
        network: Any = timm.create_model(name, pretrained=weights, num_classes=0)
    except RuntimeError as error:
        if "Unknown model" in str(error):
            raise UsageError(f"timm has no model {name!r}") from error
        raise
    told = timm.data.resolve_model_data_config(network)
    size = int(told["input_size"][1])
    resize = max(size, int(size / float(told["crop_pct"])))
    encoder = Pretrained(network, told["mean"], told["std"], _dim(network, size))
    return encoder, Preprocess(resize, size, told["interpolation"]), f"timm's tag {name}" if weights else "none"


def _dim(network: nn.Module, size: int) -> int:
    with torch.inference_mode():
        found: Tensor = network.eval()(torch.zeros(1, 3, size, size))
    return int(found.flatten(1).shape[1])
