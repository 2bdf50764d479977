"""Verify that the result of ``sslfeat export --target`` is complete and gives the embedding of its sample.

``python -m sslfeat.export.verify JOB.json`` runs the sample in a separate process, because runtimes may crash.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from sslfeat.errors import ExportError, MissingExtraError, SslfeatError
from sslfeat.export.adopt.subprocess import limit_memory
from sslfeat.export.artifact import CARD, Artifact, file_faults, read_record
from sslfeat.export.backends import RUNTIME_PACKAGES, open_artifact
from sslfeat.export.targets.device import EMBEDDING, PIXELS, least_cosine, sample
from sslfeat.export.targets.registry import TARGETS
from sslfeat.inference.backends import OnnxRuntimeBackend
from sslfeat.inference.model_card import Card
from sslfeat.numerics.similarity import cosines
from sslfeat.system.subprocesses import run_child

GRAPH = "encoder.onnx"  # of targets that cannot be run here; onnxruntime runs this graph instead
TIMEOUT = 600  # seconds


def verify_artifact(folder: Path) -> tuple[list[str], str]:
    """Faults of a target's folder (empty if there are none), and a description of the result for its sample.

    Faults are missing and modified files, a runtime that is not installed, and, if all files are intact, an embedding of
    ``golden.rgb`` other than ``golden.f32``. Raises EncoderFileError for a damaged record.
    """
    about = read_record(folder)
    faults = [str(fault) for fault in file_faults(folder, about)]
    package = "" if about.runtime is None else RUNTIME_PACKAGES.get(about.runtime, "")
    if package and find_spec(package) is None:
        faults.append(f"{folder} was not run: {MissingExtraError(str(about.runtime), package)}")
    if faults:
        return faults, ""
    if about.runtime is None and GRAPH not in about.files:
        return [], about.unrun
    if not {PIXELS, EMBEDDING} <= about.files.keys():
        return [], "not run: it was exported without a sample; export again to add one"
    try:
        return _golden(folder, about)
    except SslfeatError as error:
        return [f"{folder} cannot be run here: {error}"], ""


def _golden(folder: Path, about: Artifact) -> tuple[list[str], str]:
    """The fault of the sample, if any, and a description of the result."""
    target = TARGETS[about.target]
    size = Card.from_json((folder / CARD).read_bytes()).preprocess.size
    height, width = sample().size[::-1] if target.device.any_size else (size, size)
    given, wanted = (folder / PIXELS).read_bytes(), np.fromfile(folder / EMBEDDING, "<f4")
    if len(given) != height * width * 3:
        return [], f"not run: {PIXELS} was drawn by another version of sslfeat"
    with tempfile.TemporaryDirectory() as name:
        job, found = Path(name) / "job.json", Path(name) / "found.npy"
        np.save(Path(name) / "pixels.npy", np.frombuffer(given, np.uint8).reshape(1, height, width, 3))
        graph = "" if about.runtime else str(folder / GRAPH)
        job.write_text(json.dumps({"folder": str(folder), "graph": graph, "at": name}))
        run_child("sslfeat.export.verify", job, TIMEOUT, f"the runtime of {folder.name}", ExportError)
        (row,) = np.load(found)
    if row.shape != wanted.shape:
        return [f"{folder / about.main} returns {row.size} values for {PIXELS}, but {EMBEDDING} has {wanted.size}"], ""
    cosine, least = float(cosines(row[None], wanted[None])[0]), least_cosine(target)
    if cosine >= least:
        return [], f"{PIXELS} gives {EMBEDDING}{' in onnxruntime' if graph else ''}, cosine {cosine:.7f}"
    allowed = f"; when it was made, --allow overrode {'; '.join(about.overridden)}" if about.overridden else ""
    return [f"{folder / about.main} returns another embedding of {PIXELS} than {EMBEDDING}: cosine {cosine:.7f}, "
            f"at least {least} is needed{allowed}"], ""  # fmt: skip


def _run(job: Path) -> None:
    task = json.loads(job.read_text())
    at, graph = Path(task["at"]), task["graph"]
    session = OnnxRuntimeBackend(Path(graph).read_bytes(), "cpu", 1) if graph else open_artifact(task["folder"])
    np.save(at / "found.npy", session.run(np.load(at / "pixels.npy")))


if __name__ == "__main__":
    limit_memory()
    try:
        _run(Path(sys.argv[1]))
    except (SslfeatError, MemoryError) as error:
        sys.exit(str(error) or "not enough memory for the encoder")
