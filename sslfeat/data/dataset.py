"""Expand folders, globs, files, lists, containers and URLs into one sorted list of input images."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sslfeat.data.containers.base import described
from sslfeat.data.containers.registry import is_container
from sslfeat.data.containers.video import split_frame
from sslfeat.data.expand import UNREADABLE, Expansion
from sslfeat.data.joining import Joined
from sslfeat.data.lists import Found
from sslfeat.data.names import ENDINGS
from sslfeat.errors import InputError, UsageError
from sslfeat.system.plurals import counted


@dataclass(frozen=True, order=True)
class ImageRecord:
    """One input image. ``path`` is in bytes, since file names may not be text; ``label`` is its class, if any.

    ``metadata``: further columns of a list or container, strings by name.
    """

    path: bytes
    label: str | None = None
    metadata: Mapping[str, str] | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The path as text, with bytes that are not UTF-8 as ``\\xNN``."""
        return self.path.decode("utf-8", "backslashreplace")


Note = Callable[[str], None]


def silent(message: str) -> None:
    """Ignore a note."""


def find_inputs(
    specs: Sequence[str | os.PathLike[str]],
    labels: str = "auto",
    exclude: Sequence[str] = (),
    note: Note = silent,
    every: float | None = None,
) -> list[ImageRecord]:
    """Find all images of ``specs``, without duplicates, sorted by the bytes of their paths, frames of a video by time.

    A spec is a folder (searched recursively; hidden files and other extensions are skipped), an image, a glob pattern, a
    ``.txt``/``.lst`` list (one path per line, or separated by NUL), a ``.csv``/``.tsv``/``.parquet`` table with a column of
    paths, ``-`` for a list on standard input, a container (tar, zip, parquet or Arrow with a column of images; a folder of
    them, or of a Hugging Face dataset), an fsspec URL of any of these, or a video, sampled once ``every`` seconds.
    ``labels`` is ``auto`` (labels of lists and containers; if there are none, class folders if the folders look like
    classes), ``folder`` (name of the parent folder) or ``none``. The column of the labels is metadata as well, unless it is
    named ``label`` and used. ``exclude``: glob patterns of relative paths, or of names within them, to skip. Metadata of
    images in several specs are merged (``joining.py``). ``note`` is called with messages about skipped files. Raises
    InputError if a spec matches nothing, or no image of a list exists.
    """
    if labels not in ("auto", "folder", "none"):
        raise InputError(f"labels must be auto, folder or none, not {labels!r}")
    if every is not None and not 0 < every < float("inf"):
        raise UsageError(f"every is {every} s: it must be positive")
    expansion, joined, excluded = Expansion(every, note), Joined(note), set[bytes]()
    columns: dict[str, str] = {}
    for spec in specs:
        folder = os.fsencode(spec) if os.path.isdir(spec) else b""
        for image in expansion.images(os.fspath(spec)):
            if any(_matches(image.path, folder, pattern) for pattern in exclude):
                excluded.add(image.path)
                continue
            joined.add(os.fspath(spec), image)
            if image.called is not None:
                columns.setdefault(os.fspath(spec), image.called)
    found = joined.images()
    if expansion.passed_over:
        example = os.fsdecode(expansion.passed_over[0])
        note(f"skipped {counted(len(expansion.passed_over), 'system folder')}, such as {example}")
    if exclude:
        note(f"excluded by --exclude: {counted(len(excluded), 'image')}")
    if not found:
        raise InputError(f"no images found in {', '.join(map(str, specs))}: supported extensions are {' '.join(sorted(ENDINGS))}")
    _told(columns, labels, note)
    return _labeled([found[path] for path in sorted(found, key=_order)], labels)


def _order(path: bytes) -> tuple[bytes, float]:
    frame = split_frame(path)
    return (path, -1.0) if frame is None else frame


def _labeled(found: Sequence[Found], labels: str) -> list[ImageRecord]:
    """Assign labels from lists and containers, or from class folders if no column has labels."""
    if labels == "none":
        return [ImageRecord(image.path, None, _facts(image, labels)) for image in found]
    depths = {image.path: image.depth for image in found if image.label is None or labels == "folder"}
    classes = _usual_depth(depths) if labels == "auto" else None  # images next to class folders have no class
    by_column = any(image.called is not None and image.label is not None for image in found)  # folders are not classes then
    look_so = labels == "folder" or (not by_column and _look_like_classes(depths))

    def label(image: Found) -> str | None:
        if labels == "auto" and image.label is not None:
            return image.label
        return _class_of(image.path) if look_so and (classes is None or image.depth == classes) else None

    return [ImageRecord(image.path, label(image), _facts(image, labels)) for image in found]


def _facts(image: Found, labels: str) -> Mapping[str, str] | None:
    """Metadata of an image, including the label's column unless it is named ``label``."""
    if image.called is None or image.label is None or (labels == "auto" and image.called.lower() == "label"):
        return image.metadata
    return {**described([(image.called, image.label)]), **(image.metadata or {})}


def _told(columns: Mapping[str, str], labels: str, note: Note) -> None:
    """Report the column that the labels of each source are taken from, or its field name if it is not used."""
    for spec, column in columns.items():
        (name,) = described([(column, "text")])
        if labels != "auto":
            note(f"{spec}: with --labels {labels}, the column {column!r} becomes the metadata field {name!r}")
        elif column.lower() != "label":
            note(f"{spec}: labels are taken from the column {column!r}, which is also the metadata field {name!r}")


def _matches(path: bytes, folder: bytes, pattern: str) -> bool:
    """Whether a pattern matches the path relative to ``folder``, or any of its components."""
    text = os.fsdecode(path.removeprefix(folder).lstrip(os.sep.encode()))
    return fnmatch.fnmatchcase(text, pattern) or any(fnmatch.fnmatchcase(part, pattern) for part in Path(text).parts)


def _class_of(path: bytes) -> str:
    """Name of the parent folder, in Unicode normalization form C, so that equal names are one class."""
    folder = os.path.basename(os.path.dirname(path))
    name = (os.path.splitext(folder)[0] if is_container(folder) else folder).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", name)


def digest(inputs: Iterable[ImageRecord]) -> str:
    """sha256 of the ordered paths and labels; equal for equal lists."""
    sha = hashlib.sha256()
    for record in inputs:
        sha.update(record.path + b"\0" + (record.label or "").encode() + b"\0")
    return sha.hexdigest()


def _usual_depth(depths: dict[bytes, int]) -> int:
    """Depth of most images."""
    counts = Counter(depth for depth in depths.values() if depth != UNREADABLE)
    return max(counts, key=lambda depth: (counts[depth], depth), default=0)


def _look_like_classes(depths: dict[bytes, int]) -> bool:
    """Whether the folders are classes: images at the same depth, at least two folders with two or more images on average.

    At most one in five images may be at another depth.
    """
    usual = _usual_depth(depths)
    images = [path for path, depth in depths.items() if depth != UNREADABLE]
    inside = [path for path in images if depths[path] == usual]
    if not usual or 5 * (len(images) - len(inside)) > len(images):
        return False
    names = {_class_of(path) for path in inside}
    return len(names) >= 2 and len(inside) >= 2 * len(names)
