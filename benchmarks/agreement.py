"""Rank correlation between label-free metrics and linear-probe accuracy over several encoders.

    python benchmarks/agreement.py WORK TRAIN TEST ENCODER.onnx [ENCODER.onnx ...]

TRAIN and TEST are folders of class folders, or lists of images in them. For each encoder, label-free metrics are computed on
TRAIN, and a probe is tested on TEST. Reported is Spearman's rank correlation over the encoders with a bootstrap confidence
interval. Existing results in WORK are reused. Writes WORK/agreement.json and WORK/agreement.png.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from sslfeat.evaluation.unsupervised import MEANING, Score, mean_ranks
from sslfeat.system.machine import save_measured

FIGURES = [*(name for name in MEANING if name != "dead"), "mean_rank"]
RESAMPLES = 2000


def cli(*arguments: object) -> str:
    """Run a command and return its output."""
    command = [sys.executable, "-c", "from sslfeat.cli.app import main; main()", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def judge(encoder: Path, parts: tuple[Path, Path], work: Path) -> dict[str, Any]:
    """Label-free metrics and probe accuracy of an encoder."""
    done = work / f"{encoder.stem}.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    folders = [work / f"{encoder.stem}.{part.stem}" for part in parts]
    for part, folder in zip(parts, folders, strict=True):
        cli("embed", part, "--encoder", encoder, "--labels", "folder", "--batch-size", 64, "--out", folder)
    (figures,) = json.loads(cli("score", folders[0], "--json"))["folders"]
    found = {**figures, "encoder": encoder.stem, "accuracy": json.loads(cli("probe", *folders, "--json"))["linear"]["top1"]}
    found.pop("folder")
    done.write_text(json.dumps(found, indent=1) + "\n")
    return found


def agreement(rows: list[dict[str, Any]], figure: str) -> dict[str, float]:
    """Spearman correlation of a metric with the accuracy, with 95 % bootstrap confidence interval over encoders."""
    x, y = (np.array([row[name] for row in rows]) for name in (figure, "accuracy"))
    rng = np.random.default_rng(0)
    drawn = []
    while len(drawn) < RESAMPLES:
        some = rng.integers(0, len(x), len(x))
        if len(set(x[some])) > 2:
            drawn.append(spearmanr(x[some], y[some]).statistic)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"spearman": round(float(spearmanr(x, y).statistic), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def plot(rows: list[dict[str, Any]], found: dict[str, dict[str, float]], path: Path) -> None:
    """Scatter plots of each metric against the accuracy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(13, 6.5), sharey=True, layout="constrained")
    for name, panel in zip(FIGURES, axes.flat, strict=False):
        for row in rows:
            panel.scatter(row[name], 100 * row["accuracy"], s=18, color="tab:blue")
            panel.annotate(
                row["encoder"], (row[name], 100 * row["accuracy"]), fontsize=6, xytext=(3, 2), textcoords="offset points"
            )
        panel.set_title(
            f"{name}: {found[name]['spearman']:+.2f} [{found[name]['low']:+.2f}, {found[name]['high']:+.2f}]", fontsize=9
        )
    for panel in list(axes.flat)[len(FIGURES) :]:
        panel.axis("off")
    figure.supylabel("linear probe, %")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("encoders", nargs="+", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rows = [judge(encoder, (options.train, options.test), options.work) for encoder in options.encoders]
    names = {field.name for field in fields(Score)}
    scores = [Score(**{name: value for name, value in row.items() if name in names}) for row in rows]
    for row, rank in zip(rows, mean_ranks(scores), strict=True):
        row["mean_rank"] = rank
    found = {figure: agreement(rows, figure) for figure in FIGURES}
    result = {"encoders": rows, "agreement": found}
    save_measured(options.work / "agreement.json", result)
    plot(rows, found, options.work / "agreement.png")
    for figure, row in sorted(found.items(), key=lambda item: -abs(item[1]["spearman"])):
        print(f"{figure:<18} {row['spearman']:+.2f}  [{row['low']:+.2f}, {row['high']:+.2f}]")


if __name__ == "__main__":
    main()
