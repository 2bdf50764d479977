"""Milvus, or Milvus Lite in a file: a collection with metadata in its properties and a flat index. Search is exact."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from sslfeat.features import formats
from sslfeat.features.reader import Part
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.filters import Condition
from sslfeat.stores.address import Address
from sslfeat.stores.base import COLUMNS, EMBEDDING, METADATA, SHOWN, TEXTS, StoredHit, StoreInfo, sql_text

logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # the client prints a traceback of every error before raising it

ERRORS = (MilvusException, grpc.RpcError, RuntimeError, ValueError, OSError)
METRICS = {"cosine": "COSINE", "ip": "IP", "l2": "L2"}
TYPES = {pa.string(): DataType.VARCHAR, pa.int32(): DataType.INT32, TEXTS: DataType.JSON}
NULLABLE = ("label",)
LONGEST = 65_535  # bytes of a text
PORT = 19530
KEY = "sslfeat"
SECONDS = 60.0  # that one request may take
QUERIES = 64  # at once
LOAD_AGAIN = (0.1, 0.3, 1.0)  # seconds to wait after a load that failed
STRONG = "Strong"  # writes are visible immediately


def connect(address: Address) -> MilvusCollection:
    """Client of a server, or of a file, which is created if missing. Raises MilvusException."""
    if address.folder:
        Path(address.folder).parent.mkdir(parents=True, exist_ok=True)
        client = MilvusClient(address.folder)
    else:
        token = f"{address.user}:{address.password}" if address.user else address.password
        place = f"{'https' if address.tls else 'http'}://{address.host}:{address.port or PORT}"
        client = MilvusClient(place, token=token, db_name=address.database, timeout=SECONDS)
    return MilvusCollection(client, address.collection)


class MilvusCollection:
    """See ``base.Store``."""

    most_rows = 4096
    deepest = 16_384  # limit of servers; Milvus Lite has none

    def __init__(self, client: MilvusClient, name: str) -> None:
        self._client, self._name = client, name
        self._metric = "cosine"

    def description(self) -> str | None:
        """From the collection's properties."""
        if not self._client.has_collection(self._name):
            return None
        return str(self._client.describe_collection(self._name)["properties"].get(KEY, ""))

    def create(self, info: StoreInfo) -> None:
        """Create the collection; ``open`` creates its index."""
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        for name, kind in COLUMNS.items():
            size = {"max_length": LONGEST} if kind == pa.string() else {}
            schema.add_field(name, TYPES[kind], is_primary=name == "id", nullable=name in NULLABLE, **size)
        schema.add_field(EMBEDDING, DataType.FLOAT_VECTOR, dim=info.dim)
        properties = {KEY: info.to_json()}
        self._client.create_collection(self._name, schema=schema, properties=properties, consistency_level=STRONG)

    def open(self, info: StoreInfo) -> None:
        """Load the collection, creating a missing index, for example after an interrupted ``create``."""
        self._metric = info.metric
        if not self._client.list_indexes(self._name):
            wanted = self._client.prepare_index_params()
            wanted.add_index(EMBEDDING, index_type="FLAT", metric_type=METRICS[info.metric])
            self._client.create_index(self._name, wanted)
        self._load()

    def _load(self) -> None:
        """Load, with retries: Milvus Lite may read an index file while another thread writes it."""
        for seconds in LOAD_AGAIN:
            with contextlib.suppress(MilvusException):
                self._client.load_collection(self._name)
                return
            time.sleep(seconds)
        self._client.load_collection(self._name)

    def versions(self, ids: Sequence[str]) -> dict[str, str]:
        """By primary key."""
        found = self._client.get(self._name, ids=list(ids), output_fields=["id", "version"])
        return {row["id"]: row["version"] for row in found}

    def upsert(self, rows: Part) -> None:
        """One request."""
        columns = [rows.columns[name].to_pylist(maps_as_pydicts="strict") for name in COLUMNS]
        names = [*COLUMNS, EMBEDDING]
        self._client.upsert(
            self._name, [dict(zip(names, row, strict=True)) for row in zip(*columns, rows.embeddings, strict=True)]
        )

    def delete(self, ids: Sequence[str]) -> None:
        """By primary key."""
        self._client.delete(self._name, ids=list(ids))

    def ids(self) -> Iterator[list[str]]:
        """Page by page."""
        pages = self._client.query_iterator(self._name, batch_size=self.most_rows, output_fields=["id"], consistency_level=STRONG)
        try:
            while found := pages.next():
                yield [row["id"] for row in found]
        finally:
            pages.close()

    def vectors(self, ids: Sequence[str]) -> dict[str, Sequence[float]]:
        """By primary key."""
        found = self._client.get(self._name, ids=list(ids), output_fields=["id", EMBEDDING])
        return {row["id"]: row[EMBEDDING] for row in found}

    def count(self) -> int:
        """Exactly."""
        return int(self._client.query(self._name, filter="", output_fields=["count(*)"])[0]["count(*)"])

    def finish(self) -> None:
        """Flush rows to storage."""
        self._client.flush(self._name)

    def native(self, condition: Condition) -> str | None:
        """Expression with the same meaning in all versions of Milvus, else None.

        Versions differ in backslashes, control characters, and fields missing in an object.
        """
        text = sql_text(condition)
        if text is None or not condition.text.isprintable() or (condition.glob and "\\" in condition.text):
            return None
        literal = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        if condition.field not in formats.COLUMNS:
            plain = condition.field.isascii() and not condition.negated and not condition.glob
            return f'({METADATA}["{condition.field}"] == {literal})' if plain else None
        said = f"{condition.field} {'like' if condition.glob else '=='} {literal}"
        return f"({condition.field} is null or not ({said}))" if condition.negated else f"({said})"

    def search(self, vectors: FloatArray, top: int, where: Sequence[Any]) -> list[list[StoredHit]]:
        """Search in batches of queries."""
        answers: list[list[StoredHit]] = []
        for start in range(0, len(vectors), QUERIES):
            found = self._client.search(
                self._name, list(vectors[start : start + QUERIES]), filter=" and ".join(where), limit=top,
                output_fields=list(SHOWN), search_params={"metric_type": METRICS[self._metric]}, consistency_level=STRONG,
            )  # fmt: skip
            answers += [[self._hit(hit["entity"], hit["distance"]) for hit in hits] for hits in found]
        return answers

    def _hit(self, row: dict[str, Any], distance: float) -> StoredHit:
        score = -float(np.sqrt(max(distance, 0))) if self._metric == "l2" else float(distance)
        return StoredHit.of(row, score)

    def close(self) -> None:
        """End the connection."""
        self._client.close()
