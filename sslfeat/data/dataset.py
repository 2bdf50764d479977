"""Which images are meant: folders, globs, files, lists, containers and URLs become one sorted list of inputs."""

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
    """One image to read. ``path`` is in bytes, the only faithful name; ``label`` its class, if any.

    ``metadata``: what else a list or a container says of it, as text by name.
    """

    path: bytes
    label: str | None = None
    metadata: Mapping[str, str] | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The path as text; bytes that are not UTF-8 appear as ``\\xNN``."""
        return self.path.decode("utf-8", "backslashreplace")


Note = Callable[[str], None]


def silent(message: str) -> None:
    """For callers that show nothing."""


def find_inputs(
    specs: Sequence[str | os.PathLike[str]],
    labels: str = "auto",
    exclude: Sequence[str] = (),
    note: Note = silent,
    every: float | None = None,
) -> list[ImageRecord]:
    """All images that ``specs`` name, without repeats, sorted by the bytes of their paths, frames of a video by time.

    A spec is a folder (searched recursively; hidden names and other endings are passed over), an image, a glob
    pattern, a ``.txt``/``.lst`` list (one path a line, or separated by NUL), a ``.csv``/``.tsv``/``.parquet`` table with
    a column of paths, ``-`` for a list on standard input, a container (tar, zip, parquet or Arrow with a column of images;
    a folder of them, or of a Hugging Face dataset), a fsspec URL of any of these, or a video, of which a frame is taken
    ``every`` so many seconds.
    ``labels`` is ``auto`` (what lists and containers say; class folders if the folders look like classes and no column says
    any), ``folder`` (always the parent folder's name) or ``none``; what a label's column says is metadata, too, unless it is
    called ``label`` and is the label. What matches a glob pattern of ``exclude``, as a path below its folder or a name in
    that, is left out. An image that several specs name keeps what any list says of it (``joining.py``). ``note`` is told what
    was left out. Raises InputError if a spec names nothing, or a list no image that is there.
    """
    if labels not in ("auto", "folder", "none"):
        raise InputError(f"labels can be auto, folder or none, not {labels!r}")
    if every is not None and not 0 < every < float("inf"):
        raise UsageError(f"a frame every {every} s cannot be taken")
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
        note(f"passed over {counted(len(expansion.passed_over), 'folder')} that systems make, such as {example}")
    if exclude:
        note(f"left out by --exclude: {counted(len(excluded), 'image')}")
    if not found:
        raise InputError(f"no images in {', '.join(map(str, specs))}: files ending in {' '.join(sorted(ENDINGS))}")
    _told(columns, labels, note)
    return _labeled([found[path] for path in sorted(found, key=_order)], labels)


def _order(path: bytes) -> tuple[bytes, float]:
    frame = split_frame(path)
    return (path, -1.0) if frame is None else frame


def _labeled(found: Sequence[Found], labels: str) -> list[ImageRecord]:
    """The images with the labels that lists and containers give them, and if no column gives any those of class folders."""
    if labels == "none":
        return [ImageRecord(image.path, None, _facts(image, labels)) for image in found]
    depths = {image.path: image.depth for image in found if image.label is None or labels == "folder"}
    classes = _usual_depth(depths) if labels == "auto" else None  # loose images beside class folders have no class
    by_column = any(image.called is not None and image.label is not None for image in found)  # folders are other classes
    look_so = labels == "folder" or (not by_column and _look_like_classes(depths))

    def label(image: Found) -> str | None:
        if labels == "auto" and image.label is not None:
            return image.label
        return _class_of(image.path) if look_so and (classes is None or image.depth == classes) else None

    return [ImageRecord(image.path, label(image), _facts(image, labels)) for image in found]


def _facts(image: Found, labels: str) -> Mapping[str, str] | None:
    """What is said of an image beside its label: the label's own column, too, unless it is found by the name ``label``."""
    if image.called is None or image.label is None or (labels == "auto" and image.called.lower() == "label"):
        return image.metadata
    return {**described([(image.called, image.label)]), **(image.metadata or {})}


def _told(columns: Mapping[str, str], labels: str, note: Note) -> None:
    """Say which column of each source the labels are of, or what it is called where they are not."""
    for spec, column in columns.items():
        (name,) = described([(column, "text")])
        if labels != "auto":
            note(f"{spec}: with --labels {labels} its column {column!r} is metadata, as the field {name!r}")
        elif column.lower() != "label":
            note(f"{spec}: the labels are those of its column {column!r}, which is the field {name!r}, too")


def _matches(path: bytes, folder: bytes, pattern: str) -> bool:
    """Whether a pattern is of this path below the ``folder`` that was given, or of a name in it."""
    text = os.fsdecode(path.removeprefix(folder).lstrip(os.sep.encode()))
    return fnmatch.fnmatchcase(text, pattern) or any(fnmatch.fnmatchcase(part, pattern) for part in Path(text).parts)


def _class_of(path: bytes) -> str:
    """The name of the folder that holds it; however its accents were written, one name is one class."""
    folder = os.path.basename(os.path.dirname(path))
    name = (os.path.splitext(folder)[0] if is_container(folder) else folder).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", name)


def digest(inputs: Iterable[ImageRecord]) -> str:
    """sha256 over the ordered paths and labels: two runs over the same list have the same digest."""
    sha = hashlib.sha256()
    for record in inputs:
        sha.update(record.path + b"\0" + (record.label or "").encode() + b"\0")
    return sha.hexdigest()


def _usual_depth(depths: dict[bytes, int]) -> int:
    """At which most images lie."""
    counts = Counter(depth for depth in depths.values() if depth != UNREADABLE)
    return max(counts, key=lambda depth: (counts[depth], depth), default=0)


def _look_like_classes(depths: dict[bytes, int]) -> bool:
    """Folders are classes if the images in them lie equally deep, in two or more of two or more images each on average.

    Images above or below them do not speak against it, if they are few: one in five at most.
    """
    usual = _usual_depth(depths)
    images = [path for path, depth in depths.items() if depth != UNREADABLE]
    inside = [path for path in images if depths[path] == usual]
    if not usual or 5 * (len(images) - len(inside)) > len(images):
        return False
    names = {_class_of(path) for path in inside}
    return len(names) >= 2 and len(inside) >= 2 * len(names)
