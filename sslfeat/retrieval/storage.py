"""The files of an index folder: written together or not at all, hashed, and verified before FAISS sees them.

Hashes are of pieces too, so that all cores share the work of verifying.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sslfeat.errors import RetrievalError
from sslfeat.features.reader import CHECK, run_bytes
from sslfeat.retrieval.faiss_io import read_faiss
from sslfeat.retrieval.metadata import FORMAT as FORMAT
from sslfeat.retrieval.metadata import IDS as IDS
from sslfeat.retrieval.metadata import META as META
from sslfeat.retrieval.metadata import VECTORS as VECTORS
from sslfeat.retrieval.metadata import IndexMetadata, read_record
from sslfeat.retrieval.rows import Ids
from sslfeat.storage import atomic, staged
from sslfeat.storage.records import parse_json
from sslfeat.system.cores import available_cores

FILES = (VECTORS, IDS, META)
FEATURES = "features"  # where images that are indexed straight away leave their embeddings
PIECE = 32 << 20
VERIFIED, LARGE, SETTLED = ".verified", 64 << 20, 2_000_000_000  # ending; bytes; ns
PATIENCE = 10.0  # seconds that a reader waits for a writer to exchange the files


class IndexContents:
    """See ``staged.Contents``: a file that does not come anew stays, and readers wait."""

    record: str = META
    withdraws = False
    folders: tuple[str, ...] = ()

    def files(self, folder: Path) -> Iterator[Path]:
        """Vectors, ids, ``index.json``."""
        yield from (path for name in FILES if (path := folder / name).exists())

    def kept(self, new: Path) -> Callable[[str], bool]:
        """All of them."""
        return lambda name: True


CONTENTS = IndexContents()


@contextlib.contextmanager
def update(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write a new state into; what is not committed goes. Call it with the lock held."""
    finish_update(folder)
    work = staged.place(folder, RetrievalError)
    if work.exists():
        _clear(work)
    atomic.make_folder(work)
    try:
        yield work
    finally:
        if work.exists() and not staged.is_marked(folder):
            _clear(work)


def commit_update(folder: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Make what ``.update`` holds the index; a file that is not there stays. Returns ``meta`` with the files' hashes."""
    work = folder / staged.UPDATE
    new = {name: hashes(work / name) for name in (VECTORS, IDS) if (work / name).exists()}
    meta = {**meta, "format": FORMAT, "files": {**meta.get("files", {}), **new}}
    atomic.write_atomic(work / META, run_bytes(meta))
    for path in work.iterdir():
        _sync(path)
    staged.exchange(folder, CONTENTS, RetrievalError)
    return meta


def finish_update(folder: Path) -> None:
    """Carry an exchange through that was begun; nothing to do if none was. Call it with the lock held."""
    staged.finish(folder, CONTENTS, RetrievalError)


def read_meta(folder: Path) -> dict[str, Any]:
    """``index.json``, valid as a ``IndexMetadata``. Raises RetrievalError if it is missing, altered, or of another format."""
    _settle(folder)
    path = folder / META
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RetrievalError(f"{folder} is not an index: {META} cannot be read ({error.strerror})") from error
    meta = parse_json(data, str(path), RetrievalError)
    if not isinstance(meta, dict):
        raise RetrievalError(f"{path} is damaged: it is not an object; build the index again with --overwrite")
    if (found := meta.get("format")) != FORMAT:
        raise RetrievalError(f"{path} has format {found!r}; this sslfeat reads {FORMAT}: build the index again")
    check = meta.pop(CHECK, None)
    read_record(meta, str(path))
    if parse_json(run_bytes(meta), str(path), RetrievalError)[CHECK] != check:
        raise RetrievalError(f"{path} was altered: build the index again with --overwrite")
    return meta


def verify_file(folder: Path, name: str, meta: dict[str, Any], fresh: bool = False) -> Path:
    """The path of a file of the index, whose bytes are those that were recorded. Raises RetrievalError.

    A LARGE file that was found whole before, and whose inode, size and times of change are as they were then, is not read
    again unless ``fresh``: no program can set the time that the system notes when a file is changed (``st_ctime``).
    """
    path, recorded = folder / name, meta["files"][name]
    try:
        status = path.stat()
        stamp = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        note = folder / f".{name}{VERIFIED}"
        known = atomic.json_bytes({"sha256": recorded["sha256"], "stamp": stamp})
        large = status.st_size >= LARGE
        if large and not fresh and note.exists() and note.read_bytes() == known:
            return path
        settled = time.time_ns() - max(stamp[3:]) > SETTLED  # a change within the clock's tick would not show
        same = status.st_size == recorded["bytes"] and _pieces(path) == recorded["pieces"]
    except OSError as error:
        raise RetrievalError(f"{path} cannot be read: {error.strerror}; build the index again") from error
    if not same:
        raise RetrievalError(f"{path} was altered or damaged: its sha256 is not the recorded one; build the index again")
    if large and settled:
        with contextlib.suppress(OSError):  # a folder that may only be read is verified anew each time
            atomic.write_atomic(note, known)
    return path


def open_vectors(folder: Path, meta: dict[str, Any]) -> Any:
    """The verified FAISS index; its exact vectors stay in the file until they are needed. Raises RetrievalError."""
    path = verify_file(folder, VECTORS, meta)
    try:
        index = read_faiss(path)
    except RuntimeError as error:
        raise RetrievalError(f"{path} is refused by FAISS: {str(error).splitlines()[0][:200]}") from error
    record = read_record(meta, str(folder / META))
    if (index.ntotal, index.d) != (record.rows, record.dim):
        raise RetrievalError(f"{path} holds {index.ntotal} x {index.d}, recorded were {record.rows} x {record.dim}")
    if fault := _misfit(index, record):
        raise RetrievalError(f"{path} is not what {META} says: {fault}; build the index again")
    return index


def _misfit(index: Any, record: IndexMetadata) -> str | None:
    """What of FAISS's index is not as the spec has it: what is called upon later must be there."""
    import faiss

    kind = record.spec.kind
    metric = faiss.METRIC_L2 if record.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    names = {"flat": "IndexFlat", "ivf": "IndexIVFFlat", "hnsw": "IndexHNSWFlat", "ivfpq": "IndexRefineFlat"}
    parts = [(index, names[kind])]
    if isinstance(index, faiss.IndexHNSW):
        parts.append((faiss.downcast_index(index.storage), "IndexFlat"))
    elif isinstance(index, faiss.IndexRefine):
        base = faiss.downcast_index(index.base_index)
        parts += [(base, "IndexIVFPQFastScan"), (faiss.downcast_index(index.refine_index), "IndexFlat")]
    for part, name in parts:
        if type(part).__name__.removesuffix("IP").removesuffix("L2") != name:
            return f"a {type(part).__name__} is where a {name} belongs"
        if (part.ntotal, part.d, part.metric_type) != (record.rows, record.dim, metric):
            return f"its {name} holds {part.ntotal} x {part.d}, metric {part.metric_type}"
        if "IVF" in name and part.nlist != record.spec.nlist:
            return f"it has {part.nlist} lists, not {record.spec.nlist}"
    return None


class OpenedIndex:
    """An index folder whose files were verified: ``meta``, what its rows are, and FAISS's index. Raises RetrievalError."""

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder, self.meta = folder, meta
        self.ids = Ids(verify_file(folder, IDS, meta), meta)
        self.removed = self.ids.removed
        self.record = read_record(meta, str(folder / META))
        self.vectors = open_vectors(folder, meta)

    @classmethod
    def load(cls, folder: Path) -> OpenedIndex:
        """What the folder holds now, whatever a writer is about meanwhile."""
        for attempt in (1, 2):
            meta = read_meta(folder)
            try:
                return cls(folder, meta)
            except RetrievalError:
                if attempt == 2 or read_meta(folder) == meta:  # else a writer exchanged the files just now
                    raise
        raise AssertionError("unreachable")


def hashes(path: Path) -> dict[str, Any]:
    """Size, sha256, and the sha256 of each PIECE of a file."""
    return {"bytes": path.stat().st_size, "sha256": atomic.sha256_file(path), "pieces": _pieces(path)}


def _pieces(path: Path) -> list[str]:
    size = path.stat().st_size

    def piece(start: int) -> str:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            return hashlib.sha256(file.read(min(PIECE, size - start))).hexdigest()

    with ThreadPoolExecutor(available_cores()) as pool:
        return list(pool.map(piece, range(0, size, PIECE)))


def _settle(folder: Path) -> None:
    """If files are being exchanged, wait for it; if whoever did it has died, finish it."""
    deadline = time.monotonic() + PATIENCE
    while staged.is_marked(folder):
        try:
            with atomic.exclusive(folder, RetrievalError):
                finish_update(folder)
        except RetrievalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _clear(work: Path) -> None:
    """Empty and remove ``.update``, its mark last."""
    for path in sorted(work.iterdir(), key=lambda path: path.name == staged.MARK):
        path.unlink()
    work.rmdir()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
