"""Run third-party models in a separate process, because hostile or broken ones may crash, hang or allocate terabytes.

``python -m sslfeat.export.adopt.subprocess FOLDER`` is that process; call it through ``adopt_in_subprocess``.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from sslfeat.data.decode import Pixels
from sslfeat.data.transforms import Preprocess
from sslfeat.errors import EncoderFileError, SslfeatError
from sslfeat.export.adopt.adopt import adopt
from sslfeat.export.adopt.foreign_model import AdoptRequest
from sslfeat.inference.onnx_model import EncoderFile, check_encoder
from sslfeat.system.subprocesses import run_child

TIMEOUT = 600  # seconds
MEMORY = 32 << 30  # bytes of address space


def adopt_in_subprocess(data: bytes, request: AdoptRequest, pixels: Pixels, source: str, timeout: float = TIMEOUT) -> EncoderFile:
    """``adopt`` in a separate process. Raises EncoderFileError, also if the model crashes or hangs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(data)
        np.save(folder / "pixels.npy", pixels)
        (folder / "request.json").write_text(json.dumps({**dataclasses.asdict(request), "source": source}))
        run_child("sslfeat.export.adopt.subprocess", folder, timeout, "the model", EncoderFileError)
        return check_encoder((folder / "adopted.onnx").read_bytes())


def _run(folder: Path) -> None:
    fields = json.loads((folder / "request.json").read_text())
    source = fields.pop("source")
    request = AdoptRequest(
        **{**fields, "preprocess": Preprocess(**fields["preprocess"]), "mean": tuple(fields["mean"]), "std": tuple(fields["std"])}
    )
    file = adopt((folder / "model.onnx").read_bytes(), request, np.load(folder / "pixels.npy"), source)
    (folder / "adopted.onnx").write_bytes(file.data)


def limit_memory() -> None:
    """Limit the address space, so that excessive allocations fail at once."""
    try:
        import resource
    except ImportError:  # not available on Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    limit_memory()
    try:
        _run(Path(sys.argv[1]))
    except (SslfeatError, MemoryError) as error:
        sys.exit(str(error) or "not enough memory for the model")
