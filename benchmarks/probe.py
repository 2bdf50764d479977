"""Logistic regression of the probe compared with scikit-learn: optimum, speed, and memory for a million rows.

    python benchmarks/probe.py WORK [--shape 50000x512x10 ...] [--laps 2] [--million]

Random features (with 10,000 test rows): class means plus noise with power-law variances, as those of encoders; with many rows,
and with few wide rows. A warm-started path over ten values of C is compared with scikit-learn fitting each value (default
tolerance, enough iterations to converge), alternating in one process. The complete selection of the probe is timed, too: both
scalings, ten or more values of C evaluated on a tenth of the rows, and a final fit of all rows. Reported are wall and CPU time.
For each C, objectives (per row) and test accuracies are compared with the timed fits, and with scikit-learn at a tolerance of
1e-6 (for three C up to 0.1, untimed), because by default it stops before the optimum. ``--million``: a features folder of
1,000,000 x 384 is probed by the command line, and the peak memory of the process is measured. Writes WORK/probe.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from sslfeat.evaluation.probing.logistic import Linear, Regression, Targets
from sslfeat.evaluation.probing.regularization import STRENGTHS, best_fit
from sslfeat.evaluation.probing.splits import held_out
from sslfeat.system.machine import save_measured

Rows = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
TEST = 10_000
SHAPES = ("50000x512x10", "50000x512x100", "2640x1280x81", "3000x1280x10", "3000x1900x10")


def draw(count: int, dim: int, classes: int, seed: int) -> tuple[Rows, Numbers]:
    """Overlapping classes, passed through a ReLU."""
    world, rng = np.random.default_rng(0), np.random.default_rng(seed)
    scale = np.arange(1, dim + 1) ** -0.5
    apart = 0.08 if classes <= 10 else 0.16  # for an accuracy of at least one half
    means = (world.normal(size=(classes, dim)) * scale * apart).astype(np.float32)
    turn = np.linalg.qr(world.normal(size=(dim, dim)))[0].astype(np.float32)
    y = rng.integers(0, classes, count)
    x = rng.normal(size=(count, dim)).astype(np.float32) * scale.astype(np.float32) + means[y]
    return np.maximum(x @ turn + 0.1, 0), y


def standardized(train: Rows, *others: Rows) -> list[Rows]:
    mean, scale = train.mean(0), train.std(0)
    return [(x - mean) / scale for x in (train, *others)]


def objective(x: Rows, y: Numbers, weights: Any, bias: Any, c: float) -> float:
    """Per row: cross-entropy plus penalty of the weights."""
    z = x @ weights.T + bias
    z -= z.max(1, keepdims=True)
    loss = np.log(np.exp(z).sum(1, dtype=np.float64)) - z[np.arange(len(y)), y]
    return float(loss.sum(dtype=np.float64) + np.square(weights, dtype=np.float64).sum() / (2 * c)) / len(y)


def clocks() -> Numbers:
    return np.array([time.perf_counter(), time.process_time()])


def choose(x: Rows, y: Numbers, classes: int) -> None:
    """Selection of C and scaling, and final fit, as in the probe."""
    held = held_out(y, [str(k) for k in range(classes)], 0.1, 0, whole=False)
    judge = lambda scores, rows: float((scores.argmax(1) == y[rows]).mean())  # noqa: E731
    best_fit(x, Targets(y, classes), np.ones(len(y), np.float32), [held], judge)


def compare(rows_: int, dim: int, classes: int, laps: int) -> dict[str, Any]:
    x, y = draw(rows_, dim, classes, 1)
    x_test, y_test = draw(TEST, dim, classes, 2)
    rows, rows_test = standardized(x, x_test)
    ours: list[Linear] = []
    spent: dict[str, list[Numbers]] = {"ours": [], "ours, whole choice": [], "scikit-learn": []}
    theirs: list[LogisticRegression] = []
    for _ in range(laps):
        began = clocks()
        ours = list(Regression(x, Targets(y, classes)).path(STRENGTHS))
        spent["ours"].append(clocks() - began)
        began = clocks()
        choose(x, y, classes)
        spent["ours, whole choice"].append(clocks() - began)
        began = clocks()
        theirs = [LogisticRegression(C=c, max_iter=5000).fit(rows, y) for c in STRENGTHS]
        spent["scikit-learn"].append(clocks() - began)
        print(rows_, dim, classes, {name: np.round(seconds, 1).tolist() for name, seconds in spent.items()}, flush=True)
    regression = Regression(x, Targets(y, classes))
    tight = {c: LogisticRegression(C=c, max_iter=50_000, tol=1e-6).fit(rows, y) for c in STRENGTHS[:7:3]}
    each = {}
    for c, own, default in zip(STRENGTHS, ours, theirs, strict=True):
        others = {"scikit-learn": default, **({"scikit-learn, tol 1e-6": tight[c]} if c in tight else {})}
        found = {"ours": (regression.objective(own, c) / len(y), float((own.scores(x_test).argmax(1) == y_test).mean()))}
        for name, other in others.items():
            reached = objective(rows, y, other.coef_, other.intercept_, c)
            found[name] = (reached, float((other.predict(rows_test) == y_test).mean()))
        each[c] = found
    medians = {name: np.median(np.stack(seconds), axis=0) for name, seconds in spent.items()}
    faster = {name: np.round(medians["scikit-learn"] / medians[name], 2).tolist() for name in spent if name.startswith("ours")}
    return {
        "seconds, of the clock and of the processors": {
            name: np.round(np.stack(seconds), 2).tolist() for name, seconds in spent.items()
        },
        "times faster, by the clock and the processors": faster,
        "largest differences from": {name: _differences(each, name) for name in list(each[STRENGTHS[0]])[1:]},
        "each C": each,
    }


def _differences(each: dict[float, dict[str, tuple[float, float]]], name: str) -> dict[str, float]:
    """Differences in the objective (ours minus the other: largest and smallest) and in the accuracy."""
    both = [(found["ours"], found[name]) for found in each.values() if name in found]
    losses = [ours[0] - theirs[0] for ours, theirs in both]
    accuracies = [abs(ours[1] - theirs[1]) for ours, theirs in both]
    return {"objective, most above": max(losses), "objective, most below": min(losses), "accuracy": max(accuracies)}


def million(work: Path) -> dict[str, Any]:
    """Peak MiB of ``sslfeat probe`` with a million rows of 384: total, and without mapped files."""
    from index_million import PEAK, make_features
    from million import make_encoder

    from sslfeat import Encoder

    encoder, features = work / "million.onnx", work / "million"
    if not features.exists():
        make_encoder(encoder, 384)
        x, y = draw(1_000_000, 384, 10, 1)
        make_features(features, x, Encoder.load(encoder), y)
        del x
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PEAK, "probe", str(features), "--json"], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    return {
        "rows": 1_000_000,
        "dim": 384,
        "seconds": round(time.perf_counter() - began, 1),
        "peak MiB": int(done.stderr.split("peak ")[-1]),
        "accuracy": told["linear"]["top1"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--shape", nargs="*", default=SHAPES, help="rows x units x classes")
    parser.add_argument("--laps", type=int, default=2)
    parser.add_argument("--million", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    path = options.work / "probe.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    if options.million:
        result["million"] = million(options.work)
    for shape in options.shape:
        result[shape] = compare(*map(int, shape.split("x")), options.laps)
        save_measured(path, result)
    print(json.dumps(result, indent=1))
    save_measured(path, result)


if __name__ == "__main__":
    main()
