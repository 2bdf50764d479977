"""ncnn, for mobile and embedded devices, converted by pnnx from a trace of the torch module."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from sslfeat.errors import ExportError, needs
from sslfeat.export.targets.base import Device, Source
from sslfeat.system.subprocesses import run_program

MAIN = "encoder.param"
DEVICE = Device(
    "`in0`: float32 planes (3, {{size}}, {{size}}), one image", "`out0`: float32 ({{dim}})", ("ncnn.py.in", "ncnn.cpp.in")
)
TIMEOUT = 600  # seconds


def ncnn(source: Source, out: Path) -> None:
    """``encoder.param`` and ``encoder.bin``: input ``in0``, planes of 0 to 255; output ``out0``, the embedding."""
    with needs("ncnn", "pnnx"):
        import pnnx
    import torch

    from sslfeat.export.targets.planes import Planes, example
    from sslfeat.export.to_onnx import quiet

    size = source.file.card.preprocess.size
    program = Path(sys.executable).parent / Path(pnnx.EXEC_PATH).name
    program = program if program.exists() else Path(pnnx.EXEC_PATH)
    with tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / "traced.pt"
        with quiet():
            trace: Any = torch.jit.trace  # it has no type annotations
            trace(Planes(source.torch()).eval(), example(size)).save(str(traced))
        command: list[str | Path] = [
            program, traced.name, f"inputshape=[1,3,{size},{size}]", "fp16=0", f"ncnnparam={out.resolve() / MAIN}",
            f"ncnnbin={out.resolve() / 'encoder.bin'}",
        ]  # fmt: skip
        run_program(command, TIMEOUT, "pnnx, which converts the encoder,", ExportError, Path(folder))
    if not (out / MAIN).exists():
        raise ExportError("pnnx could not convert the encoder, and gave no reason")
