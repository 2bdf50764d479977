"""What a target is: how it is made, in which runtime it runs, and how near to the reference it must be."""

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

WITH_WEIGHTS = ("torch", "torchvision", "yaml", "safetensors")  # that load them


@dataclass(frozen=True)
class Source:
    """What a target is made from: the encoder ``file``, the torch module it came from where its weights are at hand
    (``weights`` loads it), and images: ``seen``, uint8 (N, S, S, 3), to take ranges from, and files, ``shown``, that a page
    may show. ``runtime`` is a folder with onnxruntime-web, if one was given. ``further`` are images to fit on."""

    file: EncoderFile
    weights: Callable[[], FrozenEncoder] | None
    seen: Pixels
    shown: Sequence[bytes] = ()
    runtime: Path | None = None
    further: Further | None = None

    def torch(self) -> FrozenEncoder:
        """The torch module. Raises ExportError without weights."""
        if self.weights is None:
            raise without_weights(self.file.card)
        return self.weights()


def without_weights(card: Card) -> ExportError:
    """What is said of a target that is made from torch weights, where there are none; with the cure, by where it came from."""
    trained = "" if not card.training.steps else "give its training run instead of its file; or "
    cure = (
        f"{trained}take a target that is made from an encoder file, such as ort, openvino, int8 or onnx-full; or distill it "
        "(sslfeat train distill --teacher FILE) and export that run"
    )
    if card.method == "random-init":
        cure = f"give --random-init {card.backbone} --image-size {card.preprocess.size} instead of its file"
    return ExportError(f"this target is made from torch weights, and the encoder file {card.name!r} has none", cure)


@dataclass(frozen=True)
class TargetCheck:
    """What an artifact made of image files, embeddings float32 (N, D), and what else there is to tell.

    ``reference`` is what the encoder makes of them, if it was not simply given the same files.
    """

    embeddings: npt.NDArray[np.float32]
    remark: str
    reference: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Gate:
    """Limits on the difference from the reference, each on the bound that the judges give (``sslfeat.numerics.bounds``),
    not on what they happened to show.

    ``cosine`` and ``overlap`` of the 10 nearest neighbors are least values; ``drop`` is the most that kNN and linear probe may
    lose, in points, where labeled images are given. ``max_abs_diff``, in units of the largest component, is of every judge.
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
    """What the folder of a target tells those who run it: what ``main`` ``takes`` and ``gives``, where ``{{size}}`` and
    ``{{dim}}`` stand for the encoder's, and ``programs`` that run it, templates in ``snippets/``. ``any_size``: the resize is
    inside. ``third_party`` is a line on the license of files that others wrote."""

    takes: str = "`image`: uint8 (N, {{size}}, {{size}}, 3), any N"
    gives: str = "`embedding`: float32 (N, {{dim}})"
    programs: tuple[str, ...] = ()
    any_size: bool = False
    third_party: str = ""


@dataclass(frozen=True)
class Target:
    """``make`` writes the artifact: an encoder file where ``runtime`` is ``onnx``, else files in an existing folder, one of
    them ``main``. ``runtime`` is ``onnxruntime`` or a key of ``runtimes.OPENERS``; where it is None, ``check`` runs image files
    through the artifact, or ``unrun`` says why nothing was run. An artifact that ``shows`` so many images to whoever opens it
    is made with drawn ones unless others were given. ``device`` is what its folder tells of how it is run.

    What it needs: an extra, and what is imported of it (``needs``); torch ``weights``; what else there must be on this machine
    (``tools``, given ``--web-runtime``) and in the encoder (``takes``), which raise ExportError."""

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
        """Before any work is done: raises MissingExtraError for a package that is not there, ExportError for a program."""
        of_export = [("export", package) for package in WITH_WEIGHTS if self.weights]
        for extra, package in [*of_export, *((self.needs[0], package) for package in self.needs[1:])]:
            if find_spec(package) is None:
                raise MissingExtraError(extra, package)
        if self.tools is not None:
            self.tools(web_runtime)

    def check_encoder(self, file: EncoderFile, weights: bool) -> None:
        """Before any image is decoded: raises ExportError for an encoder that cannot be made into this, with or without
        torch ``weights``."""
        if self.weights and not weights:
            raise without_weights(file.card)
        if self.takes is not None:
            self.takes(file)

    @property
    def is_file(self) -> bool:
        """Whether the artifact is one encoder file, not a folder."""
        return self.runtime == "onnx"
