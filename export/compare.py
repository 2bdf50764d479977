"""Comparison of two encoders, or of two forms of one, on the same images: similarity, largest differences, speed."""

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
    """An image with low agreement: its cosine (None if the dims differ) and the fraction of shared neighbors."""

    path: str
    cosine: float | None
    overlap: float


@dataclass(frozen=True)
class Comparison:
    """Comparison of ``b`` with ``a``. Cosines and the largest difference are None if their ``dims`` differ.

    ``cka`` and ``rank_correlation`` compare the similarities between images, for any dims. With 95 % confidence, the fraction
    ``share`` of unseen images like these has at least the cosine ``cosine_bound``, and among as many unseen images at least the
    fraction ``overlap_bound`` of the neighbors is shared.
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
    """Run encoders or artifacts ``a`` and ``b``, each with its own preprocessing, on a random sample of up to 500 images.

    ``batch_diff``: largest change of b's embeddings with the batch size. Raises ExportError, EncoderFileError, UsageError.
    """
    if show < 0 or threads < 1 or laps < 1:
        raise UsageError(f"show is {show}, threads {threads}, laps {laps}: show must be at least 0, the others at least 1")
    (name_a, card_a), (name_b, card_b) = described(a), described(b)
    chosen = [sources[number] for number in sample(len(sources), IMAGES)]
    (first, fine), (second, good) = (decode_all(chosen, card.preprocess) for card in (card_a, card_b))
    kept = fine & good
    if kept.sum() < 2:
        raise ExportError(f"{int(kept.sum())} readable images: a comparison needs at least two")
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
