"""Robustness against thousands of damaged ONNX files.

    python benchmarks/mutants.py WORK ENCODER.onnx [--count 5000] [--seconds 20]

Bytes of a model are flipped, zeroed, cut, repeated or swapped, with a fixed seed. Each mutant is converted as a third-party model
in a subprocess, which is restarted after a crash. Counted are mutants that are rejected with an error, still work, or crash or
hang the subprocess; the calling process must survive all of them. Writes WORK/mutants.json.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import subprocess
import sys
import threading
from pathlib import Path

from sslfeat.system.machine import save_measured

CHILD = """
import sys, numpy as np
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from mutants import mutant
from sslfeat.errors import SslfeatError
from sslfeat.export.adopt.adopt import adopt
from sslfeat.export.adopt.subprocess import limit_memory
from sslfeat.export.adopt.foreign_model import AdoptRequest
from sslfeat.data.transforms import Preprocess
limit_memory()
data, size = Path(sys.argv[2]).read_bytes(), int(sys.argv[5])
pixels = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
for number in range(int(sys.argv[3]), int(sys.argv[4])):
    try:
        adopt(mutant(data, number), AdoptRequest(Preprocess(size, size), pool=sys.argv[6]), pixels, "drawn")
        print("@", number, "works", flush=True)
    except SslfeatError as error:
        print("@", number, "refused", flush=True)
    except Exception as error:
        print("@", number, "unnamed:", type(error).__name__, str(error)[:80].replace(chr(10), " "), flush=True)
"""


def mutant(data: bytes, seed: int) -> bytes:
    """``data`` with one to four modifications, half of them in the first and last kilobytes, which contain the structure."""
    rng = random.Random(seed)
    wounded = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        near = rng.random() < 0.5
        at = rng.randrange(min(4096, len(wounded))) if near else rng.randrange(len(wounded))
        at = len(wounded) - 1 - at if rng.random() < 0.4 else at
        long = rng.choice((1, 1, 2, 8, 64))
        kind = rng.choice(("flip", "zero", "ones", "cut", "repeat", "swap", "truncate"))
        if kind == "flip":
            wounded[at] ^= 1 << rng.randrange(8)
        elif kind in ("zero", "ones"):
            wounded[at : at + long] = bytes([0 if kind == "zero" else 255]) * len(wounded[at : at + long])
        elif kind == "cut":
            del wounded[at : at + long]
        elif kind == "repeat":
            wounded[at:at] = wounded[at : at + long]
        elif kind == "swap":
            wounded[at : at + long] = bytes(reversed(wounded[at : at + long]))
        elif rng.random() < 0.1:
            del wounded[at:]
        if not wounded:
            break
    return bytes(wounded)


def run(file: Path, count: int, seconds: float, size: int, pool: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = collections.defaultdict(list)
    done = 0
    while done < count:
        command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(file), str(done), str(count), str(size), pool]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        timer = threading.Timer(seconds + 30, child.kill)
        timer.start()
        for line in child.stdout or ():
            timer.cancel()
            if not line.startswith("@ "):  # message of a library
                continue
            _, number, what = line.strip().split(" ", 2)
            found[what].append(number)
            done = int(number) + 1
            timer = threading.Timer(seconds, child.kill)
            timer.start()
        timer.cancel()
        status = child.wait()
        if done < count:
            found["hung" if status == -9 else f"crashed ({status})"].append(str(done))
            print(done, status, flush=True)
            done += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--pool", default="none")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    found = run(options.model, options.count, options.seconds, options.size, options.pool)
    counts = {what: len(numbers) for what, numbers in sorted(found.items(), key=lambda item: -len(item[1]))}
    rare = {what: numbers[:10] for what, numbers in found.items() if what not in ("works", "refused")}
    result = {"mutants": options.count, "model": options.model.name, "counts": counts, "which": rare}
    print(json.dumps(result, indent=1))
    save_measured(options.work / "mutants.json", result)


if __name__ == "__main__":
    main()
