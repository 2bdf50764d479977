"""Foreign models are run in a process of their own: a hostile or broken one may crash, hang or ask for terabytes there.

``python -m sslfeat.export.apart FOLDER`` is that process; ``adopt_apart`` is the way to call it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from sslfeat.encoder_file import EncoderFile, check_encoder
from sslfeat.errors import EncoderFileError, SslfeatError
from sslfeat.export.adopt import adopt
from sslfeat.export.child import run_child
from sslfeat.export.foreign import Wish
from sslfeat.images import Pixels
from sslfeat.preprocess import Preprocess

TIMEOUT = 600  # seconds
MEMORY = 32 << 30  # of addresses


def adopt_apart(data: bytes, wish: Wish, pixels: Pixels, source: str, timeout: float = TIMEOUT) -> EncoderFile:
    """``adopt`` in a process of its own. Raises EncoderFileError, for a model that crashes or hangs too."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(data)
        np.save(folder / "pixels.npy", pixels)
        (folder / "wish.json").write_text(json.dumps({**dataclasses.asdict(wish), "source": source}))
        run_child("sslfeat.export.apart", folder, timeout, "the model", EncoderFileError)
        return check_encoder((folder / "adopted.onnx").read_bytes())


def _run(folder: Path) -> None:
    told = json.loads((folder / "wish.json").read_text())
    source = told.pop("source")
    wish = Wish(
        **{
            **told,
            "preprocess": Preprocess(**told["preprocess"]),
            "mean": tuple(told["mean"]),
            "std": tuple(told["std"]),
        }
    )
    file = adopt((folder / "model.onnx").read_bytes(), wish, np.load(folder / "pixels.npy"), source)
    (folder / "adopted.onnx").write_bytes(file.data)


def limit_memory() -> None:
    """A request for terabytes then fails instead of being granted on paper."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    limit_memory()
    try:
        _run(Path(sys.argv[1]))
    except (SslfeatError, MemoryError) as error:
        sys.exit(str(error) or "not enough memory for the model")
