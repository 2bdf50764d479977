"""Sources of an export: a training run, an encoder file, or a shipped encoder; with torch weights if available."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sslfeat.data.dataset import find_inputs
from sslfeat.errors import UsageError, needs
from sslfeat.inference.onnx_model import EncoderFile, read_encoder_file
from sslfeat.inference.registry import ZOO, names, resolve

if TYPE_CHECKING:
    from sslfeat.models.engine.frozen import FrozenEncoder


@dataclass(frozen=True)
class Origin:
    """An encoder ``file``, a loader of its torch module (None: not available), and its training images."""

    file: EncoderFile
    weights: Callable[[], FrozenEncoder] | None
    own: tuple[str, ...] = ()


def run_folder(source: str) -> Path | None:
    """The run folder ``source``, or the one with the weights of the shipped encoder of this name."""
    shipped = [Path(ZOO / source)] if source in names() else []
    return next((folder for folder in (Path(source), *shipped) if (folder / "config.yaml").is_file()), None)


def origin(
    path: str, name: str | None = None, images: Sequence[str] = (), layer: str | None = None, trust_code: bool = False,
    image_size: int | None = None,
) -> Origin:  # fmt: skip
    """Origin of a run folder (which is first exported and verified), an encoder file, or a name. Raises SslfeatError."""
    run = run_folder(path)
    if run is not None and (run == Path(path) or layer or image_size):
        shipped = None if run == Path(path) else path
        return _of_run(run, shipped, name or Path(path).name, images, layer, trust_code, image_size)
    if layer or image_size:
        raise UsageError(f"{path} is an encoder file: --layer and --image-size apply to runs and shipped encoders only")
    file = read_encoder_file(resolve(path))
    twins = [name for name in names() if (ZOO / name).is_dir()]
    twin = next((name for name in twins if read_encoder_file(resolve(name)).fingerprint == file.fingerprint), None)
    return Origin(file, None if twin is None else lambda: _load(ZOO / twin, file.card.layer, size=file.card.preprocess.size))


def random_origin(backbone: str, image_size: int, seed: int, name: str, images: Sequence[str] = ()) -> Origin:
    """A randomly initialized backbone for images of ``image_size`` px. Raises SslfeatError."""
    check_exporter()
    from sslfeat.export.from_run import export_random
    from sslfeat.models.engine.frozen import random_encoder

    with tempfile.TemporaryDirectory() as folder:
        file = export_random(backbone, image_size, seed, Path(folder) / f"{name}.onnx", images)
    return Origin(file, lambda: random_encoder(backbone, image_size, seed))


def check_exporter() -> None:
    """Raises MissingExtraError for packages that torch would import during an export."""
    with needs("export"):
        import onnxscript  # noqa: F401
        import safetensors  # noqa: F401
        import torchvision  # noqa: F401
        import yaml  # noqa: F401


def _of_run(
    run: Path, shipped: str | None, name: str, images: Sequence[str], layer: str | None, trust_code: bool, image_size: int | None
) -> Origin:
    check_exporter()
    from sslfeat.export.from_run import Labels, export_run
    from sslfeat.models.engine.config import CONFIG_NAME, load_config

    with tempfile.TemporaryDirectory() as folder:
        out, labels = Path(folder) / "encoder.onnx", Labels(name)
        labels = labels if shipped is None else labels.or_those_of(shipped)
        file = export_run(run, out, labels, images, False, layer, trust_code, image_size)
    own = () if images else tuple(load_config(run / CONFIG_NAME).images)
    return Origin(file, lambda: _load(run, layer, trust_code, image_size, images), own)


def _load(
    run: Path, layer: str | None, trust_code: bool = False, size: int | None = None, images: Sequence[str] = ()
) -> FrozenEncoder:
    from sslfeat.models.engine.frozen import load_run

    given = find_inputs(images, "none") if images else ()
    return load_run(run, layer, trust_code, size, given)[0]
