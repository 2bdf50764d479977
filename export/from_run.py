"""From a training run, or a random initialization, to a verified encoder file."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sslfeat import __version__
from sslfeat.data.dataset import ImageRecord, find_inputs
from sslfeat.data.decode import Preprocess, decode
from sslfeat.data.synthetic import draw_samples
from sslfeat.errors import ExportError, ImageError, UsageError
from sslfeat.export.images import DRAWN
from sslfeat.export.parity import IMAGES, check_parity
from sslfeat.export.to_onnx import Exportable, to_bytes, to_onnx
from sslfeat.inference.model_card import Card, Parity, Training, TrainingData
from sslfeat.inference.onnx_model import EncoderFile, check_encoder, read_encoder_file
from sslfeat.inference.registry import resolve
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.frozen import load_run, random_encoder
from sslfeat.models.engine.run_folder import RESULT_NAME
from sslfeat.storage import atomic

UNKNOWN_LICENSE = "not stated"
NOT_FOR_BUSINESS = re.compile(r"non[- ]?commercial|\bnc\b|research only", re.IGNORECASE)
PERMISSIVE = re.compile(r"apache|\bmit\b|bsd|cc0|cc[- ]by\b(?![- ]nc)|public domain", re.IGNORECASE)
NO_PARITY = Parity(0, "none", (), 0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Labels:
    """What the card says that no run knows: the encoder's name, the data's name and license, the weights' license."""

    name: str | None = None
    data_name: str | None = None
    data_license: str = UNKNOWN_LICENSE
    license: str = UNKNOWN_LICENSE
    quality: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UsageError for a permissive license over data that is not for business, unless it says so in words."""
        if (
            NOT_FOR_BUSINESS.search(self.data_license)
            and PERMISSIVE.search(self.license)
            and not NOT_FOR_BUSINESS.search(self.license)
        ):
            raise UsageError(
                f"the weights are to be {self.license}, the images are {self.data_license}: if that is meant, say so in words, "
                f"as --license '{self.license}, trained on non-commercial images'"
            )

    def or_those_of(self, shipped: str) -> Labels:
        """With what the card of a shipped encoder says in place of what is not stated."""
        card = read_encoder_file(resolve(shipped)).card
        return dataclasses.replace(
            self,
            data_name=self.data_name or card.training_data.name,
            data_license=card.training_data.license if self.data_license == UNKNOWN_LICENSE else self.data_license,
            license=card.license if self.license == UNKNOWN_LICENSE else self.license,
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

    ``layer`` takes the features elsewhere than at the backbone's end, ``image_size`` images of another size than those of
    training (px); ``trust_code`` lets the run's method be a ``.py`` file.

    Raises ExportError, ParityError (then there is no file), TrainingError for a run that cannot be read.
    """
    given = find_inputs(images, "none") if images else ()
    encoder, config, meta = load_run(run, layer, trust_code, image_size, given)
    if not images and not all(os.path.exists(spec) for spec in config.images):
        raise ExportError(f"the images of {run} are gone: name some for the parity check with --images")
    size = image_size or int(config.image_size or 0)
    card = Card(
        name=labels.name or out.stem,
        method=Path(config.method).stem,
        backbone=str(config.backbone),
        layer=encoder.layer,
        dim=encoder.dim,
        preprocess=Preprocess(resize=size, size=size),
        training_data=TrainingData(labels.data_name or "not stated", int(meta["images"]), labels.data_license),
        license=labels.license,
        config_sha256=config.sha256(),
        versions=versions(),
        parity=NO_PARITY,
        training=_training(run, config, meta, labels.quality),
    )
    raws = _readable(given or config.inputs(), card.preprocess)
    return _export(encoder, card, raws, "given" if images else "training images", out, overwrite)


def _training(run: Path, config: TrainConfig, noted: dict[str, Any], quality: dict[str, float]) -> Training:
    """How long the run took, as far as it wrote that down."""
    steps, images = int(noted.get("steps", 0)), int(noted["images"])
    result = run / RESULT_NAME
    seconds = json.loads(result.read_text())["seconds"] if result.exists() else 0.0
    epochs = steps * int(config.batch_size or 0) / max(1, images)
    return Training(steps, round(epochs, 2), round(seconds / 3600, 2), quality)


def export_random(
    backbone: str, image_size: int, seed: int, out: Path, images: Sequence[str] = (), overwrite: bool = False
) -> EncoderFile:
    """Export a backbone at random initialization: the baseline for every trained encoder of its shape.

    Without ``images`` the parity check runs on images that sslfeat draws, and the card says so.
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
    """Export any module that takes uint8 (N, S, S, 3), checked on ``images`` or, without, on drawn images."""
    if images:
        return _export(encoder, card, _readable(find_inputs(images, "none"), card.preprocess), "given", out, overwrite)
    with _drawn() as raws:
        return _export(encoder, card, raws, DRAWN, out, overwrite)


def _export(encoder: Exportable, card: Card, raws: list[bytes], source: str, out: Path, overwrite: bool) -> EncoderFile:
    """Export, check, and only then write."""
    if out.exists() and not overwrite:
        raise ExportError(f"{out} exists: choose another --out, or replace it with --overwrite")
    if not out.parent.is_dir():
        raise ExportError(f"the folder {out.parent} does not exist")
    model = to_onnx(encoder, card.preprocess.size)
    parity = check_parity(encoder, check_encoder(to_bytes(model, card)), raws, source)
    file = check_encoder(to_bytes(model, dataclasses.replace(card, parity=parity)))
    try:
        atomic.write_atomic(out, file.data)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror}") from error
    return file


def _readable(inputs: Sequence[ImageRecord], preprocess: Preprocess) -> list[bytes]:
    """Up to IMAGES readable images, spread evenly over the sorted inputs."""
    spread = [inputs[i * len(inputs) // (2 * IMAGES)] for i in range(2 * IMAGES)]
    kept: list[bytes] = []
    for raw in dict.fromkeys(item.raw for item in spread):
        with contextlib.suppress(ImageError):
            decode(raw, preprocess)
            kept.append(raw)
        if len(kept) == IMAGES:
            break
    return kept


@contextlib.contextmanager
def _drawn() -> Iterator[list[bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        draw_samples(Path(folder), IMAGES)
        yield [item.raw for item in find_inputs([folder], labels="none")]


def versions(*more: str) -> dict[str, str]:
    """Of what made an encoder file."""
    return {"sslfeat": __version__, **{package: version(package) for package in ("torch", "onnx", "onnxscript", *more)}}
