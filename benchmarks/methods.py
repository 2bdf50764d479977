"""All methods with the same budget on the same images, evaluated by the same probe, compared with the untrained encoder.

    python benchmarks/methods.py DATA WORK --minutes 15 [--cores 1] [--methods simclr rotation] [--seeds 0 1 2] [--image-size 32]
    python benchmarks/methods.py DATA WORK2 --methods common-fate --images FRAMES --set source=frames

DATA contains train/CLASS/* and test/CLASS/* (or val/). Encoders are trained, exported, embedded and probed by the command line.
Existing results in WORK are reused, so the run can be interrupted, and extended later. Each command uses ``--cores`` threads
(default: one), regardless of OMP_NUM_THREADS. Writes WORK/methods.json, WORK/methods.md and WORK/methods.png: gain in accuracy
over the untrained encoder, and images per second in training.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from sslfeat.models.method import method_names
from sslfeat.system.cores import THREAD_VARIABLES, available_cores
from sslfeat.system.machine import save_measured

GOALS = {
    **dict.fromkeys(["barlow", "deepcluster", "rotation"], 10.0),
    **dict.fromkeys(["colorization", "context", "counting", "desa", "inpainting", "jigsaw", "patch2vec"], 4.0),
    "simclr": 15.0,
    "common-fate": 2.0,
}
TOKENS = ("mae", "autoregressive", "beit")
NEEDS_A_TEACHER = "distill"
OWN_BASELINE = "patch2vec"  # no backbone: its codebook with random vectors


def cli(*arguments: object) -> str:
    """Run a command and return its output; raises CalledProcessError on failure."""
    words = [str(argument) for argument in arguments]
    print("$ sslfeat", shlex.join(words), flush=True)
    command = [sys.executable, "-c", "from sslfeat.cli.app import main; main()", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def judge(encoder: Path, data: Path) -> dict[str, Any]:
    """Linear and kNN accuracy of an exported encoder, in percent."""
    parts = ("train", held_out(data))
    folders = [encoder.with_suffix(f".{part}") for part in parts]
    for folder, part in zip(folders, parts, strict=True):
        cli("embed", data / part, "--encoder", encoder, "--out", folder, "--batch-size", 64)
    found = json.loads(cli("probe", *folders, "--json"))
    return {
        "linear": 100 * found["linear"]["top1"],
        "interval": [100 * found["linear"][end] for end in ("low", "high")],
        "knn": 100 * found["knn"]["20"]["top1"],
    }


def held_out(data: Path) -> str:
    """Name of the test folder."""
    return "test" if (data / "test").is_dir() else "val"


def learning(run: Path) -> dict[str, float]:
    """Steps, images per second (median), and final pretext metrics (mean of the last ten values)."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pretext = [name for name in ("accuracy", "chance", "error", "trivial") if name in rows[-1]]
    return {
        "steps": float(rows[-1]["step"]),
        "images_per_second": statistics.median(float(row["images_per_second"]) for row in rows),
        **{name: statistics.fmean(float(row[name]) for row in rows[-10:]) for name in pretext},
    }


def train_one(method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train, export and evaluate one method; existing results are reused."""
    name = f"{method}-seed{seed}"
    run, encoder = options.work / name, options.work / f"{name}.onnx"
    done = options.work / f"{name}.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    if not encoder.exists():
        resume = ["--resume"] if (run / "config.yaml").exists() else []
        size = ["--image-size", options.image_size, "--seed", seed, *resume, *backbone_of(method, options)]
        settings = [word for setting in options.set for word in ("--set", setting)]
        images = options.images or options.data / "train"
        cli("train", method, images, "--out", run, "--minutes", options.minutes, *size, *settings)
        cli("export", run, "--out", encoder)
    found = {**judge(encoder, options.data), **learning(run), "core_minutes": options.cores * options.minutes}
    done.write_text(json.dumps(found, indent=1) + "\n")
    return found


def backbone_of(method: str, options: argparse.Namespace) -> list[str]:
    """Backbone option, of the same size for all methods of a kind."""
    return [] if method == OWN_BASELINE else ["--backbone", options.token_backbone if method in TOKENS else options.backbone]


def baseline_of(method: str, options: argparse.Namespace) -> str:
    """Name of the untrained encoder for comparison."""
    return f"untrained-{OWN_BASELINE if method == OWN_BASELINE else backbone_of(method, options)[1]}"


def untrained(method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The same network with random weights."""
    name = f"{baseline_of(method, options)}-seed{seed}"
    encoder, done = options.work / f"{name}.onnx", options.work / f"{name}.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    if not encoder.exists():
        size = ["--image-size", options.image_size, "--seed", seed]
        if method == OWN_BASELINE:
            run = options.work / name
            cli("train", method, options.data / "train", "--out", run, "--steps", 1, "--lr", 1e-12, *size)
            cli("export", run, "--out", encoder)
        else:
            images = ["--images", options.data / held_out(options.data), "--out", encoder]
            cli("export", "--random-init", backbone_of(method, options)[1], *size, *images)
    found = judge(encoder, options.data)
    done.write_text(json.dumps(found, indent=1) + "\n")
    return found


def summary(method: str, seeds: list[dict[str, Any]], bases: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and the range of the gain."""
    gains = [found["linear"] - base["linear"] for found, base in zip(seeds, bases, strict=True)]
    mean = {key: statistics.fmean(found[key] for found in seeds) for key in seeds[0] if key != "interval"}
    return {
        "method": method,
        "seeds": len(seeds),
        **mean,
        "untrained_linear": statistics.fmean(base["linear"] for base in bases),
        "untrained_knn": statistics.fmean(base["knn"] for base in bases),
        "gain": statistics.fmean(gains),
        "gain_spread": statistics.stdev(gains) if len(gains) > 1 else None,
        "goal": GOALS.get(method),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Results as Markdown, by decreasing gain."""
    lines = [
        "| method | linear | untrained | gain | goal | kNN 20 | pretext task | images/s | steps | core minutes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: -row["gain"]):
        spread = f" ± {row['gain_spread']:.1f}" if row["gain_spread"] is not None else ""
        goal = f"{row['goal']:+.0f}" if row["goal"] else ""
        pairs = (("error", "trivial"), ("accuracy", "chance"))
        shown = [f"{name} {row[name]:.3f}, {beside} {row[beside]:.3f}" for name, beside in pairs if name in row]
        pretext = shown[0] if shown else ""
        lines.append(
            f"| {row['method']} | {row['linear']:.1f} | {row['untrained_linear']:.1f} | {row['gain']:+.1f}{spread} "
            f"| {goal} | {row['knn']:.1f} | {pretext} | {row['images_per_second']:.0f} | {row['steps']:.0f} "
            f"| {row['core_minutes']:g} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Bar chart of gains, with goals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = sorted(rows, key=lambda row: row["gain"])
    figure, axes = pyplot.subplots(figsize=(8, 0.4 * len(rows) + 1.5), layout="constrained")
    axes.barh([row["method"] for row in rows], [row["gain"] for row in rows], xerr=[row["gain_spread"] or 0 for row in rows])
    for place, row in enumerate(rows):
        if row["goal"]:
            axes.plot([row["goal"]] * 2, [place - 0.4, place + 0.4], color="black")
    axes.axvline(0, color="gray", linewidth=0.8)
    axes.set_xlabel("points of linear accuracy over the untrained encoder (black: goal)")
    axes.set_title(title)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--cores", type=int, default=1, help="threads per command")
    parser.add_argument("--methods", nargs="+", default=[name for name in method_names() if name != NEEDS_A_TEACHER])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--backbone", default="resnet10")
    parser.add_argument("--token-backbone", default="vit_tiny")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--images", type=Path, help="train on these images, evaluate on DATA")
    parser.add_argument("--set", nargs="*", default=[], help="options of the method, NAME=VALUE")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        dict.fromkeys(THREAD_VARIABLES, str(options.cores))
    )  # for the commands; nothing is computed in this process
    print(
        f"{options.cores} of {available_cores()} cores, {options.minutes:g} minutes per method, seeds {options.seeds}", flush=True
    )
    for method in options.methods:
        for seed in options.seeds:
            train_one(method, seed, options)
            untrained(method, seed, options)
        write(options)
    print((options.work / "methods.md").read_text())


def write(options: argparse.Namespace) -> None:
    """Write table and plot of all methods with results for all seeds, from this run or earlier ones."""
    done = [name for name in method_names() if all(is_done(name, seed, options) for seed in options.seeds)]
    rows = []
    for method in done:
        found = [train_one(method, seed, options) for seed in options.seeds]
        rows.append(summary(method, found, [untrained(method, seed, options) for seed in options.seeds]))
    budget = f"{options.data.name}, {options.image_size} px"
    save_measured(
        options.work / "methods.json", {"budget": budget, "cores": options.cores, "minutes": options.minutes, "rows": rows}
    )
    (options.work / "methods.md").write_text(table(rows))
    plot(rows, options.work / "methods.png", budget)


def is_done(method: str, seed: int, options: argparse.Namespace) -> bool:
    """Whether the method and its untrained encoder are evaluated (possibly by another process)."""
    return all((options.work / f"{name}-seed{seed}.json").exists() for name in (method, baseline_of(method, options)))


if __name__ == "__main__":
    main()
