"""Stated recall of an index compared with the measured recall of unseen queries, by number of hits, conditions and updates.

    python benchmarks/index_recall.py WORK FEATURES OTHER_FEATURES [--kinds ivf hnsw ivfpq] [--rows 40000]

1,000 rows of FEATURES (with labels) are queries, and ``--rows`` are indexed. Then rows are added, a twelfth of FEATURES and rows
of OTHER_FEATURES (other images, same encoder; queries from them are added, too), and a class is removed.
After each step, the stated recall is compared with the share of the true k nearest neighbors found (neighbors as near as the k-th
are correct), and the minimum number of hits is recorded. Conditions are tested after the first step: a class with queries of all
classes and of another class only, and half of all rows.
Writes WORK/index_recall.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sslfeat import Index
from sslfeat.features.reader import Features
from sslfeat.numerics.arrays import FloatArray
from sslfeat.retrieval.vectors import ArrayVectors, prepare, table
from sslfeat.system.machine import save_measured

QUERIES, TIES = 1000, 1e-5
COUNTS = (1, 2, 5, 10, 50, 100, 500, 1000, 5000)
STATED = (1, 10, 100)


class Rows:
    """Reference copy of the indexed vectors, by row number."""

    def __init__(self) -> None:
        self.vectors, self.labels = np.empty((0, 0), np.float32), np.empty(0, object)
        self.kept = np.empty(0, bool)

    def more(self, vectors: FloatArray, labels: npt.NDArray[np.object_]) -> ArrayVectors:
        """Add rows to the reference copy and return them for indexing."""
        first = len(self.kept)
        columns = table([str(first + n) for n in range(len(vectors))])
        place = columns.schema.get_field_index("label")
        self.vectors = np.concatenate([self.vectors.reshape(first, vectors.shape[1]), prepare(vectors, "cosine")])
        self.labels = np.concatenate([self.labels, labels])
        self.kept = np.concatenate([self.kept, np.ones(len(vectors), bool)])
        return ArrayVectors(vectors, columns.set_column(place, "label", pa.array(labels, pa.string())))

    def found(self, index: Index, queries: FloatArray, k: int, mask: npt.NDArray[np.bool_], **how: Any) -> dict[str, Any]:
        """Recall, and minimum number of hits, for ``k`` among the rows of ``mask``."""
        k = min(k, int((mask & self.kept).sum()))
        hits = index.search(queries, top=k, **how)
        right = 0
        for start in range(0, len(queries), 100):
            part = slice(start, start + 100)
            scores = prepare(queries[part], "cosine") @ self.vectors.T
            scores[:, ~(mask & self.kept)] = -np.inf
            last = np.partition(scores, -k, axis=1)[:, -k]
            right += int(((hits.scores[part] >= last[:, None] - TIES) & (hits.rows[part] >= 0)).sum())
        return {"recall": round(right / (k * len(queries)), 4), "fewest hits": int((hits.rows >= 0).sum(1).min())}


def told(index: Index) -> dict[str, Any]:
    """Recall stated by the index."""
    figures = index.meta["figures"]
    return {"stated": figures["recall_at"], "settings": index.meta["settings"], "factory": index.meta["factory"],
            "queries": figures["recall_queries"]}  # fmt: skip


def at_all_counts(rows: Rows, index: Index, queries: FloatArray, counts: tuple[int, ...] = COUNTS) -> dict[str, Any]:
    """Measured recall for each number of hits."""
    everything = np.ones(len(rows.kept), bool)
    return {**told(index), "found": {k: rows.found(index, queries, k, everything) for k in counts}}


def filtered(rows: Rows, index: Index, queries: FloatArray, labels: npt.NDArray[np.object_]) -> dict[str, Any]:
    """Measured recall with conditions correlated, anti-correlated and uncorrelated with the query."""
    names = sorted(set(labels))
    result = {}
    for k in (1, 10, 100):
        asked, other = names[0], names[-1]
        of_class = rows.labels == asked
        half = np.arange(len(rows.kept)) % 10 < 5
        result[str(k)] = {
            "a class, from all": rows.found(index, queries, k, of_class, where=[f"label={asked}"]),
            "a class, from another": rows.found(index, queries[labels == other], k, of_class, where=[f"label={asked}"]),
            "all but the own class": rows.found(index, queries[labels == asked], k, ~of_class, where=[f"label!={asked}"]),
            "half of all": rows.found(index, queries, k, half, where=["path~*[0-4]"]),
        }
    return result


def speeds(index: Index, queries: FloatArray, laps: int = 5) -> dict[str, float]:
    """Median queries per second for 10 neighbors, in a batch and single."""
    rates: dict[str, list[float]] = {"all at once": [], "one by one": []}
    for _ in range(laps):
        began = time.perf_counter()
        index.search(queries, top=10)
        rates["all at once"].append(len(queries) / (time.perf_counter() - began))
        began = time.perf_counter()
        for query in queries[:200]:
            index.search(query, top=10)
        rates["one by one"].append(200 / (time.perf_counter() - began))
    return {name: round(float(np.median(values)), 1) for name, values in rates.items()}


def one_kind(kind: str, data: Features, other: Features, options: argparse.Namespace) -> dict[str, Any]:
    """All steps for one kind of index."""
    order = np.random.default_rng(0).permutation(len(data.embeddings))
    vectors, labels = data.embeddings[order], np.array(data.labels, object)[order]
    queries, names = vectors[:QUERIES], labels[:QUERIES]
    first, second = QUERIES + options.rows, QUERIES + options.rows * 13 // 12
    rows, began = Rows(), time.perf_counter()
    index = Index.build(rows.more(vectors[QUERIES:first], labels[QUERIES:first]), kind=kind)
    result: dict[str, Any] = {"build seconds": round(time.perf_counter() - began, 1)}
    result["built"] = at_all_counts(rows, index, queries)
    result["queries a second"] = speeds(index, queries)
    result["filtered"] = filtered(rows, index, queries, names)
    index.add(rows.more(vectors[first:second], labels[first:second]))
    result["a twelfth added"] = at_all_counts(rows, index, queries, STATED)
    strange = np.random.default_rng(1).permutation(len(other.embeddings))
    share = len(strange) * QUERIES // len(rows.kept)  # queries in proportion to rows
    index.add(rows.more(other.embeddings[strange[share:]], np.array(other.labels, object)[strange[share:]]))
    both = np.concatenate([queries, other.embeddings[strange[:share]]])
    result["other images added"] = at_all_counts(rows, index, both, STATED)
    gone = np.flatnonzero(rows.labels == sorted(set(names))[0])
    index.remove([str(row) for row in gone])
    rows.kept[gone] = False
    result["a class removed"] = at_all_counts(rows, index, both, STATED)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("features", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--kinds", nargs="+", default=["ivf", "hnsw", "ivfpq"])
    parser.add_argument("--rows", type=int, default=40_000)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    data, other = Features.load(options.features), Features.load(options.other)
    results = {}
    for kind in options.kinds:
        results[kind] = one_kind(kind, data, other, options)
        print(kind, json.dumps(results[kind]), flush=True)
        save_measured(options.work / "index_recall.json", results)


if __name__ == "__main__":
    main()
