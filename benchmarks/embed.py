"""Speed of `sslfeat embed` compared with other libraries and with an upper limit, for the same photographs and networks.

    python benchmarks/embed.py PHOTOS WORK [--encoders resnet18 vit_s_16 shipped] [--laps 3] [--copies 4]
                               [--peer fastembed=VENV/bin/python ...] [--auto] [--memory]

The limit is cores / (decode + inference), both measured separately on one core with the decoder and encoder of sslfeat. All
libraries embed the same number of photographs. sslfeat is run by its command line; the time of the job is measured without the
start of the program (reported separately). Other libraries are run by benchmarks/embed_peers.py in separate environments, and
timed in the same way. Laps alternate; medians are compared. ``--auto`` adds sslfeat with ``--precision auto``; ``--memory`` adds
the peak memory (PSS of all processes) for 1,000 and 20,000 photographs with the shipped encoder, and for 1,000 with the others.
Networks have random weights.
Writes WORK/embed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from sslfeat.data.dataset import find_inputs
from sslfeat.data.decode import decode
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.registry import DEFAULT
from sslfeat.system.cores import available_cores
from sslfeat.system.machine import save_measured

PEERS = Path(__file__).with_name("embed_peers.py")
SIZE = 224
BATCH = 4  # default of sslfeat


def encoder_file(name: str, work: Path) -> str:
    """Path of an encoder with random weights, or name of the shipped encoder."""
    if name == "shipped":
        return DEFAULT
    path = work / f"{name}.onnx"
    if not path.exists():
        command = ["export", "--random-init", name, "--image-size", str(SIZE), "--out", str(path)]
        subprocess.run(_sslfeat(*command), check=True, capture_output=True)
    return str(path)


def copies(photos: Path, work: Path, count: int) -> Path:
    """A folder of links with each photograph ``count`` times."""
    folder = work / f"photos-{count}"
    if not folder.exists():
        originals = [Path(os.fsdecode(item.path)) for item in find_inputs([photos], labels="none")]
        for number in range(count):
            (folder / str(number)).mkdir(parents=True)
            for index, path in enumerate(originals):
                (folder / str(number) / f"{index:05d}{path.suffix}").symlink_to(path.resolve())
    return folder


def limit(encoder: str, photos: Path) -> dict[str, float]:
    """Milliseconds per photograph on one core for decoding and inference, and photographs per second on all cores."""
    loaded = Encoder.load(encoder, "cpu")
    sources = [item.path for item in find_inputs([photos], labels="none")]
    began = time.perf_counter()
    rows = [decode(source, loaded.card.preprocess).pixels for source in sources]
    decoding = (time.perf_counter() - began) / len(rows)
    batches = np.array_split(np.stack(rows), max(1, len(rows) // BATCH))[: 1 + 250 // BATCH]
    loaded.run(batches[0])
    began = time.perf_counter()
    for batch in batches:
        loaded.run(batch)
    inference = (time.perf_counter() - began) / sum(map(len, batches))
    rate = available_cores() / (decoding + inference)
    return {"decode_ms": 1e3 * decoding, "inference_ms": 1e3 * inference, "images_per_second": rate}


def ours(encoder: str, photos: Path, work: Path, *options: str) -> dict[str, float]:
    """Photographs per second of the job, and seconds of the whole command."""
    shutil.rmtree(work / "features", ignore_errors=True)
    command = _sslfeat("embed", str(photos), "--encoder", encoder, "--out", str(work / "features"), "--json", *options)
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rate = told["embedded"] / told["time"]["seconds"]
    return {"images_per_second": rate, "seconds_in_all": told["seconds"], **told["time"]}


def peer(name: str, python: str, model: str, photos: Path, count: int, work: Path) -> dict[str, Any] | None:
    """Result of another library; None if it fails."""
    command = [python, PEERS, name, model, photos, "--count", str(count), "--work", work]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if run.returncode or not lines:
        print(f"{name} {model}: {(run.stderr.strip().splitlines() or ['no message'])[-1]}", flush=True)
        return None
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def peak_memory(encoder: str, photos: Path, work: Path) -> float:
    """Peak PSS of the command and its decoders, in MB."""
    shutil.rmtree(work / "features", ignore_errors=True)
    command = _sslfeat("embed", str(photos), "--encoder", encoder, "--out", str(work / "features"))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(map(_pss, _family(process.pid))))
        time.sleep(0.02)  # shorter than the last write of a short run
    return peak


def compare(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run all libraries in alternation."""
    encoder = encoder_file(name, options.work)
    many = copies(options.photos, options.work, options.copies if name != "shipped" else 4 * options.copies)
    count = len(find_inputs([many], labels="none"))
    laps: dict[str, list[dict[str, Any]]] = {"limit": [], "sslfeat": []}
    for _ in range(options.laps):
        laps["limit"].append(limit(encoder, options.photos))
        laps["sslfeat"].append(ours(encoder, many, options.work))
        if options.auto:
            laps.setdefault("sslfeat auto", []).append(ours(encoder, many, options.work, "--precision", "auto"))
        for contender in options.peer:
            result = peer(*contender.split("=", 1), name, options.photos, count, options.work / "peers")
            if result:
                laps.setdefault(contender.split("=")[0], []).append(result)
    rates = {who: statistics.median(lap["images_per_second"] for lap in found) for who, found in laps.items()}
    for who, rate in rates.items():
        print(f"{name}: {who} {rate:.1f} images/s, sslfeat: {rates['sslfeat'] / rate:.2f} times as many", flush=True)
    return {"images_per_second": rates, "laps": laps}


def memory(options: argparse.Namespace) -> dict[str, float]:
    """Peak memory in MB."""
    peaks = {}
    originals = len(find_inputs([options.photos], labels="none"))
    for name, count in [*((name, 1000) for name in options.encoders), ("shipped", 20_000)]:
        photos = copies(options.photos, options.work, -(-count // originals))
        peaks[f"{name} {count}"] = peak_memory(encoder_file(name, options.work), photos, options.work)
        print(f"{name}: {count} photographs, peak {peaks[f'{name} {count}']:.0f} MB", flush=True)
    return peaks


def _sslfeat(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from sslfeat.cli.app import main; main()", *arguments]


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # the process ended
        return []
    return [pid, *(grandchild for child in children for grandchild in _family(child))]


def _pss(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--encoders", nargs="+", default=["resnet18", "vit_s_16", "shipped"])
    parser.add_argument("--laps", type=int, default=3)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--peer", nargs="*", default=[])
    parser.add_argument("--auto", action="store_true")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {name: compare(name, options) for name in options.encoders}
    if options.memory:
        results["peak_mb"] = memory(options)
    save_measured(options.work / "embed.json", results)


if __name__ == "__main__":
    main()
