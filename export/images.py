"""Images for checking an export: the given ones, by default those of the training run, else drawn ones."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from sslfeat.data.dataset import find_inputs
from sslfeat.data.synthetic import draw_samples

DRAWN, DRAWN_COUNT = "drawn by sslfeat", 128


@contextlib.contextmanager
def images_to_check(given: Sequence[str], own: Sequence[str], count: int = DRAWN_COUNT) -> Iterator[tuple[list[bytes], str]]:
    """The given images, else the run's ``own``, else ``count`` drawn ones; and a description. Raises InputError."""
    if given or (own and all(Path(spec).exists() for spec in own)):
        yield [item.path for item in find_inputs(list(given or own), "none")], "given" if given else "training images"
        return
    with tempfile.TemporaryDirectory() as folder:
        draw_samples(Path(folder), count)
        yield [item.path for item in find_inputs([folder], "none")], DRAWN
