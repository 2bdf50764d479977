"""How good is the shipped encoder? Linear and kNN accuracy, mean average precision, precision@10; beside its untrained self.

    python benchmarks/retrieval_quality.py IMAGENETTE CIFAR10 WORK

Held-out images (val/ or test/) are the queries, those of train/ are searched (of CIFAR-10 the first 1,000 and 500 of each
class, by name); relevant is what has the query's class. Ranked by cosine, exactly, all of them. The linear classifier and the
20 nearest neighbors are those of ``sslfeat probe``, trained on train/ and tested on the queries. Raw pixels are ranked, too.
Writes WORK/retrieval_quality.json and prints the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.data.decode import decode
from sslfeat.data.transforms import Preprocess
from sslfeat.features.reader import Features
from sslfeat.inference.registry import DEFAULT
from sslfeat.retrieval.vectors import prepare

Floats = npt.NDArray[np.float32]
PIXELS = Preprocess(32, 32)
UNTRAINED = ("resnet10_w40", 64)  # what the shipped encoder is


def cli(*arguments: object) -> str:
    """What one command line prints; 3 means that some images could not be read."""
    command = [sys.executable, "-c", "from sslfeat.cli.app import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)
    return done.stdout


def listing(folder: Path, per_class: int | None, path: Path) -> Path:
    """A list of the images of each class folder, the first ``per_class`` by name."""
    names = [str(name) for group in sorted(folder.iterdir()) for name in sorted(group.iterdir())[:per_class]]
    path.write_text("\n".join(names))
    return path


def pixels(paths: list[str]) -> Floats:
    """32 x 32 RGB, (N, 3072)."""
    return np.stack([decode(path, PIXELS).pixels.ravel() for path in paths]).astype(np.float32)


def quality(queries: Floats, q_labels: list[str | None], rows: Floats, labels: list[str | None]) -> dict[str, float]:
    """mAP over the whole ranking, and precision@10, in percent."""
    q, x = prepare(queries, "cosine"), prepare(rows, "cosine")
    classes = np.array(labels)
    precisions, tops = [], []
    for start in range(0, len(q), 200):
        order = np.argsort(-(q[start : start + 200] @ x.T), axis=1, kind="stable")
        relevant = classes[order] == np.array(q_labels[start : start + 200])[:, None]
        right = np.cumsum(relevant, axis=1) / np.arange(1, len(x) + 1)
        precisions.append((right * relevant).sum(1) / np.maximum(relevant.sum(1), 1))
        tops.append(relevant[:, :10].mean(1))
    return {
        "mAP": 100 * float(np.concatenate(precisions).mean()),
        "precision@10": 100 * float(np.concatenate(tops).mean()),
    }


def measure(name: str, parts: tuple[Path, Path], work: Path) -> dict[str, Any]:
    """All three representations on one data set."""
    untrained = work / "untrained.onnx"
    if not untrained.exists():
        backbone, size = UNTRAINED
        cli("export", "--random-init", backbone, "--image-size", size, "--images", parts[1], "--out", untrained)
    result: dict[str, Any] = {}
    for kind, encoder in (("shipped encoder", DEFAULT), ("untrained", untrained)):
        folders = [work / f"{name}-{Path(encoder).stem}-{part.stem}" for part in parts]
        for part, folder in zip(parts, folders, strict=True):
            cli("embed", part, "--encoder", encoder, "--labels", "folder", "--out", folder)
        train, test = map(Features.load, folders)
        probed = json.loads(cli("probe", *folders, "--json"))
        accuracy = {"linear": probed["linear"], "kNN 20": probed["knn"]["20"]}
        result[kind] = quality(test.embeddings, test.labels, train.embeddings, train.labels) | {
            name: 100 * figures["top1"] for name, figures in accuracy.items()
        }
    rows, queries = pixels(train.paths), pixels(test.paths)
    mean = rows.mean(0)
    result["pixels"] = quality(queries - mean, test.labels, rows - mean, train.labels)
    result["counts"] = {"searched": len(train.paths), "queries": len(test.paths)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("imagenette", type=Path)
    parser.add_argument("cifar10", type=Path)
    parser.add_argument("work", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    sets = {
        "Imagenette, 96 px": (options.imagenette / "train", options.imagenette / "val", None, None),
        "CIFAR-10, 32 px": (options.cifar10 / "train", options.cifar10 / "test", 1000, 500),
    }
    results = {}
    for title, (train, test, most, fewer) in sets.items():
        name = title.split(",")[0].lower()
        lists = [
            listing(folder, count, options.work / f"{name}-{part}.txt")
            for part, folder, count in (("train", train, most), ("test", test, fewer))
        ]
        results[title] = measure(name, (lists[0], lists[1]), options.work)
    (options.work / "retrieval_quality.json").write_text(json.dumps(results, indent=1) + "\n")
    columns = ("linear", "kNN 20", "mAP", "precision@10")
    print(f"| images | features | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for title, rows in results.items():
        for kind, figures in rows.items():
            if kind != "counts":
                cells = (f"{figures[name]:.1f}" if name in figures else "" for name in columns)
                print(f"| {title} | {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
