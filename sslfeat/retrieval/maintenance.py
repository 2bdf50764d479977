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
from sslfeat.retrieval.metadata import IndexMetadata
from sslfeat.retrieval.query_encoder import check_encoder
from sslfeat.retrieval.rows import write_ids
from sslfeat.retrieval.searcher import Searcher
from sslfeat.retrieval.selection import IndexRequirements
from sslfeat.retrieval.vectors import BLOCK, COLUMNS, Vectors, blocks
from sslfeat.storage import atomic


@dataclass(frozen=True)
class IndexChanges:
    """How many rows are new, replaced (same path, other image) and removed, and whether the index was built anew."""

    added: int = 0
    replaced: int = 0
    removed: int = 0
    relabeled: int = 0
    rebuilt: bool = False

    def __str__(self) -> str:
        counts = {"added": self.added, "replaced": self.replaced, "removed": self.removed, "relabeled": self.relabeled}
        text = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "nothing changed"
        return text + ("; built anew" if self.rebuilt else "")


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
        for columns, block in blocks(vectors, index.metadata.metric):
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
    check_encoder(index.metadata.encoder, vectors.encoder, f"the encoder of {vectors.origin}")
    if vectors.dim != index.metadata.dim:
        raise RetrievalError(f"{vectors.origin} has vectors of {vectors.dim}, the index of {index.metadata.dim}")
    ours, theirs = (made_by and made_by.precision for made_by in (index.metadata.encoder, vectors.encoder))
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
                self.builder = Builder.of(
                    at, self.index.metadata.spec, self.index.metadata.dim, self.index.metadata.metric, self.work
                )
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
    metadata = replace(index.metadata, rows=len(columns), removed=int(removed.sum()))
    anew = metadata.outgrown and metadata.rows > metadata.removed
    if not anew and growth.builder is not None:
        metadata, anew = _measured(metadata, growth, events)
    file = folder / files.VECTORS
    if growth.builder is not None:
        file = growth.work / files.VECTORS
        growth.builder.write(file)
    if anew:
        metadata, columns, removed = _anew(file, growth.work, metadata, columns, removed, requirements, events)
        changes = replace(changes, rebuilt=True)
    write_ids(growth.work / files.IDS, columns, removed)
    files.commit_update(folder, metadata)
    return changes


def _measured(metadata: IndexMetadata, growth: _Growth, events: Events) -> tuple[IndexMetadata, bool]:
    """``metadata`` with recall measured again where that is due, and whether the index must be built anew instead."""
    if growth.builder is None or not is_due(metadata):
        return metadata, False
    if metadata.spec.kind == "hnsw":
        held_out = kept_out(growth.count)
        growth.builder.let_in(but=held_out)
        if not held_out:
            events.say("it has grown, by too few rows at once to measure its recall with: it is built anew")
            return metadata, True
    events.say("measuring recall again")
    found = measured(growth.builder, metadata)
    if found is None:
        events.say("they are not found as well as was asked for: it is built anew")
        return metadata, True
    return replace(metadata, figures=found), False


def _relabeled(columns: pa.Table, labels: dict[int, str | None]) -> pa.Table:
    if not labels:
        return columns
    values = columns["label"].to_pylist()
    for row, label in labels.items():
        values[row] = label
    return columns.set_column(columns.schema.get_field_index("label"), "label", pa.array(values, pa.string()))


class _Remaining:
    """The rows of an index file that are not removed, as vectors to build an index of."""

    def __init__(self, vectors: Any, columns: pa.Table, removed: npt.NDArray[np.bool_], of: IndexMetadata) -> None:
        self._vectors, self._columns, self._rows = vectors, columns.select(COLUMNS), np.flatnonzero(~removed)
        self.count, self.dim, self.encoder, self.origin = len(self._rows), of.dim, of.encoder, of.origin

    def parts(self) -> Iterator[Part]:
        for start in range(0, self.count, BLOCK):
            rows = self._rows[start : start + BLOCK]
            yield Part(self._columns.take(pa.array(rows)), self._vectors(rows))


def _anew(
    file: Path, work: Path, metadata: IndexMetadata, columns: pa.Table, removed: npt.NDArray[np.bool_],
    requirements: IndexRequirements | None, events: Events,
) -> tuple[IndexMetadata, pa.Table, npt.NDArray[np.bool_]]:  # fmt: skip
    old = file
    if file.parent == work:
        old = file.replace(work / "grown.faiss")
    before, metric = metadata.figures, metadata.metric
    rows = Searcher(read_faiss(old), metadata.spec, {}, metric).vectors
    remaining = _Remaining(rows, columns, removed, metadata)
    try:
        built = build(
            remaining, work, metric, requirements or requirements_of(before.target, None, before.asked, before.workload), events
        )
    except RetrievalError:
        if requirements is not None or before.asked == "auto":
            raise
        events.say(f"{before.asked} does not reach recall {before.target} any more: another kind is chosen")
        built = build(remaining, work, metric, requirements_of(before.target, None, "auto", before.workload), events)
    if old.parent == work:
        old.unlink()
    return describe(built, remaining, metric), built.columns, np.zeros(len(built.columns), bool)
