"""Load test of `sslfeat serve`: valid, broken, oversized, slow and aborted requests at the same time.

    python benchmarks/serve_load.py IMAGES [--requests 10000] [--connections 512] [--warm-up 1000] [--encoder NAME] [--out JSON]

Starts a service on the loopback interface with short timeouts, and keeps all connections busy. Of 100 requests, 66 are one JPEG,
8 are four JPEGs as multipart, 10 are broken images, 4 exceed the size limit, 4 are slow (nothing, half of the headers, or half of
a body, until the service times out or reports that it is full), and 8 are aborted by the client. Reported are status codes by
kind; lost requests, which were sent completely and not answered; the time of accepted requests; and the memory (anonymous pages
of all processes of the service) after the warm-up and at the end. Finally, SIGTERM is sent under the same load of valid requests:
every request sent before it must be answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sslfeat.system.machine import save_measured

SHARES = {"good": 66, "many": 8, "broken": 10, "oversized": 4, "slow": 4, "aborted": 8}
ALLOWED = {
    "good": {200, 429, 503}, "many": {200, 429, 503}, "broken": {422, 429, 503}, "oversized": {413, 429}, "slow": {408, 429},
    "aborted": set(),
}  # fmt: skip
LIMITS = (
    "--first-byte",
    "3",
    "--headers",
    "3",
    "--body",
    "3",
    "--queue",
    "256",
    "--deadline",
    "10",
    "--log-level",
    "error",
)
COMMAND = (sys.executable, "-c", "from sslfeat.cli.app import main; main()", "serve", "--port", "0")
OVERSIZED = 21 << 20
REST = 8  # seconds before memory is measured
BOUNDARY = b"----load"


@dataclass
class Tally:
    """Counts of outcomes of the requests."""

    statuses: dict[str, Counter[str]] = field(default_factory=lambda: {kind: Counter() for kind in SHARES})
    seconds: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


class Service:
    """The service under load."""

    def __init__(self, encoder: str) -> None:
        self.process = subprocess.Popen([*COMMAND, "--encoder", encoder, *LIMITS], stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        for line in self.process.stderr or ():
            self.log.append(line)
            if found := re.match(r"serving .* on http://([^:]+):(\d+)", line):
                self.host, self.port = found[1], int(found[2])
                break
        else:
            raise SystemExit("".join(self.log))
        threading.Thread(target=self.log.extend, args=(self.process.stderr,), daemon=True).start()

    def memory(self) -> float:
        """MiB of the service and its decoders, without files of libraries."""
        return sum(_own(pid) for pid in self.pids()) / 1024

    def cpu(self) -> float:
        """CPU seconds of the service and its decoders."""
        tasks = [task for pid in self.pids() for task in Path(f"/proc/{pid}/task").iterdir()]
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def pids(self) -> set[int]:
        """Process ids of the service."""
        found = {self.process.pid}
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            found |= set(map(int, (task / "children").read_text().split()))
        return found


def _own(pid: int) -> int:
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(re.search(r"^Pss_Anon:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]
    return 0


def request(kind: str, images: list[bytes], rng: random.Random) -> bytes:
    """A request as bytes; slow and aborted requests are sent partially."""
    image = rng.choice(images)
    head = "POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-npy\r\nContent-Type: "
    if kind == "many":
        part = BOUNDARY + b'\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n\r\n'
        body = b"".join(b"--" + part + rng.choice(images) + b"\r\n" for _ in range(4)) + b"--" + BOUNDARY + b"--\r\n"
        return f"{head}multipart/form-data; boundary={BOUNDARY.decode()}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    if kind == "broken":
        image = image[: len(image) // 3] if rng.random() < 0.5 else rng.randbytes(20_000)
    if kind == "oversized":
        return f"{head}image/jpeg\r\nContent-Length: {OVERSIZED}\r\n\r\n".encode() + image
    return f"{head}image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n".encode() + image


async def answered(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Status code of a response, and whether the connection is kept alive."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head)
    await reader.readexactly(int(length[1]) if length else 0)
    return int(head[9:12]), b"\r\nconnection: close" not in head


class Client:
    """A connection, reopened when closed."""

    def __init__(self, service: Service, images: list[bytes], tally: Tally, seed: int) -> None:
        self.service, self.images, self.tally, self.rng = service, images, tally, random.Random(seed)
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def send(self, kind: str) -> None:
        """Send one request of this kind and record the outcome."""
        data = request(kind, self.images, self.rng)
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.service.host, self.service.port)
        began = time.perf_counter()
        try:
            status, goes_on = await self._exchange(kind, data)
            self.tally.statuses[kind][str(status)] += 1
            if status == 200:
                self.tally.seconds.append(time.perf_counter() - began)
            if kind != "aborted" and status not in ALLOWED[kind]:
                self.tally.lost.append(f"{kind}: {status}")
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            goes_on = False
            self.tally.statuses[kind][type(error).__name__] += 1
            if kind not in ("aborted", "slow"):
                self.tally.lost.append(f"{kind}: {type(error).__name__}")
        if not goes_on or kind in ("oversized", "slow", "aborted"):
            self.close()

    async def _exchange(self, kind: str, data: bytes) -> tuple[int | str, bool]:
        if self.reader is None or self.writer is None:
            raise RuntimeError("there is no connection")
        if kind in ("slow", "aborted"):
            data = data[: self.rng.choice((20, 60, len(data) // 2, *([len(data)] if kind == "aborted" else [])))]
        self.writer.write(data)
        await self.writer.drain()
        if kind == "aborted":
            await asyncio.sleep(self.rng.random() / 10)
            return "left", False
        return await answered(self.reader)

    def close(self) -> None:
        """Close the connection."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


async def load(service: Service, images: list[bytes], count: int, connections: int, shares: dict[str, int]) -> Tally:
    """Send ``count`` requests over ``connections``."""
    kinds = random.Random(count).choices(list(shares), list(shares.values()), k=count)
    tally, left = Tally(), iter(kinds)

    async def one(seed: int) -> None:
        client = Client(service, images, tally, seed)
        for kind in left:
            await client.send(kind)
        client.close()

    await asyncio.gather(*map(one, range(connections)))
    return tally


async def ended(service: Service, images: list[bytes], connections: int) -> dict[str, Any]:
    """Send SIGTERM while all connections wait for a response; number of responses."""
    tally = Tally()
    clients = [Client(service, images, tally, seed) for seed in range(connections)]
    for client in clients:
        client.reader, client.writer = await asyncio.open_connection(service.host, service.port)
    tasks = [asyncio.create_task(client.send("good")) for client in clients]
    await asyncio.sleep(0.2)
    service.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*tasks)
    for client in clients:
        client.close()
    code = await asyncio.to_thread(service.process.wait, 120)
    return {"statuses": dict(tally.statuses["good"]), "lost": tally.lost, "exit_code": code}


async def run(service: Service, images: list[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Run the load test."""
    await load(service, images, options.warm_up, options.connections, SHARES)
    await asyncio.sleep(REST)
    before = service.memory()
    began = time.perf_counter()
    tally = await load(service, images, options.requests, options.connections, SHARES)
    seconds = time.perf_counter() - began
    await asyncio.sleep(REST)
    after = service.memory()
    end = await ended(service, images, options.connections)
    return {
        "requests": options.requests,
        "connections": options.connections,
        "seconds": round(seconds, 1),
        "statuses": {kind: dict(sorted(counts.items())) for kind, counts in tally.statuses.items()},
        "lost": dict(Counter(tally.lost)),
        "accepted_p50_s": round(float(np.median(tally.seconds)), 3),
        "accepted_p99_s": round(float(np.quantile(tally.seconds, 0.99)), 3),
        "memory_mib": {"after_warm_up": round(before, 1), "at_the_end": round(after, 1)},
        "growth": round(after / before - 1, 4),
        "sigterm": end,
        "tracebacks": sum("raceback" in line for line in service.log),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=512)
    parser.add_argument("--warm-up", type=int, default=1000)
    parser.add_argument("--encoder", default="sslfeat-small")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    files = sorted(path for path in options.images.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))[:200]
    images = [path.read_bytes() for path in files]
    service = Service(options.encoder)
    try:
        found = asyncio.run(run(service, images, options))
    finally:
        service.process.kill()
        service.process.wait()
    found["cores"] = len(os.sched_getaffinity(0))
    print(json.dumps(found, indent=1))
    print("".join(service.log[-20:]), file=sys.stderr)
    if options.out is not None:
        save_measured(options.out, found, sort_keys=True)


if __name__ == "__main__":
    main()
