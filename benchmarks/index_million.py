"""A million vectors: is the stated recall true, does building stream, does a search answer within a second?

    python benchmarks/index_million.py WORK [--count 1000000] [--dim 384] [--laps 5]

A features folder of clustered vectors is made with sslfeat's own writers. It is indexed by the command line twice, as ``flat``
and as chosen, with the peak memory of each; the recall that the second states is compared with exact search for 1,000 other
queries. Then whole processes of ``sslfeat search`` are timed: one picture, and one indexed picture, against the flat million.
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

from sslfeat import Encoder, Index, store
from sslfeat.failures import write_failures
from sslfeat.features import Commit, commit_path, part_count
from sslfeat.folder import begin_folder, describe
from sslfeat.inputs import Input
from sslfeat.layouts import encode_part, part_files
from sslfeat.outcomes import Embedded
from sslfeat.preprocess import EXACT
from sslfeat.retrieval.kinds import Plan
from sslfeat.stock import Stock

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


def make_features(
    folder: Path, rows: npt.NDArray[np.float32], encoder: Encoder, y: npt.NDArray[np.int64] | None = None
) -> None:
    """A features folder as ``sslfeat embed`` would have left it, with classes ``y``."""
    classes = np.arange(len(rows)) % 10 if y is None else y
    inputs = [Input(f"pictures/{n:07d}.jpg".encode(), f"class {label}") for n, label in enumerate(classes.tolist())]
    sizes = np.zeros(len(rows), np.int64)
    stock = Stock(inputs, sizes, sizes)
    run = describe(encoder, stock, "parquet", EXACT, PART, None)
    folder.mkdir(parents=True)
    begin_folder(folder, run, stock, {})
    for number in range(part_count(run)):
        here = range(number * PART, min((number + 1) * PART, len(rows)))
        part = [(inputs[n], Embedded(rows[n], f"{n:064x}", 640, 480)) for n in here]
        (data,) = encode_part("parquet", part, rows.shape[1])
        (name,) = part_files("parquet", number, part_count(run))
        (folder / name).write_bytes(data)
        store.write_atomic(commit_path(folder, number), Commit.of({name: data}, len(part), ()).to_json())
    write_failures(folder, [])


def build(features: Path, out: Path, *options: str) -> dict[str, Any]:
    """Index by the command line: seconds, peak MiB, and what it says of itself."""
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
    picture = options.work / "picture.bmp"
    Image.effect_noise((8, 8), 60).convert("RGB").save(picture)
    indexed = f"pictures/{options.count // 2:07d}.jpg"
    result["search one picture, whole process, s"] = search(
        options.work / "flat", options.laps, str(picture), "--encoder", str(encoder)
    )
    result["search one indexed picture, whole process, s"] = search(
        options.work / "flat", options.laps, "--id", indexed
    )
    result["chosen"] = build(features, options.work / "chosen", "--overwrite")
    index = Index.load(options.work / "chosen")
    names = np.array([int(path[9:16]) for path in index.columns["path"].to_pylist()])
    found = names[index.search(queries, top=10).rows]
    result["chosen"]["recall of other queries"] = round(recall(unit(rows), queries, found), 4)
    tight = Plan("flat").memory(options.count, options.dim) // 4
    result["within a quarter of the memory"] = build(
        features, options.work / "tight", "--memory", str(tight), "--overwrite"
    )
    print(json.dumps(result, indent=1))
    (options.work / "index_million.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
