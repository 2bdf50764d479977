"""What ``import sslfeat`` offers beside its classes: the commands of the command line as functions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslfeat.errors import UsageError

if TYPE_CHECKING:
    from sslfeat.data.dataset import ImageRecord
    from sslfeat.evaluation.clustering.clustering import Clustering
    from sslfeat.evaluation.probing.multilabel import SeveralProbed
    from sslfeat.evaluation.probing.probe import Probed
    from sslfeat.features.reader import Features
    from sslfeat.inference.encoder import Encoder
    from sslfeat.inference.onnx_model import EncoderFile
    from sslfeat.models.engine.reporting import Result
    from sslfeat.numerics.arrays import FloatArray

Folder = str | os.PathLike[str]
Images = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def embed(
    images: Images,
    out: Folder = "features",
    encoder: Encoder | Folder | None = None,
    *,
    labels: str = "auto",
    exclude: Sequence[str] = (),
    update: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> Features:
    """Embed folders, files, globs or lists of images into the features folder ``out``, and read it.

    ``encoder`` is loaded, a file, or a name from ``sslfeat models`` (default: the encoder in the box). ``options`` are those of
    ``sslfeat.features.writer.Options``, such as ``batch_size``. Images that cannot be read are listed in
    ``out/__sslfeat__/failures.csv``. Interrupted, the same call goes on. Raises InputError, FeaturesError, EncoderFileError,
    InterruptedRun.
    """
    from sslfeat.features.reader import Features
    from sslfeat.features.update import update_folder
    from sslfeat.features.writer import Options, embed_to_folder
    from sslfeat.inference.encoder import Encoder
    from sslfeat.inference.registry import DEFAULT

    if update and overwrite:
        raise UsageError("update keeps what overwrite discards: give one of them")
    loaded = encoder if isinstance(encoder, Encoder) else Encoder.load(encoder or DEFAULT)
    inputs, chosen, folder = _records(images, labels, exclude), Options(**options), Path(out)
    if update:
        update_folder(loaded, inputs, folder, chosen)
    else:
        embed_to_folder(loaded, inputs, folder, chosen, overwrite=overwrite)
    return Features.load(folder)


def train(
    method: str, images: Images, out: Folder = "run", *, resume: bool = False, overwrite: bool = False, **settings: Any
) -> Result:
    """Train an encoder without labels into the run folder ``out``; needs the packages of ``train``.

    ``settings`` are those of ``sslfeat.models.engine.config.TrainConfig``: ``backbone``, ``minutes``, ``epochs``, ``lr``,
    ``options`` of the method, ... Raises UsageError, InputError, TrainingError, InterruptedRun.
    """
    from sslfeat.models.engine.config import TrainConfig
    from sslfeat.models.engine.trainer import train as run

    name = os.path.abspath(method) if method.endswith(".py") else method
    config = TrainConfig(name, tuple(os.path.abspath(spec) for spec in _specs(images)), **settings)
    return run(config, Path(out), resume=resume, overwrite=overwrite, trust_code=method.endswith(".py"))


def export_encoder(
    source: Folder, out: Folder = "encoder.onnx", *, target: str = "onnx", images: Images = (), overwrite: bool = False
) -> EncoderFile:
    """A run folder, ``torchvision/NAME`` or ``timm/NAME`` as a verified encoder file ``out``; needs the packages of ``export``.

    Any other ``target`` of ``sslfeat export`` is made of a run folder or an encoder file; what is returned then is the encoder
    that it was made of. Raises ExportError, ParityError (then nothing is written).
    """
    from sslfeat.export.convert import ExportRequest, convert
    from sslfeat.export.from_run import Labels, export_run
    from sslfeat.export.pretrained import export_pretrained
    from sslfeat.export.sources import origin

    given, specs = os.fspath(source), [os.fspath(spec) for spec in _specs(images)]
    if target != "onnx":
        made = origin(given, images=specs)
        convert(made, ExportRequest(target, Path(out), specs, overwrite=overwrite))
        return made.file
    if given.startswith(("torchvision/", "timm/")):
        return export_pretrained(given, Path(out), specs, overwrite=overwrite)
    return export_run(Path(given), Path(out), Labels(), specs, overwrite)


def probe(train: Features | Folder, test: Features | Folder | None = None, **options: Any) -> Probed | SeveralProbed:
    """Linear probe, nearest neighbors, class means and few shots on features with labels; without ``test`` on a fifth of them.

    ``options`` are those of ``sslfeat.evaluation.probing.probe.ProbeOptions``. Raises InputError, FeaturesError.
    """
    from sslfeat.evaluation.probing.probe import ProbeOptions
    from sslfeat.evaluation.probing.run import run_folders

    return run_folders(_features(train), None if test is None else _features(test), ProbeOptions(**options))


def cluster(features: Features | Folder | FloatArray, k: int | None = None, **options: Any) -> Clustering:
    """``k`` clusters of a features folder or of embeddings (N, D); without ``k`` the number is chosen by the silhouette.

    ``options`` are those of ``sslfeat.evaluation.clustering.clustering.ClusterOptions``. Raises FeaturesError, UsageError.
    """
    import numpy as np

    from sslfeat.evaluation.clustering.clustering import ClusterOptions
    from sslfeat.evaluation.clustering.clustering import cluster as run

    x = features if isinstance(features, np.ndarray) else _features(features).embeddings
    return run(x, ClusterOptions(k=k, **options))


def _features(given: Features | Folder) -> Features:
    from sslfeat.features.reader import Features

    return given if isinstance(given, Features) else Features.load(os.fspath(given))


def _specs(images: Images) -> list[str | os.PathLike[str]]:
    return [images] if isinstance(images, str | os.PathLike) else list(images)


def _records(images: Images, labels: str, exclude: Sequence[str]) -> Sequence[ImageRecord]:
    from sslfeat.data.dataset import find_inputs

    return find_inputs([os.fspath(spec) for spec in _specs(images)], labels, exclude)
