"""`sslfeat serve` compared with `sslfeat embed`: same images, same encoder, same machine.

    python benchmarks/serve.py PHOTOS THUMBNAILS [--count 2000] [--laps 3] [--connections 16] [--encoder NAME] [--out JSON]

Throughput: one photograph per request as raw body, and 32 thumbnails per request as multipart, both with .npy answers, relative
to `sslfeat embed` with the same files (without the start of the program). Both alternate; medians are compared. The client runs
on the same cores and reduces the throughput of the service. Also measured: JSON answers, and one thumbnail per request. If other
programs are running, wall times are unreliable; use ``core_ms_an_image``, the CPU time per image of the service (without the
client) and of the command (without its start). Latency: one photograph on one connection, compared with decoding and inference in
an idle process, in alternation. Writes benchmarks/results/serve.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

sys.path.insert(0, str(Path(__file__).parent))
from serve_load import BOUNDARY, COMMAND, Service, answered

from sslfeat.data.decode import Content, decode
from sslfeat.inference.encoder import Encoder
from sslfeat.system.cores import available_cores
from sslfeat.system.machine import save_measured

RESULTS = Path(__file__).with_name("results") / "serve.json"
ENDINGS = (".jpg", ".jpeg")
NPY, AS_JSON = "application/x-npy", "application/json"
MANY = 32
Spent = tuple[float, float]  # wall and CPU seconds


def raw(image: bytes, accept: str) -> bytes:
    """A request with one image."""
    head = f"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nContent-Type: image/jpeg\r\n"
    return f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image


def multipart(images: list[bytes], accept: str) -> bytes:
    """A request with several images."""
    part = b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="images"; filename="x.jpg"\r\n\r\n'
    body = b"".join(part + image + b"\r\n" for image in images) + b"--" + BOUNDARY + b"--\r\n"
    kind = f"multipart/form-data; boundary={BOUNDARY.decode()}"
    head = f"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def ask_all(service: Service, requests: list[bytes], connections: int) -> float:
    """Seconds for all requests over ``connections``."""
    left = iter(requests)

    async def one() -> None:
        reader, writer = await asyncio.open_connection(service.host, service.port)
        for request in left:
            writer.write(request)
            status, _ = await answered(reader)
            if status != 200:
                raise RuntimeError(f"answered {status}")
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    return time.perf_counter() - began


def served(service: Service, requests: list[bytes], connections: int) -> Spent:
    """The same, in a separate event loop, with the CPU time of the service."""
    before = service.cpu()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seconds = runner.run(ask_all(service, requests, connections))
    return seconds, service.cpu() - before


def embedded(folder: Path, encoder: str) -> Spent:
    """Time of `sslfeat embed`: seconds without the start of the program, and CPU time with it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as out:
        command = [*COMMAND[:3], "embed", str(folder), "--encoder", encoder, "--out", f"{out}/features", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return float(json.loads(done.stdout)["time"]["seconds"]), cpu


def linked(source: Path, folder: Path, count: int) -> list[bytes]:
    """``count`` links to the images of a folder, repeated as needed; returns the contents of the images."""
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in ENDINGS)
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06d}.jpg").symlink_to(files[number % len(files)].resolve())
    return [files[number % len(files)].read_bytes() for number in range(count)]


def in_turns(calls: dict[str, Callable[[], Spent]], laps: int) -> dict[str, Spent]:
    """Median wall and CPU seconds of each, after one warm-up lap."""
    spent: dict[str, list[Spent]] = {name: [] for name in calls}
    for lap in range(laps + 1):
        for name, call in calls.items():
            taken = call()
            if lap:
                spent[name].append(taken)
            print(f"{name}: {taken[0]:.2f} s wall, {taken[1]:.2f} s CPU", file=sys.stderr)
    return {
        name: (statistics.median(each[0] for each in values), statistics.median(each[1] for each in values))
        for name, values in spent.items()
    }


async def latency(service: Service, encoder: Encoder, images: list[bytes]) -> dict[str, float]:
    """Median ms of one image by the service, and of decoding and inference in this process; median of their ratios."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    pairs = []
    for image in images:
        began = time.perf_counter()
        writer.write(raw(image, NPY))
        await answered(reader)
        middle = time.perf_counter()
        encoder.run(decode(Content(image), encoder.card.preprocess).pixels[None])
        pairs.append((middle - began, time.perf_counter() - middle))
    writer.close()
    ours, bare = np.array(pairs).T * 1000
    found = {"served_ms": np.median(ours), "decode_and_inference_ms": np.median(bare), "ratio": np.median(ours / bare)}
    return {name: round(float(value), 3) for name, value in found.items()}


def measure(options: argparse.Namespace, work: Path, service: Service) -> dict[str, Any]:
    """All measurements."""
    photos = linked(options.photos, work / "photos", options.count)
    thumbs = linked(options.thumbnails, work / "thumbnails", options.count)
    groups = [thumbs[start : start + MANY] for start in range(0, len(thumbs), MANY)]
    connections = options.connections
    asked: dict[str, list[bytes]] = {
        "photographs, .npy": [raw(image, NPY) for image in photos],
        "32 thumbnails a request, .npy": [multipart(group, NPY) for group in groups],
        "photographs, JSON": [raw(image, AS_JSON) for image in photos],
        "one thumbnail a request, .npy": [raw(image, NPY) for image in thumbs],
    }
    calls: dict[str, Callable[[], Spent]] = {
        "embed photographs": lambda: embedded(work / "photos", options.encoder),
        "embed thumbnails": lambda: embedded(work / "thumbnails", options.encoder),
    }
    for name, requests in asked.items():
        several = max(2, connections // 4) if name.startswith("32") else connections  # within the queue of the service
        calls[name] = lambda requests=requests, several=several: served(service, requests, several)  # type: ignore[misc]
    (work / "one").mkdir()
    (work / "one" / "only.jpg").write_bytes(photos[0])
    start = statistics.median(embedded(work / "one", options.encoder)[1] for _ in range(3))
    spent = in_turns(calls, options.laps)
    rates = {name: round(options.count / seconds, 1) for name, (seconds, _) in spent.items()}
    cores = {name: round(1000 * (cpu - start * name.startswith("embed")) / options.count, 3) for name, (_, cpu) in spent.items()}
    shares = {
        name: round(rates[name] / rates["embed thumbnails" if "thumbnail" in name else "embed photographs"], 3) for name in asked
    }
    encoder = Encoder.load(options.encoder)
    found = asyncio.run(latency(service, encoder, photos[: min(500, len(photos))]))
    return {
        "images_per_second": rates,
        "share_of_embed": shares,
        "core_ms_an_image": cores,
        "latency": found,
        "load_of_the_machine": [round(value, 1) for value in os.getloadavg()],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path)
    parser.add_argument("thumbnails", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--laps", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--encoder", default="sslfeat-small")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    service = Service(options.encoder)
    try:
        with tempfile.TemporaryDirectory() as work:
            found = measure(options, Path(work), service)
    finally:
        service.process.kill()
        service.process.wait()
    settings = {name: getattr(options, name) for name in ("count", "laps", "connections", "encoder")}
    found = {**settings, "cores": available_cores(), **found}
    save_measured(options.out, found, sort_keys=True)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
