"""Postgres with pgvector: a table with metadata in its comment. Search is exact unless it has an index."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pyarrow as pa
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.conninfo import make_conninfo

from sslfeat.errors import StoreError
from sslfeat.features import formats
from sslfeat.features.reader import Part
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.filters import Condition
from sslfeat.stores.address import Address
from sslfeat.stores.base import COLUMNS, EMBEDDING, METADATA, SHOWN, TEXTS, StoredHit, StoreInfo, sql_text

ERRORS = (psycopg.Error,)
TYPES = {pa.string(): "text", pa.int32(): "integer", TEXTS: "jsonb"}
NEAREST = {"cosine": ("<=>", 1), "ip": ("<#>", 0), "l2": ("<->", 0)}  # the operator gives what, less the score, is this
LONGEST_NAME = 63  # bytes: Postgres cuts longer ones off, and two tables become one
INLINE = 1500  # numbers of a vector that leave room on a page of 8 KB for its row; elsewhere, each takes a read of its own
# what approximate indexes need to give as many rows as are asked for, where the server has such settings
SETTINGS = """SELECT set_config(name, value, false) FROM (VALUES ('hnsw.iterative_scan', 'strict_order'),
    ('hnsw.ef_search', %s), ('ivfflat.iterative_scan', 'relaxed_order')) AS wanted (name, value)
    WHERE EXISTS (SELECT FROM pg_settings WHERE pg_settings.name = wanted.name)"""
MOST_CANDIDATES = 1000  # the greatest hnsw.ef_search


def connect(address: Address) -> PgTable:
    """Connect. Raises psycopg.Error if the server cannot be reached; StoreError for a name that it would truncate."""
    if len(address.collection.encode()) > LONGEST_NAME:
        raise StoreError(f"{address}: Postgres allows names of up to {LONGEST_NAME} bytes: choose a shorter one")
    given = {
        "host": address.host, "port": address.port, "dbname": address.database, "user": address.user,
        "password": address.password, **address.options,
    }  # fmt: skip
    words = make_conninfo("", **{name: str(value) for name, value in given.items() if value})
    connection = psycopg.connect(words, autocommit=True)
    return PgTable(connection, address.collection)


class PgTable:
    """See ``base.Store``."""

    most_rows = 8192
    deepest = 1 << 31

    def __init__(self, connection: psycopg.Connection[Any], name: str) -> None:
        self._connection, self._name = connection, name
        self._table = sql.Identifier(name)
        self._metric = "cosine"

    def description(self) -> str | None:
        """The table's comment."""
        found = self._run(
            "SELECT to_regclass({}), obj_description(to_regclass({}), 'pg_class')", *[self._quoted()] * 2
        ).fetchone()
        return None if found is None or found[0] is None else found[1] or ""

    def create(self, info: StoreInfo) -> None:
        """Create the table and its comment in one transaction."""
        with self._connection.transaction():
            self._run("CREATE EXTENSION IF NOT EXISTS vector")
            columns = [sql.SQL(f"{name} {TYPES[kind]}") for name, kind in COLUMNS.items() if name != "id"]
            vector = sql.SQL(f"{EMBEDDING} vector({info.dim}) NOT NULL")
            self._run("CREATE TABLE {} (id uuid PRIMARY KEY, {})", self._table, sql.SQL(", ").join([*columns, vector]))
            if info.dim <= INLINE:
                self._run(f"ALTER TABLE {{}} ALTER {EMBEDDING} SET STORAGE PLAIN", self._table)
            self._run("COMMENT ON TABLE {} IS {}", self._table, sql.Literal(info.to_json()))

    def open(self, info: StoreInfo) -> None:
        """Register the vector type."""
        register_vector(self._connection)
        self._metric = info.metric

    def versions(self, ids: Sequence[str]) -> dict[str, str]:
        """By primary key."""
        found = self._run("SELECT id::text, version FROM {} WHERE id = ANY(%s::uuid[])", self._table, values=[list(ids)])
        return dict(found.fetchall())

    def upsert(self, rows: Part) -> None:
        """COPY to a temporary table, then insert into the table, in one transaction."""
        names = [*COLUMNS, EMBEDDING]
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        taken = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names[1:])
        with self._connection.transaction():
            self._run("CREATE TEMPORARY TABLE arriving (LIKE {}) ON COMMIT DROP", self._table)
            copy = sql.SQL("COPY arriving ({}) FROM STDIN (FORMAT BINARY)").format(columns)
            with self._connection.cursor() as cursor, cursor.copy(copy) as stream:
                stream.set_types(["uuid", *(TYPES[kind] for kind in list(COLUMNS.values())[1:]), "vector"])
                values = [rows.columns[name].to_pylist(maps_as_pydicts="strict") for name in COLUMNS]
                for name, *row in zip(*values, rows.embeddings, strict=True):
                    stream.write_row([uuid.UUID(name), *row])
            statement = "INSERT INTO {0} ({1}) SELECT {1} FROM arriving ON CONFLICT (id) DO UPDATE SET {2}"
            self._run(statement, self._table, columns, taken)

    def delete(self, ids: Sequence[str]) -> None:
        """By primary key."""
        self._run("DELETE FROM {} WHERE id = ANY(%s::uuid[])", self._table, values=[list(ids)])

    def ids(self) -> Iterator[list[str]]:
        """Use a server-side cursor, so that ids need not fit in memory."""
        with self._connection.transaction(), self._connection.cursor("ids") as cursor:
            cursor.execute(sql.SQL("SELECT id::text FROM {}").format(self._table))
            while found := cursor.fetchmany(self.most_rows):
                yield [row[0] for row in found]

    def vectors(self, ids: Sequence[str]) -> dict[str, Sequence[float]]:
        """By primary key."""
        found = self._run(f"SELECT id::text, {EMBEDDING} FROM {{}} WHERE id = ANY(%s::uuid[])", self._table, values=[list(ids)])
        return {name: vector.to_list() for name, vector in found.fetchall()}

    def count(self) -> int:
        """Exactly."""
        found = self._run("SELECT count(*) FROM {}", self._table).fetchone()
        return int(found[0]) if found else 0

    def finish(self) -> None:
        """Update planner statistics."""
        self._run("ANALYZE {}", self._table)

    def native(self, condition: Condition) -> tuple[sql.Composable, str] | None:
        """SQL with a parameter."""
        text = sql_text(condition)
        if text is None:
            return None
        field: sql.Composable = sql.Identifier(condition.field)
        if condition.field not in formats.COLUMNS:
            field = sql.SQL(f"({METADATA} ->> {{}})").format(sql.Literal(condition.field))
        said = sql.SQL("{} LIKE %s" if condition.glob else "{} = %s").format(field)
        return (sql.SQL("({}) IS NOT TRUE").format(said) if condition.negated else said), text

    def search(self, vectors: FloatArray, top: int, where: Sequence[Any]) -> list[list[StoredHit]]:
        """One query after another."""
        operator, perfect = NEAREST[self._metric]
        columns = sql.SQL(", ").join(map(sql.Identifier, SHOWN))
        conditions = sql.SQL(" AND ").join([sql.SQL("true"), *(said for said, _ in where)])
        self._run(SETTINGS, values=[str(max(40, min(top, MOST_CANDIDATES)))])
        statement = f"SELECT {{}}, {EMBEDDING} {operator} %s AS away FROM {{}} WHERE {{}} ORDER BY away LIMIT %s"
        answers = []
        for vector in vectors:
            values = [vector, *(text for _, text in where), top]
            found = self._run(statement, columns, self._table, conditions, values=values).fetchall()
            answers.append([StoredHit.of(dict(zip(SHOWN, shown, strict=True)), perfect - away) for *shown, away in found])
        return answers

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _quoted(self) -> sql.Composable:
        """Quoted table name."""
        return sql.Literal(self._table.as_string(self._connection))

    def _run(self, statement: str, *parts: sql.Composable, values: Sequence[Any] | None = None) -> psycopg.Cursor[Any]:
        return self._connection.execute(sql.SQL(statement).format(*parts), values)
