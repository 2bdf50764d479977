"""Train, export, embed and probe on CIFAR-10 by the command line, compared with the untrained encoder.

    python benchmarks/cifar10.py DATA WORK --minutes 15

DATA contains train/CLASS/*.jpg and test/CLASS/*.jpg. Existing results in WORK are reused. Prints the commands and a table, and
writes WORK/cifar10.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from sslfeat.system.machine import save_measured

BACKBONE, SIZE = "resnet10", 32
METHODS = ("simclr", "rotation")
GOALS = {"simclr": 15.0, "rotation": 10.0}  # gain in linear accuracy over the untrained encoder, in points


def cli(*arguments: object) -> str:
    """Run a command and return its output; raises CalledProcessError on failure."""
    words = [str(argument) for argument in arguments]
    print("$ sslfeat", shlex.join(words), flush=True)
    command = [sys.executable, "-c", "from sslfeat.cli.app import main; main()", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def judge(encoder: Path, data: Path) -> dict[str, Any]:
    """Embed both splits and probe them."""
    folders = [encoder.with_suffix(f".{part}") for part in ("train", "test")]
    for folder, part in zip(folders, ("train", "test"), strict=True):
        cli("embed", data / part, "--encoder", encoder, "--out", folder, "--batch-size", 64)
    result: dict[str, Any] = json.loads(cli("probe", *folders, "--json"))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=15)
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    random = work / "random.onnx"
    if not random.exists():
        cli("export", "--random-init", BACKBONE, "--image-size", SIZE, "--images", options.data / "test", "--out", random)
    results: dict[str, Any] = {"random": judge(random, options.data)}
    for method in METHODS:
        run, encoder = work / f"cifar10-{method}", work / f"{method}.onnx"
        if not encoder.exists():
            if not (run / "failures.csv").exists():  # written last
                budget = ("--minutes", options.minutes, "--backbone", BACKBONE, "--image-size", SIZE)
                cli("train", method, options.data / "train", "--out", run, *budget)
            cli("export", run, "--out", encoder, "--data-name", "CIFAR-10")
        results[method] = judge(encoder, options.data)
    base = results["random"]["linear"]["top1"]
    print(f"\n{'encoder':<10} {'linear':>7} {'95%':>15} {'kNN 20':>7} {'kNN 200':>8} {'gain':>6} {'goal':>5}")
    for name, result in results.items():
        linear = result["linear"]
        result["gain"] = 100 * (linear["top1"] - base)
        interval = f"[{100 * linear['low']:.1f}, {100 * linear['high']:.1f}]"
        knn = " ".join(f"{100 * result['knn'][k]['top1']:7.2f}" for k in ("20", "200"))
        goal = f"{GOALS[name]:+5.0f}" if name in GOALS else ""
        print(f"{name:<10} {100 * linear['top1']:7.2f} {interval:>15} {knn} {result['gain']:+6.1f} {goal}")
    save_measured(work / "cifar10.json", {"minutes": options.minutes, "results": results})


if __name__ == "__main__":
    main()
