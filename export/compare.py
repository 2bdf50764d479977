"""Two encoders, or one in two forms, on the same images: how alike are they, where are they not, which is faster?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sslfeat.data.sampling import decode_all
from sslfeat.errors import ExportError, UsageError
from sslfeat.export.backends import described
from sslfeat.export.runner import BATCH_SIZES, LAPS, measure
from sslfeat.numerics.bounds import least, shared_at_least
from sslfeat.numerics.sampling import sample
from sslfeat.numerics.similarity import NEIGHBORS, cosines, linear_cka, overlaps, rank_correlation

IMAGES = 500


@dataclass(frozen=True)
class Worst:
    """An image on which the two agree least: its cosine (None: of different dims) and shared share of neighbors."""

    path: str
    cosine: float | None
    overlap: float


@dataclass(frozen=True)
class Comparison:
    """``b`` beside ``a``, of so many ``dims``. Cosines and the largest difference are None where those differ.

    ``cka`` and ``rank_correlation`` compare the similarities that each sees between images, whatever their dims.
    With 95 % confidence ``share`` of unseen images like these have ``cosine_bound`` or more, and of neighbors among as many
    of them ``overlap_bound`` or more are shared.
    """

    a: str
    b: str
    images: int
    cosine_least: float | None
    cosine_mean: float | None
    max_abs_diff: float | None
    overlap: float
    cka: float
    rank_correlation: float
    dims: tuple[int, int]
    batch_diff: float
    seconds: dict[int, tuple[float, float]]
    worst: list[Worst]
    share: float | None = None
    cosine_bound: float | None = None
    overlap_bound: float | None = None


def compare(a: str, b: str, sources: Sequence[bytes], show: int = 12, threads: int = 1, laps: int = LAPS) -> Comparison:
    """Run encoders or artifacts ``a`` and ``b``, each with its own preprocessing, on up to 500 of the images, drawn at random.

    ``batch_diff`` is the most that b's embeddings change with the batch size. Raises ExportError, EncoderFileError, UsageError.
    """
    if show < 0 or threads < 1 or laps < 1:
        raise UsageError(f"show is {show}, threads {threads}, laps {laps}: 0 or more, and 1 or more")
    (name_a, card_a), (name_b, card_b) = described(a), described(b)
    chosen = [sources[number] for number in sample(len(sources), IMAGES)]
    (first, fine), (second, good) = (decode_all(chosen, card.preprocess) for card in (card_a, card_b))
    kept = fine & good
    if kept.sum() < 2:
        raise ExportError(f"{int(kept.sum())} readable images: it takes two or more to compare")
    measured = measure(b, a, second[kept], threads, laps, reference_pixels=first[kept])
    reference, found = measured.reference, measured.found[max(BATCH_SIZES)]
    same = reference.shape == found.shape
    cosine = cosines(reference, found) if same else None
    shared = overlaps(reference, found, NEIGHBORS)
    bound = None if cosine is None else least(cosine)
    names = [source for source, keep in zip(chosen, kept, strict=True) if keep]
    order = np.lexsort((shared, cosine)) if cosine is not None else np.argsort(shared, kind="stable")
    worst = [
        Worst(os.fsencode(names[row]).decode("utf-8", "backslashreplace"), _at(cosine, row), float(shared[row]))
        for row in order[:show].tolist()
    ]
    return Comparison(
        a=name_a,
        b=name_b,
        images=len(names),
        cosine_least=None if cosine is None else float(cosine.min()),
        cosine_mean=None if cosine is None else float(cosine.mean()),
        max_abs_diff=float(np.abs(reference - found).max()) if same else None,
        overlap=float(shared.mean()),
        cka=linear_cka(reference, found),
        rank_correlation=rank_correlation(reference, found),
        dims=(reference.shape[1], found.shape[1]),
        batch_diff=max(float(np.abs(rows - found).max()) for rows in measured.found.values()),
        seconds=measured.seconds,
        worst=worst,
        share=None if bound is None else bound.share,
        cosine_bound=None if bound is None else bound.value,
        overlap_bound=shared_at_least(shared),
    )


def _at(cosine: npt.NDArray[np.float64] | None, row: int) -> float | None:
    return None if cosine is None else float(cosine[row])
