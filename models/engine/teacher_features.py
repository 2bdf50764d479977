"""Features of the training images from a teacher, embedded once into a features folder and looked up by content hash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sslfeat.errors import TrainingError
from sslfeat.features.reader import FeaturesFolder
from sslfeat.features.writer import EmbedProgress, embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.models.engine.data import Images
from sslfeat.models.engine.distributed import by_the_first

TEACHER_NAME = "teacher"  # prefix of features folders in a run, followed by hashes of encoder and images


def teacher_features(encoder: str, features: str, images: Images) -> npt.NDArray[np.float16]:
    """One row per image of ``images.pixels``, (N, D), read from the folder ``features``, or embedded into a folder of the run by
    the first process.

    ``encoder`` is a file or a name from ``sslfeat models``. Raises EncoderFileError, FeaturesError, InterruptedRun; TrainingError
    for features of another encoder, or for images without features.
    """
    loaded = Encoder.load(encoder)
    if features:
        folder = Path(features)
    elif images.folder is None:
        raise TrainingError("there is no run folder to store the teacher's features in: give features=FOLDER")
    else:
        folder = images.folder / f"{TEACHER_NAME}-{loaded.fingerprint[:8]}-{images.identity[:8]}"

        def embed(alive: Callable[[], None]) -> None:
            def report(now: EmbedProgress) -> None:
                images.tell("images embedded by the teacher", now.done, now.total)
                alive()

            embed_to_folder(loaded, images.inputs, folder, report=report)

        by_the_first(embed)
    opened = FeaturesFolder(folder)
    if opened.fingerprint != loaded.fingerprint:
        raise TrainingError(f"{folder} contains features of another encoder than {encoder}: give matching features, or omit them")
    return _matched(opened, images)


def _matched(opened: FeaturesFolder, images: Images) -> npt.NDArray[np.float16]:
    """Rows of the images, looked up by the sha256 of their files."""
    places: dict[str, list[int]] = {}
    for row, content in enumerate(images.contents):
        places.setdefault(content.hex(), []).append(row)
    rows = np.full((len(images.pixels), opened.dim), np.nan, np.float16)
    for part in opened.parts():
        for vector, content in zip(part.embeddings, part.columns["sha256"].to_pylist(), strict=True):
            rows[places.get(content, [])] = vector
    missing = np.flatnonzero(np.isnan(rows[:, 0]))
    if len(missing):
        raise TrainingError(
            f"{len(missing)} of the images have no features in {opened.folder}, for example {images.inputs[missing[0]].name}: "
            "embed them with sslfeat embed --update"
        )
    return rows
