"""A million inputs: time of listing them, and of a repeated `sslfeat embed` when everything is done.

    python benchmarks/million.py WORK [--count 1000000] [--dim 384]

The images are links to a bitmap of 8 x 8 px in a thousand folders, and the encoder is a single matrix product, so that embedding
takes minutes; this does not affect the measured times. Writes WORK/million.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from sslfeat.data.dataset import find_inputs
from sslfeat.data.manifest import Manifest
from sslfeat.data.transforms import Preprocess
from sslfeat.inference.model_card import CARD_KEY, Card, Parity, TrainingData
from sslfeat.system.machine import save_measured

SIZE = 8
LINKS = 1000  # links to a file, limited by file systems


def make_images(folder: Path, count: int) -> None:
    """``count`` bitmap files in folders of LINKS each."""
    buffer = io.BytesIO()
    Image.effect_noise((SIZE, SIZE), 60).convert("RGB").save(buffer, "BMP")
    for start in range(0, count, LINKS):
        part = folder / f"{start // LINKS:04d}"
        part.mkdir(parents=True)
        first = part / "0000.bmp"
        first.write_bytes(buffer.getvalue())
        for number in range(1, min(LINKS, count - start)):
            os.link(first, part / f"{number:04d}.bmp")


def make_encoder(path: Path, dim: int) -> None:
    """Pixels times a random matrix."""
    weight = np.random.default_rng(0).normal(0, 0.1, (SIZE * SIZE * 3, dim)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "million",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dim])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data = TrainingData("none", 0, "none")
    parity = Parity(0, "none", (), 0.0, 0.0, 1.0, 1.0)
    preprocess = Preprocess(SIZE, SIZE)
    card = Card("million", "random", "matrix", "matrix", dim, preprocess, data, "Apache-2.0", "0" * 64, {}, parity)
    model.metadata_props.add(key=CARD_KEY, value=card.to_json())
    onnx.save(model, path)


def embed(folder: Path, work: Path) -> float:
    """Seconds of the command."""
    code = "from sslfeat.cli.app import main; main()"
    arguments = ["embed", folder, "--encoder", work / "million.onnx", "--out", work / "features", "--labels", "none"]
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    options = parser.parse_args()
    folder = options.work / "images"
    if not folder.exists():
        make_images(folder, options.count)
        make_encoder(options.work / "million.onnx", options.dim)
    began = time.monotonic()
    inputs = find_inputs([folder], labels="none")
    listed = time.monotonic()
    Manifest.take(inputs)
    looked = time.monotonic()
    result = {"inputs": len(inputs), "list_seconds": listed - began, "look_seconds": looked - listed}
    result["embed_seconds"] = embed(folder, options.work)
    result["resume_seconds"] = embed(folder, options.work)
    print(json.dumps(result))
    save_measured(options.work / "million.json", result)


if __name__ == "__main__":
    main()
