"""Updating an index: adding, replacing and removing rows.

Removed rows stay in the FAISS file and are ignored. If they are many, or the index has doubled, it is rebuilt
from its own vectors; after smaller additions, recall is measured again (``growth.py``).
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
from sslfeat.retrieval.growth import MOST, is_due, kept_out, measured
from sslfeat.retrieval.index_builder import IndexBuilder
from sslfeat.retrieval.index_types import SEED
from sslfeat.retrieval.metadata import IndexMetadata
from sslfeat.retrieval.query_encoder import check_encoder
from sslfeat.retrieval.rows import write_ids
from sslfeat.retrieval.searcher import Searcher
from sslfeat.retrieval.selection import IndexRequirements
from sslfeat.retrieval.shards import open_shards
from sslfeat.retrieval.vectors import BLOCK, Vectors, blocks, describing, joined_rows
from sslfeat.storage import atomic


@dataclass(frozen=True)
class IndexChanges:
    """Numbers of new, replaced (same path, other image) and removed rows, and whether the index was rebuilt."""

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
    """Add the rows of ``vectors``, and with ``drop_missing`` remove all others. The old index is valid until the end.

    Raises RetrievalError for another encoder's features, or if the index is busy.
    """
    with atomic.exclusive(folder, RetrievalError), files.update(folder) as work:
        index = files.OpenedIndex.load(folder)
        _check(index, vectors)
        rows = {path: row for row, path in enumerate(index.ids.table["path"].to_pylist()) if not index.removed[row]}
        known = index.ids.table.select(["sha256", "label", *describing(index.ids.table)]).to_pydict()
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
    """Remove rows by path. Raises RetrievalError if the index is locked."""
    with atomic.exclusive(folder, RetrievalError), files.update(folder) as work:
        index = files.OpenedIndex.load(folder)
        names = index.ids.table["path"].to_pylist()
        gone = [row for row, name in enumerate(names) if name in paths and not index.removed[row]]
        return _finish(folder, index, _Growth(index, work, {}), gone, requirements, events or Events())


def _check(index: files.OpenedIndex, vectors: Vectors) -> None:
    check_encoder(index.metadata.encoder, vectors.encoder, f"the encoder of {vectors.origin}")
    if vectors.dim != index.metadata.dim:
        raise RetrievalError(f"{vectors.origin} has dimension {vectors.dim}, but the index has {index.metadata.dim}")
    ours, theirs = (made_by and made_by.precision for made_by in (index.metadata.encoder, vectors.encoder))
    if ours != theirs:
        raise RetrievalError(
            f"{vectors.origin} was embedded in {theirs}, but the index in {ours}: embed it with --precision {ours}, or build "
            "another index"
        )


class _Growth:
    """Collects new rows; an index file is created for the first one."""

    def __init__(self, index: files.OpenedIndex, work: Path, known: dict[str, list[str | None]]) -> None:
        self.index, self.work, self._known = index, work, known
        self.builder: IndexBuilder | None = None
        self.seen: set[str] = set()
        self.tables: list[pa.Table] = []
        self.labels: dict[int, dict[str, str | None]] = {}  # current metadata by row
        self.replaced: list[int] = []
        self.count = 0
        self._lots = np.random.default_rng(SEED)

    def see(self, columns: pa.Table, block: npt.NDArray[np.float32], rows: dict[str, int]) -> None:
        """Compare a block with existing rows by path and sha256, and add new ones."""
        names = ["label", *describing(columns)]
        names += [name for name in self._known if name not in ("sha256", *names)]
        facts = columns.select(["path", "sha256", "label", *describing(columns)]).to_pydict()
        new = []
        for number, (path, sha256) in enumerate(zip(facts["path"], facts["sha256"], strict=True)):
            if path in self.seen:
                raise RetrievalError(f"{path} occurs twice: paths in an index must be unique")
            self.seen.add(path)
            row = rows.get(path)
            if row is not None and sha256 is not None and self._known["sha256"][row] == sha256:
                said = {name: facts[name][number] if name in facts else None for name in names}
                if any(self._known[name][row] != text if name in self._known else text for name, text in said.items()):
                    self.labels[row] = said
                continue
            if row is not None:
                self.replaced.append(row)
            new.append(number)
        if new:
            if self.builder is None:
                known = self.index.metadata
                at = [self.index.folder / name for name in known.vector_files]
                self.builder = IndexBuilder.of(at, known.spec, known.dim, known.metric, self.work)
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
    """Write the new state and replace the old one."""
    removed = index.removed.copy()
    dropped = [*gone]
    removed[[*growth.replaced, *dropped]] = True
    columns = joined_rows([_relabeled(index.ids.table, growth.labels), *growth.tables])
    removed = np.concatenate([removed, np.zeros(growth.count, bool)])
    kept = columns.filter(pa.array(~removed))
    empty = [name for name in describing(kept) if kept[name].null_count == len(kept) > 0]  # no longer in any list
    columns = columns.drop_columns(empty)
    replaced = len(growth.replaced)
    changes = IndexChanges(growth.count - replaced, replaced, len(dropped), len(growth.labels))
    if not (growth.count or dropped or growth.labels or empty):
        return changes
    metadata = replace(index.metadata, rows=len(columns), removed=int(removed.sum()))
    anew = metadata.outgrown and metadata.rows > metadata.removed
    if not anew and growth.builder is not None:
        metadata, anew = _measured(metadata, growth, events)
    if growth.builder is not None:
        growth.builder.write()
    if anew:
        metadata = _anew(folder, growth.work, metadata, columns, removed, requirements, events)
        changes = replace(changes, rebuilt=True)
    else:
        write_ids(growth.work / files.IDS, columns, removed)
    files.commit_update(folder, metadata)
    return changes


def _measured(metadata: IndexMetadata, growth: _Growth, events: Events) -> tuple[IndexMetadata, bool]:
    """``metadata`` with recall measured again if due, and whether the index must be rebuilt instead."""
    if growth.builder is None or not is_due(metadata):
        return metadata, False
    if metadata.spec.is_graph:
        held_out = kept_out(growth.count)
        growth.builder.let_in(but=held_out)
        if not held_out:
            events.say("rebuilding, since too few rows were added at a time to measure recall")
            return metadata, True
    events.say("measuring recall again")
    found = measured(growth.builder, metadata)
    if found is None:
        events.say("rebuilding, since recall is below the target")
        return metadata, True
    return replace(metadata, figures=found), False


def _relabeled(columns: pa.Table, labels: dict[int, dict[str, str | None]]) -> pa.Table:
    for name in sorted({name for said in labels.values() for name in said}):
        place = columns.schema.get_field_index(name)
        values = columns[name].to_pylist() if place >= 0 else [None] * len(columns)
        for row, said in labels.items():
            values[row] = said.get(name)
        texts = pa.array(values, pa.string())
        columns = columns.append_column(name, texts) if place < 0 else columns.set_column(place, name, texts)
    return columns


class _Remaining:
    """Rows of an index that are not removed, as vectors to build an index from."""

    def __init__(self, vectors: Any, columns: pa.Table, removed: npt.NDArray[np.bool_], of: IndexMetadata) -> None:
        self._vectors, self._columns, self._rows = vectors, columns, np.flatnonzero(~removed)
        self.count, self.dim, self.encoder, self.origin = len(self._rows), of.dim, of.encoder, of.origin

    def parts(self) -> Iterator[Part]:
        for start in range(0, self.count, BLOCK):
            rows = self._rows[start : start + BLOCK]
            yield Part(self._columns.take(pa.array(rows)), self._vectors(rows))


def _anew(
    folder: Path, work: Path, metadata: IndexMetadata, columns: pa.Table, removed: npt.NDArray[np.bool_],
    requirements: IndexRequirements | None, events: Events,
) -> IndexMetadata:  # fmt: skip
    """Rebuild the index in ``work`` from all rows that are not removed."""
    old = []
    for name in metadata.vector_files:
        old.append(folder / name)
        if (work / name).exists():
            old[-1] = (work / name).replace(work / f"grown-{name}")
    before, metric = metadata.figures, metadata.metric
    rows = Searcher(open_shards(old), metadata.spec, {}, metric).vectors
    remaining = _Remaining(rows, columns, removed, metadata)

    requirements = requirements or requirements_of(before.target, None, before.asked, before.workload)
    try:
        built = build(remaining, work, metric, requirements, events)
    except RetrievalError as error:
        raise RetrievalError(f"{folder} needs to be rebuilt, which failed; it is unchanged: {error}") from error
    if built.spec.kind != metadata.spec.kind:
        events.say(f"the kind changed from {metadata.spec.kind} to {built.spec.kind}: {built.figures.why}")
    for path in old:
        if path.parent == work:
            path.unlink()
    return describe(built, remaining, metric)
