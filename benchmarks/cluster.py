"""k-means compared with scikit-learn and FAISS: inertia and speed.

    python benchmarks/cluster.py WORK FEATURES [--k 10 100] [--laps 3]

The rows of a features folder are clustered with ``sslfeat.numerics.kmeans`` (three restarts, as in the command line), ``KMeans``
of scikit-learn and ``faiss.Kmeans`` (25 iterations over all points), all with default settings, alternating in one process with
a different seed in each lap. Reported are the median time, and the median inertia relative to scikit-learn.
Writes WORK/cluster.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans

from sslfeat.features.reader import Features
from sslfeat.numerics.kmeans import assign, kmeans
from sslfeat.system.machine import save_measured

Rows = npt.NDArray[np.float32]


def ours(x: Rows, k: int, seed: int) -> float:
    return kmeans(x, k, seed=seed).inertia


def scikit_learn(x: Rows, k: int, seed: int) -> float:
    return float(KMeans(k, random_state=seed).fit(x).inertia_)


def plain_faiss(x: Rows, k: int, seed: int) -> float:
    clustering = faiss.Kmeans(x.shape[1], k, seed=seed, max_points_per_centroid=len(x))
    clustering.train(x)
    return float(assign(x, clustering.centroids)[1].sum(dtype=np.float64))


WAYS: dict[str, Callable[[Rows, int, int], float]] = {"ours": ours, "scikit-learn": scikit_learn, "faiss": plain_faiss}


def compare(x: Rows, k: int, laps: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    inertia: dict[str, list[float]] = {name: [] for name in WAYS}
    for lap in range(laps):
        for name, run in WAYS.items():
            began = time.perf_counter()
            inertia[name].append(run(x, k, lap))
            seconds[name].append(time.perf_counter() - began)
        print(k, {name: [round(s, 2) for s in spent] for name, spent in seconds.items()}, flush=True)
    middle = {name: statistics.median(spent) for name, spent in seconds.items()}
    best = statistics.median(inertia["scikit-learn"])
    return {
        "seconds": {name: round(value, 3) for name, value in middle.items()},
        "times faster than": {name: round(middle[name] / middle["ours"], 2) for name in WAYS if name != "ours"},
        "inertia over scikit-learn's": {name: round(statistics.median(values) / best - 1, 5) for name, values in inertia.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("features", type=Path)
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--laps", type=int, default=3)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    x = Features.load(options.features).embeddings
    result = {"rows": len(x), "dim": x.shape[1], **{f"k={k}": compare(x, k, options.laps) for k in options.k}}
    print(json.dumps(result, indent=1))
    save_measured(options.work / "cluster.json", result)


if __name__ == "__main__":
    main()
