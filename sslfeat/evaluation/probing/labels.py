"""Labeled rows, with labels from a features folder, from class folders, or from a table joined by path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from sslfeat.errors import FeaturesError
from sslfeat.evaluation.probing.label_join import join
from sslfeat.evaluation.probing.label_tables import Label, one_name, read_table
from sslfeat.evaluation.probing.splits import held_out
from sslfeat.features.reader import Features
from sslfeat.numerics.arrays import FloatArray, IntArray

Labels = Sequence[Label]
SYSTEM_FOLDERS = frozenset({"@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX"})


@dataclass(frozen=True)
class Labeled:
    """Rows with labels: ``x`` float32 (N, D), class names ``y``, and ``paths`` of the images, if known.

    ``contents`` int64 (N,) are equal for images with equal files; None if unknown.
    """

    x: FloatArray
    y: list[str]
    paths: list[str] | None = None
    contents: IntArray | None = None

    @property
    def classes(self) -> list[str]:
        """Sorted class names."""
        return sorted(set(self.y))

    def numbers(self, classes: Sequence[str]) -> IntArray:
        """Class index of each row in ``classes``, int64 (N,)."""
        number = {name: index for index, name in enumerate(classes)}
        return np.array([number[name] for name in self.y], np.int64)

    def take(self, rows: npt.NDArray[np.intp]) -> Labeled:
        """Select ``rows``."""
        paths = None if self.paths is None else [self.paths[i] for i in rows]
        contents = None if self.contents is None else self.contents[rows]
        return Labeled(self.x[rows], [self.y[i] for i in rows], paths, contents)


def labeled(features: Features, labels: Labels | None = None, min_images: int = 1) -> Labeled:
    """Rows with a label, of classes with at least ``min_images``.

    ``labels`` replace those of the folder. Raises FeaturesError for fewer than two classes, or rows that are not finite.
    """
    check_any(features.embeddings)
    every = features.labels if labels is None else labels
    counts = Counter(name for name in every if isinstance(name, str))
    rows = [row for row, name in enumerate(every) if isinstance(name, str) and counts[name] >= min_images]
    names = [str(every[row]) for row in rows]
    check_classes(len(set(names)), len(every))
    everything = len(rows) == len(features.embeddings)
    x = features.embeddings if everything else features.embeddings[rows]
    check_finite(x, [features.paths[row] for row in rows] if not everything else features.paths)
    contents = features.contents
    return Labeled(x, names, [features.paths[row] for row in rows], None if contents is None else contents[rows])


def check_classes(number: int, rows: int) -> None:
    """Raise FeaturesError for fewer than two classes among the ``rows``."""
    if number < 2:
        raise FeaturesError(
            f"{number} classes among {rows} rows: a probe needs at least two; take labels from "
            "folder names (sslfeat embed --labels folder) or from a table (--labels FILE.csv)"
        )


def check_any(x: FloatArray) -> None:
    """Raise FeaturesError if there are no rows."""
    if not len(x):
        raise FeaturesError("the features folder is empty: there were no images, or all failed (see its failures.csv)")


def check_finite(x: FloatArray, paths: Sequence[str]) -> None:
    """Raise FeaturesError if there are no rows, or if some are not finite, naming the first image."""
    check_any(x)
    for start in range(0, len(x), 65_536):
        bad = np.flatnonzero(~np.isfinite(x[start : start + 65_536]).all(1))
        if bad.size:
            raise FeaturesError(
                f"the features of {paths[start + int(bad[0])]} are not finite: the encoder is broken, or overflows in low "
                "precision"
            )


def check_same_encoder(train: Features, test: Features) -> None:
    """Raise FeaturesError, naming both, if two features folders are from different encoders."""
    ours, theirs = (part.run.encoder.identity for part in (train, test))
    if ours.fingerprint != theirs.fingerprint:
        first, second = (f"{e.name} ({e.fingerprint[:12]})" for e in (ours, theirs))
        raise FeaturesError(f"train and test are from different encoders, {first} and {second}: embed both with the same one")


def split(rows: Labeled, share: float, seed: int) -> tuple[Labeled, Labeled]:
    """Stratified split: ``share`` of each class (at least one image) goes to the second part, copies stay together.

    Raises FeaturesError if a class cannot be split.
    """
    classes = rows.classes
    if len(classes) == len(rows.y):
        raise FeaturesError(f"all {len(rows.y)} images have different labels, such as {rows.y[0]!r}: these are not classes")
    second = held_out(rows.numbers(classes), classes, share, seed, rows.contents)
    return rows.take(np.flatnonzero(~second)), rows.take(np.flatnonzero(second))


@dataclass(frozen=True)
class LeftOut:
    """Reason for leaving out a number of ``images``, with an ``example``."""

    reason: str
    images: int
    example: str

    def __str__(self) -> str:
        return f"{self.images} left out: {self.reason}, for example {self.example}"


@dataclass(frozen=True)
class Labeling:
    """Labels, their ``source``, and images that were left out."""

    labels: Labels = field(repr=False)
    source: str
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, object]:
        """Source, counts, and images that were left out, for JSON."""
        carried = [label for label in self.labels if label is not None]
        names = {name for label in carried for name in (label if isinstance(label, tuple) else (label,))}
        return {
            "source": self.source,
            "images": len(self.labels),
            "labeled": len(carried),
            "classes": len(names),
            "left_out": [vars(row) for row in self.left_out],
        }

    @property
    def lines(self) -> list[str]:
        """Summary for the console."""
        summary = self.summary
        first = f"labels: {self.source}; {summary['classes']} classes, {summary['labeled']} of {summary['images']} images"
        return [first, *map(str, self.left_out)]


@dataclass(frozen=True)
class LabelSource:
    """Source of labels: ``where`` is ``features`` (as embedded), ``folder`` (folder names), the path of a table, or ``none``.

    ``column`` and ``path_column``: columns of the table. ``separator``: separates multiple labels of an image.
    """

    where: str = "features"
    column: str | None = None
    path_column: str | None = None
    separator: str = ""

    def of(self, features: Features) -> Labels:
        """A label, a tuple of labels, or None for each row. Raises InputError."""
        return self.read(features).labels

    def read(self, features: Features) -> Labeling:
        """Labels with their source and images that were left out. Raises InputError for a table that cannot be used."""
        return self.find(features.paths, features.labels)

    def find(self, paths: Sequence[str], embedded: Sequence[str | None]) -> Labeling:
        """As ``read``, for images ``paths`` with labels ``embedded`` in their features."""
        if self.where == "features":
            return _as_embedded(paths, embedded)
        if self.where == "none":
            return Labeling([None] * len(paths), "none")
        if self.where == "folder":
            labels, left_out = class_folders(paths)
            return Labeling(labels, "folder names", left_out)
        file = Path(self.where)
        table = read_table(file, self.column, self.path_column, self.separator)
        found, strangers = join(table, paths)
        left_out = _unlabeled(found, paths, f"no label in {file.name}")
        if strangers:
            left_out.append(LeftOut(f"rows of {file.name} without an image", len(strangers), strangers[0]))
        return Labeling(found, f"table {file.name}", left_out)


def _as_embedded(paths: Sequence[str], embedded: Sequence[str | None]) -> Labeling:
    labels = [one_name(label) if label else None for label in embedded]
    left_out = _unlabeled(labels, paths, "no label as embedded")
    if len(left_out) and left_out[0].images == len(labels):
        left_out += class_folders(paths)[1]  # why 'embed --labels auto' did not use folder names
    return Labeling(labels, "as embedded", left_out)


def _unlabeled(labels: Labels, paths: Sequence[str], reason: str) -> list[LeftOut]:
    rows = [row for row, label in enumerate(labels) if label is None]
    return [LeftOut(reason, len(rows), paths[rows[0]])] if rows else []


def class_folders(paths: Sequence[str]) -> tuple[list[str | None], list[LeftOut]]:
    """Folder name of each image, and images without a class: those next to the class folders, and those in system folders, such
    as thumbnails (``@eaDir``) or deleted files (``#recycle``)."""
    parents = [PurePath(path).parent for path in paths]
    system = [not SYSTEM_FOLDERS.isdisjoint(parent.parts) for parent in parents]
    folders = {parent for parent, odd in zip(parents, system, strict=True) if not odd}
    top = next((folder for folder in folders if all(folder in (one, *one.parents) for one in folders)), None)
    if len(folders) < 2:
        top = None  # a single folder is a class
    loose = [not odd and parent == top for parent, odd in zip(parents, system, strict=True)]
    out = [LeftOut(reason, sum(rows), paths[rows.index(True)]) for reason, rows in (
        ("beside the class folders", loose), ("in a system folder", system)) if any(rows)]  # fmt: skip
    none = [one or other for one, other in zip(loose, system, strict=True)]
    return [None if odd or not parent.name else one_name(parent.name) for parent, odd in zip(parents, none, strict=True)], out
