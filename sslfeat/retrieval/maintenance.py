"""An index that follows its images: rows are added, replaced and removed, and only they are touched.

Removed rows stay in FAISS's file and are passed over. When they become many, or the index has doubled, it is built anew
from its own vectors; when it has grown a little, its recall is measured again (``growth.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sslfeat.errors import RetrievalError
from sslfeat.features.reader import Part
from sslfeat.retrieval import storage as files
from sslfeat.retrieval.create import Events, build, describe, requirements_of
from sslfeat.retrieval.faiss_builder import Builder
from sslfeat.retrieval.faiss_io import read_faiss
from sslfeat.retrieval.growth import MOST, is_due, kept_out, measured
from sslfeat.retrieval.index_types import SEED
from sslfeat.retrieval.metadata import IndexMetadata, read_record
from sslfeat.retrieval.query_encoder import check_encoder
from sslfeat.retrieval.rows import write_ids
from sslfeat.retrieval.searcher import Searcher
from sslfeat.retrieval.selection import IndexRequirements
from sslfeat.retrieval.vectors import BLOCK, COLUMNS, Vectors, blocks
from sslfeat.storage import atomic

MANY_REMOVED = 1 / 3  # of all rows, and the index is built anew
DOUBLED = 2  # times the rows that it was built for


@dataclass(frozen=True)
class IndexChanges:
    """How many rows are new, replaced (same path, other image) and removed, and whether the index was built anew."""

    added: int = 0
    replaced: int = 0
    removed: int = 0
    relabeled: int = 0
    rebuilt: bool = False

    def __str__(self) -> str:
        counts = {
            "added": self.added,
            "replaced": self.replaced,
            "removed": self.removed,
            "relabeled": self.relabeled,
        }
        said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "nothing changed"
        return said + ("; built anew" if self.rebuilt else "")


def change(
    folder: Path,
    vectors: Vectors,
    drop_missing: bool = False,
    requirements: IndexRequirements | None = None,
    events: Events | None = None,
) -> IndexChanges:
    """Add the rows of ``vectors``, and with ``drop_missing`` remove all others. The old index is whole until the end.

    Raises RetrievalError for another encoder's features, or if the index is busy.
    """
    with atomic.exclusive(folder, RetrievalError), files.update(folder) as work:
        index = files.OpenedIndex.load(folder)
        _check(index, vectors)
        rows = {path: row for row, path in enumerate(index.ids.table["path"].to_pylist()) if not index.removed[row]}
        known = index.ids.table.select(["sha256", "label"]).to_pydict()
        growth = _Growth(index, work, known)
        start = 0
        for columns, block in blocks(vectors, index.record.metric):
            growth.see(columns, block, rows)
            start += len(block)
            (events or Events()).step("compared", start, vectors.count)
        gone = [row for path, row in rows.items() if path not in growth.seen] if drop_missing else []
        return _finish(folder, index, growth, gone, requirements, events or Events())


def remove(
    folder: Path, paths: set[str], requirements: IndexRequirements | None = None, events: Events | None = None
) -> IndexChanges:
    """Remove the rows called ``paths``. Raises RetrievalError if the index is busy."""
    with atomic.exclusive(folder, RetrievalError), files.update(folder) as work:
        index = files.OpenedIndex.load(folder)
        names = index.ids.table["path"].to_pylist()
        gone = [row for row, name in enumerate(names) if name in paths and not index.removed[row]]
        return _finish(folder, index, _Growth(index, work, {}), gone, requirements, events or Events())


def _check(index: files.OpenedIndex, vectors: Vectors) -> None:
    check_encoder(index.meta, vectors.encoder, f"the encoder of {vectors.origin}")
    if vectors.dim != index.record.dim:
        raise RetrievalError(f"{vectors.origin} has vectors of {vectors.dim}, the index of {index.record.dim}")
    ours, theirs = ((made_by or {}).get("precision") for made_by in (index.meta["encoder"], vectors.encoder))
    if ours != theirs:
        raise RetrievalError(
            f"{vectors.origin} was embedded in {theirs}, the index in {ours}: embed it with --precision {ours}, or build "
            "another index"
        )


class _Growth:
    """What is new, as it comes in: an index file is begun when the first new row does."""

    def __init__(self, index: files.OpenedIndex, work: Path, known: dict[str, list[str | None]]) -> None:
        self.index, self.work, self._known = index, work, known
        self.builder: Builder | None = None
        self.seen: set[str] = set()
        self.tables: list[pa.Table] = []
        self.labels: dict[int, str | None] = {}
        self.replaced: list[int] = []
        self.count = 0
        self._lots = np.random.default_rng(SEED)

    def see(self, columns: pa.Table, block: npt.NDArray[np.float32], rows: dict[str, int]) -> None:
        """Compare a block with the rows there are, by path and sha256, and add what is new."""
        facts = columns.select(["path", "sha256", "label"]).to_pydict()
        new = []
        for number, (path, sha256, label) in enumerate(zip(facts["path"], facts["sha256"], facts["label"], strict=True)):
            if path in self.seen:
                raise RetrievalError(f"{path} comes twice: an image is in an index once")
            self.seen.add(path)
            row = rows.get(path)
            if row is not None and sha256 is not None and self._known["sha256"][row] == sha256:
                if self._known["label"][row] != label:
                    self.labels[row] = label
                continue
            if row is not None:
                self.replaced.append(row)
            new.append(number)
        if new:
            if self.builder is None:
                at = self.index.folder / files.VECTORS
                self.builder = Builder.of(at, self.index.record.spec, self.index.record.dim, self.index.record.metric, self.work)
            self.builder.add(block[new], self._lots.random(len(new)))
            self.builder.let_in(but=MOST)
            self.tables.append(columns.take(pa.array(new)))
            self.count += len(new)


def _finish(
    folder: Path,
    index: files.OpenedIndex,
    growth: _Growth,
    gone: Iterable[int],
    requirements: IndexRequirements | None,
    events: Events,
) -> IndexChanges:
    """Write the new state and exchange it for the old."""
    removed = index.removed.copy()
    dropped = [*gone]
    removed[[*growth.replaced, *dropped]] = True
    columns = pa.concat_tables([_relabeled(index.ids.table, growth.labels), *growth.tables])
    removed = np.concatenate([removed, np.zeros(growth.count, bool)])
    replaced = len(growth.replaced)
    changes = IndexChanges(growth.count - replaced, replaced, len(dropped), len(growth.labels))
    if not (growth.count or dropped or growth.labels):
        return changes
    meta = {**index.meta, "rows": len(columns), "removed": int(removed.sum())}
    anew = _outgrown(meta) and len(columns) > meta["removed"]
    if not anew and growth.builder is not None:
        meta, anew = _measured(meta, growth, events)
    file = folder / files.VECTORS
    if growth.builder is not None:
        file = growth.work / files.VECTORS
        growth.builder.write(file)
    if anew:
        meta, columns, removed = _anew(file, growth.work, meta, columns, removed, requirements, events)
        changes = replace(changes, rebuilt=True)
    write_ids(growth.work / files.IDS, columns, removed)
    files.commit_update(folder, meta)
    return changes


def _measured(meta: dict[str, Any], growth: _Growth, events: Events) -> tuple[dict[str, Any], bool]:
    """``meta`` with recall measured again where that is due, and whether the index must be built anew instead."""
    record = _record(meta)
    if growth.builder is None or not is_due(record):
        return meta, False
    if record.spec.kind == "hnsw":
        asked = kept_out(growth.count)
        growth.builder.let_in(but=asked)
        if not asked:
            events.say("it has grown, by too few rows at once to measure its recall with: it is built anew")
            return meta, True
    events.say("measuring recall again")
    found = measured(growth.builder, record)
    if found is None:
        events.say("they are not found as well as was asked for: it is built anew")
        return meta, True
    return {**meta, "figures": {**meta["figures"], **found}}, False


def _record(meta: dict[str, Any]) -> IndexMetadata:
    return read_record(meta, files.META)


def _relabeled(columns: pa.Table, labels: dict[int, str | None]) -> pa.Table:
    if not labels:
        return columns
    values = columns["label"].to_pylist()
    for row, label in labels.items():
        values[row] = label
    return columns.set_column(columns.schema.get_field_index("label"), "label", pa.array(values, pa.string()))


def _outgrown(meta: dict[str, Any]) -> bool:
    rows, gone = int(meta["rows"]), int(meta["removed"])
    return gone > MANY_REMOVED * rows or rows - gone > DOUBLED * int(meta["built_rows"])


class _Remaining:
    """The rows of an index file that are not removed, as vectors to build an index of."""

    def __init__(self, vectors: Any, columns: pa.Table, removed: npt.NDArray[np.bool_], meta: dict[str, Any]) -> None:
        self._vectors, self._columns, self._rows = vectors, columns.select(COLUMNS), np.flatnonzero(~removed)
        self.count, self.dim, self.encoder, self.origin = len(self._rows), meta["dim"], meta["encoder"], meta["origin"]

    def parts(self) -> Iterator[Part]:
        for start in range(0, self.count, BLOCK):
            rows = self._rows[start : start + BLOCK]
            yield Part(self._columns.take(pa.array(rows)), self._vectors(rows))


def _anew(
    file: Path, work: Path, meta: dict[str, Any], columns: pa.Table, removed: npt.NDArray[np.bool_],
    requirements: IndexRequirements | None, events: Events,
) -> tuple[dict[str, Any], pa.Table, npt.NDArray[np.bool_]]:  # fmt: skip
    old = file
    if file.parent == work:
        old = file.replace(work / "grown.faiss")
    record = _record(meta)
    remaining = _Remaining(Searcher(read_faiss(old), record.spec, {}, record.metric).vectors, columns, removed, meta)
    target, workload, asked = record.figures.target, record.figures.workload, record.figures.asked
    try:
        built = build(remaining, work, record.metric, requirements or requirements_of(target, None, asked, workload), events)
    except RetrievalError:
        if requirements is not None or asked == "auto":
            raise
        events.say(f"{asked} does not reach recall {target} any more: another kind is chosen")
        built = build(remaining, work, record.metric, requirements_of(target, None, "auto", workload), events)
    if old.parent == work:
        old.unlink()
    return describe(built, remaining, record.metric), built.columns, np.zeros(len(built.columns), bool)
