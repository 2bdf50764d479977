"""Index of more vectors than fit in memory: peak anonymous memory of building and searching, time, and recall.

    python benchmarks/index_big.py WORK [--count 5000000] [--dim 128] [--build-memory 1G] [--shards N] [--kind KIND]

A features folder is written in parts: clusters with power-law sizes and different spreads, each in its own subspace, to resemble
embeddings. ``sslfeat index`` builds in a process whose anonymous memory (RssAnon) is monitored. Another process searches with
1,000 vectors that are not in the index, singly and in one batch, also with a condition, and compares with exact search.
Writes WORK/index_big.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from million import make_encoder

from sslfeat import Encoder, Index
from sslfeat.data.dataset import ImageRecord
from sslfeat.data.manifest import Manifest
from sslfeat.data.results import Embedded
from sslfeat.data.transforms import EXACT
from sslfeat.features.commits import CommitRecord, commit_path
from sslfeat.features.failures import write_failures
from sslfeat.features.folder import begin_folder, describe
from sslfeat.features.formats import encode_part, part_files
from sslfeat.features.metadata import part_count
from sslfeat.numerics.similarity import unit
from sslfeat.system.machine import save_measured

PART, QUERIES, CLUSTERS, RANK = 50_000, 1000, 20_000, 24
WATCHED = "import sys; from sslfeat.cli.app import main; main()"
Array = Any


def drawn(dim: int, seed: int) -> Iterator[Array]:
    """Endless blocks of PART unit vectors; the mixture is the same for every ``seed``."""
    shape = np.random.default_rng(1)
    centers = shape.normal(size=(CLUSTERS, dim)).astype(np.float32)
    centers += 1.5 * centers[shape.integers(CLUSTERS // 50, size=CLUSTERS)]  # hierarchical clusters
    share = 1 / np.arange(1, CLUSTERS + 1) ** 0.8
    spread = shape.uniform(0.3, 1.2, CLUSTERS).astype(np.float32)
    bases = shape.normal(size=(64, RANK, dim)).astype(np.float32) * np.float32((dim / RANK) ** 0.5 / dim**0.5 * 4)
    rng = np.random.default_rng(seed)
    while True:
        kinds = rng.choice(CLUSTERS, PART, p=share / share.sum())
        rows = centers[kinds] + 0.3 * rng.standard_normal((PART, dim), np.float32)
        for base in range(len(bases)):
            own = np.flatnonzero(kinds % len(bases) == base)
            rows[own] += spread[kinds[own], None] * (rng.standard_normal((len(own), RANK), np.float32) @ bases[base])
        yield unit(rows)


def make_features(folder: Path, count: int, dim: int, encoder: Encoder) -> None:
    """Write a features folder part by part, with the writers of sslfeat."""
    inputs = [ImageRecord(f"images/{number:08d}.jpg".encode()) for number in range(count)]
    sizes = np.zeros(count, np.int64)
    manifest = Manifest(inputs, sizes, sizes, sizes)
    run = describe(encoder, manifest, "npy", EXACT, PART, None)
    folder.mkdir(parents=True)
    begin_folder(folder, run, manifest, {})
    pieces = drawn(dim, 2)
    for number in range(part_count(run)):
        here = range(number * PART, min((number + 1) * PART, count))
        rows = next(pieces)
        part = [(inputs[n], Embedded(rows[n - here.start], f"{n:064x}", 640, 480)) for n in here]
        names, data = part_files("npy", number, part_count(run)), encode_part("npy", part, dim)
        for name, content in zip(names, data, strict=True):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        record = CommitRecord.of(dict(zip(names, data, strict=True)), len(part), ())
        commit_path(folder, number).write_bytes(record.to_json())
    write_failures(folder, [])


def anonymous(process: int | str = "self") -> int:
    """RssAnon in MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("RssAnon")), 0)


class Peak:
    """Peak anonymous memory of a process in MiB, sampled every 10 ms."""

    def __init__(self, process: int | str = "self") -> None:
        self.most, self._over = 0, threading.Event()
        self._watcher = threading.Thread(target=self._watch, args=(process,), daemon=True)
        self._watcher.start()

    def _watch(self, process: int | str) -> None:
        while not self._over.wait(0.01):
            try:
                self.most = max(self.most, anonymous(process))
            except OSError:
                return

    def end(self) -> int:
        """Peak memory; stops sampling."""
        self._over.set()
        self._watcher.join()
        return self.most


def build(features: Path, out: Path, *options: str) -> dict[str, Any]:
    """Build by the command line."""
    began = time.monotonic()
    command = [sys.executable, "-c", WATCHED, "index", str(features), "--out", str(out), "--json", "--overwrite", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak = Peak(process.pid)
        answer = process.communicate()[0]
        most = peak.end()
    if process.returncode:
        raise SystemExit(process.returncode)
    said = json.loads(answer)
    return {"seconds": round(time.monotonic() - began, 1), "peak_anonymous_mib": most, "factory": said["factory"],
            "settings": said["settings"], "bytes": said["bytes"], "figures": said["figures"]}  # fmt: skip


def search(out: Path, truth: Path, queries: Path) -> dict[str, Any]:
    """Search in this process."""
    peak = Peak()
    asked, nearest = np.load(queries), np.load(truth)
    began = time.monotonic()
    index = Index.load(out)
    opened = time.monotonic()
    result: dict[str, Any] = {"files": len(index.metadata.vector_files), "open_seconds": round(opened - began, 2)}
    recalls = {}
    for k in (1, 10, 100):
        scores = index.search(asked, top=k).scores
        recalls[str(k)] = round(float(np.mean(scores >= nearest[:, k - 1 : k] - 1e-5)), 4)
    result["recall_at"] = recalls
    began = time.monotonic()
    index.search(asked, top=10)
    result["queries_per_second"] = round(len(asked) / (time.monotonic() - began))
    began = time.monotonic()
    for number in range(300):
        index.search(asked[number], top=10)
    result["single_queries_per_second"] = round(300 / (time.monotonic() - began))
    result["peak_anonymous_mib"] = peak.most
    began = time.monotonic()
    index.search(asked[:10], top=10, where=["path~*77.jpg"])
    result["filtered_seconds"] = round(time.monotonic() - began, 2)
    result["peak_anonymous_mib_with_a_filter"] = peak.end()
    return result


def exact(count: int, dim: int, queries: Array) -> Array:
    """Scores of the 100 nearest rows, (Q, 100)."""
    best = np.full((len(queries), 100), -1, np.float32)
    pieces, left = drawn(dim, 2), count
    while left > 0:
        rows = next(pieces)[:left]
        left -= len(rows)
        for part in np.array_split(rows, max(1, len(rows) // 10_000)):
            together = np.hstack([best, queries @ part.T])
            best = -np.partition(-together, 99, axis=1)[:, :100]
    return -np.sort(-best, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--count", type=int, default=5_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--build-memory", default="1G")
    parser.add_argument("--shards")
    parser.add_argument("--kind", default="auto")
    parser.add_argument("--search", action="store_true", help="only search (internal)")
    options = parser.parse_args()
    work = options.work / str(options.count)
    features, out, truth, queries = (work / name for name in ("features", "index", "truth.npy", "queries.npy"))
    if options.search:
        print(json.dumps(search(out, truth, queries)))
        return
    if not truth.exists():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        make_encoder(work / "big.onnx", options.dim)
        make_features(features, options.count, options.dim, Encoder.load(work / "big.onnx"))
        np.save(queries, next(drawn(options.dim, 3))[:QUERIES])
        np.save(truth, exact(options.count, options.dim, np.load(queries)))
    chosen = ["--build-memory", options.build_memory, "--kind", options.kind]
    chosen += ["--shards", options.shards] if options.shards else []
    result: dict[str, Any] = {"vectors": options.count, "dim": options.dim, "options": chosen}
    result["build"] = build(features, out, *chosen)
    again = [sys.executable, __file__, str(options.work), "--count", str(options.count), "--search"]
    result["search"] = json.loads(subprocess.run(again, check=True, capture_output=True, text=True).stdout)
    print(json.dumps(result, indent=1))
    save_measured(options.work / "index_big.json", result)


if __name__ == "__main__":
    main()
