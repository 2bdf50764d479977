"""Open containers. Each is indexed once, and again after a change."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from sslfeat.data.containers.base import Container
from sslfeat.data.containers.files import FileFacts, LocalFile, RandomFile
from sslfeat.data.containers.remote import RemoteFile, remote_facts
from sslfeat.data.containers.tar import TarContainer
from sslfeat.data.containers.zip import ZipContainer
from sslfeat.data.names import CONTAINER_ENDINGS, ending
from sslfeat.storage.urls import is_remote

MOST_INDEXED = 4096
INSIDE = re.compile(rb"(?i)\.(?:tar|zip|parquet|arrow)(?=/|$)")
FRESH = 1.0  # seconds for which a container is not checked for changes again
INDEXED: OrderedDict[bytes, tuple[FileFacts, Container]] = OrderedDict()
LOOKED: dict[bytes, float] = {}  # when
LOCK = threading.Lock()
ONE_EACH: dict[bytes, threading.Lock] = {}


def split(path: bytes) -> tuple[bytes, bytes] | None:
    """Split a path into container and member name (empty: the container itself); None if there is no container."""
    for found in INSIDE.finditer(path):
        outer = path[: found.end()]
        if _is_fresh(outer) or is_remote(outer) or os.path.isfile(outer):
            return outer, path[found.end() + 1 :]
    return None


def member_of(path: bytes) -> tuple[Container, FileFacts, bytes] | None:
    """Container of ``path``, its facts, and the member name. Raises like ``open_container``."""
    place = split(path)
    if place is None:
        return None
    known = INDEXED.get(place[0]) if _is_fresh(place[0]) else None
    if known is None:
        container = open_container(place[0])
        known = INDEXED.get(place[0], (container_facts(place[0]), container))
    return known[1], known[0], place[1]


def _is_fresh(path: bytes) -> bool:
    return time.monotonic() - LOOKED.get(path, -FRESH) < FRESH


def open_container(path: bytes) -> Container:
    """Open a container. Raises ImageError if there is no such file; a damaged one has a ``fault``."""
    facts = container_facts(path)
    with LOCK:
        known = INDEXED.get(path)
        if known is not None and known[0] == facts:
            INDEXED.move_to_end(path)
            LOOKED[path] = time.monotonic()
            return known[1]
        turn = ONE_EACH.setdefault(path, threading.Lock())
    with turn:  # other threads wait for the first one
        known = INDEXED.get(path)
        if known is not None and known[0] == facts:
            return known[1]
        file = open_file(path)
        made = _opener(ending(path))(file)
        with LOCK:
            INDEXED[path], LOOKED[path] = (file.facts, made), time.monotonic()
            while len(INDEXED) > MOST_INDEXED:
                oldest, _ = INDEXED.popitem(last=False)
                ONE_EACH.pop(oldest, None)
                LOOKED.pop(oldest, None)
        return made


def open_file(path: bytes) -> RandomFile:
    """Open a file for random access. Raises ImageError."""
    return RemoteFile(path) if is_remote(path) else LocalFile(path)


def container_facts(path: bytes) -> FileFacts:
    """Size and times of a container. Raises ImageError if it does not exist."""
    return remote_facts(path) if is_remote(path) else LocalFile(path).facts


def is_container(path: bytes) -> bool:
    """Whether a file is a container, by its name."""
    return ending(path) in CONTAINER_ENDINGS


def _opener(kind: bytes) -> Callable[[RandomFile], Container]:
    if kind == b".tar":
        return TarContainer
    if kind == b".zip":
        return ZipContainer
    from sslfeat.data.containers import tables  # slow import, rarely needed

    return tables.ParquetContainer if kind == b".parquet" else tables.ArrowContainer
