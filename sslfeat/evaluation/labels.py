"""Labelled rows: the labels of a features folder, or of a table that is joined to it by path."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.errors import FeaturesError, InputError
from sslfeat.features import Features

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Labels = Sequence["str | tuple[str, ...] | None"]
PATH_COLUMNS = ("path", "image", "file", "filename", "file_name", "name")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target")


@dataclass(frozen=True)
class Labelled:
    """Rows with labels: ``x`` float32 (N, D), ``y`` the class names; ``paths`` say which pictures, if it is known."""

    x: FloatArray
    y: list[str]
    paths: list[str] | None = None

    @property
    def classes(self) -> list[str]:
        """The different names, sorted."""
        return sorted(set(self.y))

    def numbers(self, classes: Sequence[str]) -> IntArray:
        """Each row's place in ``classes``, int64 (N,)."""
        number = {name: index for index, name in enumerate(classes)}
        return np.array([number[name] for name in self.y], np.int64)

    def take(self, rows: npt.NDArray[np.intp]) -> Labelled:
        """These rows only."""
        paths = None if self.paths is None else [self.paths[i] for i in rows]
        return Labelled(self.x[rows], [self.y[i] for i in rows], paths)


def labelled(features: Features, labels: Labels | None = None, min_images: int = 1) -> Labelled:
    """The rows that carry a label, of classes with at least ``min_images`` of them.

    ``labels`` replace those of the folder. Raises FeaturesError for fewer than two classes, or rows not finite.
    """
    check_any(features.embeddings)
    every = features.labels if labels is None else labels
    counts = Counter(name for name in every if isinstance(name, str))
    rows = [row for row, name in enumerate(every) if isinstance(name, str) and counts[name] >= min_images]
    names = [str(every[row]) for row in rows]
    if len(set(names)) < 2:
        raise FeaturesError(
            f"{len(set(names))} classes among {len(features.labels)} rows: a probe needs two or more; labels come from "
            "folder names (sslfeat embed --labels folder) or from a table (--labels FILE.csv)"
        )
    everything = len(rows) == len(features.embeddings)
    x = features.embeddings if everything else features.embeddings[rows]
    check_finite(x, [features.paths[row] for row in rows] if not everything else features.paths)
    return Labelled(x, names, [features.paths[row] for row in rows])


def check_any(x: FloatArray) -> None:
    """Raise FeaturesError if there are no rows."""
    if not len(x):
        raise FeaturesError(
            "the features folder holds no features: there were no pictures, or all failed (see its failures.csv)"
        )


def check_finite(x: FloatArray, paths: Sequence[str]) -> None:
    """Raise FeaturesError if there are no rows, or, naming the first picture, if some are not finite."""
    check_any(x)
    for start in range(0, len(x), 65_536):
        bad = np.flatnonzero(~np.isfinite(x[start : start + 65_536]).all(1))
        if bad.size:
            raise FeaturesError(
                f"the features of {paths[start + int(bad[0])]} are not finite: the encoder is broken, or overflows in a low "
                "precision"
            )


def check_same_encoder(train: Features, test: Features) -> None:
    """Raise FeaturesError, naming both, if two features folders come from different encoders."""
    ours, theirs = (part.run["encoder"] for part in (train, test))
    if ours["fingerprint"] != theirs["fingerprint"]:
        first, second = (f"{e['card']['name']} ({e['fingerprint'][:12]})" for e in (ours, theirs))
        raise FeaturesError(f"train and test come from different encoders, {first} and {second}: embed both with one")


def split(rows: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Split by class: ``share`` of each class (at least one row) goes to the second part. Raises FeaturesError."""
    classes = rows.classes
    second = held_out(rows.numbers(classes), classes, share, seed)
    return rows.take(np.flatnonzero(~second)), rows.take(np.flatnonzero(second))


def held_out(y: IntArray, classes: Sequence[str], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Mask (N,) of a random ``share`` of each class, at least one row. Raises FeaturesError for a class of one row."""
    mask = np.zeros(len(y), bool)
    rng = np.random.default_rng(seed)
    order = np.argsort(y, kind="stable")
    ends = np.cumsum(np.bincount(y, minlength=len(classes)))
    for name, members in zip(classes, np.split(order, ends[:-1]), strict=True):
        if len(members) < 2:
            raise FeaturesError(
                f"class {name!r} has a single row: it cannot be split into train and test; leave it out with --min-images 2"
            )
        mask[rng.permutation(members)[: max(1, round(share * len(members)))]] = True
    return mask


@dataclass(frozen=True)
class LabelSource:
    """Where labels come from: ``where`` is ``features`` (as embedded), ``folder`` (each picture's), or a table's path.

    ``column`` and ``path_column`` are the table's; ``separator`` divides the labels of a picture that carries several.
    """

    where: str = "features"
    column: str | None = None
    path_column: str | None = None
    separator: str = ""

    def of(self, features: Features) -> Labels:
        """A label, a tuple of labels or None for each row. Raises InputError."""
        if self.where == "features":
            return features.labels
        if self.where == "folder":
            return from_folders(features.paths)
        return from_table(Path(self.where), features.paths, self.column, self.path_column, self.separator)


def from_folders(paths: Sequence[str]) -> list[str | None]:
    """The name of the folder that each picture is in."""
    return [PurePath(path).parent.name or None for path in paths]


def from_table(
    file: Path, paths: Sequence[str], column: str | None = None, path_column: str | None = None, separator: str = ""
) -> list[str | tuple[str, ...] | None]:
    """Labels of ``paths`` from a CSV or parquet table; tuples where a cell is a list or ``separator`` divides it.

    A row's path may be absolute, relative to the working folder or to the table's, or a bare file name if those differ.
    Raises InputError for a table that cannot be read, lacks the columns, contradicts itself, or knows no picture.
    """
    table = _read(file)
    names = _column(file, table, path_column, PATH_COLUMNS, "--path-column").to_pylist()
    cells = _column(file, table, column, LABEL_COLUMNS, "--column").to_pylist()
    known: dict[str, Any] = {}
    for name, cell in zip(names, cells, strict=True):
        value = _label(cell, separator)
        if known.setdefault(str(name), value) != value:
            raise InputError(
                f"{file}: {name} has two labels, {known[str(name)]!r} and {value!r}: give one row a picture"
            )
    found = _joined(file, known, paths)
    if not any(value is not None for value in found):
        raise InputError(
            f"{file} has no label for any of the {len(paths)} pictures, such as {paths[0] if paths else '-'}"
        )
    return found


def _read(file: Path) -> Any:
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if file.suffix.lower() in (".parquet", ".pq"):
            return parquet.read_table(file)
        if file.suffix.lower() == ".tsv":
            return csv.read_csv(file, parse_options=csv.ParseOptions(delimiter="\t"))
        return csv.read_csv(file)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file} cannot be read as a table of labels (.csv, .tsv or .parquet): {error}") from error


def _column(file: Path, table: Any, asked: str | None, usual: Sequence[str], option: str) -> Any:
    for name in [asked] if asked else usual:
        if name in table.column_names:
            return table[name]
    wanted = repr(asked) if asked else " or ".join(map(repr, usual))
    raise InputError(f"{file} has no column {wanted}, but {', '.join(table.column_names)}: name one with {option}")


def _label(cell: Any, separator: str) -> str | tuple[str, ...] | None:
    if isinstance(cell, list):
        return tuple(sorted({str(item) for item in cell if item is not None}))
    text = "" if cell is None else str(cell)
    if separator:
        return tuple(sorted({item.strip() for item in text.split(separator) if item.strip()}))
    return text or None


def _joined(file: Path, known: Mapping[str, Any], paths: Sequence[str]) -> list[Any]:
    """By the path as written, else by the absolute path, else by the file name where no two of a side share one."""
    if any(path in known for path in paths):
        return [known.get(path) for path in paths]
    for base in (Path.cwd(), file.resolve().parent):
        absolute = {os.path.normpath(base / name): value for name, value in known.items()}
        found = [absolute.get(os.path.abspath(path)) for path in paths]
        if any(value is not None for value in found):
            return found
    bare = {PurePath(name).name: value for name, value in known.items()}
    ours = [PurePath(path).name for path in paths]
    if len(bare) < len(known) or len(set(ours)) < len(ours):
        return [None] * len(paths)
    return [bare.get(name) for name in ours]
