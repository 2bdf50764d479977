"""Compare encoders on the same labeled images: probe the features of each, with paired tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sslfeat.data.dataset import ImageRecord
from sslfeat.errors import FeaturesError, InputError
from sslfeat.evaluation.probing.bootstrap import Paired, paired
from sslfeat.evaluation.probing.labels import LabelSource
from sslfeat.evaluation.probing.probe import Probed, ProbeOptions
from sslfeat.evaluation.probing.run import ONE_LABEL, run_folders
from sslfeat.features.reader import Features
from sslfeat.features.writer import Report, embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.storage.atomic import make_folder

Shown = Callable[[int], AbstractContextManager[Report]]


@dataclass(frozen=True)
class Transfer:
    """Name of an encoder, its probe, and the difference from the first encoder (None for the first)."""

    name: str
    probed: Probed
    against_first: Paired | None


def transfer(
    encoders: Sequence[Encoder], train: Sequence[ImageRecord], test: Sequence[ImageRecord] | None, work: Path, shown: Shown,
    options: ProbeOptions | None = None, source: LabelSource | None = None, min_images: int = 1,
) -> list[Transfer]:  # fmt: skip
    """Probe all encoders on the same images; features are stored in ``work`` and reused by later runs.

    Raises FeaturesError if the encoders were not tested on the same images, InputError for multiple labels per image.
    """
    options = options or ProbeOptions()
    make_folder(work)
    found: list[Transfer] = []
    for encoder in encoders:
        name = f"{encoder.card.name}-{encoder.fingerprint[:8]}"
        parts = {"train": train} if test is None else {"train": train, "test": test}
        folders = [_embedded(encoder, inputs, work / f"{name}-{part}", shown) for part, inputs in parts.items()]
        probed = run_folders(folders[0], folders[1] if test is not None else None, options, source, min_images)
        if not isinstance(probed, Probed):
            raise InputError(ONE_LABEL)
        rng = np.random.default_rng(options.seed)
        difference = paired(*_answers(found[0].probed, probed), rng) if found else None
        found.append(Transfer(encoder.card.name, probed, difference))
    return found


def _embedded(encoder: Encoder, inputs: Sequence[ImageRecord], folder: Path, shown: Shown) -> Features:
    with shown(len(inputs)) as report:
        embed_to_folder(encoder, inputs, folder, report=report)
    return Features.load(folder)


def _answers(first: Probed, second: Probed) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    if first.test.paths != second.test.paths or first.test.y != second.test.y:
        raise FeaturesError("the encoders were tested on different images (did files change in between?): embed them again")
    return first.correct, second.correct
