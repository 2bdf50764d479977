"""Encoders side by side on the same labelled pictures: each embeds them, each is probed, and the answers are paired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sslfeat.embed import Report, embed_to_folder
from sslfeat.encoder import Encoder
from sslfeat.errors import FeaturesError, InputError
from sslfeat.evaluation.bootstrap import Paired, paired
from sslfeat.evaluation.folders import run_folders
from sslfeat.evaluation.labels import LabelSource
from sslfeat.evaluation.probe import Probed, ProbeOptions
from sslfeat.features import Features
from sslfeat.inputs import Input
from sslfeat.store import make_folder

Shown = Callable[[int], AbstractContextManager[Report]]


@dataclass(frozen=True)
class Transfer:
    """An encoder's ``name``, its probe, and how it differs from the first encoder (None for that one)."""

    name: str
    probed: Probed
    against_first: Paired | None


def transfer(
    encoders: Sequence[Encoder], train: Sequence[Input], test: Sequence[Input] | None, work: Path, shown: Shown,
    options: ProbeOptions | None = None, source: LabelSource | None = None, min_images: int = 1,
) -> list[Transfer]:  # fmt: skip
    """Probe every encoder on the same pictures; features are kept in ``work``, where another run finds them.

    Raises FeaturesError if the encoders were not tested on the same pictures, InputError for several labels a picture.
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
            raise InputError("encoders are compared on pictures that carry one label each")
        rng = np.random.default_rng(options.seed)
        difference = paired(*_answers(found[0].probed, probed), rng) if found else None
        found.append(Transfer(encoder.card.name, probed, difference))
    return found


def _embedded(encoder: Encoder, inputs: Sequence[Input], folder: Path, shown: Shown) -> Features:
    with shown(len(inputs)) as report:
        embed_to_folder(encoder, inputs, folder, report=report)
    return Features.load(folder)


def _answers(first: Probed, second: Probed) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    if first.test.paths != second.test.paths or first.test.y != second.test.y:
        raise FeaturesError("the encoders were tested on different pictures: did files change meanwhile? embed anew")
    return first.correct, second.correct
