"""GPU servers: input for TensorRT's builder, and a model repository for Triton."""

from __future__ import annotations

from pathlib import Path

from sslfeat.export.targets.base import Device, Source
from sslfeat.inference.onnx_model import INPUT_NAME, OUTPUT_NAME

PLAIN = "encoder.onnx"
MODEL = "encoder/1/model.onnx"
SMALLEST, USUAL, LARGEST = 1, 8, 64
FOR_TENSORRT, FOR_TRITON = (
    Device(f"`image`: uint8 (N, {{{{size}}}}, {{{{size}}}}, 3), N from {SMALLEST} to {LARGEST}", programs=(program,))
    for program in ("tensorrt.sh.in", "triton.py.in")
)
NO_GPU = "build.sh builds the engine on the GPU that will run it, so nothing was run here"


def tensorrt(source: Source, out: Path) -> None:
    """``encoder.onnx`` and ``build.sh``, which builds an engine with the required shapes."""
    size = source.file.card.preprocess.size
    shapes = [f"--{kind}Shapes={INPUT_NAME}:{batch}x{size}x{size}x3" for kind, batch in
              (("min", SMALLEST), ("opt", USUAL), ("max", LARGEST))]  # fmt: skip
    (out / PLAIN).write_bytes(source.file.data)
    script = out / "build.sh"
    script.write_text(
        "#!/bin/sh\n"
        "# Builds encoder.plan on the GPU that will run it. Convolutions and products in 16 bits are faster still (--fp16),\n"
        "# but first compare the engine's features of some images with those of 'sslfeat embed': sslfeat does not run engines.\n"
        'cd "$(dirname "$0")" || exit 1\n'
        f"exec trtexec --onnx={PLAIN} --saveEngine=encoder.plan {' '.join(shapes)} --noTF32\n"
    )
    script.chmod(0o755)


def triton(source: Source, out: Path) -> None:
    """A repository with one model, ``encoder``, with dynamic batching."""
    card = source.file.card
    size = card.preprocess.size
    (out / MODEL).parent.mkdir(parents=True)
    (out / MODEL).write_bytes(source.file.data)
    (out / "encoder" / "config.pbtxt").write_text(
        f"""name: "encoder"
backend: "onnxruntime"
max_batch_size: {LARGEST}
input [ {{ name: "{INPUT_NAME}" data_type: TYPE_UINT8 dims: [ {size}, {size}, 3 ] }} ]
output [ {{ name: "{OUTPUT_NAME}" data_type: TYPE_FP32 dims: [ {card.dim} ] }} ]
dynamic_batching {{ preferred_batch_size: [ {USUAL}, {LARGEST} ] max_queue_delay_microseconds: 2000 }}
instance_group [ {{ kind: KIND_AUTO }} ]
"""
    )
