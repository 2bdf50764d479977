"""Two-dimensional map of images, colored by group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sslfeat.errors import FeaturesError, UsageError
from sslfeat.evaluation.color_scale import RAMP
from sslfeat.evaluation.projection import LEAST, Step, check_method, project
from sslfeat.numerics.arrays import FloatArray
from sslfeat.numerics.sampling import sample
from sslfeat.system.plurals import counted

GRAY = "#9a9a9a"
COLORS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8833", "#999933", "#882255", "#44aa99",
    "#332288", "#ddaa77", "#117733", "#cc99dd", "#88ccaa", "#661100", "#6699cc", "#cc6677", "#999944", "#555555",
)  # fmt: skip


@dataclass(frozen=True)
class MapGroup:
    """A group of images with the same color."""

    name: str
    color: str
    count: int


@dataclass(frozen=True)
class Map:
    """``points`` float32 (n, 2) of images ``paths``, with group numbers ``members`` (n,); ``rows`` (n,): their rows among
    ``total``. ``labels``: as given. ``by``: kind of labels (label, cluster, or a column).
    """

    method: str
    paths: list[str]
    points: FloatArray
    labels: list[str | None]
    groups: list[MapGroup]
    members: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    total: int
    by: str = "label"

    @property
    def colored(self) -> bool:
        """Whether any image has a label."""
        return any(label is not None for label in self.labels)


def check_map(images: int, method: str = "pca", limit: int = 10_000) -> None:
    """Raise UsageError for a limit below 3, FeaturesError for fewer than 3 images, and errors of ``check_method``."""
    check_method(method)
    if limit < LEAST:
        raise UsageError(f"limit {limit} is too small: a map needs at least {LEAST} images")
    if images < LEAST:
        raise FeaturesError(f"{counted(images, 'image')}: a map needs at least {LEAST}")


def make_map(
    x: FloatArray, paths: Sequence[str], labels: Sequence[str | None], method: str = "pca", limit: int = 10_000, seed: int = 0,
    step: Step = lambda share, what: None, scale: Sequence[str] = (),
    by: str = "label",
) -> Map:  # fmt: skip
    """Map up to ``limit`` random rows of features (N, D). ``scale``: ordered labels (see ``color_scale``). ``by``: kind of
    labels.

    Raises errors of ``project``, and UsageError for a limit below 3.
    """
    check_map(len(x), method, limit)
    rows = sample(len(x), limit, seed)
    shown = [labels[row] for row in rows.tolist()]
    groups, members = grouped(shown, scale, by)
    points = project(x if len(rows) == len(x) else x[rows], method, seed, step)
    return Map(method, [paths[row] for row in rows.tolist()], points, shown, groups, members, rows, len(x), by)


def grouped(
    labels: Sequence[str | None], scale: Sequence[str] = (), by: str = "label"
) -> tuple[list[MapGroup], npt.NDArray[np.int64]]:
    """Groups, largest first or in the order of ``scale``, and the group number of each row.

    Labels beyond the number of colors are grouped as ``others``, rows without a label as ``no label`` (``no`` and ``by``).
    """
    counts = Counter(label for label in labels if label is not None)
    names = list(scale) or [name for name, _ in counts.most_common(len(COLORS))]
    number = {name: place for place, name in enumerate(names)}
    groups = [MapGroup(name, color, counts[name]) for name, color in zip(names, RAMP if scale else COLORS, strict=False)]
    rest = counts.total() - sum(group.count for group in groups)
    others, none = len(groups), len(groups) + (rest > 0)
    if rest:
        groups.append(MapGroup(f"others ({len(counts) - len(names)})", GRAY, rest))
    if len(labels) > counts.total():
        groups.append(MapGroup(f"no {by}", GRAY, len(labels) - counts.total()))
    members = [none if label is None else number.get(label, others) for label in labels]
    return groups, np.array(members, np.int64)
