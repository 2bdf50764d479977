"""Core ML, converted on any system; it can only be run on Apple's systems."""

from __future__ import annotations

from pathlib import Path

from sslfeat.errors import ExportError, needs
from sslfeat.export.targets.base import Device, Source
from sslfeat.inference.model_card import CARD_KEY

MAIN = "encoder.mlpackage"
DEVICE = Device("`image`: float32 planes (1, 3, {{size}}, {{size}})", "`embedding`: float32 (1, {{dim}})", ("coreml.swift.in",))


def coreml(source: Source, out: Path) -> None:
    """``encoder.mlpackage`` in 32 bits: float32 (1, 3, S, S), values 0 to 255, to ``embedding`` (1, D). Read back afterwards."""
    import torch

    from sslfeat.export.targets.planes import Planes, example
    from sslfeat.export.to_onnx import quiet

    card = source.file.card
    size = card.preprocess.size
    with quiet():
        with needs("coreml", "coremltools"):
            import coremltools
        program = torch.export.export(Planes(source.torch()).eval(), (example(size),)).run_decompositions({})
        model = coremltools.convert(
            program,
            inputs=[coremltools.TensorType("image", shape=(1, 3, size, size), dtype=float)],
            outputs=[coremltools.TensorType("embedding", dtype=float)],
            minimum_deployment_target=coremltools.target.iOS16,
            compute_precision=coremltools.precision.FLOAT32,
        )
        model.user_defined_metadata[CARD_KEY] = card.to_json()
        model.save(str(out / MAIN))
        spec = coremltools.models.MLModel(str(out / MAIN), skip_model_load=True).get_spec()
    shape = list(spec.description.input[0].type.multiArrayType.shape)
    if shape != [1, 3, size, size] or spec.description.metadata.userDefined[CARD_KEY] != card.to_json():
        raise ExportError(f"the Core ML package is wrong when read back: its input is {shape}, or its card is missing")
