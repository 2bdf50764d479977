"""metrics.csv and TensorBoard events of a run, without gaps or repetitions after resuming."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.tensorboard import SummaryWriter

from sslfeat.storage import atomic

METRICS_NAME = "metrics.csv"
EVENTS = "events.out.tfevents.*"  # TensorBoard's files


class RunLog:
    """Append one row of figures per call; rows after ``step`` of an interrupted run are removed first."""

    def __init__(self, run: Path, step: int) -> None:
        self._path = run / METRICS_NAME
        rows = _read_rows(self._path)
        kept = [row for row in rows if int(row["step"]) <= step]
        if len(kept) != len(rows):
            atomic.write_atomic(self._path, _to_csv(kept, header=True))
        self._fresh = not kept
        self._board = SummaryWriter(str(run), purge_step=step + 1)

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Write one row of metrics.csv and one point of each curve."""
        row = {"step": step, **{name: f"{value:.6g}" for name, value in figures.items()}}
        with self._path.open("ab" if not self._fresh else "wb") as file:
            file.write(_to_csv([row], header=self._fresh))
        self._fresh = False
        self.curves(step, figures)

    def curves(self, step: int, figures: dict[str, float]) -> None:
        """Write one point of each curve to TensorBoard."""
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)

    def image(self, step: int, pixels: npt.NDArray[np.uint8]) -> None:
        """Write an image (H, W, 3) to TensorBoard."""
        self._board.add_image("preview", pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flush the curves."""
        self._board.close()


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if all(row.values())]  # drops a row truncated by a crash


def _to_csv(rows: list[dict[str, Any]], header: bool) -> bytes:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
    return text.getvalue().encode()
