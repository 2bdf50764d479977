"""One library of benchmarks/index.py, in a separate process and environment.

    python benchmarks/index_peers.py NAME ROWS.npy TUNE.npy QUERIES.npy WORK

Builds an index of ROWS (unit vectors, inner product) and tunes it on TUNE to the fastest settings with a recall of 95 % for 10
neighbors. Then reads commands from standard input: ``batch`` (all queries in one batch), ``single`` (single queries, one thread
if supported), ``found`` (write the results to WORK/NAME.npy). Each answer is a line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

K, TARGET = 10, 0.95
STEPS = sorted({2**n * quarter // 4 for n in range(3, 11) for quarter in (4, 5, 6, 7)})
SINGLE = 300  # queries
Search = Callable[[Any, bool], Any]  # queries, whether one thread: ids


def exact(rows: Any, queries: Any) -> Any:
    """The K nearest neighbors by matrix multiplication."""
    found = []
    for start in range(0, len(queries), 100):
        scores = queries[start : start + 100] @ rows.T
        best = np.argpartition(-scores, K, axis=1)[:, :K]
        found.append(best)
    return np.concatenate(found)


def tune(search_at: Callable[[int], Search], tune_queries: Any, truth: Any) -> tuple[Search, str]:
    """First step that reaches the target recall."""
    for step in STEPS:
        search = search_at(step)
        ids = search(tune_queries, False)
        recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(ids, truth, strict=True)])
        if recall >= TARGET:
            return search, f"ef {step}, recall {recall:.3f} when tuned"
    return search, f"ef {step}, recall {recall:.3f}: the target was not reached"


def sslfeat(rows: Any, tune_queries: Any, truth: Any, work: Path, workload: str = "batch") -> tuple[Search, int, str]:
    """Selected and tuned on its own held-out rows, without the tuning queries."""
    from sslfeat import Index

    index = Index.build(rows, recall=TARGET, memory=4 << 30, workload=workload)
    place = np.array(index.columns["path"].to_pylist()).astype(np.int64)
    figures = index.meta["figures"]
    told = f"{index.meta['factory']} {index.meta['settings']}, recall {figures['recall']} stated"

    def search(queries: Any, single: bool) -> Any:
        return place[index.search(queries, top=K).rows]

    return search, (index.folder / "index.faiss").stat().st_size, told


def sslfeat_single(rows: Any, tune_queries: Any, truth: Any, work: Path) -> tuple[Search, int, str]:
    """As ``sslfeat``, selected for single queries."""
    return sslfeat(rows, tune_queries, truth, work, "single")


def faiss_hnsw(rows: Any, tune_queries: Any, truth: Any, work: Path) -> tuple[Search, int, str]:
    """M = 32, as recommended in its wiki."""
    import faiss

    index = faiss.IndexHNSWFlat(rows.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.add(rows)
    faiss.write_index(index, str(work / "faiss.index"))

    def at(step: int) -> Search:
        def search(queries: Any, single: bool) -> Any:
            index.hnsw.efSearch = step
            faiss.omp_set_num_threads(1 if single else 2)
            return index.search(queries, K)[1]

        return search

    search, told = tune(at, tune_queries, truth)
    return search, (work / "faiss.index").stat().st_size, told


def hnswlib(rows: Any, tune_queries: Any, truth: Any, work: Path) -> tuple[Search, int, str]:
    """M = 16, ef_construction = 200, as in its example."""
    import hnswlib as library

    index = library.Index(space="ip", dim=rows.shape[1])
    index.init_index(max_elements=len(rows), M=16, ef_construction=200)
    index.add_items(rows)
    index.save_index(str(work / "hnswlib.index"))

    def at(step: int) -> Search:
        def search(queries: Any, single: bool) -> Any:
            index.set_ef(max(step, K))
            return index.knn_query(queries, K, num_threads=1 if single else 2)[0]

        return search

    search, told = tune(at, tune_queries, truth)
    return search, (work / "hnswlib.index").stat().st_size, told


def usearch(rows: Any, tune_queries: Any, truth: Any, work: Path) -> tuple[Search, int, str]:
    """Default settings, float32."""
    from usearch.index import Index

    index = Index(ndim=rows.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(rows)), rows)
    index.save(str(work / "usearch.index"))

    def at(step: int) -> Search:
        def search(queries: Any, single: bool) -> Any:
            index.expansion_search = step
            found = index.search(queries, K, threads=1 if single else 2)
            return found.keys.reshape(len(queries), -1).astype(np.int64)

        return search

    search, told = tune(at, tune_queries, truth)
    return search, (work / "usearch.index").stat().st_size, told


def autofaiss(rows: Any, tune_queries: Any, truth: Any, work: Path) -> tuple[Search, int, str]:
    """Selects by memory and query time only; the recall is measured afterwards."""
    import faiss
    from autofaiss import build_index

    index, _ = build_index(rows, save_on_disk=False, metric_type="ip", max_index_memory_usage="4G",
                           current_memory_available="8G", nb_cores=2, verbose=40)  # fmt: skip
    faiss.write_index(index, str(work / "autofaiss.index"))

    def search(queries: Any, single: bool) -> Any:
        faiss.omp_set_num_threads(1 if single else 2)
        return index.search(queries, K)[1]

    return search, (work / "autofaiss.index").stat().st_size, type(index).__name__


CONTENDERS = {
    "sslfeat": sslfeat,
    "sslfeat-single": sslfeat_single,
    "faiss-hnsw": faiss_hnsw,
    "hnswlib": hnswlib,
    "usearch": usearch,
    "autofaiss": autofaiss,
}


def lap(search: Search, queries: Any, single: bool) -> float:
    """Queries per second."""
    began = time.perf_counter()
    if not single:
        search(queries, False)
        return len(queries) / (time.perf_counter() - began)
    for number in range(min(SINGLE, len(queries))):
        search(queries[number : number + 1], True)
    return min(SINGLE, len(queries)) / (time.perf_counter() - began)


def main() -> None:
    name, work = sys.argv[1], Path(sys.argv[5])
    rows, tune_queries, queries = (np.load(path) for path in sys.argv[2:5])
    truth = exact(rows, tune_queries)
    answer = sys.stdout
    sys.stdout = sys.stderr  # libraries print messages
    began = time.perf_counter()
    search, size, told = CONTENDERS[name](rows, tune_queries, truth, work)
    ready = {"build_seconds": round(time.perf_counter() - began, 1), "bytes": size, "told": told}
    print(json.dumps(ready), file=answer, flush=True)
    for line in sys.stdin:
        if line.strip() == "found":
            np.save(work / f"{name}.npy", search(queries, False))
            print(json.dumps("saved"), file=answer, flush=True)
        else:
            print(json.dumps(lap(search, queries, line.strip() == "single")), file=answer, flush=True)


if __name__ == "__main__":
    main()
