"""The part of a run that is kept: input transform and encoder, from a training run or at random initialization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslfeat.errors import TrainingError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.checkpoint import ENCODER_NAME, read_tensors, write_tensors
from sslfeat.models.engine.config import CONFIG_NAME, TrainConfig, load_config
from sslfeat.models.method import Method, Normalize, file_sha256, find_method, make_config


class FrozenEncoder(nn.Module):
    """Images as they are stored, uint8 (N, S, S, 3), to embeddings, float32 (N, D); this is what gets exported."""

    def __init__(self, input_transform: nn.Module, encoder: Backbone, layer: str | None = None) -> None:
        super().__init__()
        self.layer = encoder.layers[encoder.depth(layer) - 1]
        self.dim = encoder.dims[self.layer]
        self.input_transform = input_transform
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2).to(torch.float32) / 255
        embedding: Tensor = self.encoder(self.input_transform(pixels), self.layer)
        return embedding


def build_method(config: TrainConfig) -> Method:
    """The method a config names, around its backbone, initialized from its seed."""
    kind = find_method(config.method)
    options = make_config(kind, config.options)
    torch.manual_seed(config.seed)
    return kind(kind.build_encoder(str(config.backbone), int(config.image_size or 0), options), options)


def save_encoder(path: Path, method: Method, meta: dict[str, Any]) -> None:
    """Write the weights that will be exported, without the heads."""
    kept = FrozenEncoder(method.input_transform, method.exported)  # shares the method's weights, changes no mode
    write_tensors(path, kept.state_dict(), meta)


def load_run(
    run: Path, layer: str | None = None, trust_code: bool = False
) -> tuple[FrozenEncoder, TrainConfig, dict[str, Any]]:
    """The encoder of a run folder, its config, and what was noted with the weights (``images``, ``steps``).

    ``layer`` takes the features elsewhere than at the end; for rotation and counting the middle is often better.
    A run of a method from a ``.py`` file needs ``trust_code``, since loading it runs that file: the one it was trained with.
    Raises TrainingError.
    """
    config = load_config(run / CONFIG_NAME)
    refuse_code(config, run / CONFIG_NAME, trust_code)
    method = build_method(config)
    encoder = FrozenEncoder(method.input_transform, method.encoder, layer)
    tensors, meta = read_tensors(run / ENCODER_NAME)
    try:
        encoder.load_state_dict(tensors)
    except RuntimeError as error:
        raise TrainingError(f"{run / ENCODER_NAME} does not fit {run / CONFIG_NAME}: {error}") from error
    return _freeze(encoder), config, meta


def refuse_code(config: TrainConfig, file: Path, trusted: bool = False) -> None:
    """Raise TrainingError if ``config``, read from ``file``, names a Python file that is not ``trusted``.

    Trust is in the file that the run was trained with: another in its place is refused all the same.
    """
    if not config.method.endswith(".py"):
        return
    known, found = config.method_sha256, file_sha256(config.method)
    if trusted and known in (None, found):
        return
    state = "the same file as in training" if known == found else "not the file that the run was trained with"
    cure = "read it, then allow that with --trust-code"
    if trusted:
        cure = f"put that one back (sha256 {known}), or train anew"
    raise TrainingError(f"{file} names {config.method}, {state}: its code would be run; {cure}")


def random_encoder(backbone: str, image_size: int, seed: int) -> FrozenEncoder:
    """The untrained encoder that every figure should stand beside."""
    torch.manual_seed(seed)
    return _freeze(FrozenEncoder(Normalize(), build_backbone(backbone, image_size)))


def _freeze(encoder: FrozenEncoder) -> FrozenEncoder:
    return encoder.eval().requires_grad_(False)
