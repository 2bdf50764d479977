"""Stratified splits that keep copies of an image together, to prevent leakage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sslfeat.errors import FeaturesError, UsageError
from sslfeat.numerics.arrays import IntArray

BoolArray = npt.NDArray[np.bool_]
Contents = IntArray | None  # (N,): equal for images with equal files; None: all differ


def held_out(
    y: IntArray, classes: Sequence[str], share: float, seed: int, contents: Contents = None, whole: bool = True
) -> BoolArray:
    """Mask (N,) of a random ``share`` of each class, at least one image, including all copies.

    Images that occur in several classes are never held out. Raises FeaturesError for a class with a single image if ``whole``;
    otherwise it is not held out, and the mask may be empty.
    """
    groups, first, single = _groups(y, contents)
    sizes = np.bincount(groups)
    mask = np.zeros(len(first), bool)
    rng = np.random.default_rng(seed)
    owner = y[first]
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=len(classes)))
    for number, (name, members) in enumerate(zip(classes, np.split(order, ends[:-1]), strict=True)):
        few = len(members) < 2
        members = rng.permutation(members)
        members = members[single[members]]
        if few or not len(members):
            if whole:
                raise FeaturesError(_alone(name, int((y == number).sum())))
            continue
        target = max(1, round(share * int(sizes[members].sum())))
        mask[_fitting(members, sizes, target)] = True
    chosen: BoolArray = mask[groups]
    return chosen


def share_of(count: int, share: float, rng: np.random.Generator, contents: Contents = None) -> BoolArray:
    """Mask (count,) of a random ``share`` of the images, at least one, including all copies."""
    groups = np.arange(count) if contents is None else np.unique(contents, return_inverse=True)[1]
    order = rng.permutation(int(groups.max()) + 1)
    chosen = np.zeros(len(order), bool)
    chosen[order[: max(1, round(share * len(order)))]] = True
    mask: BoolArray = chosen[groups]
    return mask


def folds(y: IntArray, classes: Sequence[str], count: int, seed: int, contents: Contents = None) -> list[BoolArray]:
    """``count`` stratified masks (N,) for cross-validation; copies stay together.

    Raises FeaturesError for a class with fewer images than folds, UsageError for fewer than two folds.
    """
    if count < 2:
        raise UsageError(f"{count} folds: cross-validation needs at least two")
    groups, first, _ = _groups(y, contents)
    owner = y[first]
    sizes = np.bincount(owner, minlength=len(classes))
    few = int(sizes.argmin())
    if sizes[few] < count:
        raise FeaturesError(
            f"{count} folds need as many different images of each class, but {classes[few]!r} has {sizes[few]}: leave small "
            f"classes out with --min-images {count}"
        )
    order = np.lexsort((np.random.default_rng(seed).random(len(owner)), owner))
    place = np.empty(len(owner), np.int64)
    place[order] = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return [(place % count == fold)[groups] for fold in range(count)]


def _groups(y: IntArray, contents: Contents) -> tuple[IntArray, IntArray, BoolArray]:
    """Group of copies of each row, in order of appearance; first row of each group; and whether it has a single class."""
    if contents is None:
        return np.arange(len(y)), np.arange(len(y)), np.ones(len(y), bool)
    _, first, inverse = np.unique(contents, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    first = np.sort(first)
    groups = rank[inverse]
    several = np.bincount(groups, y != y[first][groups]) > 0
    return groups, first, ~several


def _fitting(members: IntArray, sizes: IntArray, target: int) -> IntArray:
    """Choose groups, in random order, with about ``target`` rows in total; never all of them."""
    reached = np.cumsum(sizes[members])
    if reached[-1] == len(members):  # no copies
        return members[:target]
    chosen: list[int] = []
    left = target
    for group in members[:-1]:
        if sizes[group] <= left:
            chosen.append(int(group))
            left -= int(sizes[group])
    return np.array(chosen or [members[sizes[members].argmin()]], np.int64)


def _alone(name: str, rows: int) -> str:
    what = "a single row" if rows == 1 else f"a single image, {rows} times"
    return f"class {name!r} has {what} and cannot be split into train and test: leave it out with --min-images {rows + 1}"
