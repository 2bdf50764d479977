"""Prediction with a saved probe, for features folders or images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sslfeat.errors import FeaturesError, UsageError
from sslfeat.evaluation.probing.checkpoint import SavedProbe
from sslfeat.evaluation.probing.labels import check_finite
from sslfeat.features.metadata import RUN_NAME
from sslfeat.features.reader import FeaturesFolder
from sslfeat.numerics.arrays import FloatArray
from sslfeat.system.cores import available_cores

if TYPE_CHECKING:
    pass

THRESHOLD = 0.5  # on probabilities, for multi-label probes
BATCH = 4
IMAGES = 256  # per batch of results
ENDINGS = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Prediction:
    """Predicted labels of an image, by decreasing probability; none for unreadable images, with the ``reason``."""

    path: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    reason: str = ""


def predict(
    probe: SavedProbe, specs: Sequence[str], top: int = 1, encoder: str | None = None, provider: str = "auto"
) -> Iterator[Prediction]:
    """Predict the ``top`` labels for features folders and images among ``specs``, features folders first.

    Multi-label probes return labels with a probability of at least THRESHOLD. Raises FeaturesError for features that are of
    another encoder or not finite, InputError for specs that do not exist.
    """
    if top < 1:
        raise UsageError(f"--top {top} must be at least 1")
    features = [spec for spec in specs if (Path(spec) / RUN_NAME).is_file()]
    images = [spec for spec in specs if spec not in features]
    for spec in features:
        yield from _of_features(probe, spec, top)
    if images:
        yield from _of_images(probe, images, top, encoder, provider)


def _of_features(probe: SavedProbe, spec: str, top: int) -> Iterator[Prediction]:
    folder = FeaturesFolder(spec)
    probe.check(folder.run.encoder.identity, spec)
    for part in folder.parts():
        yield from name_rows(probe, part.columns["path"].to_pylist(), part.embeddings, top)


def _of_images(probe: SavedProbe, specs: Sequence[str], top: int, given: str | None, provider: str) -> Iterator[Prediction]:
    from sslfeat.data.batching import batched
    from sslfeat.data.dataset import find_inputs
    from sslfeat.data.results import Embedded
    from sslfeat.inference.encoder import Encoder
    from sslfeat.inference.files import embed_files
    from sslfeat.inference.registry import find_encoder

    inputs, made_by, hints = find_inputs(specs, "none"), probe.encoder, [given] if given else []
    file = find_encoder(made_by.name, made_by.fingerprint, hints, only_hints=bool(given), error=FeaturesError)
    encoder = Encoder(file.without_data(), provider)
    with closing(embed_files(encoder, inputs, BATCH, available_cores())) as embedded:
        for group in batched(embedded, IMAGES):
            good = [(item.name, outcome.embedding) for item, outcome in group if isinstance(outcome, Embedded)]
            names, rows = [name for name, _ in good], [row for _, row in good]
            named = iter(name_rows(probe, names, np.stack(rows), top) if good else ())
            for item, outcome in group:
                yield next(named) if isinstance(outcome, Embedded) else Prediction(item.name, (), (), outcome.reason)


def name_rows(probe: SavedProbe, paths: Sequence[str], x: FloatArray, top: int) -> Iterator[Prediction]:
    """Predictions for features (N, D) of images ``paths``, as ``predict``. Raises FeaturesError if not finite."""
    check_finite(x, paths)
    probabilities = probe.probabilities(x)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    for path, row, best in zip(paths, probabilities, order, strict=True):
        kept = best[row[best] >= THRESHOLD] if probe.several else best[:top]
        yield Prediction(path, tuple(probe.names[k] for k in kept), tuple(float(row[k]) for k in kept))


def table(predictions: Sequence[Prediction], kind: str) -> bytes:
    """Contents of a .csv, .jsonl or .parquet file; multiple labels and probabilities in CSV cells are separated by ``;``."""
    if kind == ".jsonl":
        rows = ({"path": p.path, "labels": p.labels, "probabilities": p.probabilities} for p in predictions)
        return "".join(json.dumps(row) + "\n" for row in rows).encode("utf-8", "backslashreplace")
    if kind == ".parquet":
        return _parquet(predictions)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "probability"))
    for p in predictions:
        writer.writerow((p.path, ";".join(p.labels), ";".join(f"{value:.6f}" for value in p.probabilities)))
    return text.getvalue().encode("utf-8", "backslashreplace")


def _parquet(predictions: Sequence[Prediction]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "path": pa.array([p.path for p in predictions], pa.string()),
        "labels": pa.array([list(p.labels) for p in predictions], pa.list_(pa.string())),
        "probabilities": pa.array([list(p.probabilities) for p in predictions], pa.list_(pa.float32())),
    }
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer)
    return buffer.getvalue()
