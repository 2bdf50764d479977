"""Export of a training run, or of a randomly initialized backbone, to a verified encoder file."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from sslfeat import __version__
from sslfeat.data.dataset import find_inputs
from sslfeat.data.decode import Preprocess, decode
from sslfeat.data.read import exists
from sslfeat.errors import OVERWRITE, ExportError, ImageError
from sslfeat.export.images import images_to_check
from sslfeat.export.license import UNKNOWN_LICENSE, check_license
from sslfeat.export.parity import IMAGES, check_parity
from sslfeat.export.to_onnx import Exportable, to_onnx
from sslfeat.inference.model_card import Card, Parity, Training, TrainingData
from sslfeat.inference.onnx_model import EncoderFile, check_encoder, read_encoder_file, with_card
from sslfeat.inference.registry import resolve
from sslfeat.models.engine.checkpoint import KeptWith
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.frozen import load_run, random_encoder
from sslfeat.models.engine.run_folder import read_seconds
from sslfeat.numerics.sampling import evenly
from sslfeat.storage import atomic

NO_PARITY = Parity(0, "none", (), 0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Labels:
    """Fields of the card that are not in the run: name of the encoder, name and license of the data, license of the weights,
    figures of ``quality``, and training ``hours`` if the run folder does not contain them (0: unknown)."""

    name: str | None = None
    data_name: str | None = None
    data_license: str = UNKNOWN_LICENSE
    license: str = UNKNOWN_LICENSE
    quality: dict[str, float] = field(default_factory=dict)
    hours: float = 0.0

    def __post_init__(self) -> None:
        """Raises UsageError for incompatible licenses."""
        check_license(self.license, self.data_license)

    def or_those_of(self, shipped: str) -> Labels:
        """Fill fields that are not stated from the card of a shipped encoder, except its quality, which is of other features."""
        card = read_encoder_file(resolve(shipped)).card
        return dataclasses.replace(
            self,
            data_name=self.data_name or card.training_data.name,
            data_license=card.training_data.license if self.data_license == UNKNOWN_LICENSE else self.data_license,
            license=card.license if self.license == UNKNOWN_LICENSE else self.license,
            hours=card.training.hours,
        )


def export_run(
    run: Path,
    out: Path,
    labels: Labels,
    images: Sequence[str] = (),
    overwrite: bool = False,
    layer: str | None = None,
    trust_code: bool = False,
    image_size: int | None = None,
) -> EncoderFile:
    """Export the encoder of a training run to ``out``, checked on ``images`` (default: the run's own images).

    ``layer``: take features from another layer than the last. ``image_size``: use another image size than in training (px).
    ``trust_code``: allow a run whose method is a ``.py`` file.

    Raises ExportError, ParityError (no file is written), TrainingError for a run that cannot be read.
    """
    given = find_inputs(images, "none") if images else ()
    encoder, config, noted = load_run(run, layer, trust_code, image_size, given)
    if not images and not all(exists(os.fsencode(spec)) for spec in config.images):
        raise ExportError(f"the images of {run} no longer exist: give images for the parity check with --images")
    size = image_size or int(config.image_size or 0)
    card = Card(
        name=labels.name or out.stem,
        method=Path(config.method).stem,
        backbone=str(config.backbone),
        layer=encoder.layer,
        dim=encoder.dim,
        preprocess=Preprocess(resize=size, size=size),
        training_data=TrainingData(labels.data_name or "not stated", noted.images, labels.data_license),
        license=labels.license,
        config_sha256=config.sha256(),
        versions=versions(),
        parity=NO_PARITY,
        training=_training(run, config, noted, labels),
    )
    paths = _readable([item.path for item in given or config.inputs()], card.preprocess)
    return _export(encoder, card, paths, "given" if images else "training images", out, overwrite)


def _training(run: Path, config: TrainConfig, noted: KeptWith, labels: Labels) -> Training:
    """Training time of the run, from its folder or from ``labels``."""
    epochs = noted.steps * int(config.batch_size or 0) / max(1, noted.images)
    hours = read_seconds(run) / 3600 or labels.hours
    return Training(noted.steps, round(epochs, 2), round(hours, 2), labels.quality)


def export_random(
    backbone: str, image_size: int, seed: int, out: Path, images: Sequence[str] = (), overwrite: bool = False
) -> EncoderFile:
    """Export a randomly initialized backbone, the baseline for trained encoders of the same architecture.

    Without ``images`` the parity check uses images drawn by sslfeat, as recorded on the card.
    """
    encoder = random_encoder(backbone, image_size, seed)
    card = Card(
        name=out.stem,
        method="random-init",
        backbone=backbone,
        layer=encoder.layer,
        dim=encoder.dim,
        preprocess=Preprocess(resize=image_size, size=image_size),
        training_data=TrainingData("none", 0, "none"),
        license=UNKNOWN_LICENSE,
        config_sha256=hashlib.sha256(f"{backbone} {image_size} {seed}".encode()).hexdigest(),
        versions=versions(),
        parity=NO_PARITY,
    )
    return export_module(encoder, card, images, out, overwrite)


def export_module(encoder: Exportable, card: Card, images: Sequence[str], out: Path, overwrite: bool = False) -> EncoderFile:
    """Export any module from uint8 (N, S, S, 3) to features, checked on ``images`` or, by default, on drawn images."""
    with images_to_check(images, (), IMAGES) as (paths, source):
        return _export(encoder, card, _readable(paths, card.preprocess), source, out, overwrite)


def _export(encoder: Exportable, card: Card, paths: list[bytes], source: str, out: Path, overwrite: bool) -> EncoderFile:
    """Export and check, then write."""
    if out.exists() and not overwrite:
        raise ExportError(f"{out} exists", f"choose another file or folder, or replace it with {OVERWRITE}")
    if not out.parent.is_dir():
        raise ExportError(f"the folder {out.parent} does not exist")
    model = to_onnx(encoder, card.preprocess.size)
    parity = check_parity(encoder, check_encoder(with_card(model, card)), paths, source)
    file = check_encoder(with_card(model, dataclasses.replace(card, parity=parity)))
    try:
        atomic.write_atomic(out, file.data)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror}") from error
    return file


def _readable(paths: Sequence[bytes], preprocess: Preprocess) -> list[bytes]:
    """Up to IMAGES readable images, evenly spaced in the sorted inputs."""
    kept: list[bytes] = []
    for path in (paths[row] for row in evenly(len(paths), 2 * IMAGES)):
        with contextlib.suppress(ImageError):
            decode(path, preprocess)
            kept.append(path)
        if len(kept) == IMAGES:
            break
    return kept


def versions(*more: str) -> dict[str, str]:
    """Versions of the software that made an encoder file."""
    return {"sslfeat": __version__, **{package: version(package) for package in ("torch", "onnx", "onnxscript", *more)}}
