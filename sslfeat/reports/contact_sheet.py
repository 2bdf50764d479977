"""Contact sheets of clusters: images nearest to the center, ambiguous images, and images farthest from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from sslfeat.evaluation.clustering.clustering import Clustering
from sslfeat.numerics.arrays import IntArray
from sslfeat.reports.gallery import Shown
from sslfeat.system.plurals import counted

EACH = 8  # images per kind
CLUSTERS = 60  # number of clusters on a page, the largest ones

Section = tuple[str, list[Shown]]


def contact_sheet(
    found: Clustering, paths: Sequence[str], labels: Sequence[str | None] | None = None,
    each: int = EACH, clusters: int = CLUSTERS,
) -> list[Section]:  # fmt: skip
    """Sections for ``gallery``, one for each of the largest ``clusters``: images nearest to the center ("near"), images with
    another center almost as near ("odd"), and the farthest of the remaining images ("far")."""
    sections = []
    for number, size in enumerate(found.sizes[:clusters]):
        rows = np.flatnonzero(found.assignments == number)
        near, odd, far = _picked(found, rows, each)
        captions = [(near, "near"), (odd, "odd"), (far, "far")]
        images = [Shown(paths[row], f"{word} {found.distances[row]:.3g}") for part, word in captions for row in part.tolist()]
        sections.append((f"cluster {number}: {counted(size, 'image')}{_common(rows, labels)}", images))
    return sections


def _picked(found: Clustering, rows: IntArray, each: int) -> tuple[IntArray, IntArray, IntArray]:
    own = found.distances
    near = rows[np.argsort(own[rows], kind="stable")][:each]
    rest = np.setdiff1d(rows, near)
    doubt = own[rest] / np.maximum(found.other[rest], 1e-30)
    odd = rest[np.argsort(-doubt, kind="stable")][:each] if len(found.centers) > 1 else rest[:0]
    rest = np.setdiff1d(rest, odd)
    return near, odd, rest[np.argsort(-own[rest], kind="stable")][:each]


def _common(rows: IntArray, labels: Sequence[str | None] | None) -> str:
    """The most frequent label of the cluster and its share of the labeled images."""
    names = (
        Counter(label for label in (labels[row] for row in rows.tolist()) if label is not None) if labels is not None else None
    )
    if not names:
        return ""
    name, count = names.most_common(1)[0]
    return f", {100 * count / names.total():.0f}% {name}"
