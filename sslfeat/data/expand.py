"""What a spec names: folders, files, globs, lists, containers, remote prefixes and videos become single images."""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sslfeat.data.containers import video
from sslfeat.data.containers.registry import is_container, open_container, split
from sslfeat.data.containers.remote import is_pattern, list_remote
from sslfeat.data.lists import Found, read_lines, read_list
from sslfeat.data.names import (
    COMPRESSED_TAR,
    LIST_ENDINGS,
    SHEET_ENDINGS,
    SYSTEM_FOLDERS,
    TABLE_ENDINGS,
    VIDEO_ENDINGS,
    ending,
    is_image,
    is_listed,
)
from sslfeat.data.read import exists, open_file
from sslfeat.errors import ImageError, InputError
from sslfeat.storage.urls import is_remote
from sslfeat.system.near import near_path

UNREADABLE = -1  # the depth of what could not be listed
SPLITS, STATE = "dataset_dict.json", "state.json"  # of Hugging Face's save_to_disk
FEATURES = b"__sslfeat__"  # our own folders' contents are no images


class Expansion:
    """Images of specs. ``every``: seconds between the frames that are taken of a video; None: no videos."""

    def __init__(self, every: float | None, note: Callable[[str], None]) -> None:
        self._every, self._note = every, note
        self.passed_over: list[bytes] = []  # folders that systems make

    def images(self, spec: str) -> Iterator[Found]:
        """Those that ``spec`` names. Raises InputError if it names nothing that could be."""
        path = os.fsencode(spec)
        if spec == "-":
            yield from read_lines(sys.stdin.buffer.read(), b"")
        elif is_remote(path):
            yield from self._remote(spec)
        elif os.path.isdir(spec):
            yield from self._folder(path)
        elif os.path.lexists(spec):
            yield from self._file(path)
        elif exists(path):  # a member, or a frame
            yield Found(path)
        elif glob.has_magic(spec):
            yield from self._glob(spec)
        else:
            near = near_path(spec)
            raise InputError(
                f"{spec} does not exist{f' ({near})' if near else ''}: give a folder, an image, a quoted glob, a list, a tar, "
                "zip or parquet, or a URL"
            )

    def _file(self, path: bytes, depth: int = 0) -> Iterator[Found]:
        """What a file holds that was named."""
        kind = ending(path)
        if kind in LIST_ENDINGS or kind in TABLE_ENDINGS or (kind == b".parquet" and not _has_images(path)):
            yield from read_list(os.fsdecode(path))
        elif is_container(path):
            yield from _members(path)
        elif COMPRESSED_TAR.search(path):
            raise InputError(
                f"{os.fsdecode(path)} is compressed as a whole, so that no image in it can be read by its place: unpack it once "
                f"(gunzip, unxz, zstd -d); as a plain tar it is hardly larger, for images are compressed already"
            )
        elif kind in SHEET_ENDINGS:
            raise InputError(f"{os.fsdecode(path)}: Excel files are not read: save it as CSV (UTF-8)")
        elif kind in VIDEO_ENDINGS:
            if self._every is None:
                raise InputError(f"{os.fsdecode(path)} is a video: --every 1s takes an image of every second")
            yield from _frames(path, depth, self._every)
        else:
            yield Found(path, depth)

    def _folder(self, folder: bytes) -> Iterator[Found]:
        """Images below a folder; if there are none, what is in its containers. Videos, if frames are asked for."""
        shards = _dataset_shards(folder)
        if shards is not None:
            for shard in shards:
                yield from _members(shard)
            return
        yield from self._sorted_out(_walk(folder, self.passed_over))

    def _sorted_out(self, files: Iterable[tuple[bytes, int]]) -> Iterator[Found]:
        containers: list[bytes] = []
        videos: list[tuple[bytes, int]] = []
        found = False
        for path, depth in files:
            if depth == UNREADABLE or is_image(path):
                yield Found(path, depth)
                found = found or depth != UNREADABLE
            elif ending(path) in VIDEO_ENDINGS:
                videos.append((path, depth))
            elif FEATURES not in path.split(b"/"):
                containers.append(path)
        for path, depth in videos if self._every is not None else ():
            yield from _frames(path, depth, self._every or 1.0)
            found = True
        if videos and self._every is None:
            self._note(f"passed over {len(videos)} videos: --every 1s takes an image of every second of each")
        taken = [path for path in containers if ending(path) != b".parquet" or _has_images(path)]
        if taken and found:
            self._note(
                f"passed over {len(taken)} files such as {os.fsdecode(taken[0])}: give their names to embed what is in them"
            )
        for path in () if found else taken:
            yield from _members(path)

    def _remote(self, spec: str) -> Iterator[Found]:
        place = split(os.fsencode(spec))
        if place is not None and place[1]:
            yield Found(os.fsencode(spec))
            return
        names = list_remote(spec)
        if names == [os.fsencode(spec)]:
            yield from self._file(names[0])
            return
        base = b"" if is_pattern(spec) else os.fsencode(spec.rstrip("/"))
        below = ((name, name.removeprefix(base).strip(b"/")) for name in names)
        kept = ((name, inner.count(b"/") if base else 0) for name, inner in below if _is_wanted(inner))
        yield from self._sorted_out(kept)

    def _glob(self, spec: str) -> Iterator[Found]:
        matches = glob.glob(spec, recursive=True)
        if not matches:
            raise InputError(f"no file matches {spec}")
        for match in matches:
            path = os.fsencode(match)
            if os.path.isfile(match) and (
                is_image(path) or is_container(path) or (self._every and ending(path) in VIDEO_ENDINGS)
            ):
                yield from self._file(path)


def _members(path: bytes) -> Iterator[Found]:
    """The images in a container; it itself, if not all of it can be read: a line in ``failures.csv``."""
    try:
        container = open_container(path)
        for member in container.members():
            place, depth = path + b"/" + member.name, member.name.count(b"/")
            yield Found(place, depth, member.label, member.metadata, called=member.called)
        fault = container.fault
    except ImageError as error:
        fault = str(error)
    if fault:
        yield Found(path, UNREADABLE)


def _frames(path: bytes, depth: int, every: float) -> Iterator[Found]:
    if is_remote(path):
        raise InputError(f"{os.fsdecode(path)} is a video in a remote store: fetch it first")
    try:
        for frame in video.frame_paths(path, every):
            yield Found(frame, depth)
    except ImageError:
        yield Found(path, UNREADABLE)


def _has_images(path: bytes) -> bool:
    from sslfeat.data.containers.tables import has_images

    try:
        return has_images(open_file(path))
    except ImageError:
        return True  # its reader says what is wrong


def _dataset_shards(folder: bytes) -> list[bytes] | None:
    """The Arrow files of a folder that Hugging Face's ``save_to_disk`` wrote; None if it is none."""
    here = Path(os.fsdecode(folder))
    try:
        if (here / SPLITS).is_file():
            splits = [os.path.join(folder, os.fsencode(name)) for name in json.loads((here / SPLITS).read_bytes())["splits"]]
            return [shard for split_folder in splits for shard in _dataset_shards(split_folder) or ()]
        if (here / STATE).is_file():
            files = json.loads((here / STATE).read_bytes())["_data_files"]
            return [os.path.join(folder, os.fsencode(os.path.basename(file["filename"]))) for file in files]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # other programs use these names, too
        return None
    return None


def _walk(root: bytes, passed_over: list[bytes]) -> Iterator[tuple[bytes, int]]:
    """Files below ``root`` that may hold images, with their depth; folder links are followed, each real folder once.

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
        yield from ((prefix + name, depth) for name in files if _is_wanted(name))
    yield from ((folder, UNREADABLE) for folder in unreadable)  # becomes a line in failures.csv


def _is_wanted(name: bytes) -> bool:
    """Whether a file below a folder may hold images, by its name."""
    if name[name.rfind(b"/") + 1 :].startswith(b"."):
        return False
    return is_listed(name) if is_image(name) else is_container(name) or ending(name) in VIDEO_ENDINGS
