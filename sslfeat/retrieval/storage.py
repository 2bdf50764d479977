"""Files of an index folder: written atomically, hashed, and verified before FAISS reads them.

Pieces are hashed as well, so verification uses all cores.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from sslfeat.errors import RetrievalError
from sslfeat.numerics.arrays import IntArray
from sslfeat.retrieval.faiss_io import read_faiss
from sslfeat.retrieval.metadata import IDS as IDS
from sslfeat.retrieval.metadata import META as META
from sslfeat.retrieval.metadata import VECTORS as VECTORS
from sslfeat.retrieval.metadata import IndexMetadata, Stored
from sslfeat.retrieval.rows import Ids
from sslfeat.retrieval.shards import Shards
from sslfeat.storage import atomic, staged
from sslfeat.system.cores import available_cores
from sslfeat.system.near import near_path

FILES = (VECTORS, IDS, META)
PARTS = {  # FAISS class of each kind
    "flat": ["IndexFlat"],
    "ivf": ["IndexIVFFlat"],
    "hnsw": ["IndexHNSWFlat", "IndexFlat"],
    "hnswsq": ["IndexRefineFlat", "IndexIDMap", "IndexHNSWSQ", "IndexScalarQuantizer", "IndexFlat"],
    "ivfpq": ["IndexRefineFlat", "IndexIVFPQFastScan", "IndexFlat"],
}
OWN_SHARD = re.compile(r"index-\d{5,}\.faiss")
FEATURES = "features"  # features of directly indexed images
PIECE = 32 << 20
VERIFIED, LARGE, SETTLED = ".verified", 64 << 20, 2_000_000_000  # ending; bytes; ns
PATIENCE = 10.0  # seconds that a reader waits for a writer


class IndexContents:
    """See ``staged.Contents``: files that are not replaced are kept, and readers wait."""

    record: str = META
    withdraws = False
    folders: tuple[str, ...] = ()

    def files(self, folder: Path) -> Iterator[Path]:
        """Vectors, ids, ``index.json``."""
        yield from sorted(path for path in folder.glob("index*.faiss") if is_own(path.name))
        yield from (path for name in (IDS, META) if (path := folder / name).exists())

    def kept(self, new: Path) -> Callable[[str], bool]:
        """Files named by the new ``index.json``."""
        named = IndexMetadata.parse((new / META).read_bytes(), str(new / META), RetrievalError, "build the index again").files
        return lambda name: name in named or name == META


CONTENTS = IndexContents()


def is_own(name: str) -> bool:
    """Whether this is the name of an index file."""
    return name in FILES or bool(OWN_SHARD.fullmatch(name))


@contextlib.contextmanager
def update(folder: Path) -> Iterator[Path]:
    """Yield an empty folder for a new state; uncommitted files are deleted. Requires the lock."""
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


def commit_update(folder: Path, metadata: IndexMetadata) -> None:
    """Replace index files by those in ``.update``, and compute their hashes."""
    work = folder / staged.UPDATE
    new = {path.name: hashes(path) for path in CONTENTS.files(work)}
    atomic.write_atomic(work / META, replace(metadata, files={**metadata.files, **new}).to_json())
    for path in work.iterdir():
        _sync(path)
    staged.exchange(folder, CONTENTS, RetrievalError)


def finish_update(folder: Path) -> None:
    """Complete an interrupted replacement, if any. Requires the lock."""
    staged.finish(folder, CONTENTS, RetrievalError)


def read_metadata(folder: Path) -> IndexMetadata:
    """``index.json``. Raises RetrievalError if it is missing, altered, or of another format."""
    _settle(folder)
    path = folder / META
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RetrievalError(*why_none(folder, error)) from error
    metadata = IndexMetadata.parse(data, str(path), RetrievalError, "build the index again")
    if not metadata.files:
        raise RetrievalError(f"{path}: files are none")
    return metadata


def why_none(folder: Path, error: OSError) -> tuple[str, str]:
    """Reason why ``folder`` is not an index, and the cure (or "")."""
    from sslfeat.features.metadata import RUN_NAME

    if not os.path.lexists(folder):
        return f"{folder} does not exist", near_path(folder)
    if (folder / RUN_NAME).is_file():
        line = shlex.join(["sslfeat", "index", str(folder), "--out", "index"])
        return f"{folder} is a features folder, not an index", f"run {line}"
    return f"{folder} is not an index: {META} cannot be read ({error.strerror})", ""


def verify_file(folder: Path, name: str, metadata: IndexMetadata, fresh: bool = False) -> Path:
    """Path of a verified file of the index. Raises RetrievalError.

    A LARGE file that was verified before, and whose inode, size and modification times are unchanged, is not read
    again unless ``fresh``: programs cannot set the change time of a file (``st_ctime``).
    """
    path, recorded = folder / name, metadata.files[name]
    try:
        status = path.stat()
        stamp = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        note = folder / f".{name}{VERIFIED}"
        known = atomic.json_bytes({"sha256": recorded.sha256, "stamp": stamp})
        large = status.st_size >= LARGE
        if large and not fresh and note.exists() and note.read_bytes() == known:
            return path
        settled = time.time_ns() - max(stamp[3:]) > SETTLED  # a change within the clock resolution would be missed
        same = status.st_size == recorded.bytes and _pieces(path) == recorded.pieces
    except OSError as error:
        raise RetrievalError(f"{path} cannot be read: {error.strerror}; rebuild the index") from error
    if not same:
        raise RetrievalError(f"{path} was modified or is damaged (sha256 mismatch): rebuild the index")
    if large and settled:
        with contextlib.suppress(OSError):  # a read-only folder is verified every time
            atomic.write_atomic(note, known)
    return path


def open_vectors(folder: Path, metadata: IndexMetadata) -> Any:
    """Open the verified FAISS index; exact vectors stay in the file. Raises RetrievalError."""
    parts = []
    for path in [verify_file(folder, name, metadata) for name in metadata.vector_files]:
        try:
            parts.append(read_faiss(path))
        except RuntimeError as error:
            raise RetrievalError(f"{path} cannot be read by FAISS: {str(error).splitlines()[0][:200]}") from error
        if fault := _misfit(parts[-1], metadata):
            raise RetrievalError(f"{path} does not match {META}: {fault}; rebuild the index")
    index = parts[0] if len(parts) == 1 else Shards(parts)
    if (index.ntotal, index.d) != (metadata.rows, metadata.dim):
        raise RetrievalError(f"{folder} contains {index.ntotal} x {index.d} vectors instead of {metadata.rows} x {metadata.dim}")
    return index


def _misfit(index: Any, metadata: IndexMetadata) -> str | None:
    """Mismatch between the FAISS index and its spec, checked before parts of the index are used."""
    import faiss

    metric = faiss.METRIC_L2 if metadata.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    for part, name in itertools.zip_longest(_parts(index), PARTS[metadata.spec.kind]):
        if type(part).__name__.removesuffix("IP").removesuffix("L2") != name:
            return f"a {type(part).__name__} is where a {name} belongs"
        if (part.ntotal, part.d, part.metric_type) != (index.ntotal, metadata.dim, metric):
            return f"its {name} holds {part.ntotal} x {part.d}, metric {part.metric_type}"
        if "IVF" in name and part.nlist != metadata.spec.nlist:
            return f"it has {part.nlist} lists, not {metadata.spec.nlist}"
        if name == "IndexIDMap" and not _numbers_rows(faiss.vector_to_array(part.id_map), index.ntotal):
            return "its numbers are not those of rows"
    return None


def _parts(index: Any) -> Iterator[Any]:
    """The FAISS index and nested indexes, without the quantizer of IVF."""
    import faiss

    yield index
    for name in ("base_index", "index", "storage", "refine_index"):
        if hasattr(index, name):
            yield from _parts(faiss.downcast_index(getattr(index, name)))


def _numbers_rows(numbers: IntArray, count: int) -> bool:
    return len(numbers) == count and numbers.min(initial=0) >= 0 and numbers.max(initial=0) < count


class OpenedIndex:
    """A verified index folder: ``metadata``, rows, and the FAISS index. Raises RetrievalError."""

    def __init__(self, folder: Path, metadata: IndexMetadata) -> None:
        self.folder, self.metadata = folder, metadata
        self.ids = Ids(verify_file(folder, IDS, metadata), metadata.rows, metadata.removed)
        self.removed = self.ids.removed
        self.vectors = open_vectors(folder, metadata)

    @classmethod
    def load(cls, folder: Path) -> OpenedIndex:
        """Load the current state, even during an update by a writer."""
        for attempt in (1, 2):
            metadata = read_metadata(folder)
            try:
                return cls(folder, metadata)
            except RetrievalError:
                if attempt == 2 or read_metadata(folder) == metadata:  # else a writer replaced the files meanwhile
                    raise
        raise AssertionError("unreachable")


def hashes(path: Path) -> Stored:
    """Size, sha256, and the sha256 of each PIECE of a file."""
    return Stored(path.stat().st_size, atomic.sha256_file(path), _pieces(path))


def _pieces(path: Path) -> tuple[str, ...]:
    size = path.stat().st_size

    def piece(start: int) -> str:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            return hashlib.sha256(file.read(min(PIECE, size - start))).hexdigest()

    with ThreadPoolExecutor(available_cores()) as pool:
        return tuple(pool.map(piece, range(0, size, PIECE)))


def _settle(folder: Path) -> None:
    """Wait for a replacement in progress; complete it if its process was killed."""
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
