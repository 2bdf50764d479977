"""Python functions that correspond to the commands of the command line."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslfeat.errors import UsageError, known_names

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
SPELLED_ELSEWHERE = {
    "set": "pass options of the method as options={'gray': 0.5}",
    "provider": "select the processor with accelerator='cpu' or 'cuda'",
    "config": "read a config.yaml with sslfeat.models.engine.config.load_config",
}
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
    """Embed folders, files, globs or lists of images into the features folder ``out``, and load it.

    ``encoder`` is an Encoder, a file, or a name from ``sslfeat models`` (default: ``sslfeat-small``). ``options`` are fields of
    ``sslfeat.features.writer.Options``, such as ``batch_size``. Images that cannot be read are listed in
    ``out/__sslfeat__/failures.csv``. Repeat an interrupted call to continue. Raises InputError, FeaturesError, EncoderFileError,
    InterruptedRun.
    """
    from sslfeat.features.reader import Features
    from sslfeat.features.update import update_folder
    from sslfeat.features.writer import Options, embed_to_folder
    from sslfeat.inference.encoder import Encoder
    from sslfeat.inference.registry import DEFAULT

    if update and overwrite:
        raise UsageError("update and overwrite are mutually exclusive: set only one of them")
    _check(options, Options, embed)
    loaded = encoder if isinstance(encoder, Encoder) else Encoder.load(encoder or DEFAULT)
    inputs, chosen, folder = _records(images, labels, exclude), Options(**options), Path(out)
    if update:
        update_folder(loaded, inputs, folder, chosen)
    else:
        embed_to_folder(loaded, inputs, folder, chosen, overwrite=overwrite)
    return Features.load(folder)


def train(
    method: str | None = None,
    images: Images = (),
    out: Folder | None = None,
    *,
    extend: Folder | None = None,
    teacher: Folder | None = None,
    options: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    cache_size: int | None = None,
    strict: bool = False,
    trust_code: bool = False,
    **settings: Any,
) -> Result:
    """Train an encoder on unlabeled images into the run folder ``out`` (default: ``run``). Requires the extra ``train``.

    ``extend`` is a finished run whose training is continued in ``RUN-extended``, with its method and images unless others are
    given. With ``resume`` and neither method nor images, the settings of the run in ``out`` are used. ``options`` are those of
    the method, ``teacher`` is the teacher encoder of ``distill``. ``trust_code`` allows the execution of the Python file that a
    run folder refers to. ``settings`` are fields of ``sslfeat.models.engine.config.TrainConfig``: ``backbone``, ``minutes``,
    ``epochs``, ``lr``, ... ``cache_size``: maximum size of the cache of decoded images in bytes (default: ``SSLFEAT_CACHE_GIB``).
    Raises UsageError, InputError, TrainingError, InterruptedRun.
    """
    from sslfeat.data.read import absolute
    from sslfeat.system.ranks import quiet_false_alarm

    quiet_false_alarm()
    from sslfeat.models.engine.config import TrainConfig
    from sslfeat.models.engine.initial import beside, extended_run
    from sslfeat.models.engine.run_folder import settings_of
    from sslfeat.models.engine.trainer import train as run

    _check(settings, TrainConfig, train, SPELLED_ELSEWHERE)
    folder = Path(out) if out is not None else Path("run") if extend is None else beside(Path(extend))
    specs, file = tuple(absolute(spec) for spec in _specs(images)), bool(method and method.endswith(".py"))
    chosen = {**(options or {}), **({} if teacher is None else {"teacher": os.fspath(teacher)})}
    if resume and not (method or specs or extend or settings or chosen):
        config = settings_of(folder, trust_code)
    elif extend is None and not (method and specs):
        raise UsageError("train requires a method and images, extend=RUN, or resume=True alone", "train('simclr', 'images/')")
    else:
        config = TrainConfig(os.path.abspath(method) if method and file else method or "", specs, options=chosen, **settings)
    if extend is not None:
        config = extended_run(Path(extend), config, trust_code)
    begin: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "trust_code": trust_code or file, "strict": strict}
    return run(config, folder, cache_size=cache_size, **begin)


def export_encoder(
    source: Folder,
    out: Folder = "encoder.onnx",
    *,
    target: str = "onnx",
    images: Images = (),
    layer: str | None = None,
    image_size: int | None = None,
    random_init: bool = False,
    weights: Folder | None = None,
    seed: int = 0,
    overwrite: bool = False,
    trust_code: bool = False,
) -> EncoderFile:
    """Export a run folder, ``torchvision/NAME`` or ``timm/NAME`` to a verified encoder file. Requires the extra ``export``.

    For the other values of ``target`` (see ``sslfeat export``), ``source`` is a run folder or an encoder file, and the source
    encoder is returned. ``layer`` and ``image_size`` (px) correspond to ``--layer`` and ``--image-size``; ``trust_code`` allows
    runs whose method is a Python file. With ``random_init``, ``source`` is a backbone, exported with random weights from
    ``seed``. ``weights`` is a file with the weights of ``timm/NAME`` or ``torchvision/NAME`` (default: download them).
    Raises UsageError, InputError, ExportError, ParityError (then nothing is written).
    """
    from sslfeat.export.convert import ExportRequest, convert
    from sslfeat.export.from_run import Labels, export_random, export_run
    from sslfeat.export.pretrained import export_pretrained
    from sslfeat.export.sources import origin, run_folder

    given, specs = os.fspath(source), [os.fspath(spec) for spec in _specs(images)]
    published = given.startswith(("torchvision/", "timm/")) and target == "onnx" and not random_init
    if weights is not None and not published:
        raise UsageError("weights is valid only for timm/NAME or torchvision/NAME with target='onnx'")
    if random_init and (target != "onnx" or image_size is None or layer):
        raise UsageError("random_init requires target='onnx' and image_size, and does not support layer")
    if random_init and image_size is not None:
        return export_random(given, image_size, seed, Path(out), specs, overwrite)
    if seed:
        raise UsageError("seed is valid only with random_init=True")
    if target != "onnx":
        made = origin(given, None, specs, layer, trust_code, image_size)
        convert(made, ExportRequest(target, Path(out), specs, overwrite=overwrite))
        return made.file
    if published:
        if layer:
            raise UsageError(f"layer={layer!r}: {given} is exported with its last layer; for others, train a run with init")
        file = True if weights is None else Path(weights)
        return export_pretrained(given, Path(out), specs, overwrite=overwrite, weights=file, image_size=image_size)
    run = run_folder(given)
    labels = Labels() if run is None or run == Path(given) else Labels().or_those_of(given)
    return export_run(run or Path(given), Path(out), labels, specs, overwrite, layer, trust_code, image_size)


def probe(train: Features | Folder, test: Features | Folder | None = None, **options: Any) -> Probed | SeveralProbed:
    """Evaluate labeled features by linear probe, kNN, class means and few-shot; without ``test``, a fifth is held out.

    ``options`` are fields of ``sslfeat.evaluation.probing.probe.ProbeOptions``. Raises InputError, FeaturesError.
    """
    from sslfeat.evaluation.probing.probe import ProbeOptions
    from sslfeat.evaluation.probing.run import run_folders

    _check(options, ProbeOptions, probe)
    return run_folders(_features(train), None if test is None else _features(test), ProbeOptions(**options))


def cluster(features: Features | Folder | FloatArray, k: int | None = None, **options: Any) -> Clustering:
    """Cluster a features folder or embeddings (N, D) into ``k`` clusters; by default, ``k`` is chosen by the silhouette.

    ``options`` are fields of ``sslfeat.evaluation.clustering.clustering.ClusterOptions``. Raises FeaturesError, UsageError.
    """
    import numpy as np

    from sslfeat.evaluation.clustering.clustering import ClusterOptions
    from sslfeat.evaluation.clustering.clustering import cluster as run

    _check(options, ClusterOptions, cluster)
    x = features if isinstance(features, np.ndarray) else _features(features).embeddings
    return run(x, ClusterOptions(k=k, **options))


def _check(given: Iterable[str], kind: type, function: Callable[..., Any], cures: Mapping[str, str] | None = None) -> None:
    """Raise UsageError for a keyword that is neither a parameter of ``function`` nor a field of the dataclass ``kind``."""
    own = [name for name, parameter in signature(function).parameters.items() if parameter.kind is not parameter.VAR_KEYWORD]
    known = dict.fromkeys([*own, *(field.name for field in dataclasses.fields(kind))])
    known_names(given, known, function.__name__, cures)


def _features(given: Features | Folder) -> Features:
    from sslfeat.features.reader import Features

    return given if isinstance(given, Features) else Features.load(os.fspath(given))


def _specs(images: Images) -> list[str | os.PathLike[str]]:
    return [images] if isinstance(images, str | os.PathLike) else list(images)


def _records(images: Images, labels: str, exclude: Sequence[str]) -> Sequence[ImageRecord]:
    from sslfeat.data.dataset import find_inputs

    return find_inputs([os.fspath(spec) for spec in _specs(images)], labels, exclude)
