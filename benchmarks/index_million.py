"""Index of a million vectors: stated and measured recall, peak memory, and time of a search.

    python benchmarks/index_million.py WORK [--count 1000000] [--dim 384] [--laps 5]

A features folder of clustered vectors is made with the writers of sslfeat. It is indexed by the command line, as ``flat`` and
with the default kind, and peak memory is measured; the stated recall of the second index is compared with exact search for 1,000
other queries. Then whole processes of ``sslfeat search`` are timed with the flat index, for one image and for one indexed image.
Writes WORK/index_million.json.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from index import clustered, recall, unit
from million import make_encoder
from PIL import Image

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
from sslfeat.retrieval.index_types import IndexSpec
from sslfeat.storage import atomic
from sslfeat.system.machine import save_measured

PART = 16_384
QUERIES = 1000
MAIN = "from sslfeat.cli.app import main; main()"
PEAK = """
import sys
from sslfeat.cli.app import main
try:
    main()
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print("peak", int(peak.split()[1]) >> 10, file=sys.stderr)
"""


def make_features(folder: Path, rows: npt.NDArray[np.float32], encoder: Encoder, y: npt.NDArray[np.int64] | None = None) -> None:
    """A features folder as written by ``sslfeat embed``, with classes ``y``."""
    classes = np.arange(len(rows)) % 10 if y is None else y
    inputs = [ImageRecord(f"images/{n:07d}.jpg".encode(), f"class {label}") for n, label in enumerate(classes.tolist())]
    sizes = np.zeros(len(rows), np.int64)
    manifest = Manifest(inputs, sizes, sizes, sizes)
    run = describe(encoder, manifest, "parquet", EXACT, PART, None)
    folder.mkdir(parents=True)
    begin_folder(folder, run, manifest, {})
    for number in range(part_count(run)):
        here = range(number * PART, min((number + 1) * PART, len(rows)))
        part = [(inputs[n], Embedded(rows[n], f"{n:064x}", 640, 480)) for n in here]
        (data,) = encode_part("parquet", part, rows.shape[1])
        (name,) = part_files("parquet", number, part_count(run))
        (folder / name).write_bytes(data)
        atomic.write_atomic(commit_path(folder, number), CommitRecord.of({name: data}, len(part), ()).to_json())
    write_failures(folder, [])


def build(features: Path, out: Path, *options: str) -> dict[str, Any]:
    """Build an index by the command line: seconds, peak MiB, and its metadata."""
    began = time.perf_counter()
    command = [sys.executable, "-c", PEAK, "index", str(features), "--out", str(out), "--json", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    told = json.loads(done.stdout)
    peak = int(re.findall(r"peak (\d+)", done.stderr)[-1])
    return {"seconds": round(seconds, 1), "peak_mib": peak, "factory": told["factory"], "settings": told["settings"],
            "bytes": told["bytes"], "figures": told["figures"]}  # fmt: skip


def search(out: Path, laps: int, *query: str) -> float:
    """Median seconds of a whole process."""
    spent = []
    for _ in range(laps):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", MAIN, "search", str(out), *query], check=True, capture_output=True)
        spent.append(time.perf_counter() - began)
    return round(statistics.median(spent), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--laps", type=int, default=5)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    encoder, features = options.work / "million.onnx", options.work / "features"
    vectors = clustered(options.count + QUERIES, options.dim, 0)
    rows, queries = vectors[QUERIES:], unit(vectors[:QUERIES])
    if not features.exists():
        make_encoder(encoder, options.dim)
        make_features(features, rows, Encoder.load(encoder))
    result: dict[str, Any] = {"vectors": options.count, "dim": options.dim}
    result["flat"] = build(features, options.work / "flat", "--kind", "flat", "--overwrite")
    image = options.work / "image.bmp"
    Image.effect_noise((8, 8), 60).convert("RGB").save(image)
    indexed = f"images/{options.count // 2:07d}.jpg"
    result["search one image, whole process, s"] = search(
        options.work / "flat", options.laps, str(image), "--encoder", str(encoder)
    )
    result["search one indexed image, whole process, s"] = search(options.work / "flat", options.laps, "--id", indexed)
    result["chosen"] = build(features, options.work / "chosen", "--overwrite")
    index = Index.load(options.work / "chosen")
    names = np.array([int(path[9:16]) for path in index.columns["path"].to_pylist()])
    found = names[index.search(queries, top=10).rows]
    result["chosen"]["recall of other queries"] = round(recall(unit(rows), queries, found), 4)
    tight = IndexSpec("flat").memory(options.count, options.dim) // 4
    result["within a quarter of the memory"] = build(features, options.work / "tight", "--memory", str(tight), "--overwrite")
    print(json.dumps(result, indent=1))
    save_measured(options.work / "index_million.json", result)


if __name__ == "__main__":
    main()
