"""LanceDB: a table in a folder or object store, with metadata in its schema. Search is exact unless it has an index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.table import Table

from sslfeat.features import formats
from sslfeat.features.reader import Part
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.filters import Condition
from sslfeat.storage.arrow import vectors as vectors_column
from sslfeat.stores.address import Address
from sslfeat.stores.base import COLUMNS, EMBEDDING, METADATA, SHOWN, StoredHit, StoreInfo, sql_text

ERRORS = (RuntimeError, ValueError, OSError)  # the client has no exceptions of its own
KEY = b"sslfeat"
DISTANCE = "_distance"
METRICS = {"cosine": "cosine", "ip": "dot", "l2": "l2"}


def connect(address: Address) -> LanceTable:
    """Address only; nothing is opened or created yet."""
    return LanceTable(lancedb.connect(address.folder), address.collection)


class LanceTable:
    """See ``base.Store``."""

    most_rows = 8192
    deepest = 1 << 31

    def __init__(self, database: lancedb.DBConnection, name: str) -> None:
        self._database, self._name = database, name
        self._opened: Table | None = None
        self._metric = "cosine"
        self._shown = SHOWN

    @property
    def _table(self) -> Table:
        if self._opened is None:
            self._opened = self._database.open_table(self._name)
        return self._opened

    def description(self) -> str | None:
        """From the schema's metadata."""
        if self._name not in _names(self._database):
            return None
        found: bytes = (self._table.schema.metadata or {}).get(KEY, b"")
        return found.decode()

    def create(self, info: StoreInfo) -> None:
        """Create an empty table. Metadata are a struct column, which is omitted without fields."""
        struct = pa.struct([(name, pa.string()) for name in info.fields])
        kinds = {**COLUMNS, METADATA: struct, EMBEDDING: pa.list_(pa.float32(), info.dim)}
        fields = [(name, kind) for name, kind in kinds.items() if name != METADATA or info.fields]
        self._opened = self._database.create_table(self._name, schema=pa.schema(fields, metadata={KEY: info.to_json()}))

    def open(self, info: StoreInfo) -> None:
        """Only metric and metadata are needed."""
        self._metric = info.metric
        self._shown = SHOWN if info.fields else SHOWN[:-1]

    def versions(self, ids: Sequence[str]) -> dict[str, str]:
        """By a scan of two columns."""
        found = self._rows(ids, ["id", "version"])
        return dict(zip(found["id"].to_pylist(), found["version"].to_pylist(), strict=True))

    def upsert(self, rows: Part) -> None:
        """One merge, which becomes one version of the table."""
        schema, columns = self._table.schema, dict(zip(rows.columns.column_names, rows.columns.columns, strict=True))
        columns[EMBEDDING] = vectors_column(rows.embeddings)
        if METADATA in schema.names:
            objects = columns[METADATA].to_pylist(maps_as_pydicts="strict")
            columns[METADATA] = pa.array(objects, schema.field(METADATA).type)
        table = pa.table([columns[name] for name in schema.names], names=schema.names).cast(schema)
        self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(table)

    def delete(self, ids: Sequence[str]) -> None:
        """One version of the table."""
        self._table.delete(_among(ids))

    def ids(self) -> Iterator[list[str]]:
        """A scan of one column."""
        for batch in self._table.search().select(["id"]).to_batches(self.most_rows):
            yield batch["id"].to_pylist()

    def vectors(self, ids: Sequence[str]) -> dict[str, Sequence[float]]:
        """By a scan."""
        found = self._rows(ids, ["id", EMBEDDING])
        return dict(zip(found["id"].to_pylist(), found[EMBEDDING].to_pylist(), strict=True))

    def count(self) -> int:
        """Exactly."""
        return int(self._table.count_rows())

    def finish(self) -> None:
        """Compact small files, and update indexes."""
        self._table.optimize()

    def native(self, condition: Condition) -> str | None:
        """SQL with a literal, since the client has no parameters; only quotes are escaped."""
        text = sql_text(condition)
        if text is None:
            return None
        field = condition.field if condition.field in formats.COLUMNS else f"{METADATA}.`{condition.field}`"
        said = f"{field} {'LIKE' if condition.glob else '='} {_literal(text)}"
        return f"(NOT ({said}) OR {field} IS NULL)" if condition.negated else f"({said})"

    def search(self, vectors: FloatArray, top: int, where: Sequence[Any]) -> list[list[StoredHit]]:
        """One query after another."""
        return [self._nearest(vector, top, " AND ".join(where)) for vector in vectors]

    def _nearest(self, vector: FloatArray, top: int, where: str) -> list[StoredHit]:
        query: Any = self._table.search(vector, vector_column_name=EMBEDDING)
        query = query.distance_type(METRICS[self._metric])
        if where:
            query = query.where(where, prefilter=True)
        found = query.select([*self._shown, DISTANCE]).limit(top).to_arrow()
        away = found[DISTANCE].to_numpy()
        scores = -np.sqrt(np.maximum(away, 0)) if self._metric == "l2" else 1 - away
        return [StoredHit.of(row, score) for row, score in zip(found.to_pylist(), scores.tolist(), strict=True)]

    def close(self) -> None:
        """Nothing to close."""

    def _rows(self, ids: Sequence[str], names: list[str]) -> pa.Table:
        return self._table.search().where(_among(ids)).select(names).limit(len(ids)).to_arrow()


def _names(database: lancedb.DBConnection) -> set[str]:
    names: set[str] = set()
    token: str | None = None
    while True:
        page = database.list_tables(page_token=token)
        names.update(page.tables)
        token = page.page_token
        if not token:
            return names


def _among(ids: Sequence[str]) -> str:
    return f"id IN ({', '.join(map(_literal, ids))})"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
