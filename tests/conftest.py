"""Fixtures: drawn images, and a tiny encoder made without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sslfeat.data.decode import Preprocess
from sslfeat.data.synthetic import draw_samples
from sslfeat.data.transforms import Decoding
from sslfeat.evaluation.probing.label_join import join
from sslfeat.evaluation.probing.label_tables import Label, read_table
from sslfeat.features.metadata import RUN_NAME, Encoded, FeaturesMetadata, Inputs
from sslfeat.inference.model_card import CARD_KEY, Card, Parity, TrainingData

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tiny networks lose time to threads

TINY_SIZE, TINY_DIM = 16, 8


def tiny_card(name: str = "tiny") -> Card:
    return Card(
        name=name,
        method="random-init",
        backbone="one convolution",
        layer="conv",
        dim=TINY_DIM,
        preprocess=Preprocess(resize=TINY_SIZE, size=TINY_SIZE),
        training_data=TrainingData("none", 0, "none"),
        license="Apache-2.0",
        config_sha256="0" * 64,
        versions={},
        parity=Parity(0, "none", (), 0.0, 0.0, 1.0, 1.0),
    )


def run_of(name: str = "a", fingerprint: str = "f") -> FeaturesMetadata:
    """What ``features.json`` says of features by this encoder."""
    made_by, inputs = Encoded(fingerprint, tiny_card(name)), Inputs(0, "0" * 64, True)
    precision = {"asked": "fp32", "ran": "fp32"}
    return FeaturesMetadata(made_by, inputs, "parquet", Decoding(), 1024, 4, "cpu", 1, precision, {})


def labels_from_table(
    file: Path, paths: Sequence[str], column: str | None = None, path_column: str | None = None, separator: str = ""
) -> list[Label]:
    return join(read_table(file, column, path_column, separator), paths)[0]


def tiny_model(seed: int = 0) -> onnx.ModelProto:
    """uint8 NHWC in, a 5 x 5 convolution with stride 2, ReLU, mean over the plane, float32 (N, 8) out."""
    weight = np.random.default_rng(seed).normal(0, 0.01, (TINY_DIM, 3, 5, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "weight"], ["maps"], strides=[2, 2]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("ReduceMean", ["active", "axes"], ["embedding"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", TINY_SIZE, TINY_SIZE, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", TINY_DIM])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array([2, 3]), "axes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def signed(model: onnx.ModelProto, card: str | None = None) -> bytes:
    model.metadata_props.add(key=CARD_KEY, value=card or tiny_card().to_json())
    return model.SerializeToString()


def write_tiny(path: Path, seed: int = 0) -> Path:
    model = tiny_model(seed)
    model.metadata_props.add(key=CARD_KEY, value=tiny_card(path.stem).to_json())
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder file that costs nothing to run."""
    return write_tiny(tmp_path_factory.mktemp("encoders") / "tiny.onnx")


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is kept in the cache of whoever runs the tests."""
    os.environ.setdefault("SSLFEAT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 drawn JPEGs in four class folders. Read only."""
    folder = tmp_path_factory.mktemp("drawn") / "images"
    draw_samples(folder, 40)
    return folder


@pytest.fixture(scope="session")
def embedded(tiny: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The features folder of ``images`` by ``tiny``. Read only."""
    folder = tmp_path_factory.mktemp("embedded") / "features"
    done = sslfeat("embed", image_folder, "--encoder", tiny, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


def sslfeat(
    *arguments: str | Path, cwd: Path | None = None, timeout: float = 120, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would, in a process of its own."""
    command: Sequence[str] = [sys.executable, "-c", "from sslfeat.cli.app import main; main()", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, timeout=timeout, input=text, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"}
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def however_asked(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files of a features folder without the words of the command that it was asked for by, which decide nothing."""
    record = json.loads(files[RUN_NAME])
    del record["given"], record["check"]
    return {**files, RUN_NAME: json.dumps(record).encode()}
