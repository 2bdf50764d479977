"""`sslfeat embed --engine ray` compared with one process on the same machine: fixed overhead, and steady speed.

    python benchmarks/scale_out.py IMAGES OUT.json WORK [--count 50000] [--laps 3] [--part-size 1024]
                                   [--encoder sslfeat-small] [--note TEXT]

Both use all cores. Laps alternate; medians are compared. The steady rate is that of the images after the first tenth; the fixed
seconds are the total time minus that of all images at this rate. Both folders must have identical bytes. The Ray cluster is
started in each lap, as by the command without ``--address``.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sslfeat.data.dataset import find_inputs
from sslfeat.engines.ray_cluster import RayEngine
from sslfeat.features.writer import PART_SIZE, EmbedProgress, Options, embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.storage import atomic
from sslfeat.system.cores import available_cores, processor
from sslfeat.system.machine import save_measured

ENGINES = ("local", "ray")


def lap(engine: str, listed: Path, out: Path, encoder: str, part_size: int) -> None:
    """One run in this new process; prints its results as JSON."""
    began = time.monotonic()
    marks: list[tuple[float, int]] = []

    def mark(now: EmbedProgress) -> None:
        marks.append((time.monotonic() - began, now.done))

    inputs = find_inputs([listed], "none")
    ray = RayEngine() if engine == "ray" else None
    loaded, how = Encoder.load(encoder, "cpu"), Options(part_size=part_size)
    summary = embed_to_folder(loaded, inputs, out, how, report=mark, engine=ray)
    seconds = time.monotonic() - began
    first = next(found for found in marks if found[1] >= len(inputs) / 10)
    last = next(found for found in marks if found[1] == len(inputs))
    rate = (last[1] - first[1]) / (last[0] - first[0])
    figures = {"seconds": seconds, "images_per_second": rate, "fixed_seconds": seconds - len(inputs) / rate}
    print(json.dumps({**figures, "embedded": summary.embedded, "failed": summary.failed}))


def digest(folder: Path) -> tuple[str, int]:
    """sha256 of all files of a features folder except the lock, and their total size."""
    sha, size = hashlib.sha256(), 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != atomic.LOCK_NAME):
        sha.update(f"{path.relative_to(folder)} {atomic.sha256_file(path)}\n".encode())
        size += path.stat().st_size
    return sha.hexdigest(), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--laps", type=int, default=3)
    parser.add_argument("--part-size", type=int, default=PART_SIZE)
    parser.add_argument("--encoder", default="sslfeat-small")
    parser.add_argument("--note", default="", help="other load on the machine")
    parser.add_argument("--lap", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.lap:
        lap(options.lap, options.images, options.out, options.encoder, options.part_size)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    listed = options.work / "list.txt"
    paths = [item.name for item in itertools.islice(find_inputs([options.images], "none"), options.count)]
    listed.write_text("".join(f"{path}\n" for path in paths))
    laps: dict[str, list[dict[str, Any]]] = {engine: [] for engine in ENGINES}
    digests: set[tuple[str, int]] = set()
    for number, engine in itertools.product(range(options.laps), ENGINES):
        folder = options.work / engine
        shutil.rmtree(folder, ignore_errors=True)
        sizes = ["--part-size", str(options.part_size)]
        command = [sys.executable, __file__, "--lap", engine, "--encoder", options.encoder, *sizes, listed, folder, options.work]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        laps[engine].append(json.loads(done.stdout.splitlines()[-1]))
        digests.add(digest(folder))
        print(f"lap {number + 1}: {engine} {laps[engine][-1]}", flush=True)
    same, (_, size) = len(digests) == 1, max(digests)
    rates = {engine: statistics.median(lap["images_per_second"] for lap in found) for engine, found in laps.items()}
    fixed = {engine: statistics.median(lap["fixed_seconds"] for lap in found) for engine, found in laps.items()}
    results = {
        "images": len(paths),
        "part_size": options.part_size,
        "encoder": options.encoder,
        "dim": Encoder.load(options.encoder, "cpu").dim,
        "cores": available_cores(),
        "processor": processor(),
        "system": platform.system(),
        "note": options.note,
        "same_bytes": same,
        "bytes_per_image": round(size / len(paths), 1),
        "images_per_second": rates,
        "fixed_seconds": fixed,
        "steady_seconds_of_ray_over_local": rates["local"] / rates["ray"],
        "laps": laps,
    }
    save_measured(options.out, results)
    ratio = results["steady_seconds_of_ray_over_local"]
    print(f"fixed: local {fixed['local']:.1f} s, ray {fixed['ray']:.1f} s; steady: time of ray relative to local {ratio:.2f}")
    print("identical bytes" if same else "BYTES DIFFER")


if __name__ == "__main__":
    main()
