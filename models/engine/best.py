"""The best encoder of a run by the kNN accuracy of the probe, kept next to the last one."""

from __future__ import annotations

from pathlib import Path

from sslfeat.models.engine.checkpoint import ENCODER_NAME, KeptWith, read_weights, write_weights
from sslfeat.models.engine.frozen import save_encoder
from sslfeat.models.method import Method
from sslfeat.storage import atomic

BEST_NAME = "best.safetensors"
JUDGED_BY = "knn"


class Best:
    """Keep the weights with the best accuracy so far, including the initial weights, in ``best.safetensors``."""

    def __init__(self, run: Path, enabled: bool) -> None:
        self._run, self._enabled = run, enabled
        self.step: int | None = None
        self._figure = -1.0
        if enabled and (run / BEST_NAME).exists():  # of a resumed run
            _, noted = read_weights(run / BEST_NAME)
            self.step, self._figure = noted.steps, float(noted.knn or 0)

    def offer(self, method: Method, step: int, images: int, figures: dict[str, float]) -> None:
        """Keep these weights if they are better than all previous ones."""
        figure = figures.get(JUDGED_BY, -1.0)
        if self._enabled and figure > self._figure:
            self.step, self._figure = step, figure
            save_encoder(self._run / BEST_NAME, method, KeptWith(images, step, figure))

    def keep(self) -> None:
        """At the end of the run, replace the last weights with the best ones."""
        if self._enabled and self.step is not None:
            weights, noted = read_weights(self._run / BEST_NAME)
            write_weights(self._run / ENCODER_NAME, weights, KeptWith(noted.images, noted.steps))
            (self._run / BEST_NAME).unlink()
            atomic.sync_folder(self._run)
