"""What pushing does whatever the store: it goes on where it was cut off, writes only what changed, and keeps passwords."""

from __future__ import annotations

import os
import signal
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sslfeat import Encoder, Index
from sslfeat.errors import InputError, InterruptedRun, StoreError, UsageError
from sslfeat.features.reader import Part
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.filters import Condition
from sslfeat.stores import base, registry
from sslfeat.stores.base import StoredHit, StoreInfo
from sslfeat.stores.push import Pushed, push
from sslfeat.stores.registry import KINDS, StoreKind, is_store, open_store
from sslfeat.stores.search import nearest
from tests.conftest import sslfeat, write_tiny
from tests.drawn_rows import described, drawn, rows_of
from tests.test_json import checked


class Refused(Exception):
    """What this store's client raises."""


class MemoryStore:
    """Rows in a dictionary. ``fails`` writes from now, half of that batch is there and the store is gone."""

    most_rows, deepest = 64, 300

    def __init__(self) -> None:
        self.text: str | None = None
        self.rows: dict[str, dict[str, Any]] = {}
        self.fails = -1
        self.written = self.finished = self.closed = 0

    def description(self) -> str | None:
        return self.text

    def create(self, info: StoreInfo) -> None:
        self.text = info.to_json()

    def open(self, info: StoreInfo) -> None:
        pass

    def versions(self, ids: Sequence[str]) -> dict[str, str]:
        return {name: self.rows[name]["version"] for name in ids if name in self.rows}

    def upsert(self, rows: Part) -> None:
        assert 0 < rows.columns.num_rows <= self.most_rows
        self.fails -= 1
        table = rows.columns.to_pylist(maps_as_pydicts="strict")
        every = [{**row, "embedding": vector} for row, vector in zip(table, rows.embeddings, strict=True)]
        for row in every[: len(every) // 2] if self.fails == -1 else every:
            self.rows[row["id"]] = row
            self.written += 1
        if self.fails == -1:
            raise Refused("the connection of u:p%40ss to p@ss is gone")

    def delete(self, ids: Sequence[str]) -> None:
        for name in ids:
            del self.rows[name]

    def ids(self) -> Iterator[list[str]]:
        yield from ([name] for name in self.rows)

    def vectors(self, ids: Sequence[str]) -> dict[str, Sequence[float]]:
        return {name: self.rows[name]["embedding"] for name in ids}

    def count(self) -> int:
        return len(self.rows)

    def finish(self) -> None:
        self.finished += 1

    def native(self, condition: Condition) -> Any:
        return None

    def search(self, vectors: FloatArray, top: int, where: Sequence[Any]) -> list[list[StoredHit]]:
        assert top <= self.deepest and not where
        found = [[(float(row["embedding"] @ vector), row["path"], row) for row in self.rows.values()] for vector in vectors]
        return [[StoredHit.of(row, score) for score, _, row in sorted(hits, reverse=True)[:top]] for hits in found]

    def close(self) -> None:
        self.closed += 1


URL = "memory://u:p%40ss@host/rows"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """What ``URL`` leads to."""
    made = MemoryStore()
    module: Any = types.ModuleType("sslfeat.stores.memory")
    module.ERRORS, module.connect = (Refused,), lambda address: made
    monkeypatch.setitem(sys.modules, "sslfeat.stores.memory", module)
    monkeypatch.setitem(KINDS, "memory", StoreKind("memory://HOST/NAME"))
    return made


def state(store: MemoryStore) -> dict[str, Any]:
    return {name: {**row, "embedding": row["embedding"].tolist()} for name, row in store.rows.items()}


@pytest.mark.parametrize("fails", [0, 1, 2, 4])
def test_a_push_that_was_cut_off_goes_on(store: MemoryStore, fails: int) -> None:
    push(drawn(), URL)
    undisturbed, text = state(store), store.text
    store.__init__()  # type: ignore[misc]
    store.fails = fails
    with pytest.raises(StoreError, match=r"memory://u@host/rows: the connection of u:\*\*\* to \*\*\* is gone"):
        push(drawn(), URL)
    there = len(store.rows)
    assert there == 64 * fails + (22 if fails == 4 else 32)
    assert (store.closed, store.finished) == (1, 0)
    pushed = push(drawn(), URL)
    assert (pushed.added, pushed.unchanged, pushed.rows) == (300 - there, there, 300)
    assert state(store) == undisturbed
    assert (store.text, store.written) == (text, 300)


def test_a_second_push_writes_nothing_and_a_change_alone_is_written(store: MemoryStore) -> None:
    push(drawn(), URL)
    push(drawn(), URL, sync=True)
    assert (store.written, store.finished) == (300, 1)
    rows = drawn()
    embeddings = rows.embeddings.copy()
    embeddings[7, 0] = np.nextafter(embeddings[7, 0], np.float32(np.inf))
    paths, labels = rows.columns["path"].to_pylist(), rows.columns["label"].to_pylist()
    labels[9] = None if labels[9] else "new"
    pushed = push(rows_of(embeddings[1:], paths[1:], labels[1:]), URL, metric="cosine", sync=True)
    assert pushed == Pushed(added=0, replaced=2, removed=1, unchanged=297, rows=299)
    assert store.written == 302
    store.rows.pop(next(iter(store.rows)))  # whoever else may have done that
    assert push(rows_of(embeddings[1:], paths[1:], labels[1:]), URL).added == 1


def test_an_interrupt_is_obeyed_between_batches(store: MemoryStore) -> None:
    def report(pushed: Pushed, total: int) -> None:
        if pushed.done == 128:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRun, match="has 128 rows: run it again"):
        push(drawn(), URL, report=report)
    assert push(drawn(), URL).added == 172


def test_progress_counts_every_row(store: MemoryStore) -> None:
    seen: list[tuple[int, int]] = []
    push(drawn(), URL, report=lambda pushed, total: seen.append((pushed.done, total)))
    assert seen == [(64, 300), (128, 300), (192, 300), (256, 300), (300, 300)]


def test_long_metadata_make_batches_small(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = described(drawn())
    columns = rows.columns.append_column("text", pa.array(["x" * 3000 if n % 2 else None for n in range(300)], pa.string()))
    monkeypatch.setattr(base, "BATCH_BYTES", 64 << 10)
    seen: list[int] = []
    push(replace(rows, columns=columns), URL, report=lambda pushed, total: seen.append(pushed.done))
    assert max(np.diff(seen)) * 1500 < 64 << 10
    assert all(
        None not in row["metadata"].values() and [*row["metadata"]] == sorted(row["metadata"]) for row in store.rows.values()
    )
    assert sum("text" in row["metadata"] for row in store.rows.values()) == 150


def test_what_a_store_cannot_hold_or_is_not(store: MemoryStore) -> None:
    rows = drawn(4)
    with pytest.raises(InputError, match="two images have the path a"):
        push(rows_of(rows.embeddings, ["a", "b", "c", "a"], [None] * 4), URL)
    with pytest.raises(InputError, match="unknown metric 'l3'"):
        push(rows, URL, "l3")
    for text, cure in (
        ("{}", "was not created by"),
        ("[1]", "was not created by"),
        ("{", "is damaged"),
        ('{"sslfeat": {"format": 9}}', "format 9"),
        ('{"sslfeat": {"format": 1, "dim": 8, "metric": "taxicab", "encoder": null, "fields": []}}', "metric is 'taxicab'"),
        ('{"sslfeat": {"format": 1, "dim": 8, "metric": "l2", "encoder": null}}', "'fields' is missing"),
        ('{"sslfeat": {"format": 1, "dim": 8, "metric": "l2", "encoder": null, "fields": "id"}}', "fields is 'id', not"),
    ):
        store.text = text
        with pytest.raises(StoreError, match=cure):
            push(rows, URL)
    assert not store.rows


def test_conditions_are_checked_as_deep_as_the_store_goes(store: MemoryStore) -> None:
    push(drawn(400), URL)
    with open_store(URL) as opened:
        query = drawn(2, seed=4).embeddings
        first, second = nearest(opened, query, 3, ["label=cat"])
        assert [hit.label for hit in first + second] == ["cat"] * 6
        with pytest.raises(StoreError, match="fewer than 3 of the nearest 300 rows"):
            nearest(opened, query, 3, ["label=nothing"])
        with pytest.raises(UsageError, match=", 300"):
            nearest(opened, query, 301, [])


SECRET = "s3cr/e:t@100%"
ESCAPED = "s3cr%2Fe%3At%40100%25"


def test_a_password_is_read_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    address = KINDS["pgvector"].parse(f"pgvector://me%40x:{ESCAPED}@db.example:5433/photos/rows?sslmode=require")
    assert (address.password, address.user, address.host, address.port) == (SECRET, "me@x", "db.example", 5433)
    assert (address.database, address.collection, address.options) == ("photos", "rows", {"sslmode": "require"})
    assert str(address) == "pgvector://me@x@db.example:5433/photos/rows"
    assert "s3cr" not in f"{address} {address!r}"
    monkeypatch.setenv("SSLFEAT_STORE_PASSWORD", "from outside")
    assert KINDS["qdrant"].parse("qdrant://host/rows").password == "from outside"
    assert KINDS["qdrant"].parse("qdrant://:inside@host/rows").password == "inside"


@pytest.mark.parametrize(
    "url",
    [
        f"pgvector://me:{SECRET}@host:1/db/rows",
        "pgvector://me:12/s3cret@host:1/db/rows",
        "milvus://me:s3cr?et@host:1/rows",
        "milvus://me:s3cr#et@host:x/rows",
        "milvus://me:s3cret@host:99999/rows",
        "pgvector://me:12/34?s3cret@host/db/rows",
        "qdrant://:s3cret@host:1",
        "qdrant://:s3cret@host:1/rows?timeout=3",
        "qdrnt://:s3cret@host:1/rows",
        "postgres://me:s3cret@host/db/rows",
        "me:s3cret@host:1/rows",
    ],
)
def test_a_url_that_cannot_be_read_is_not_repeated_with_its_password(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(url)
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["pgvector", "milvus", "qdrant"])
def test_a_store_that_is_not_there_is_named_without_its_password(scheme: str) -> None:
    pytest.importorskip({"pgvector": "psycopg", "milvus": "pymilvus", "qdrant": "qdrant_client"}[scheme])
    with pytest.raises(StoreError) as caught:
        push(drawn(3), f"{scheme}://me:{ESCAPED}@127.0.0.1:1/db/rows?{'sslmode=disable' if scheme == 'pgvector' else 'tls=0'}")
    assert str(caught.value).startswith(f"{scheme}://me@127.0.0.1:1/db/rows: ")
    assert "s3cr" not in f"{caught.value} {caught.value.__cause__} {caught.value.args}"


def test_names_of_stores_are_spelled_out() -> None:
    assert is_store("milvus://host/rows")
    assert not is_store("an index")
    assert not is_store("s3://bucket/index")
    for wrong, meant in (("milvis", "milvus"), ("postgresql", "pgvector"), ("lance", "lancedb"), ("quadrant", "qdrant")):
        with pytest.raises(UsageError, match=f"did you mean {meant}://"):
            is_store(f"{wrong}://host/rows")
    with pytest.raises(UsageError, match="must begin with milvus://"):
        registry.open_store("s3://bucket/rows")


def test_push_and_search_from_the_command_line(embedded: Path, image_folder: Path, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    url = f"milvus://{tmp_path}/lite.db/drawn"
    done = sslfeat("push", embedded, "--to", url, "--json")
    assert done.returncode == 0, done.stderr
    pushed = checked(done.stdout, "push")
    assert {name: pushed[name] for name in ("added", "unchanged", "images")} == {"added": 40, "unchanged": 0, "images": 40}
    query, page = sorted(image_folder.rglob("*.jpg"))[3], tmp_path / "found.html"
    asked: list[str | Path] = [query, "--id", query, "--where", "label!=squares", "--top", "5", "--json", "--out", page]
    found = sslfeat("search", url, *asked, "--encoder", tiny)
    assert found.returncode == 0, found.stderr
    vector = next(Encoder.load(tiny).embed(query))
    expected = Index.build(embedded).search(vector, 6, where=["label!=squares"]).of(0)
    as_image, as_id = (
        [(hit["path"], hit["label"]) for hit in answer["hits"]] for answer in checked(found.stdout, "search")["queries"]
    )
    assert as_image == [(hit.path, hit.label) for hit in expected[:5]]
    assert as_id == [(hit.path, hit.label) for hit in expected[1:]]
    assert expected[0].path == str(query)
    assert "40 images, cosine, milvus://" in page.read_text()
    refused = sslfeat("search", url, query, "--encoder", write_tiny(tmp_path / "other.onnx", seed=3))
    assert refused.returncode == 1 and "is a different encoder" in refused.stderr
