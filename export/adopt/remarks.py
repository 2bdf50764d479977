"""Notes on an adopted encoder: assumptions, and whether its output looks like class scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from sslfeat.data.decode import Pixels
from sslfeat.export.adopt.foreign_model import AdoptRequest
from sslfeat.export.gates import ALIKE, spread
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.onnx_model import EncoderFile
from sslfeat.system.plurals import counted

SCORES = ("Softmax", "LogSoftmax", "Sigmoid")
SCORE_NAMES = ("logit", "prob", "score", "class")
BATCH = 8
FEW = 64  # embeddings rarely have fewer dimensions
CLASSES = (100, 200, 365, 1000, 11821, 21841, 21843)  # CIFAR-100, Tiny ImageNet, Places365 and versions of ImageNet


def remarks(file: EncoderFile, request: AdoptRequest, assumed: Sequence[str]) -> list[str]:
    """Notes on an adopted ``file``; ``assumed``: which of the request's ``mean`` and ``std`` are defaults."""
    graph = onnx.load_model_from_string(file.data).graph
    found = []
    if assumed and any(tensor.name == "factor" for tensor in graph.initializer):  # the normalization added by sslfeat
        values = " and ".join(f"{name} {','.join(f'{value:g}' for value in getattr(request, name))}" for name in assumed)
        options = " and ".join(f"--{name}" for name in assumed)
        found.append(
            f"images are normalized with ImageNet's {values}, an assumption: give {options} if it is wrong "
            "(--mean 0,0,0 --std 1,1,1 for a network that normalizes by itself)"
        )
    if why := _like_scores(graph, file.card.layer, file.card.dim):
        found.append(
            f"{why}: this looks like class scores (logits), not an embedding. Choose another --output, or export the network "
            "without its last layer (timm: num_classes=0; torchvision: model.fc = torch.nn.Identity())"
        )
    return found


def alike(file: EncoderFile, pixels: Pixels) -> str:
    """Note on nearly equal embeddings of images (N, S, S, 3); empty if they differ."""
    encoder = Encoder(file, "cpu")
    rows = np.concatenate([encoder.run(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)])
    found = spread(rows) if len(rows) > 1 else 1.0
    if found >= ALIKE:
        return ""
    return (
        f"the embeddings of {counted(len(rows), 'image')} are nearly equal (mean cosine {1 - found:.6f}): check --mean, --std "
        "and --output, and that the model is trained"
    )


def _like_scores(graph: onnx.GraphProto, layer: str, dim: int) -> str:
    """Why the embedding may be class scores; empty if it does not look like it."""
    makers = {name: node for node in graph.node for name in node.output}
    last = makers[graph.output[0].name]
    while last.op_type in ("Identity", "Cast", "Transpose", "GlobalAveragePool", "Flatten") and last.input[0] in makers:
        last = makers[last.input[0]]
    if last.op_type in SCORES:
        return f"its output is computed by {last.op_type}"
    if any(part in layer.lower() for part in SCORE_NAMES):
        return f"its output is named {layer!r}"
    linear = last.op_type in ("Gemm", "MatMul", "Add")
    return f"its output has {dim} values" if linear and (dim < FEW or dim in CLASSES) else ""
