"""Which images are meant: folders, globs, files and lists become one sorted list of inputs."""

from __future__ import annotations

import codecs
import fnmatch
import glob
import hashlib
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from sslfeat.errors import InputError

JPEG_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".jpx")
OTHER_ENDINGS = (
    ".png",
    ".apng",
    ".gif",
    ".bmp",
    ".dib",
    ".tif",
    ".tiff",
    ".webp",
    ".avif",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".ico",
    ".heic",
    ".heif",
)
ENDINGS = frozenset((*JPEG_ENDINGS, *OTHER_ENDINGS))
RAW_ENDINGS = frozenset(map(os.fsencode, ENDINGS))
UNREADABLE = -1  # the depth of a folder that could not be listed
LIST_ENDINGS = frozenset((".txt", ".lst"))
SYSTEM_FOLDERS = frozenset(
    (b"@eadir", b"#recycle", b"#snapshot", b"$recycle.bin", b"system volume information", b"__macosx", b"lost+found")
)
"""What network drives, Windows, macOS and file systems put among people's images, such as thumbnails; in lower case."""


@dataclass(frozen=True, order=True)
class ImageRecord:
    """One image to read. ``raw`` is the path's bytes, the only faithful name; ``label`` its class, if any."""

    raw: bytes
    label: str | None = None

    @property
    def name(self) -> str:
        """The path as text; bytes that are not UTF-8 appear as ``\\xNN``."""
        return self.raw.decode("utf-8", "backslashreplace")


def possible_paths(name: str) -> list[bytes]:
    """The paths that ``ImageRecord.name`` may stand for: as written, and with each ``\\xNN`` taken as a byte."""
    written = name.encode()
    return [written, re.sub(rb"\\x([89a-f][0-9a-f])", lambda escape: bytes.fromhex(escape[1].decode()), written)]


Note = Callable[[str], None]


def silent(message: str) -> None:
    """For callers that show nothing."""


def find_inputs(
    specs: Sequence[str | os.PathLike[str]], labels: str = "auto", exclude: Sequence[str] = (), note: Note = silent
) -> list[ImageRecord]:
    """All images that ``specs`` name, without repeats, sorted by the bytes of their paths.

    A spec is a folder (searched recursively; hidden names and other endings are passed over), an image, a glob
    pattern, a ``.txt``/``.lst`` list (one path a line, or separated by NUL), or ``-`` for a list on standard input.
    ``labels`` is ``auto`` (class folders if the folders look like classes), ``folder`` (always the parent folder's
    name) or ``none``. What matches a glob pattern of ``exclude``, as a path below its folder or a name in that, is left
    out. ``note`` is told what was left out. Raises InputError if a spec names nothing.
    """
    if labels not in ("auto", "folder", "none"):
        raise InputError(f"labels can be auto, folder or none, not {labels!r}")
    depths: dict[bytes, int] = {}  # path -> folders between it and the spec that named it
    excluded: set[bytes] = set()
    passed_over: list[bytes] = []
    for spec in specs:
        folder = os.fsencode(spec) if os.path.isdir(spec) else b""
        for raw, depth in _expand(os.fspath(spec), passed_over):
            if any(_matches(raw, folder, pattern) for pattern in exclude):
                excluded.add(raw)
            else:
                depths.setdefault(raw, depth)
    if passed_over:
        note(f"passed over {len(passed_over)} folders that systems make, such as {os.fsdecode(passed_over[0])}")
    if exclude:
        note(f"left out by --exclude: {len(excluded)} images")
    if not depths:
        raise InputError(f"no images in {', '.join(map(str, specs))}: files ending in {' '.join(sorted(ENDINGS))}")
    paths = sorted(depths)
    if labels == "none" or (labels == "auto" and not _look_like_classes(depths)):
        return [ImageRecord(path) for path in paths]
    classes = _usual_depth(depths) if labels == "auto" else None  # loose images beside class folders have no class
    return [ImageRecord(path, _class_of(path) if classes is None or depths[path] == classes else None) for path in paths]


def _matches(path: bytes, folder: bytes, pattern: str) -> bool:
    """Whether a pattern is of this path below the ``folder`` that was given, or of a name in it."""
    text = os.fsdecode(path.removeprefix(folder).lstrip(os.sep.encode()))
    return fnmatch.fnmatchcase(text, pattern) or any(fnmatch.fnmatchcase(part, pattern) for part in Path(text).parts)


def _class_of(path: bytes) -> str:
    """The name of the folder that holds it; however its accents were written, one name is one class."""
    name = os.path.basename(os.path.dirname(path)).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", name)


def digest(inputs: Iterable[ImageRecord]) -> str:
    """sha256 over the ordered paths and labels: two runs over the same list have the same digest."""
    sha = hashlib.sha256()
    for item in inputs:
        sha.update(item.raw + b"\0" + (item.label or "").encode() + b"\0")
    return sha.hexdigest()


def _expand(spec: str, passed_over: list[bytes]) -> Iterator[tuple[bytes, int]]:
    if spec == "-":
        yield from _read_list(sys.stdin.buffer.read(), b"")
    elif os.path.isdir(spec):
        yield from _walk(os.fsencode(spec), passed_over)
    elif os.path.lexists(spec):
        if os.path.splitext(spec)[1].lower() in LIST_ENDINGS:
            yield from _read_list(Path(spec).read_bytes(), os.fsencode(os.path.dirname(spec)))
        else:
            yield os.fsencode(spec), 0
    elif glob.has_magic(spec):
        matches = glob.glob(spec, recursive=True)
        if not matches:
            raise InputError(f"no file matches {spec}")
        for match in matches:
            if os.path.isfile(match) and _is_image(os.fsencode(os.path.basename(match))):
                yield os.fsencode(match), 0
    else:
        raise InputError(f"{spec} does not exist: give a folder, an image, a quoted glob, or a .txt list")


def _read_list(data: bytes, folder: bytes) -> Iterator[tuple[bytes, int]]:
    """The paths of a list as people and programs write it: with a byte order mark, in UTF-16, quoted, as file:// URLs.

    A relative path that does not exist here is taken from the list's ``folder``, if it exists there.
    """
    if (encoding := _utf16(data)) is not None:
        try:
            data = data.decode(encoding).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise InputError(f"a list begins as UTF-16 and is none: {error.reason}") from error
    data = data.removeprefix(codecs.BOM_UTF8)
    lines = data.split(b"\0") if b"\0" in data else data.splitlines()
    for line in lines:
        if line.strip():
            yield _listed(line, folder), 0


def _utf16(data: bytes) -> str | None:
    """The kind of UTF-16 that ``data`` is in: by its byte order mark, or by every other byte being zero."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for encoding, zeros, others in (("utf-16-le", data[1::2], data[::2]), ("utf-16-be", data[::2], data[1::2])):
        if len(zeros) > 1 and 2 * zeros.count(0) > len(zeros) and not others.count(0):
            return encoding
    return None


def _listed(line: bytes, folder: bytes) -> bytes:
    """The path that a line of a list stands for: as it is written, if there is such a file."""
    bare = line.strip()
    quoted = bare[1:-1] if len(bare) > 2 and bare[:1] == bare[-1:] and bare[:1] in (b'"', b"'") else bare
    readings = [line, bare, quoted]
    if quoted.lower().startswith(b"file://"):
        path = quoted[len(b"file://") :]
        path = path[path.find(b"/") :]  # behind the host, which is empty or localhost
        readings += [path, unquote_to_bytes(path)]  # '#' and '?' are written bare by many programs
    every = [*readings, *(os.path.join(folder, path) for path in readings)]
    return next(filter(os.path.lexists, every), readings[-1])


def _walk(root: bytes, passed_over: list[bytes]) -> Iterator[tuple[bytes, int]]:
    """Images below ``root`` with their depth; folder links are followed, each real folder once.

    SYSTEM_FOLDERS go into ``passed_over``.
    """
    seen: set[tuple[int, int]] = set()
    unreadable: list[bytes] = []
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=lambda error: unreadable.append(error.filename)):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        prefix = os.path.join(folder, b"")
        passed_over.extend(prefix + name for name in subfolders if name.lower() in SYSTEM_FOLDERS)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(b".") and name.lower() not in SYSTEM_FOLDERS)
        relative = os.path.relpath(folder, root)
        depth = 0 if relative == b"." else relative.count(os.sep.encode()) + 1
        yield from ((prefix + name, depth) for name in files if _is_image(name))
    yield from ((folder, UNREADABLE) for folder in unreadable)  # becomes a line in failures.csv


def _is_image(name: bytes) -> bool:
    dot = name.rfind(b".")
    return dot > 0 and not name.startswith(b".") and name[dot:].lower() in RAW_ENDINGS


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
