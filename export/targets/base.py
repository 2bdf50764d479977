"""What a target is: how it is made, in which runtime it runs, and how near to the reference it must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sslfeat.data.decode import Pixels
from sslfeat.data.holdout import Further
from sslfeat.errors import ExportError
from sslfeat.inference.onnx_model import EncoderFile

if TYPE_CHECKING:
    from sslfeat.models.engine.frozen import FrozenEncoder


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
            raise ExportError(
                f"the encoder {self.file.card.name!r} came without its torch weights, which this target is made from: "
                "export its training run instead of its file"
            )
        return self.weights()


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
class Target:
    """``make`` writes the artifact: an encoder file where ``runtime`` is ``onnx``, else files in an existing folder, one of
    them ``main``. ``runtime`` is ``onnxruntime`` or a key of ``runtimes.OPENERS``; where it is None, ``check`` runs image files
    through the artifact, or ``unrun`` says why nothing was run. An artifact that ``shows`` so many images to whoever opens it
    is made with drawn ones unless others were given."""

    name: str
    about: str
    gate: Gate
    make: Callable[[Source, Path], None]
    runtime: str | None
    main: str = ""
    unrun: str = ""
    check: Callable[[Source, Path, Sequence[bytes]], TargetCheck] | None = None
    shows: int = 0

    @property
    def is_file(self) -> bool:
        """Whether the artifact is one encoder file, not a folder."""
        return self.runtime == "onnx"
