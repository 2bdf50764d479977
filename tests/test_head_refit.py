"""A last matrix fitted anew behind rounded weights: against NumPy's least squares, and in a graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sslfeat.data.holdout import draw_panel
from sslfeat.export.sources import origin
from sslfeat.inference.backends import OnnxRuntimeBackend
from sslfeat.inference.head_refit import FEWEST, RIDGE, last_matrix, linear_map, refit
from sslfeat.inference.quantization import best_int8, quantize
from sslfeat.inference.quantized_weights import SPARED, but_for_the_smallest
from sslfeat.numerics.similarity import cosines
from tests.conftest import tiny_model

RNG = np.random.default_rng(0)


def test_the_map_is_that_of_least_squares_with_rows_that_ask_for_no_change() -> None:
    """Ridge regression is least squares with one more row an axis."""
    x = RNG.normal(size=(50, 4)) * [3, 1, 0.5, 0.1] + 2
    y = x @ (np.eye(4) + 0.1 * RNG.normal(size=(4, 4))) + [1, 0, 0, -1]
    turn, bias = linear_map(x.astype(np.float32), y.astype(np.float32))
    a, b = x - x.mean(0), y - y.mean(0)
    root = np.sqrt(RIDGE * np.square(a).sum() / 4)
    solved = np.linalg.lstsq(np.vstack([a, root * np.eye(4)]), np.vstack([b, root * np.eye(4)]), rcond=None)[0]
    np.testing.assert_allclose(turn, solved, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose((x @ turn + bias).mean(0), y.mean(0), rtol=1e-5)
    same, none = linear_map(x.astype(np.float32), x.astype(np.float32))
    np.testing.assert_allclose(same, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(none, 0, atol=1e-5)


def test_a_damaged_network_is_brought_back_as_far_as_a_linear_map_can() -> None:
    file = origin("sslfeat-tiny").file
    size, dim = file.card.preprocess.size, file.card.dim
    pixels = RNG.integers(0, 256, (FEWEST * dim + 40, size, size, 3)).astype(np.uint8)
    for image in pixels:  # unlike noise, these differ in what the network sees
        image[:] = image[:4, :4].repeat(size // 4, 0).repeat(size // 4, 1)
    seen, judged = pixels[:-40], pixels[-40:]
    model = onnx.load_model_from_string(file.data)
    matrix = last_matrix(model.graph)
    assert matrix is not None
    bent = numpy_helper.to_array(matrix) @ (np.eye(dim) + 0.03 * RNG.normal(size=(dim, dim)))
    matrix.CopyFrom(numpy_helper.from_array(bent.astype(np.float32), matrix.name))
    wanted = OnnxRuntimeBackend(file.data, "cpu", 1).run(judged)
    before = cosines(wanted, OnnxRuntimeBackend(model.SerializeToString(), "cpu", 1).run(judged)).min()
    assert not refit(model, file.data, seen[: FEWEST * dim - 1])  # too few: nothing is changed
    np.testing.assert_array_equal(numpy_helper.to_array(matrix), bent.astype(np.float32))
    assert refit(model, file.data, seen)
    after = cosines(wanted, OnnxRuntimeBackend(model.SerializeToString(), "cpu", 1).run(judged)).min()
    assert 1 - after < 0.5 * (1 - before)


def test_without_a_last_matrix_nothing_is_fitted() -> None:
    model = tiny_model(0)
    last = model.graph.node[-1]
    model.graph.output[0].name = last.output[0] = "embedding"
    relu = onnx.helper.make_node("Relu", ["before"], ["embedding"])
    last.output[0] = "before"
    model.graph.node.append(relu)
    assert last_matrix(model.graph) is None
    assert not refit(model, b"", np.zeros((9, 8, 8, 3), np.uint8))


def test_the_smallest_weights_are_spared_up_to_their_share() -> None:
    graph = onnx.load_model_from_string(origin("sslfeat-small").file.data).graph
    kept = but_for_the_smallest(graph, list(graph.node))
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    weighty = [node for node in graph.node if node.op_type in ("Conv", "MatMul")]
    spared = [node for node in weighty if node not in kept]
    of_all = sum(sizes[node.input[1]] for node in spared) / sum(sizes[node.input[1]] for node in weighty)
    assert 0 < of_all <= SPARED
    assert max(sizes[node.input[1]] for node in spared) <= min(sizes[node.input[1]] for node in weighty if node in kept)


@pytest.mark.parametrize("holds", [True, False])
def test_a_refit_is_tried_if_nothing_else_holds(holds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from sslfeat.inference import quantization

    file = origin("sslfeat-tiny").file
    size = file.card.preprocess.size
    asked: list[int] = []

    def further() -> np.ndarray:
        asked.append(1)
        return RNG.integers(0, 256, (8, size, size, 3)).astype(np.uint8)

    ways: list[str | None] = []

    def spoiled(data: bytes, pixels: np.ndarray, way: str | None = None) -> bytes:
        ways.append(way)
        return data if holds or way == "refitted" else quantize(data, pixels, "static")

    monkeypatch.setattr(quantization, "quantize", spoiled)
    monkeypatch.setattr(quantization, "MIN_COSINE", 0.99999)
    best = best_int8(file.data, RNG.integers(0, 256, (12, size, size, 3)).astype(np.uint8), further)
    assert bool(asked) is ("refitted" in ways) is not holds
    assert best == file.data


def test_further_images_neither_judge_nor_were_seen(image_folder: object) -> None:
    from sslfeat.data import holdout
    from sslfeat.data.dataset import find_inputs
    from sslfeat.data.transforms import Preprocess

    sources = [item.path for item in find_inputs([str(image_folder)], "none")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holdout, "JUDGES", 6)
        patch.setattr(holdout, "SEEN", 2)
        panel = draw_panel([*sources, *sources], Preprocess(16, 16))  # every image twice: the copy of a judge must not be learned
        others = panel.further.pixels()
    known = {image.tobytes() for image in (*panel.judged, *panel.seen)}
    assert len(others) and not any(image.tobytes() in known for image in others)
