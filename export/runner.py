"""Run an artifact and its reference in a separate process, because runtimes may crash or print messages.

``python -m sslfeat.export.runner JOB.json``: a job names the ``artifact`` and the ``reference`` (paths), ``pixels`` (.npy),
``out`` (.npz), ``threads`` and ``laps``. Call it through ``measure``.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sslfeat.data.decode import Pixels
from sslfeat.errors import ExportError, SslfeatError
from sslfeat.inference.backends import Session
from sslfeat.numerics.arrays import FloatArray
from sslfeat.system.subprocesses import run_child
from sslfeat.system.timing import median_in_turns

BATCH_SIZES = (1, 3, 8)
LATENCY_AT = (1, 8)
LAPS = 15
TIMEOUT = 3600  # seconds


@dataclass(frozen=True)
class Measured:
    """Embeddings (N, D) of the ``reference`` and, for each of BATCH_SIZES, of the artifact (``found``); median seconds per
    inference at batch sizes 1 and 8, measured alternately: {batch: (reference, artifact)}."""

    reference: FloatArray
    found: dict[int, FloatArray]
    seconds: dict[int, tuple[float, float]]


def measure(
    artifact: str | Path, reference: str | Path, pixels: Pixels, threads: int = 1, laps: int = LAPS,
    reference_pixels: Pixels | None = None,
) -> Measured:  # fmt: skip
    """Run both on ``pixels`` (N, S, S, 3); the reference on its own pixels if given.

    Raises ExportError if a runtime fails, crashes or hangs.
    """
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder) / "job.json", Path(folder) / "out.npz"
        np.save(Path(folder) / "pixels.npy", pixels)
        np.save(Path(folder) / "reference.npy", pixels if reference_pixels is None else reference_pixels)
        job.write_text(
            json.dumps(
                {
                    "artifact": str(artifact),
                    "reference": str(reference),
                    "reference_pixels": str(Path(folder) / "reference.npy"),
                    "pixels": str(Path(folder) / "pixels.npy"),
                    "out": str(out),
                    "threads": threads,
                    "laps": laps,
                }
            )
        )
        run_child("sslfeat.export.runner", job, TIMEOUT, f"the runtime of {Path(artifact).name}", ExportError)
        with np.load(out) as arrays:
            found = {size: arrays[f"found{size}"] for size in BATCH_SIZES}
            seconds = {size: tuple(arrays[f"seconds{size}"].tolist()) for size in LATENCY_AT}
            return Measured(arrays["reference"], found, seconds)


def _run(job: Path) -> None:
    from sslfeat.export.backends import open_artifact

    task = json.loads(job.read_text())
    first, second = np.load(task["reference_pixels"]), np.load(task["pixels"])
    sessions = [open_artifact(task[name], task["threads"]) for name in ("reference", "artifact")]
    arrays = {"reference": _embed(sessions[0], first, max(BATCH_SIZES))}
    for size in BATCH_SIZES:
        arrays[f"found{size}"] = _embed(sessions[1], second, size)
    for size in LATENCY_AT:
        turns = list(zip(sessions, (first[:size], second[:size]), strict=True))
        arrays[f"seconds{size}"] = np.array(_seconds(turns, task["laps"]))
    np.savez(task["out"], **arrays)  # type: ignore[arg-type]


def _embed(session: Session, pixels: Pixels, size: int) -> FloatArray:
    return np.concatenate([session.run(pixels[start : start + size]) for start in range(0, len(pixels), size)])


def _seconds(turns: list[tuple[Session, Pixels]], laps: int) -> list[float]:
    return median_in_turns([functools.partial(session.run, batch) for session, batch in turns], laps)


if __name__ == "__main__":
    try:
        _run(Path(sys.argv[1]))
    except SslfeatError as error:
        sys.exit(str(error))
