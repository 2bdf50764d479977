"""The exported part of a run: input transform and encoder, trained or randomly initialized."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sslfeat.data.dataset import ImageRecord
from sslfeat.data.read import exists
from sslfeat.errors import TrainingError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.checkpoint import ENCODER_NAME, KeptWith, read_tensors, read_weights, write_tensors, write_weights
from sslfeat.models.engine.config import CONFIG_NAME, TrainConfig, load_config
from sslfeat.models.engine.data import load_images, to_batch
from sslfeat.models.engine.pixels import Pixels
from sslfeat.models.engine.readout import Readout, Whitening
from sslfeat.models.method import Method, Normalize, file_sha256, find_method, make_config
from sslfeat.models.own_file import named_faults
from sslfeat.numerics.sampling import evenly
from sslfeat.storage import atomic

BATCH = 128
WHITENING_NAME = "whitening.safetensors"
WHITENING_IMAGES = 8192


class FrozenEncoder(nn.Module):
    """Map stored images, uint8 (N, S, S, 3), to embeddings, float32 (N, D); this is what is exported.

    ``layer`` is a Readout as text; a whitening has to be fitted or loaded before the encoder is used.
    """

    def __init__(self, input_transform: nn.Module, encoder: Backbone, layer: str | None = None) -> None:
        super().__init__()
        self.readout = Readout.parse(layer, encoder)
        self.input_transform = input_transform
        self.encoder = encoder
        width = self.readout.width(encoder)
        self.dim = width if self.readout.dim is None else min(width, self.readout.dim)
        self.whitening = None if self.readout.whiten is None else Whitening(width, self.dim)

    @property
    def layer(self) -> str:
        return str(self.readout)

    def forward(self, image: Tensor) -> Tensor:
        return self.embed(image.permute(0, 3, 1, 2).to(torch.float32) / 255)

    def embed(self, pixels: Tensor) -> Tensor:
        """Pixels float32 (N, 3, S, S) in [0, 1] to embeddings (N, D)."""
        rows = self.readout.pooled(self.encoder, self.input_transform(pixels))
        whitened: Tensor = rows if self.whitening is None else self.whitening(rows)
        return whitened

    @torch.no_grad()
    def pooled(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Data for fitting the whitening, (N, width), from images uint8 (N, S, S, 3)."""
        parts = []
        for start in range(0, len(pixels), BATCH):
            batch = to_batch(pixels, np.arange(start, min(start + BATCH, len(pixels))), torch.device("cpu")).float() / 255
            parts.append(self.readout.pooled(self.encoder, self.input_transform(batch)).numpy())
        return np.concatenate(parts)


def build_method(config: TrainConfig, begin: Callable[[Backbone], Backbone] = lambda random: random) -> Method:
    """The method of a config with its backbone, initialized from its seed; ``begin`` may replace the weights."""
    kind = find_method(config.method)
    with named_faults(config.method):
        options = make_config(kind, config.options)
        torch.manual_seed(config.seed)
        return kind(begin(kind.build_encoder(str(config.backbone), int(config.image_size or 0), options)), options)


def save_encoder(path: Path, method: Method, noted: KeptWith) -> None:
    """Write the weights that will be exported, without the heads."""
    kept = FrozenEncoder(method.input_transform, method.exported)  # shares the method's weights, leaves its mode unchanged
    write_weights(path, kept.state_dict(), noted)


def load_run(
    run: Path,
    layer: str | None = None,
    trust_code: bool = False,
    image_size: int | None = None,
    images: Sequence[ImageRecord] = (),
) -> tuple[FrozenEncoder, TrainConfig, KeptWith]:
    """Load the encoder of a run folder, its config, and the metadata stored with the weights.

    ``layer`` takes features from other layers than the last (see ``Readout``); for rotation and counting, middle layers are
    often better. Whitening is fitted to the run's own images or, if they no longer exist, to ``images``, at ``image_size`` px
    (default: as in training). Loading a run of a method from a ``.py`` file executes that file, which must be the one used in
    training, and requires ``trust_code``. Raises TrainingError.
    """
    config = load_config(run / CONFIG_NAME)
    refuse_code(config, run / CONFIG_NAME, trust_code)
    method = build_method(config)
    encoder = FrozenEncoder(method.input_transform, method.encoder, layer)
    tensors, noted = read_weights(run / ENCODER_NAME)
    try:
        missing, strange = encoder.load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # mismatched shapes
        raise TrainingError(f"{run / ENCODER_NAME} does not fit {run / CONFIG_NAME}: {error}") from error
    if strange or [name for name in missing if not name.startswith("whitening.")]:
        raise TrainingError(f"{run / ENCODER_NAME} does not fit {run / CONFIG_NAME}: the names of the weights differ")
    frozen = _freeze(encoder)
    if frozen.whitening is not None:
        _whiten(frozen, run, config, image_size or int(config.image_size or 0), images)
    return frozen, config, noted


def _whiten(encoder: FrozenEncoder, run: Path, config: TrainConfig, image_size: int, images: Sequence[ImageRecord]) -> None:
    """Load the whitening stored in the run folder, or fit it to images; if these are the run's images, store it."""
    path, whitening = run / WHITENING_NAME, encoder.whitening
    made_of = {
        "layer": encoder.layer,
        "encoder": atomic.sha256_file(run / ENCODER_NAME),
        "image_size": str(image_size),
    }
    if whitening is None or encoder.readout.whiten is None:
        return
    if path.exists():
        tensors, meta = read_tensors(path)
        if meta == made_of:
            whitening.load_state_dict(tensors)
            return
    own = all(exists(os.fsencode(spec)) for spec in config.images)
    if not own and not images:
        raise TrainingError(
            f"the images of {run} no longer exist: give images with --images, since {encoder.layer} is fitted to them"
        )
    inputs = config.inputs() if own else images
    some = [inputs[row] for row in evenly(len(inputs), WHITENING_IMAGES)]
    with tempfile.TemporaryDirectory() as folder, closing(load_images(some, image_size, Path(folder))) as drawn:
        whitening.learn(encoder.pooled(drawn.pixels), encoder.readout.whiten)
    if own:
        write_tensors(path, whitening.state_dict(), made_of)


def refuse_code(config: TrainConfig, file: Path, trusted: bool = False) -> None:
    """Raise TrainingError if ``config``, read from ``file``, names a Python file that is not ``trusted``.

    Only the file used in training can be trusted; a changed file is always rejected.
    """
    if not config.method.endswith(".py"):
        return
    known, found = config.method_sha256, file_sha256(config.method)
    if trusted and known in (None, found):
        return
    state = "the same file as in training" if known == found else "which differs from the file used in training"
    cure = "read it, then allow that with --trust-code"
    if trusted:
        cure = f"restore the original (sha256 {known}), or train again"
    raise TrainingError(f"{file} names {config.method}, {state}: its code would be executed; {cure}")


def random_encoder(backbone: str, image_size: int, seed: int) -> FrozenEncoder:
    """The untrained encoder, the baseline for every evaluation."""
    torch.manual_seed(seed)
    return _freeze(FrozenEncoder(Normalize(), build_backbone(backbone, image_size)))


def _freeze(encoder: FrozenEncoder) -> FrozenEncoder:
    return encoder.eval().requires_grad_(False)
