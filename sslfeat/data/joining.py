"""What several specs say of one image, put together: an image keeps what any list says of it, in whatever order they come."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from sslfeat.data.lists import Found, not_utf8
from sslfeat.data.names import TABLE_ENDINGS, ending
from sslfeat.errors import InputError
from sslfeat.system.plurals import counted


class Joined:
    """Images by path, each once. Of two lists that contradict each other the first is kept, and ``note`` is told."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._images: dict[bytes, Found] = {}
        self._missed: dict[str, list[Found]] = {}  # by spec
        self._present: set[str] = set()  # specs of which at least one image is there
        self._in_bytes: set[str] = set()  # specs that name images that are there by bytes that are no UTF-8
        self._contradicted: dict[bytes, str] = {}

    def add(self, spec: str, image: Found) -> None:
        """Take in an image that ``spec`` names."""
        if image.missed is not None:
            self._missed.setdefault(spec, []).append(image)
            return
        self._present.add(spec)
        if not _is_utf8(image.path):
            self._in_bytes.add(spec)
        before = self._images.get(image.path)
        self._images[image.path] = image if before is None else self._both(before, image)

    def images(self) -> dict[bytes, Found]:
        """All of them. A list's path that is no file stands for the only image whose path ends with it, as a tar's member's does.

        Raises InputError for a list none of whose images is there, or a table that is in another encoding than the files' names.
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
            is_table = ending(os.fsencode(spec)) in TABLE_ENDINGS  # other lists are bytes, as find writes them
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
            note = (
                f"lists contradict each other on {number}, such as {os.fsdecode(path)} ({how}): the first that was given is kept"
            )
            self._note(note)
        return self._images

    def _both(self, first: Found, second: Found) -> Found:
        """The same image, by what is said of it twice."""
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
    """``besides``: whether other images are given."""
    written, tried = images[0].path, images[0].missed or b""
    places = " and not at ".join(dict.fromkeys(os.path.abspath(os.fsdecode(path)) for path in (written, tried)))
    others = ", and of the other images given none, or several, are called so" if besides else ""
    folder = "move the list into the folder of the images, or give that folder as well, and the names are looked for in it"
    return (
        f"none of the {counted(len(images), 'image')} of the list {spec} is there: {os.fsdecode(written)} is not at "
        f"{places}{others}. Relative paths are taken from the working folder, then from the list's own folder: write them so, "
        f"{'or give the folder that has them' if besides else folder}"
    )
