"""Changes between two manifests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sslfeat.data.manifest import MISSING, Manifest, Mask, Numbers
from sslfeat.storage.arrow import numbers

NO_TEXT = "\0"
Proof: TypeAlias = Callable[[Numbers, Numbers], Mask]


@dataclass(frozen=True)
class ManifestDiff:
    """Number of new, removed and modified images, with an example; ``labels``: relabeled images.

    ``described``: images with changed metadata; ``undescribed``: images that lost their metadata; ``unlabeled``: images that
    lost their label. ``touched``: images with another time or location but the same content. ``moved``: the old and the new
    common folder, if only that has changed.
    """

    new: int
    removed: int
    modified: int
    labels: int
    example: str
    touched: int = 0
    moved: tuple[str, str] | None = None
    described: int = 0
    undescribed: int = 0
    unlabeled: int = 0

    @classmethod
    def between(cls, before: Manifest, now: Manifest, same: Proof | None = None) -> ManifestDiff:
        """Compare two manifests by path, content and label.

        Contents are compared by sha256 if both manifests have them. Otherwise, files with equal size and times are unchanged,
        and the others are compared by ``same`` (old numbers, new numbers, both (M,), to bool (M,)), or without it by size and
        modification time.
        """
        old = now.counterparts(before)
        kept = np.flatnonzero(old != MISSING)
        was = old[kept]
        alike, sure = now.looks_like(before, old)[kept], (now.unchanged(before) != MISSING)[kept]
        if before.contents is not None and now.contents is not None:
            modified = before.contents[was] != now.contents[kept]
        elif same is not None:
            modified = np.zeros(len(kept), bool)
            modified[~sure] = ~same(was[~sure], kept[~sure])
        else:
            modified = (before.sizes[was] != now.sizes[kept]) | (before.modified[was] != now.modified[kept])
        relabeled = _labels_differ(before, was, now, kept)
        gone = np.ones(len(before.inputs), bool)
        gone[was] = False
        new, removed = np.flatnonzero(old == MISSING), np.flatnonzero(gone)
        first = [(now, new), (before, removed), (now, kept[modified]), (now, kept[relabeled])]
        names = [manifest.inputs[int(numbers[0])].name for manifest, numbers in first if len(numbers)]
        elsewhere = len(kept) and before.root != now.root and before.inputs[int(was[0])].path != now.inputs[int(kept[0])].path
        moved = (_name(before.root), _name(now.root)) if elsewhere else None
        counts = (len(new), len(removed), int(modified.sum()), int(relabeled.sum()))
        described = int(_descriptions_differ(before, was, now, kept).sum())
        undescribed = int((_are_described(before)[was] & ~_are_described(now)[kept]).sum())
        unlabeled = int((_are_there(before.labels)[was] & ~_are_there(now.labels)[kept]).sum())
        touched = int((~alike & ~modified).sum())
        return cls(*counts, names[0] if names else "", touched, moved, described, undescribed, unlabeled)

    @property
    def none(self) -> bool:
        """Whether images, labels and metadata are unchanged (except for a common folder)."""
        return not (self.new or self.removed or self.modified or self.labels or self.described)

    def __str__(self) -> str:
        counts = {"new": self.new, "removed": self.removed, "modified": self.modified, "relabeled": self.labels}
        counts |= {"with changed metadata": self.described}
        text = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "the same images"
        example = f", such as {self.example}" if self.example else ""
        touched = f" ({self.touched} touched, with the same content)" if self.touched else ""
        moved = f", moved from {self.moved[0]} to {self.moved[1]}" if self.moved else ""
        return f"{text}{example}{touched}{moved}"


def _labels_differ(before: Manifest, was: Numbers, now: Manifest, kept: Numbers) -> Mask:
    return _differ(before.labels, was, now.labels, kept)


def _descriptions_differ(before: Manifest, was: Numbers, now: Manifest, kept: Numbers) -> Mask:
    differ = np.zeros(len(kept), bool)
    for name in {*before.metadata, *now.metadata}:
        then, here = (found.metadata.get(name, pa.nulls(len(found.inputs), pa.string())) for found in (before, now))
        differ |= _differ(then, was, here, kept)
    return differ


def _are_described(manifest: Manifest) -> Mask:
    are = np.zeros(len(manifest.inputs), bool)
    for texts in manifest.metadata.values():
        are |= _are_there(texts)
    return are


def _are_there(texts: pa.Array) -> Mask:
    there: Mask = texts.is_valid().to_numpy(zero_copy_only=False)
    return there


def _differ(then: pa.Array, was: Numbers, here: pa.Array, kept: Numbers) -> Mask:
    """Compare strings in Arrow: as objects, a million labels take 130 MB."""
    pairs = ((then, was), (here, kept))
    texts = [pc.fill_null(column, NO_TEXT).take(numbers(chosen, np.int64)) for column, chosen in pairs]
    differ: Mask = pc.not_equal(*texts).to_numpy(zero_copy_only=False)
    return differ


def _name(root: bytes) -> str:
    return root.decode("utf-8", "backslashreplace")
