"""A folder whose file operations are counted, ended at one of them, and left as a power loss would leave it (Linux only)."""

from __future__ import annotations

import builtins
import contextlib
import io
import itertools
import os
import random
import secrets
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

CRASHED = 137
POWER_LOSSES = ("no", "all", "some")
NAME_CALLS = ("mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "truncate")
AUDITED = {"open", "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate"}
FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
REAL_OPEN, REAL_OS_OPEN, REAL_OS_WRITE = io.open, os.open, os.write
T = TypeVar("T")


@dataclass(eq=False)
class File:
    """A file, whatever its names: its content at its last fsync."""

    durable: bytes = b""


@dataclass(eq=False)
class Folder:
    """A folder, whatever its name: its names at its last fsync."""

    durable: dict[str, File | Folder] = field(default_factory=dict)


Tree: TypeAlias = "bytes | dict[str, Tree]"


class CountedFile(io.FileIO):
    """The raw file below a Python file object: its writes are those that reach the system."""

    disk: Disk

    def write(self, data: Any) -> int:
        half = memoryview(data).cast("B")[: memoryview(data).nbytes // 2]
        with self.disk.operation(lambda: io.FileIO.write(self, half)):
            return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        with self.disk.operation():
            return super().truncate(size)


class Disk:
    """What is below ``root``, all of it durable at first: counts the operations on it and stops at one of them."""

    def __init__(self, root: Path, stop_at: int, power_loss: str) -> None:
        self.root = str(root.resolve())
        self.stop_at, self.power_loss = stop_at, power_loss
        self.operations = 0
        self._performing = False
        self._lock = threading.RLock()  # a writer may have threads
        self._chance = random.Random(stop_at)
        self._luck: dict[File | Folder, bool] = {}
        self._nodes: dict[int, File | Folder] = {}  # by inode, as long as there is a name: a new file may get a deleted one's
        for folder, _, files in os.walk(self.root, topdown=False):
            for path in (Path(folder, name) for name in files):
                self._nodes[path.stat().st_ino] = File(path.read_bytes())
            self._nodes[Path(folder).stat().st_ino] = Folder(self._names(folder))

    def watch(self) -> None:
        """Put counting functions where pathlib, io and all others look theirs up. There is no way back.

        Names of temporary files, else random, are a count, so that what a crash leaves can be compared.
        """
        names = itertools.count()
        secrets.token_hex = lambda nbytes=None: f"{next(names):08x}"
        for name in NAME_CALLS:
            setattr(os, name, self._counted_names(getattr(os, name)))
        for name in ("fsync", "fdatasync"):
            setattr(os, name, self._counted_sync(getattr(os, name)))
        for module, name, function in (
            (os, "open", self._os_open),
            (os, "write", self._os_write),
            (io, "open", self._open),
            (builtins, "open", self._open),
        ):
            setattr(module, name, function)
        sys.addaudithook(self._audit)

    @contextlib.contextmanager
    def operation(self, half: Callable[[], object] = lambda: None) -> Iterator[None]:
        """One operation, done in the body; if it is the one to stop at, only ``half`` of it."""
        with self._lock:
            self.operations += 1
            if self.operations == self.stop_at:
                half()
                self._lose_power()
                os._exit(CRASHED)
            before, self._performing = self._performing, True
            try:
                yield
            finally:
                self._performing = before

    def _holds(self, target: Any, folder: int | None = None) -> bool:
        """Whether a descriptor, or a path (relative to the descriptor ``folder``), is below the root."""
        if isinstance(target, int):
            path = str(Path(f"/proc/self/fd/{target}").readlink())
        else:
            base = "" if folder is None else str(Path(f"/proc/self/fd/{folder}").readlink())
            path = os.path.abspath(os.path.join(base, os.fsdecode(target)))
        return path == self.root or path.startswith(self.root + os.sep)

    def _names(self, folder: str) -> dict[str, File | Folder]:
        with os.scandir(folder) as entries:
            return {entry.name: self._node(entry.inode(), folder, entry.name) for entry in entries}

    def _node(self, inode: int, folder: str, name: str) -> File | Folder:
        if inode not in self._nodes:
            where = str(Path(folder).resolve() / name)
            raise RuntimeError(f"{where} went round the harness: it was made by code that is not Python's, or another process")
        return self._nodes[inode]

    def _last_name_of(self, call: Callable[..., Any], args: tuple[Any, ...], folder: int | None) -> int | None:
        """The inode whose only name this call takes; None if it takes none."""
        name = {"unlink": 0, "remove": 0, "rmdir": 0, "rename": 1, "replace": 1}.get(call.__name__)
        try:
            status = None if name is None else os.stat(args[name], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_ino if status and (status.st_nlink == 1 or stat.S_ISDIR(status.st_mode)) else None

    def _counted_names(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            paths = [arg for arg in args[:2] if isinstance(arg, str | bytes | os.PathLike)]
            if not any(self._holds(path, options.get("dir_fd")) for path in paths):
                return call(*args, **options)
            with self.operation():
                gone = self._last_name_of(call, args, options.get("dir_fd"))
                result = call(*args, **options)
                if gone is not None:
                    self._nodes.pop(gone, None)
                if call.__name__ == "mkdir":
                    self._nodes[os.stat(args[0], dir_fd=options.get("dir_fd")).st_ino] = Folder()
                return result

        return counted

    def _counted_sync(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        def counted(file: Any) -> None:
            descriptor = file if isinstance(file, int) else file.fileno()
            if not self._holds(descriptor):
                call(file)
                return
            with self.operation():
                call(file)
                status = os.fstat(descriptor)
                link = f"/proc/self/fd/{descriptor}"  # opens again for reading what was opened for writing
                if not status.st_nlink:  # it has no name any more
                    return
                node = self._node(status.st_ino, str(Path(link).readlink()), "")
                if isinstance(node, Folder):
                    node.durable = self._names(link)
                else:
                    node.durable = Path(link).read_bytes()

        return counted

    def _created(self, target: Any, existed: bool, call: Callable[[], T]) -> T:
        """``call`` opens ``target`` for writing, which makes a file unless it ``existed``."""
        with self.operation():
            opened = call()
            if not existed:
                descriptor = opened if isinstance(opened, int) else opened.fileno()  # type: ignore[attr-defined]
                self._nodes[os.fstat(descriptor).st_ino] = File()
            return opened

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if not flags & FOR_WRITING or not self._holds(path, dir_fd):
            return REAL_OS_OPEN(path, flags, mode, dir_fd=dir_fd)
        try:
            os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
            existed = True
        except FileNotFoundError:
            existed = False
        return self._created(path, existed, lambda: REAL_OS_OPEN(path, flags, mode, dir_fd=dir_fd))

    def _os_write(self, descriptor: int, data: Any) -> int:
        if not self._holds(descriptor):
            return REAL_OS_WRITE(descriptor, data)
        with self.operation(lambda: REAL_OS_WRITE(descriptor, bytes(data)[: len(bytes(data)) // 2])):
            return REAL_OS_WRITE(descriptor, data)

    def _open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if not set(mode) & set("wax+") or not self._holds(file):
            return REAL_OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
        existed = isinstance(file, int) or os.path.lexists(file)
        raw_mode = mode.replace("t", "").replace("b", "")
        raw = self._created(file, existed, lambda: CountedFile(file, raw_mode, closefd, opener))
        raw.disk = self
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        buffered = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        """The interpreter's own report of file operations: one that was not counted is an error of this harness."""
        if event not in AUDITED or self._performing or (event == "open" and not args[2] & FOR_WRITING):
            return
        paths = args[:1] if event == "open" else args[:2]
        if any(self._holds(path) for path in paths if isinstance(path, str | bytes | os.PathLike)):
            raise RuntimeError(f"{event} of {args[0]} went round the harness")

    def _lose_power(self) -> None:
        """Leave below the root what the power loss would."""
        if self.power_loss == "no":
            return
        self._performing = True  # from here on nothing is the watched function's doing
        present: dict[File | Folder, Any] = {}
        for folder, _, files in os.walk(self.root):
            present[self._node(Path(folder).stat().st_ino, folder, "")] = self._names(folder)
            for path in (Path(folder, name) for name in files):
                present[self._node(path.stat().st_ino, folder, path.name)] = path.read_bytes()
        tree = self._left(self._nodes[Path(self.root).stat().st_ino], present)
        shutil.rmtree(self.root)
        _write(Path(self.root), tree)

    def _left(self, node: File | Folder, present: dict[File | Folder, Any]) -> Tree:
        now = present.get(node, node.durable)
        if isinstance(node, File):
            return bytes(now if self._lucky() else node.durable)
        left: dict[str, Tree] = {}
        for name in sorted({*node.durable, *now}):
            before, after = node.durable.get(name), now.get(name)
            subject = after or before
            assert subject
            luck = self._luck.setdefault(subject, self._lucky())  # one for both names, so that a rename is atomic
            if child := after if luck else before:
                left[name] = self._left(child, present)
        return left

    def _lucky(self) -> bool:
        """Whether something reached the disk though no fsync made it."""
        return self.power_loss == "some" and self._chance.random() < 0.5


def _write(path: Path, tree: Tree) -> None:
    if isinstance(tree, bytes):
        path.write_bytes(tree)
        return
    path.mkdir()
    for name, child in tree.items():
        _write(path / name, child)
