"""Pretrained backbones of torchvision or timm as encoder files: ``torchvision/resnet50``, ``timm/NAME``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslfeat.data.transforms import Preprocess
from sslfeat.errors import ExportError, UsageError, needs
from sslfeat.export.adopt.preprocessor_config import timm_preprocess
from sslfeat.export.from_run import NO_PARITY, export_module, versions
from sslfeat.export.license import UNKNOWN_LICENSE
from sslfeat.inference.model_card import Card, TrainingData
from sslfeat.inference.onnx_model import EncoderFile
from sslfeat.models.backbones.timm_network import AWAY, load_timm_weights
from sslfeat.models.backbones.torchvision_network import AUXILIARY, HEADS
from sslfeat.models.backbones.weights_file import load_weights
from sslfeat.storage import atomic

SOURCES = ("torchvision", "timm")
INCEPTIONS = ("googlenet", "inception_v3")  # trained on pixels in [-1, 1]; they convert from ImageNet's normalization


class Pretrained(nn.Module):
    """Wrap ``network`` (N, 3, S, S) to (N, D) to accept stored images, uint8 (N, S, S, 3)."""

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


@dataclass(frozen=True)
class Loaded:
    """A network with its preprocessing, training data and the license of the weights, as stated by their authors."""

    encoder: Pretrained
    preprocess: Preprocess
    data: str
    license: str


def export_pretrained(
    name: str, out: Path, images: Sequence[str] = (), license: str = UNKNOWN_LICENSE, overwrite: bool = False,
    weights: bool | Path = True, image_size: int | None = None,
) -> EncoderFile:  # fmt: skip
    """Export ``torchvision/NAME`` or ``timm/NAME`` with pretrained ``weights``, with those of a file, or (False) random ones.

    ``image_size``: side of the input in px; None: that of the weights. Raises UsageError for an unknown name, InputError for a
    file with other weights, ExportError for weights that cannot be downloaded, or a network that cannot be exported.
    """
    source, _, network = name.partition("/")
    if source not in SOURCES or not network:
        raise UsageError(f"{name!r} is not torchvision/NAME or timm/NAME")
    load = _torchvision if source == "torchvision" else _timm
    try:
        found = load(network, weights, image_size)
    except (OSError, RuntimeError, ValueError) as error:  # unreachable hub, damaged file, non-square input
        raise ExportError(f"{name} cannot be loaded: {str(error).splitlines()[0]}", AWAY) from error
    data, stated = found.data if weights else "none", found.license
    if isinstance(weights, Path):  # nothing is known about them except their hash
        data, stated = f"{weights.name}, sha256 {atomic.sha256_file(weights)}", UNKNOWN_LICENSE
    card = Card(
        name=out.stem,
        method="pretrained" if weights else "random-init",
        backbone=name,
        layer=found.encoder.layer,
        dim=found.encoder.dim,
        preprocess=found.preprocess,
        training_data=TrainingData(data, 0, UNKNOWN_LICENSE),
        license=stated if weights and license == UNKNOWN_LICENSE else license,
        config_sha256=hashlib.sha256(f"{name} {data}".encode()).hexdigest(),
        versions=versions(source),
        parity=NO_PARITY,
    )
    return export_module(found.encoder.eval().requires_grad_(False), card, images, out, overwrite)


def _torchvision(name: str, weights: bool | Path, image_size: int | None) -> Loaded:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise UsageError(f"torchvision has no classifier {name!r}")
    default = models.get_model_weights(name).DEFAULT
    as_published = {"transform_input": True, "init_weights": False} if weights and name in INCEPTIONS else {}
    network = models.get_model(name, weights=default if weights is True else None, **as_published)
    if isinstance(weights, Path):
        load_weights(network, weights, f"torchvision/{name}", (*HEADS, *AUXILIARY))
    head = next((part for part in HEADS if hasattr(network, part)), None)
    if head is None:
        raise ExportError(f"torchvision/{name}: no classifier found among {', '.join(HEADS)}")
    setattr(network, head, nn.Identity())
    prep = default.transforms()
    own, resize = prep.crop_size[0], prep.resize_size[0]
    size = image_size or own
    encoder = Pretrained(network, prep.mean, prep.std, _dim(network, size))
    preprocess = Preprocess(resize * size // own, size, prep.interpolation.value)
    return Loaded(encoder, preprocess, f"{default}", UNKNOWN_LICENSE)


def _timm(name: str, weights: bool | Path, image_size: int | None) -> Loaded:
    with needs("timm", "timm"):
        import timm
    options = {"pretrained": weights is True, "num_classes": 0}
    try:
        try:
            network: Any = timm.create_model(name, **options, **({"img_size": image_size} if image_size else {}))
        except TypeError:  # convolutional networks accept any size and have no such argument
            network = timm.create_model(name, **options)
    except RuntimeError as error:
        if "Unknown model" in str(error):
            raise UsageError(f"timm has no model {name!r}") from error
        raise
    if isinstance(weights, Path):
        load_timm_weights(network, weights, f"timm/{name}")
    data_config = timm.data.resolve_model_data_config(network)
    preprocess = timm_preprocess(data_config, image_size)
    encoder = Pretrained(network, data_config["mean"], data_config["std"], _dim(network, preprocess.size))
    license = str(network.pretrained_cfg.get("license") or UNKNOWN_LICENSE)
    return Loaded(encoder, preprocess, f"timm's tag {name}", license)


def _dim(network: nn.Module, size: int) -> int:
    try:
        with torch.inference_mode():
            found: Tensor = network.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError) as error:  # the network needs another size
        raise UsageError(f"it does not accept images of {size} px: {str(error).splitlines()[0]}") from error
    return int(found.flatten(1).shape[1])
