"""ExecuTorch with the XNNPACK backend: PyTorch's own runtime on phones."""

from __future__ import annotations

from pathlib import Path

from sslfeat.errors import needs
from sslfeat.export.targets.base import Device, Source

MAIN = "encoder.pte"
MOST = 64  # maximum batch size
DEVICE = Device(
    f"one input of `forward`: uint8 (N, {{{{size}}}}, {{{{size}}}}, 3), N from 1 to {MOST}", "one output: float32 (N, {{dim}})",
    ("executorch.py.in", "executorch.kt.in"),
)  # fmt: skip


def executorch(source: Source, out: Path) -> None:
    """``encoder.pte``: uint8 (N, S, S, 3) to float32 (N, D), N up to 64."""
    import torch

    from sslfeat.export.to_onnx import quiet

    size = source.file.card.preprocess.size
    batch = torch.export.Dim("batch", min=1, max=MOST)
    with quiet():
        with needs("executorch", "executorch"):
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower
        images = torch.zeros(2, size, size, 3, dtype=torch.uint8)
        program = torch.export.export(source.torch(), (images,), dynamic_shapes={"image": {0: batch}})
        data = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer
    (out / MAIN).write_bytes(data)
