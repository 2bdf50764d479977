"""The interface of targets: conversion, runtime, and the tolerance of the comparison with the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sslfeat.data.decode import Pixels
from sslfeat.data.holdout import Further
from sslfeat.errors import ExportError, MissingExtraError
from sslfeat.inference.model_card import Card
from sslfeat.inference.onnx_model import EncoderFile

if TYPE_CHECKING:
    from sslfeat.models.engine.frozen import FrozenEncoder

WITH_WEIGHTS = ("torch", "torchvision", "yaml", "safetensors")  # packages for loading weights


@dataclass(frozen=True)
class Source:
    """Input of a conversion: the encoder ``file``, a loader of its torch module if available (``weights``), and images:
    ``seen``, uint8 (N, S, S, 3), for calibration, and files, ``shown``, that a page may show. ``runtime``: a folder with
    onnxruntime-web, if given. ``further``: additional images for fitting."""

    file: EncoderFile
    weights: Callable[[], FrozenEncoder] | None
    seen: Pixels
    shown: Sequence[bytes] = ()
    runtime: Path | None = None
    further: Further | None = None

    def torch(self) -> FrozenEncoder:
        """Load the torch module. Raises ExportError without weights."""
        if self.weights is None:
            raise without_weights(self.file.card)
        return self.weights()


def without_weights(card: Card) -> ExportError:
    """Error for a target that needs torch weights, with a cure that depends on the origin of the encoder."""
    trained = "" if not card.training.steps else "give its training run instead of the encoder file; or "
    cure = (
        f"{trained}choose a target that can be made from an encoder file, such as ort, openvino, int8 or onnx-full; or distill "
        "it (sslfeat train distill --teacher FILE) and export that run"
    )
    if card.method == "random-init":
        cure = f"give --random-init {card.backbone} --image-size {card.preprocess.size} instead of the encoder file"
    return ExportError(f"this target needs torch weights, which the encoder file {card.name!r} does not contain", cure)


@dataclass(frozen=True)
class TargetCheck:
    """Embeddings float32 (N, D) of image files by an artifact, and further information.

    ``reference``: embeddings by the encoder, if its input differed from these files.
    """

    embeddings: npt.NDArray[np.float32]
    remark: str
    reference: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Gate:
    """Limits on the difference from the reference, applied to bounds for unseen images (``sslfeat.numerics.bounds``), not to
    the observed values.

    ``cosine`` and ``overlap`` of the 10 nearest neighbors are minimum values; ``drop`` is the maximum loss of kNN and linear
    probe accuracy in points, if labeled images are given. ``max_abs_diff``: limit for every image, relative to the largest
    component.
    """

    cosine: float
    max_abs_diff: float | None = None
    overlap: float | None = None
    drop: float | None = None


FP32 = Gate(0.99999, max_abs_diff=1e-4)
FP16 = Gate(0.9995)
INT8 = Gate(0.999, overlap=0.95, drop=1.0)


@dataclass(frozen=True)
class Device:
    """Contents of a target folder's README: what ``main`` ``takes`` and ``gives``, where ``{{size}}`` and ``{{dim}}`` are
    replaced by those of the encoder, and example ``programs``, templates in ``snippets/``. ``any_size``: resizing is part of the
    model. ``third_party``: the license of third-party files."""

    takes: str = "`image`: uint8 (N, {{size}}, {{size}}, 3), any N"
    gives: str = "`embedding`: float32 (N, {{dim}})"
    programs: tuple[str, ...] = ()
    any_size: bool = False
    third_party: str = ""


@dataclass(frozen=True)
class Target:
    """``make`` writes the artifact: an encoder file if ``runtime`` is ``onnx``, else files in an existing folder, one of
    them ``main``. ``runtime`` is ``onnxruntime`` or a key of ``runtimes.OPENERS``; if it is None, ``check`` runs image files
    through the artifact, or ``unrun`` is the reason why it is not run. ``shows``: number of images embedded in the artifact;
    drawn ones are used unless images were given. ``device``: contents of the README.

    Requirements: an extra and the packages imported from it (``needs``); torch ``weights``; checks of programs on this machine
    (``tools``, called with ``--web-runtime``) and of the encoder (``takes``), which raise ExportError."""

    name: str
    about: str
    gate: Gate
    make: Callable[[Source, Path], None]
    runtime: str | None
    main: str = ""
    unrun: str = ""
    check: Callable[[Source, Path, Sequence[bytes]], TargetCheck] | None = None
    shows: int = 0
    needs: tuple[str, ...] = ()
    device: Device = Device()
    weights: bool = False
    tools: Callable[[Path | None], None] | None = None
    takes: Callable[[EncoderFile], None] | None = None

    def check_machine(self, web_runtime: Path | None = None) -> None:
        """Check requirements before any work: raises MissingExtraError for a missing package, ExportError for a program."""
        of_export = [("export", package) for package in WITH_WEIGHTS if self.weights]
        for extra, package in [*of_export, *((self.needs[0], package) for package in self.needs[1:])]:
            if find_spec(package) is None:
                raise MissingExtraError(extra, package)
        if self.tools is not None:
            self.tools(web_runtime)

    def check_encoder(self, file: EncoderFile, weights: bool) -> None:
        """Check the encoder before any image is decoded: raises ExportError if it cannot be converted to this target, with or
        without torch ``weights``."""
        if self.weights and not weights:
            raise without_weights(file.card)
        if self.takes is not None:
            self.takes(file)

    @property
    def is_file(self) -> bool:
        """Whether the artifact is an encoder file instead of a folder."""
        return self.runtime == "onnx"
