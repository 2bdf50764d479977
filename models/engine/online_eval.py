"""Evaluation during training: collapse and spread of the features, a probe if there are labels, and preview images.

Evaluations take place before the first step, so that the first row of ``watch.csv`` is the untrained encoder, after the last
step, and once per tenth of the budget if they are cheap (``LookSchedule``). They do not affect training: evaluation mode, no
gradients, no use of the training's random state.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from sslfeat.data.dataset import ImageRecord, find_inputs
from sslfeat.errors import TrainingError, UsageError
from sslfeat.evaluation.redundancy import effective_rank
from sslfeat.models.engine.data import Images, load_images, to_batch
from sslfeat.models.engine.features import features_of, looking
from sslfeat.models.engine.metrics_log import RunLog
from sslfeat.models.engine.pixels import Pixels
from sslfeat.models.method import Method
from sslfeat.models.own_file import check_hook
from sslfeat.numerics.sampling import evenly
from sslfeat.numerics.similarity import unit
from sslfeat.storage import atomic

WATCH_NAME, PREVIEWS_NAME = "watch.csv", "previews"
SAMPLE = 512  # images for the statistics of the features
PREVIEWED = 8
PROBE_LIMIT, ASKED = 4000, 0.3  # maximum number of labeled images, and the fraction for testing
LEAST_RANK, LEAST_SPREAD = 1.5, 0.02


@dataclass(frozen=True)
class ProbeSet:
    """Labeled images for the probe during training: ``pixels`` (N, S, S, 3) and N class names."""

    pixels: Pixels
    labels: list[str]

    @property
    def asked(self) -> int:
        """Approximate number of test images; the probe is fitted to the others."""
        return round(ASKED * len(self.labels))


def probe_inputs(spec: str | None) -> list[ImageRecord]:
    """Up to PROBE_LIMIT images of class folders, evenly spaced in the sorted list; none without ``spec``.

    Raises InputError, and UsageError without labels.
    """
    if not spec:
        return []
    inputs = [item for item in find_inputs([spec], labels="folder") if item.label]
    spread = [inputs[i * len(inputs) // PROBE_LIMIT] for i in range(PROBE_LIMIT)] if len(inputs) > PROBE_LIMIT else inputs
    if len({item.label for item in spread}) < 2:
        raise UsageError(f"--probe-data {spec}: labels are the names of class folders; at least two are needed")
    return spread


def load_probe_set(inputs: Sequence[ImageRecord], image_size: int, run: Path) -> ProbeSet:
    """The ``inputs``, preprocessed for the network. Raises TrainingError if none can be read."""
    images = load_images(inputs, image_size, run)
    return ProbeSet(images.pixels, [str(item.label) for item in images.inputs])


def spread_figures(features: npt.NDArray[np.float32]) -> dict[str, float]:
    """Label-free statistics of features (N, D).

    ``effective_rank``: see ``sslfeat.evaluation.redundancy``. ``spread``: mean standard deviation of the components of the
    normalized features times sqrt(D); 0 after a collapse, 1 for random directions. ``uniformity``: logarithm of the mean of
    exp(-2 |u - v|^2) over pairs (Wang, Isola 2020, section 4.1.2); 0 after a collapse, lower for better spread.
    """
    rows = unit(features)
    similarity = (rows @ rows.T)[np.triu_indices(len(rows), 1)].astype(np.float64)
    return {
        "effective_rank": effective_rank(features),
        "spread": float(rows.std(0).mean() * np.sqrt(features.shape[1])),
        "uniformity": float(np.log(np.exp(4 * similarity - 4).mean())),
    }


def probe_figures(features: npt.NDArray[np.float32], labels: list[str]) -> dict[str, float]:
    """Top-1 accuracy of the linear probe and of 20 nearest neighbors, on a fixed stratified split."""
    from sslfeat.evaluation.probing.labels import Labeled, split
    from sslfeat.evaluation.probing.probe import probe

    result = probe(*split(Labeled(features, labels), ASKED, 0))
    return {"linear": result.linear.top1, "knn": result.knn[min(result.knn)].top1}


def collapse(figures: dict[str, float]) -> str | None:
    """A sentence if the features are close to a collapse."""
    if figures["effective_rank"] < LEAST_RANK or figures["spread"] < LEAST_SPREAD:
        return (
            f"the features collapse: effective rank {figures['effective_rank']:.2f}, spread {figures['spread']:.3f} "
            "(a complete collapse has rank 1 and spread 0)"
        )
    return None


def append_row(run: Path, step: int, figures: dict[str, float]) -> None:
    """Append one row to watch.csv; rows of an interrupted run from ``step`` on are removed."""
    path = run / WATCH_NAME
    rows = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
    rows.append({"step": str(step), **{name: f"{value:.6g}" for name, value in figures.items()}})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[-1]), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    atomic.write_atomic(path, text.getvalue().encode())


def save_preview(run: Path, step: int, image: Tensor) -> npt.NDArray[np.uint8]:
    """Write ``previews/step-N.png`` from an image (3, H, W) in [0, 1]; returns its pixels (H, W, 3)."""
    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    (run / PREVIEWS_NAME).mkdir(exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    atomic.write_atomic(run / PREVIEWS_NAME / f"step-{step:07d}.png", buffer.getvalue())
    return pixels


class Watch:
    """Evaluate the method, and write and log the results."""

    def __init__(self, run: Path, method: Method, images: Images, probe_set: ProbeSet | None, log: RunLog) -> None:
        self._run, self._method, self._probe_set, self._log = run, method, probe_set, log
        self._pixels, count = images.pixels, len(images.pixels)
        numbers = evenly(count, SAMPLE)
        if images.shapes is None:
            self._sample: Pixels = images.pixels[numbers]
        else:  # from centered squares, as in serving
            sample = [images.inputs[number] for number in numbers]
            self._sample = load_images(sample, images.pixels.shape[1], run).pixels
        self._previewed = torch.from_numpy(numbers[:: max(1, len(numbers) // PREVIEWED)][:PREVIEWED])

    def look(self, step: int, device: torch.device, seed: int) -> dict[str, float]:
        """Current figures, also written to watch.csv and TensorBoard, and a preview if the method draws one."""
        features = features_of(self._method, self._sample, np.arange(len(self._sample)), device)
        if not np.isfinite(features).all():
            raise TrainingError(f"the features are not finite at step {step}: try a lower --lr, or --precision fp32")
        figures = spread_figures(features)
        if self._probe_set is not None:
            pixels = self._probe_set.pixels
            figures |= probe_figures(features_of(self._method, pixels, np.arange(len(pixels)), device), self._probe_set.labels)
        append_row(self._run, step, figures)
        self._log.curves(step, {f"watch/{name}": value for name, value in figures.items()})
        batch = to_batch(self._pixels, self._previewed.numpy(), device)
        self._method.numbers = self._previewed.to(device)
        with looking(self._method):
            image = self._method.preview(batch, torch.Generator(device).manual_seed(seed))
        drawn = image is None or (isinstance(image, Tensor) and image.ndim == 3 and len(image) == 3)
        check_hook(type(self._method), "preview", drawn, "an image (3, H, W) or None")
        if image is not None:
            self._log.image(step, save_preview(self._run, step, image))
        return figures
