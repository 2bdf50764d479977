"""Qdrant: a collection with metadata. Search is exact.

Tested with the in-memory collections of the client only (``qdrant://:memory:/NAME``), not with a server.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, cast

from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from sslfeat.features import formats
from sslfeat.features.reader import Part
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.filters import Condition
from sslfeat.stores.address import MEMORY, Address
from sslfeat.stores.base import COLUMNS, METADATA, SHOWN, StoredHit, StoreInfo, sql_text

ERRORS = (ApiException, ValueError, RuntimeError, OSError)
DISTANCES = {"cosine": models.Distance.COSINE, "ip": models.Distance.DOT, "l2": models.Distance.EUCLID}
PORT = 6333
KEY = "sslfeat"
SECONDS = 60  # that one request may take
QUERIES = 32  # at once
_in_memory: dict[str, QdrantClient] = {}  # they live as long as the process


def connect(address: Address) -> QdrantCollection:
    """Client of a server (connects on first use), or of collections in memory."""
    if address.host == MEMORY:
        client = _in_memory.setdefault(address.database, QdrantClient(MEMORY))
    else:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # warning about a key sent unencrypted with ?tls=0
            client = QdrantClient(
                host=address.host, port=address.port or PORT, https=address.tls, api_key=address.password or None,
                timeout=SECONDS, check_compatibility=False,
            )  # fmt: skip
    return QdrantCollection(client, address.collection, address.host != MEMORY)


class QdrantCollection:
    """See ``base.Store``. ``served``: on a server, with payload indexes and connections."""

    most_rows = 1024
    deepest = 1 << 31

    def __init__(self, client: QdrantClient, name: str, served: bool) -> None:
        self._client, self._name, self._served = client, name, served
        self._metric = "cosine"

    def description(self) -> str | None:
        """From the collection's metadata."""
        if not self._client.collection_exists(self._name):
            return None
        return str((self._client.get_collection(self._name).config.metadata or {}).get(KEY, ""))

    def create(self, info: StoreInfo) -> None:
        """The collection with its metadata, in one step."""
        vectors = models.VectorParams(size=info.dim, distance=DISTANCES[info.metric])
        self._client.create_collection(self._name, vectors_config=vectors, metadata={KEY: info.to_json()})

    def open(self, info: StoreInfo) -> None:
        """Create missing payload indexes for conditions."""
        self._metric = info.metric
        for name in ("path", "label", "sha256", *info.fields) if self._served else ():
            self._client.create_payload_index(self._name, _key(name), models.PayloadSchemaType.KEYWORD, wait=True)

    def versions(self, ids: Sequence[str]) -> dict[str, str]:
        """By id."""
        found = self._client.retrieve(self._name, list(ids), with_payload=["version"])
        return {str(point.id): (point.payload or {}).get("version", "") for point in found}

    def upsert(self, rows: Part) -> None:
        """One request; an interrupted one may be written in part."""
        names = [name for name in COLUMNS if name != "id"]
        values = zip(*(rows.columns[name].to_pylist(maps_as_pydicts="strict") for name in names), strict=True)
        payloads: list[Any] = [dict(zip(names, row, strict=True)) for row in values]
        batch = models.Batch(ids=rows.columns["id"].to_pylist(), vectors=rows.embeddings.tolist(), payloads=payloads)
        self._client.upsert(self._name, batch, wait=True)

    def delete(self, ids: Sequence[str]) -> None:
        """By id."""
        self._client.delete(self._name, models.PointIdsList(points=list(ids)), wait=True)

    def ids(self) -> Iterator[list[str]]:
        """Page by page."""
        offset: Any = None
        while True:
            found, offset = self._client.scroll(
                self._name, limit=self.most_rows, offset=offset, with_payload=False, with_vectors=False
            )
            yield [str(point.id) for point in found]
            if offset is None:
                return

    def vectors(self, ids: Sequence[str]) -> dict[str, Sequence[float]]:
        """By id."""
        found = self._client.retrieve(self._name, list(ids), with_payload=False, with_vectors=True)
        return {str(point.id): cast("Sequence[float]", point.vector) for point in found}

    def count(self) -> int:
        """Exactly."""
        return self._client.count(self._name, exact=True).count

    def finish(self) -> None:
        """Nothing to do: the server maintains its segments."""

    def native(self, condition: Condition) -> models.Filter | None:
        """Equality; Qdrant has no globs."""
        text = sql_text(condition)
        if text is None or condition.glob:
            return None
        said = models.FieldCondition(key=_key(condition.field), match=models.MatchValue(value=text))
        return models.Filter(must_not=[said]) if condition.negated else models.Filter(must=[said])

    def search(self, vectors: FloatArray, top: int, where: Sequence[Any]) -> list[list[StoredHit]]:
        """Search in batches of queries."""
        conditions = models.Filter(must=list(where)) if where else None
        exact = models.SearchParams(exact=True) if self._served else None  # always exact in memory
        asked = [
            models.QueryRequest(query=vector, limit=top, filter=conditions, params=exact, with_payload=list(SHOWN))
            for vector in vectors.tolist()
        ]
        groups = (asked[start : start + QUERIES] for start in range(0, len(asked), QUERIES))
        answers = [answer for group in groups for answer in self._client.query_batch_points(self._name, group)]
        return [[self._hit(point.payload or {}, point.score) for point in answer.points] for answer in answers]

    def _hit(self, payload: dict[str, Any], score: float) -> StoredHit:
        return StoredHit.of(payload, -score if self._metric == "l2" else score)

    def close(self) -> None:
        """Close connections; collections in memory are kept."""
        if self._served:
            self._client.close()


def _key(field: str) -> str:
    """Quoted payload key."""
    return field if field in formats.COLUMNS else f'{METADATA}."{field}"'
