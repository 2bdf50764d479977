"""What is exported: a training run, an encoder file, or an encoder in the box; with its torch weights where they are kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sslfeat.inference.onnx_model import EncoderFile, read_encoder_file
from sslfeat.inference.registry import ZOO, names, resolve

if TYPE_CHECKING:
    from sslfeat.models.engine.frozen import FrozenEncoder


@dataclass(frozen=True)
class Origin:
    """An encoder ``file``, what loads its torch module (None: not at hand), and the images it was trained on."""

    file: EncoderFile
    weights: Callable[[], FrozenEncoder] | None
    own: tuple[str, ...] = ()


def origin(
    path: str, name: str | None = None, images: Sequence[str] = (), layer: str | None = None, trust_code: bool = False
) -> Origin:
    """Of a run folder (which is exported and verified first), an encoder file, or a name. Raises SslfeatError."""
    if (Path(path) / "config.yaml").is_file():
        return _of_run(Path(path), name, images, layer, trust_code)
    file = read_encoder_file(resolve(path))
    twins = [name for name in names() if (ZOO / name).is_dir()]
    twin = next((name for name in twins if read_encoder_file(resolve(name)).fingerprint == file.fingerprint), None)
    return Origin(file, None if twin is None else lambda: _load(ZOO / twin, file.card.layer))


def _of_run(run: Path, name: str | None, images: Sequence[str], layer: str | None, trust_code: bool) -> Origin:
    from sslfeat.export.from_run import Labels, export_run
    from sslfeat.models.engine.config import CONFIG_NAME, load_config

    with tempfile.TemporaryDirectory() as folder:
        file = export_run(run, Path(folder) / "encoder.onnx", Labels(name or run.name), images, False, layer, trust_code)
    own = () if images else tuple(load_config(run / CONFIG_NAME).images)
    return Origin(file, lambda: _load(run, layer, trust_code), own)


def _load(run: Path, layer: str | None, trust_code: bool = False) -> FrozenEncoder:
    from sslfeat.models.engine.frozen import load_run

    return load_run(run, layer, trust_code)[0]
