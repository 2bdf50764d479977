"""`sslfeat index` compared with HNSW of FAISS, hnswlib, usearch and autofaiss on the same vectors.

    python benchmarks/index.py WORK [--features FOLDER ...] [--peers PYTHON] [--sets real easy hard] [--count 100000]
                               [--dim 384] [--laps 5]

Vectors: features of the given folders (real), clustered vectors (easy), and independent Gaussians (hard), with unit length. Each
library is tuned on 1,000 queries and tested on 1,000 others. Reported are the recall of the 10 nearest neighbors, as in
ann-benchmarks (a neighbor as near as the tenth is correct), and queries per second, in one batch on all cores and single queries
on one core. Libraries run in separate processes (index_peers.py), which alternate; medians are compared. ``sslfeat-single`` is
sslfeat with ``--workload single``. Sizes are those of the index file.
Writes WORK/index.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.numerics.arrays import FloatArray
from sslfeat.system.machine import save_measured

CHILD = Path(__file__).with_name("index_peers.py")
NAMES = ("sslfeat", "sslfeat-single", "faiss-hnsw", "hnswlib", "usearch", "autofaiss")
OURS = {"sslfeat": "batch", "sslfeat-single": "single"}  # with the workload option
QUERIES = 1000
K, TIES = 10, 1e-5


def clustered(count: int, dim: int, seed: int) -> FloatArray:
    """One center per thousand vectors, with a spread of half the distance between centers."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(7).normal(size=(max(10, count // 1000), dim)).astype(np.float32)
    return centers[rng.integers(0, len(centers), count)] + 0.5 * rng.normal(size=(count, dim)).astype(np.float32)


def unit(rows: FloatArray) -> FloatArray:
    """Normalize to unit length."""
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def data_sets(options: argparse.Namespace) -> dict[str, FloatArray]:
    """Vectors by name; queries are sampled from them."""
    from sslfeat.features.reader import Features

    count, dim = options.count + 2 * QUERIES, options.dim
    sets = {
        f"easy {options.count} x {dim}": clustered(count, dim, 0),
        f"hard {options.count} x {dim}": np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32),
    }
    if options.features:
        real = np.concatenate([Features.load(folder).embeddings for folder in options.features])
        sets = {f"real {len(real) - 2 * QUERIES} x {real.shape[1]}": real, **sets}
    return {name: unit(rows) for name, rows in sets.items() if name.split()[0] in options.sets}


def recall(rows: FloatArray, queries: FloatArray, found: npt.NDArray[np.int64]) -> float:
    """Share of the 10 results that are as near as the tenth nearest."""
    right = 0
    for start in range(0, len(queries), 100):
        part = queries[start : start + 100]
        tenth = np.sort(np.partition(part @ rows.T, -K, axis=1)[:, -K:], axis=1)[:, 0]
        ids = found[start : start + 100]
        scores = np.einsum("qd,qkd->qk", part, rows[np.maximum(ids, 0)])
        right += int(((scores >= tenth[:, None] - TIES) & (ids >= 0)).sum())
    return right / (K * len(queries))


class Contender:
    """A process that has built its index and waits for commands."""

    def __init__(self, name: str, python: str, work: Path) -> None:
        command = [python, str(CHILD), name, *(str(work / f"{part}.npy") for part in ("rows", "tune", "queries")), str(work)]
        log = (work / f"{name}.log").open("w")
        self.name, self.work = name, work
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.ready: dict[str, Any] = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} exited: see {self.work / self.name}.log")
        return json.loads(line)

    def ask(self, what: str) -> Any:
        """Time of one lap, or the results."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Stop the process."""
        self._process.communicate()


def compare(title: str, vectors: FloatArray, options: argparse.Namespace) -> dict[str, Any]:
    """Compare all libraries on one set of vectors."""
    rng = np.random.default_rng(1)
    order = rng.permutation(len(vectors))
    parts = {"queries": order[:QUERIES], "tune": order[QUERIES : 2 * QUERIES], "rows": order[2 * QUERIES :]}
    for name, numbers in parts.items():
        np.save(options.work / f"{name}.npy", vectors[numbers])
    rows, queries = vectors[parts["rows"]], vectors[parts["queries"]]
    contenders = []
    for name in options.names:
        contenders.append(Contender(name, sys.executable if name in OURS else options.peers, options.work))
        print(title, name, contenders[-1].ready, flush=True)
    laps: dict[str, dict[str, list[float]]] = {name: {"batch": [], "single": []} for name in options.names}
    for _ in range(options.laps):
        for kind in ("batch", "single"):
            for contender in contenders:
                laps[contender.name][kind].append(contender.ask(kind))
    result: dict[str, Any] = {}
    for contender in contenders:
        contender.ask("found")
        found = np.load(options.work / f"{contender.name}.npy")
        medians = {kind: round(statistics.median(values), 1) for kind, values in laps[contender.name].items()}
        result[contender.name] = {"recall": round(recall(rows, queries, found), 4), **medians, **contender.ready}
        contender.end()
    return result


def best_peer(result: dict[str, Any], kind: str) -> tuple[str, float]:
    """Fastest other library that reaches the recall, and the relative speed of sslfeat for this workload."""
    peers = {name: row[kind] for name, row in result.items() if name not in OURS and row["recall"] >= 0.945}
    if not peers:
        return "none reached the recall", float("nan")
    name = max(peers, key=lambda peer: peers[peer])
    ours = next(name for name, workload in OURS.items() if workload == kind)
    return name, round(result[ours][kind] / peers[name], 2)


def table(results: dict[str, Any]) -> str:
    """Results as Markdown."""
    lines = ["| vectors | index | recall@10 | queries/s, all at once | one by one | MB | build s | what |", "|---|" + "---|" * 7]
    for title, result in results.items():
        for name, row in result.items():
            lines.append(
                f"| {title} | {name} | {row['recall']:.3f} | {row['batch']:.0f} | {row['single']:.0f} | {row['bytes'] / 1e6:.0f} "
                f"| {row['build_seconds']:.0f} | {row['told']} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--features", nargs="*", default=[], type=Path)
    parser.add_argument("--peers", default=sys.executable, help="Python of the environment with the other libraries")
    parser.add_argument("--names", nargs="+", default=list(NAMES))
    parser.add_argument("--sets", nargs="+", default=["real", "easy", "hard"])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--laps", type=int, default=5)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    results = {}
    for title, vectors in data_sets(options).items():
        results[title] = compare(title, vectors, options)
        for kind in ("batch", "single"):
            print(title, kind, "speed relative to the best other library:", *best_peer(results[title], kind), flush=True)
        save_measured(options.work / "index.json", results)
    print(table(results))


if __name__ == "__main__":
    main()
