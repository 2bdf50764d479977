"""Lower precision is taken where it keeps features and neighbors on the images at hand, and refused where not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sslfeat.data.dataset import find_inputs
from sslfeat.data.decode import Decoding, Pixels
from sslfeat.data.synthetic import draw_samples
from sslfeat.errors import FeaturesError, InputError
from sslfeat.features import auto_precision
from sslfeat.features.auto_precision import INT8_NAME, settle
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.model_card import CARD_KEY
from sslfeat.inference.onnx_model import check_encoder
from tests.conftest import TINY_DIM, TINY_SIZE, sslfeat, tiny_card


def two_convolutions(path: Path, outlier: float = 1.0) -> Path:
    """An encoder worth quantizing; ``outlier`` times as much in one channel takes the 8 bits from all others."""
    rng = np.random.default_rng(0)
    first = rng.normal(0, 0.05, (16, 3, 5, 5)).astype(np.float32)
    first[0] *= outlier
    second = rng.normal(0, 0.2, (TINY_DIM, 16, 3, 3)).astype(np.float32)
    second[:, 0] /= outlier
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "first"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("ReduceMean", ["d", "axes"], ["embedding"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", TINY_SIZE, TINY_SIZE, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", TINY_DIM])],
        [
            numpy_helper.from_array(first, "first"),
            numpy_helper.from_array(second, "second"),
            numpy_helper.from_array(np.array([2, 3]), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model.metadata_props.add(key=CARD_KEY, value=tiny_card("two").to_json())
    onnx.save(model, path)
    return path


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """No seconds are spent on timing where its result does not matter."""
    monkeypatch.setattr(auto_precision, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("precision") / "images"
    draw_samples(folder, 120)
    return folder


def settled(path: Path, images: Path, asked: str, said: list[str] | None = None) -> Encoder:
    file = check_encoder(path.read_bytes())
    sources = [item.path for item in find_inputs([images])]
    return settle(file, Encoder(file, "cpu"), sources, asked, Decoding(), None, (said if said is not None else []).append)


def test_int8_is_taken_where_it_holds(images: Path, tmp_path: Path) -> None:
    path = two_convolutions(tmp_path / "two.onnx")
    encoder = settled(path, images, "int8")
    record = encoder.precision
    assert (record["asked"], record["ran"], record["images"]) == ("int8", "int8", 96)
    tried = sorted(record["tried"].values(), key=lambda trial: -trial["speed"])
    assert len(tried) == 2  # runtimes, of which the faster was taken, and the other not looked into
    assert tried[0]["cosine_bound"] >= 0.999
    assert tried[0]["overlap_bound"] >= 0.95
    assert tried[0]["share"] == pytest.approx(0.969)  # 0.05 ** (1 / 96)
    assert (tried[0]["holds"], tried[1]["holds"], tried[1]["min_cosine"]) == (True, False, None)
    pixels = np.random.default_rng(0).integers(0, 256, (4, TINY_SIZE, TINY_SIZE, 3)).astype(np.uint8)
    plain, lower = Encoder.load(path, "cpu").run(pixels), encoder.run(pixels)
    np.testing.assert_allclose(lower, plain, atol=0.02 * np.abs(plain).max())
    assert not np.array_equal(lower, plain)
    assert check_encoder(encoder.files[INT8_NAME]).card.name == "two"  # an encoder like any other


def test_int8_is_refused_with_the_figure_where_it_does_not(images: Path, tmp_path: Path) -> None:
    said: list[str] = []
    encoder = settled(two_convolutions(tmp_path / "two.onnx", outlier=3e3), images, "int8", said)
    assert encoder.precision["ran"] == "fp32"
    assert not any(trial["holds"] for trial in encoder.precision["tried"].values())
    assert "rejected" in said[0]
    assert said[-1] == "precision fp32 in onnxruntime"
    assert encoder.files == {}


def test_openvino_in_bf16_and_auto(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = two_convolutions(tmp_path / "two.onnx")
    assert settled(path, images, "bf16").precision["tried"]["bf16 in openvino"]["min_cosine"] > 0.99
    tried = settled(path, images, "auto").precision["tried"]
    assert set(tried) == {"int8 in onnxruntime", "int8 in openvino", "bf16 in openvino"}


def test_what_cannot_be_is_refused(images: Path, tmp_path: Path) -> None:
    path = two_convolutions(tmp_path / "two.onnx")
    with pytest.raises(InputError, match="fp8"):
        settled(path, images, "fp8")
    few = tmp_path / "few"
    draw_samples(few, 10)
    assert "only 10 readable images for the comparison, 63 are required" in settled(path, few, "auto").precision["why"]


def test_a_resumed_run_keeps_its_precision(images: Path, tmp_path: Path) -> None:
    path = two_convolutions(tmp_path / "two.onnx")
    arguments: list[str | Path] = ["embed", images, "--encoder", path, "--out", tmp_path / "f", "--part-size", "30"]
    assert sslfeat(*arguments, "--precision", "int8").returncode == 0
    before = (tmp_path / "f" / "part-00002.parquet").read_bytes()
    (tmp_path / "f" / "part-00002.parquet").unlink()
    again = sslfeat(*arguments, "--precision", "int8", "--json")
    assert json.loads(again.stdout)["resumed"] == 90
    assert (tmp_path / "f" / "part-00002.parquet").read_bytes() == before
    assert "precision.asked" in sslfeat(*arguments).stderr
    (tmp_path / "f" / "part-00002.parquet").unlink()
    assert sslfeat("repair", tmp_path / "f", "--encoder", path).returncode == 0
    assert (tmp_path / "f" / "part-00002.parquet").read_bytes() == before
    assert sslfeat("verify", tmp_path / "f").returncode == 0
    (tmp_path / "f" / INT8_NAME).write_bytes(b"altered")
    assert INT8_NAME in sslfeat("verify", tmp_path / "f").stderr
    refused = sslfeat(*arguments, "--precision", "int8")
    assert refused.returncode == 1
    assert "altered" in refused.stderr


def test_a_kept_encoder_must_be_there(images: Path, tmp_path: Path) -> None:
    path = two_convolutions(tmp_path / "two.onnx")
    arguments: list[str | Path] = ["embed", images, "--encoder", path, "--out", tmp_path / "f", "--precision", "int8"]
    assert sslfeat(*arguments).returncode == 0
    (tmp_path / "f" / INT8_NAME).unlink()
    with pytest.raises(FeaturesError, match=INT8_NAME):
        from sslfeat.features.update import load_encoder

        load_encoder(tmp_path / "f", str(path))


def test_no_image_that_ranges_are_taken_from_judges(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Pixels] = []
    judged: list[Pixels] = []
    quantized, begin = auto_precision._quantized, auto_precision._Bench.__init__

    def quantize(data: bytes, pixels: Pixels) -> bytes:
        seen.append(pixels)
        return quantized(data, pixels)

    def bench(self: auto_precision._Bench, encoder: Encoder, pixels: Pixels) -> None:
        judged.append(pixels)
        begin(self, encoder, pixels)

    monkeypatch.setattr(auto_precision, "_quantized", quantize)
    monkeypatch.setattr(auto_precision._Bench, "__init__", bench)
    settled(two_convolutions(tmp_path / "two.onnx"), images, "int8")
    known = {image.tobytes() for image in seen[0]}
    assert (len(seen), len(judged), len(known), len(judged[0])) == (1, 1, 24, 96)
    assert not known & {image.tobytes() for image in judged[0]}


def test_all_precisions_take_turns_with_float32(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []

    def drawn(calls: list[object], laps: int, seconds: float) -> list[float]:
        timed.append(len(calls))
        return [1.2, 1.5, 1.1][: len(calls) - 1]

    monkeypatch.setattr(auto_precision, "times_as_fast", drawn)
    tried = settled(two_convolutions(tmp_path / "two.onnx"), images, "int8").precision["tried"]
    assert timed == [1 + len(tried)]
    assert [trial["speed"] for trial in tried.values()] == [1.2, 1.5][: len(tried)]


class Rows:
    """An encoder that gives these embeddings, (N, D), of images whose first pixel is their number."""

    threads = 1

    def __init__(self, rows: npt.NDArray[np.float32]) -> None:
        self.rows = rows

    def run(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        return self.rows[pixels[:, 0, 0, 0]]


def test_each_bound_refuses_alone() -> None:
    rng = np.random.default_rng(0)
    pixels = np.zeros((100, 1, 1, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(100)
    alike = (1 + 1e-3 * rng.normal(size=(100, 8))).astype(np.float32)  # all alike: neighbors hang by a thread
    apart = rng.normal(size=(100, 8)).astype(np.float32)
    worse = apart.copy()
    worse[3] = apart[3] + 0.1 * rng.normal(size=8)

    def holds(before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]) -> auto_precision.PrecisionTrial:
        bench = auto_precision._Bench(Rows(before), pixels)  # type: ignore[arg-type]
        return bench.compare(("int8", "onnxruntime"), Rows(after), auto_precision.PrecisionTrial(None, None, 2.0, False))

    swapped = holds(alike, alike[:, ::-1].copy())
    assert (swapped.cosine_bound or 0) > 0.9999
    assert (swapped.overlap_bound or 1) < 0.9
    moved = holds(apart, worse)
    assert (moved.cosine_bound or 1) < 0.999
    assert (moved.overlap_bound or 0) > 0.95
    assert (swapped.holds, moved.holds, holds(apart, apart).holds) == (False, False, True)
    assert not holds(apart, np.full_like(apart, np.nan)).holds
