"""The typed record ``index.json``, validated when it is read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sslfeat.retrieval.index_types import IndexSpec
from sslfeat.retrieval.tuning import DEPTHS, Levels
from sslfeat.retrieval.vectors import METRICS, Maker
from sslfeat.storage.records import SignedRecord

FORMAT = 3
VECTORS, IDS, META = "index.faiss", "ids.parquet", "index.json"
SHARD = "index-{:05d}.faiss"
NAMES = {
    "flat": set(),
    "ivf": {"nprobe"},
    "hnsw": {"efSearch"},
    "hnswsq": {"efSearch", "candidates"},
    "ivfpq": {"nprobe", "candidates"},
}
MANY_REMOVED = 1 / 3  # fraction of all rows that causes a rebuild
DOUBLED = 2  # growth that causes a rebuild
SHA256 = re.compile(r"[0-9a-f]{64}")


def vector_names(count: int) -> list[str]:
    """Names of the FAISS files, in order of their rows."""
    return [VECTORS] if count == 1 else [SHARD.format(number) for number in range(count)]


def _check(right: bool, what: str) -> None:
    if not right:
        raise ValueError(what)


@dataclass(frozen=True)
class Stored:
    """Size, sha256, and sha256 of each piece of a file."""

    bytes: int
    sha256: str
    pieces: tuple[str, ...]

    def __post_init__(self) -> None:
        _check(self.bytes >= 0, f"bytes is {self.bytes}")
        for digest in (self.sha256, *self.pieces):
            _check(bool(SHA256.fullmatch(digest)), f"{digest[:70]!r} is not a sha256")


@dataclass(frozen=True)
class Figures:
    """Measured properties of an index, and how it was selected.

    ``recall_at``: recall by number of neighbors, for ``recall_queries`` held-out queries (0: exhaustive
    search); ``recall``: at 10. ``measured_rows``: number of rows when measured. ``asked``: requested kind.
    ``memory``: bytes in memory for searching; ``max_memory``: limit for building.
    """

    target: float
    workload: str
    memory: int
    why: str
    recall: float
    recall_at: dict[str, float]
    recall_queries: int
    measured_rows: int
    queries_per_second: float | None = None
    single_queries_per_second: float | None = None
    asked: str = "auto"
    max_memory: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("target", self.target), ("recall", self.recall), *self.recall_at.items()):
            _check(0 <= value <= 1, f"the recall {name} is {value}")
        for name in ("memory", "recall_queries", "measured_rows"):
            _check(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}")


@dataclass(frozen=True)
class IndexMetadata(SignedRecord):
    """The whole record. ``settings`` by depth (``tuning.py``); ``built_rows``: number of rows when it was last built."""

    spec: IndexSpec
    factory: str
    metric: str
    settings: dict[str, dict[str, int]]
    dim: int
    rows: int
    removed: int
    built_rows: int
    figures: Figures
    encoder: Maker | None
    origin: str
    versions: dict[str, str]
    files: dict[str, Stored]
    format: int = FORMAT

    def __post_init__(self) -> None:
        _check(self.metric in METRICS, f"metric is {self.metric!r}")
        _check(self.dim >= 1, f"dim is {self.dim}")
        _check(self.rows >= 1, f"rows is {self.rows}")
        _check(0 <= self.removed <= self.rows, f"removed is {self.removed} of {self.rows} rows")
        _check(self.built_rows >= 1, f"built_rows is {self.built_rows}")
        _check(self.spec.nlist >= 1 or not self.spec.kind.startswith("ivf"), f"spec.nlist is {self.spec.nlist}")
        _check(self.factory == self.spec.factory, f"factory is {self.factory!r}, the spec's is {self.spec.factory!r}")
        known = {IDS, *vector_names(len(self.files) - 1)}
        _check(not self.files or set(self.files) == known, f"files are {sorted(self.files)}")  # empty before they are written
        for depth, settings in self.settings.items():
            _check(depth in map(str, DEPTHS), f"settings has a depth {depth!r}, not one of {DEPTHS}")
            _check(set(settings) == NAMES[self.spec.kind], f"settings.{depth} are {sorted(settings)}")
            _check(all(1 <= value <= 1 << 31 for value in settings.values()), f"settings.{depth} is {settings}")

    @property
    def vector_files(self) -> list[str]:
        """Names of the FAISS files, in order of their rows."""
        return vector_names(len(self.files) - 1)

    def levels(self) -> Levels:
        """Settings by depth, ascending."""
        return {int(depth): settings for depth, settings in sorted(self.settings.items(), key=lambda item: int(item[0]))}

    @property
    def outgrown(self) -> bool:
        """Whether so many rows were added or removed that the index must be rebuilt."""
        return self.removed > MANY_REMOVED * self.rows or self.rows - self.removed > DOUBLED * self.built_rows
