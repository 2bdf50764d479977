"""Expand specs (folders, files, globs, lists, containers, remote prefixes, videos) into single images."""

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

UNREADABLE = -1  # depth of entries that could not be listed
SPLITS, STATE = "dataset_dict.json", "state.json"  # written by save_to_disk of Hugging Face datasets
FEATURES = b"__sslfeat__"  # features folders contain no images


class Expansion:
    """Finds the images of specs. ``every``: seconds between sampled frames of videos; None: skip videos."""

    def __init__(self, every: float | None, note: Callable[[str], None]) -> None:
        self._every, self._note = every, note
        self.passed_over: list[bytes] = []  # system folders

    def images(self, spec: str) -> Iterator[Found]:
        """Yield the images of ``spec``. Raises InputError if it does not exist."""
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
                f"{spec} does not exist{f' ({near})' if near else ''}: expected a folder, image, quoted glob, list, tar, "
                "zip, parquet, or URL"
            )

    def _file(self, path: bytes, depth: int = 0) -> Iterator[Found]:
        """Yield the images of a file."""
        kind = ending(path)
        if kind in LIST_ENDINGS or kind in TABLE_ENDINGS or (kind == b".parquet" and not _has_images(path)):
            yield from read_list(os.fsdecode(path))
        elif is_container(path):
            yield from _members(path)
        elif COMPRESSED_TAR.search(path):
            raise InputError(
                f"{os.fsdecode(path)} is compressed, so single images cannot be read from it: decompress it to a plain tar "
                f"(gunzip, unxz, zstd -d); the size hardly changes, because images are already compressed"
            )
        elif kind in SHEET_ENDINGS:
            raise InputError(f"{os.fsdecode(path)}: Excel files are not supported: save it as CSV (UTF-8)")
        elif kind in VIDEO_ENDINGS:
            if self._every is None:
                raise InputError(f"{os.fsdecode(path)} is a video: use --every 1s to sample one frame per second")
            yield from _frames(path, depth, self._every)
        else:
            yield Found(path, depth)

    def _folder(self, folder: bytes) -> Iterator[Found]:
        """Yield the images below a folder, or if there are none, those in its containers; and frames of videos if requested."""
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
            self._note(f"skipped {len(videos)} videos: use --every 1s to sample one frame per second")
        taken = [path for path in containers if ending(path) != b".parquet" or _has_images(path)]
        if taken and found:
            self._note(
                f"skipped {len(taken)} files, such as {os.fsdecode(taken[0])}: pass them as arguments to embed their contents"
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
    """Yield the images of a container, and if it is damaged, the container itself, for ``failures.csv``."""
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
        raise InputError(f"{os.fsdecode(path)} is a remote video: download it first")
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
        return True  # reported when it is read


def _dataset_shards(folder: bytes) -> list[bytes] | None:
    """Arrow files of a folder written by ``save_to_disk`` of Hugging Face datasets; None for other folders."""
    here = Path(os.fsdecode(folder))
    try:
        if (here / SPLITS).is_file():
            splits = [os.path.join(folder, os.fsencode(name)) for name in json.loads((here / SPLITS).read_bytes())["splits"]]
            return [shard for split_folder in splits for shard in _dataset_shards(split_folder) or ()]
        if (here / STATE).is_file():
            files = json.loads((here / STATE).read_bytes())["_data_files"]
            return [os.path.join(folder, os.fsencode(os.path.basename(file["filename"]))) for file in files]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # not a Hugging Face dataset
        return None
    return None


def _walk(root: bytes, passed_over: list[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield files below ``root`` that may contain images, with their depth; links are followed, each real folder once.

    SYSTEM_FOLDERS are skipped and appended to ``passed_over``.
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
    """Whether a file below a folder may contain images, by its name."""
    if name[name.rfind(b"/") + 1 :].startswith(b"."):
        return False
    return is_listed(name) if is_image(name) else is_container(name) or ending(name) in VIDEO_ENDINGS
