"""Remote worker: holds the encoder and its decoders, receives inputs, and embeds parts."""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from sslfeat.data.dataset import ImageRecord
from sslfeat.data.decode import Decoded, Pixels, Source
from sslfeat.data.manifest import Manifest
from sslfeat.data.results import Failed
from sslfeat.errors import FeaturesError
from sslfeat.features.copies import NO_COPIES, Place
from sslfeat.features.folder import check_settings
from sslfeat.features.metadata import RUN_NAME, FeaturesMetadata, read_run
from sslfeat.features.writer import FeatureRun, Options
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.pipeline import ImageDecoder
from sslfeat.storage.mirror import name_of
from sslfeat.system.signals import Stop


class PartWorker:
    """Embeds assigned parts and commits them. Call ``start`` first.

    ``make`` and ``facts``: the encoder, as returned by ``Encoder.__reduce__``. ``folder``: base of relative paths. With a
    ``place``, parts are uploaded there from a local folder of this worker, instead of being written to ``out``.
    """

    def __init__(
        self,
        folder: Path,
        make: Callable[..., Encoder],
        facts: tuple[Any, ...],
        out: Path,
        options: Options,
        run: FeaturesMetadata,
        place: Place | None = None,
    ) -> None:
        self._folder, self._make, self._facts, self._out, self._options, self._run = folder, make, facts, out, options, run
        self._place, self._copies = place, NO_COPIES
        self._job: FeatureRun | None = None

    def start(self) -> int:
        """Load the encoder; returns 0 embedded images. Raises FeaturesError if this machine differs from the driver."""
        try:
            os.chdir(self._folder)
        except OSError as error:
            raise FeaturesError(
                f"{self._folder} does not exist on {platform.node()}: all machines need the same files"
            ) from error
        encoder, nothing = self._make(*self._facts), Manifest.take([])
        if self._place:
            self._out, self._copies = self._place.open()
        self._check_folder()
        check_settings(self._run, self._options.describe(encoder, nothing), self._out)
        given = (encoder, nothing, self._out, self._options, self._run, Stop(), lambda progress: None)
        self._job = _ResidentRun(*given, copies=self._copies, parts=[])
        return 0

    def progress(self) -> int:
        """Number of images embedded since the start."""
        return self._job.done if self._job else 0

    def embed(self, number: int, first: int, records: Sequence[ImageRecord]) -> tuple[float, float, float]:
        """Embed part ``number``, whose ``records`` begin at input ``first``; returns seconds of decoding, inference and writing.

        Raises FeaturesError if the folder was replaced in the meantime.
        """
        if self._job is None:
            raise FeaturesError("the worker received a part before it was started")
        self._check_folder()
        job, before = self._job, replace(self._job.spent)
        job.manifest = replace(job.manifest, inputs=PartInputs(first, records))
        job.embed([number])
        return job.spent.decode - before.decode, job.spent.infer - before.infer, job.spent.write - before.write

    def _check_folder(self) -> None:
        self._copies.refresh(RUN_NAME)
        if read_run(self._out) != self._run:
            raise FeaturesError(
                f"{name_of(self._out)} on {platform.node()} differs from that of the run: all machines need the same files"
            )


class PartInputs(Sequence[ImageRecord]):
    """A range of the inputs, indexed by their global numbers."""

    def __init__(self, first: int, records: Sequence[ImageRecord]) -> None:
        self._first, self._records = first, records

    def __len__(self) -> int:
        return self._first + len(self._records)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ImageRecord]: ...
    def __getitem__(self, index: int | slice) -> ImageRecord | Sequence[ImageRecord]:
        if isinstance(index, slice) or index < self._first:
            raise IndexError(f"{index} is not among the inputs, which start at {self._first}")
        return self._records[index - self._first]


class _ResidentRun(FeatureRun):
    """A run that keeps its decoders between parts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        made = [_Resident(super(_ResidentRun, self)._decoder()) for _ in range(self.spent.workers)]
        self._decoders = itertools.cycle(made)

    def _decoder(self) -> ImageDecoder:
        return next(self._decoders)


class _Resident:
    """A decoder that is not closed after a part."""

    def __init__(self, decoder: ImageDecoder) -> None:
        self._inner = decoder

    def decode(self, sources: Sequence[Source], pixels: Pixels) -> list[Decoded | Failed]:
        return self._inner.decode(sources, pixels)

    def abort(self) -> None:
        """Do nothing: the decoder is reused."""

    def close(self) -> None:
        """Do nothing: the decoder is reused."""
