"""The best encoder of a run by the probe's nearest neighbors, kept beside the last one."""

from __future__ import annotations

from pathlib import Path

from sslfeat.models.engine.checkpoint import ENCODER_NAME, read_tensors, write_tensors
from sslfeat.models.engine.frozen import save_encoder
from sslfeat.models.method import Method
from sslfeat.storage import atomic

BEST_NAME = "best.safetensors"
JUDGED_BY = "knn"


class Best:
    """Keeps in ``best.safetensors`` the weights with the best figure so far; those of the start take part."""

    def __init__(self, run: Path, wanted: bool) -> None:
        self._run, self._wanted = run, wanted
        self.step: int | None = None
        self._figure = -1.0
        if wanted and (run / BEST_NAME).exists():  # of a run that goes on
            _, meta = read_tensors(run / BEST_NAME)
            self.step, self._figure = int(meta["steps"]), float(meta[JUDGED_BY])

    def offer(self, method: Method, step: int, images: int, figures: dict[str, float]) -> None:
        """Keep these weights if they are better than all before."""
        figure = figures.get(JUDGED_BY, -1.0)
        if self._wanted and figure > self._figure:
            self.step, self._figure = step, figure
            save_encoder(self._run / BEST_NAME, method, {"images": images, "steps": step, JUDGED_BY: figure})

    def keep(self) -> None:
        """At the end of the run: the best weights take the place of the last ones."""
        if self._wanted and self.step is not None:
            tensors, meta = read_tensors(self._run / BEST_NAME)
            write_tensors(self._run / ENCODER_NAME, tensors, {name: meta[name] for name in ("images", "steps")})
            (self._run / BEST_NAME).unlink()
            atomic.sync_folder(self._run)
