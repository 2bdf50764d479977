"""LiteRT, formerly TensorFlow Lite. Its converter pins many packages; use a separate environment (``.ci/litert``)."""

from __future__ import annotations

from pathlib import Path

from sslfeat.errors import needs
from sslfeat.export.targets.base import Device, Source

MAIN = "encoder.tflite"
DEVICE = Device(
    "one input: float32 planes (1, 3, {{size}}, {{size}})", "one output: float32 (1, {{dim}})", ("litert.py.in", "litert.kt.in")
)


def litert(source: Source, out: Path) -> None:
    """``encoder.tflite``: float32 (1, 3, S, S), values 0 to 255, to float32 (1, D)."""
    from sslfeat.export.targets.planes import Planes, example
    from sslfeat.export.to_onnx import quiet

    with quiet():
        with needs("litert", "litert-torch"):
            import litert_torch
        model = litert_torch.convert(Planes(source.torch()).eval(), (example(source.file.card.preprocess.size),))
        model.export(str(out / MAIN))
