"""Merge labels and metadata of images that several specs contain, independent of the order of the specs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from sslfeat.data.lists import Found, not_utf8
from sslfeat.data.names import TABLE_ENDINGS, ending
from sslfeat.errors import InputError
from sslfeat.system.plurals import counted


class Joined:
    """Images by path, without duplicates. If lists contradict each other, the first one is used, and ``note`` is called."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._images: dict[bytes, Found] = {}
        self._missed: dict[str, list[Found]] = {}  # by spec
        self._present: set[str] = set()  # specs with at least one existing image
        self._in_bytes: set[str] = set()  # specs with existing images whose names are not UTF-8
        self._contradicted: dict[bytes, str] = {}

    def add(self, spec: str, image: Found) -> None:
        """Add an image of ``spec``."""
        if image.missed is not None:
            self._missed.setdefault(spec, []).append(image)
            return
        self._present.add(spec)
        if not _is_utf8(image.path):
            self._in_bytes.add(spec)
        before = self._images.get(image.path)
        self._images[image.path] = image if before is None else self._both(before, image)

    def images(self) -> dict[bytes, Found]:
        """Return all images. A path of a list that is not a file matches the only image whose path ends with it (tar members).

        Raises InputError if no image of a list exists, or if a table has another encoding than the file names.
        """
        ends = _by_name(self._images) if self._missed else {}
        for spec, images in self._missed.items():
            left = []
            for image in images:
                inner = image.path.strip().removeprefix(b"./")
                meant = [path for path in ends.get(os.path.basename(inner), ()) if path.endswith(b"/" + inner)]
                if len(meant) == 1:
                    self._images[meant[0]] = self._both(self._images[meant[0]], image)
                    if not _is_utf8(inner):
                        self._in_bytes.add(spec)
                else:
                    left.append(image)
            strange = next((image.path for image in left if not _is_utf8(image.path)), None)
            is_table = ending(os.fsencode(spec)) in TABLE_ENDINGS  # other lists are bytes, for example from find
            if strange is not None and is_table and spec not in self._in_bytes:
                raise InputError(not_utf8(spec, strange.decode("utf-8", "backslashreplace")))
            if len(left) == len(images) and spec not in self._present:
                raise InputError(_nothing_there(spec, images, bool(self._images)))
            for image in left:  # each becomes a line in failures.csv
                before = self._images.get(image.path)
                self._images[image.path] = image if before is None else self._both(before, image)
        if self._contradicted:
            path, how = next(iter(self._contradicted.items()))
            number = counted(len(self._contradicted), "image")
            note = f"lists contradict each other for {number}, such as {os.fsdecode(path)} ({how}): the first one is used"
            self._note(note)
        return self._images

    def _both(self, first: Found, second: Found) -> Found:
        """Merge two entries of the same image."""
        facts, other = dict(first.metadata or {}), dict(second.metadata or {})
        pairs = [("label", first.label, second.label), *((name, facts.get(name), value) for name, value in other.items())]
        for name, kept, given in pairs:
            if kept is not None and given is not None and kept != given:
                self._contradicted.setdefault(first.path, f"{name} {kept!r} and {given!r}")
        named = second if first.label is None else first
        depth, metadata = max(first.depth, second.depth), {**other, **facts} or None
        return first._replace(depth=depth, label=named.label, metadata=metadata, called=named.called)


def _is_utf8(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True


def _by_name(paths: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    named: dict[bytes, list[bytes]] = {}
    for path in paths:
        named.setdefault(os.path.basename(path), []).append(path)
    return named


def _nothing_there(spec: str, images: list[Found], besides: bool) -> str:
    """``besides``: whether other inputs contain images."""
    written, tried = images[0].path, images[0].missed or b""
    places = " and not at ".join(dict.fromkeys(os.path.abspath(os.fsdecode(path)) for path in (written, tried)))
    others = ", and not exactly one of the other images has this name" if besides else ""
    folder = "move the list to the folder of the images, or pass that folder as well"
    return (
        f"none of the {counted(len(images), 'image')} of the list {spec} exists: {os.fsdecode(written)} is not at "
        f"{places}{others}. Relative paths refer to the working folder, then to the folder of the list: correct them, "
        f"{'or pass the folder of the images' if besides else folder}"
    )
