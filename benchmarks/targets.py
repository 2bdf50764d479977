"""All export targets of encoders: agreement with the encoder file, size, and speed.

    python benchmarks/targets.py WORK IMAGES SOURCE [SOURCE ...] [--probe-data DIR] [--target T ...]

Each SOURCE (a run, an encoder file, or a name) is exported to each target by the command line, which runs it in its runtime on
IMAGES, alternating with the encoder file in onnxruntime, with one thread each. Failed targets are listed with the reason.
Writes WORK/targets.json; with --target only these targets are measured, and other results in the file are kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from sslfeat.export.targets.registry import TARGETS
from sslfeat.system.machine import KEY, save_measured

MAIN = "from sslfeat.cli.app import main; main()"


def export(source: str, target: str, images: str, labeled: str | None, out: Path) -> dict[str, Any]:
    if out.is_dir():
        shutil.rmtree(out)
    command = [sys.executable, "-c", MAIN, "export", source, "--target", target, "--images", images, "--out", str(out)]
    command += ["--json", "--overwrite", *(["--probe-data", labeled] if labeled else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"refused": done.stderr.strip().splitlines()[-1].removeprefix("error: ")}
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def line(found: dict[str, Any]) -> str:
    """Result of a target: reason for failure, or agreement and speedup."""
    if "refused" in found:
        return f"refused: {found['refused']}"
    near = found["likeness"]
    speeds = ", ".join(f"{times[0] / times[1]:.2f} x at batch {size}" for size, times in sorted(found["seconds"].items()))
    kept = f"cosine {near['cosine_bound']:.7f}, overlap {near['overlap_bound']:.4f}, {speeds}" if near else "not run here"
    return f"{found['bytes'] / 1e6:.1f} MB, {kept}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("images")
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--probe-data")
    parser.add_argument("--target", action="append", choices=TARGETS, help="measure only this target; may be repeated")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    written = options.work / "targets.json"
    results: dict[str, dict[str, dict[str, Any]]] = {}
    if options.target and written.exists():
        results = json.loads(written.read_text())
        results.pop(KEY, None)  # replaced by this machine
    for source in options.sources:
        name = Path(source).name
        results.setdefault(name, {})
        for target in options.target or TARGETS:
            found = export(source, target, options.images, options.probe_data, options.work / f"{name}-{target}")
            results[name][target] = {key: value for key, value in found.items() if key != "out"}
            print(f"{name}, {target}: {line(found)}", flush=True)
    save_measured(written, results)


if __name__ == "__main__":
    main()
