"""What comes with others' weights: configs that say how images are fed, and networks as torch exports them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sslfeat import Encoder
from sslfeat.data.transforms import Preprocess
from sslfeat.errors import InputError
from sslfeat.export.adopt.adopt import adopt
from sslfeat.export.adopt.preprocessor_config import read_config
from sslfeat.export.adopt.remarks import alike
from tests.conftest import sslfeat
from tests.foreign import PIXELS, WISH, foreign

CLIP: dict[str, Any] = {
    "size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True, "resample": 2,
    "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "rescale_factor": 1 / 255,
}  # fmt: skip
SIGLIP: dict[str, Any] = {
    "size": {"height": 16, "width": 16}, "resample": 3, "do_resize": True, "do_rescale": True, "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "image_processor_type": "SiglipImageProcessor",
}  # fmt: skip
TIMM: dict[str, Any] = {
    "architecture": "any", "pretrained_cfg": {
        "input_size": [3, 192, 192], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "squash",
        "mean": [0.5, 0.25, 1], "std": [0.5, 0.5, 0.5],
    },
}  # fmt: skip


def read(config: Any, folder: Path) -> dict[str, Any]:
    (folder / "config.json").write_text(json.dumps(config))
    return read_config(folder / "config.json")


def test_a_config_of_transformers_is_followed(tmp_path: Path) -> None:
    fed = read(CLIP, tmp_path)
    assert fed["preprocess"] == Preprocess(18, 16, "bilinear")
    assert (fed["mean"], fed["std"], fed["scale"]) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), pytest.approx(1))
    assert read(SIGLIP, tmp_path)["preprocess"] == Preprocess(16, 16, "bicubic", crop="squash")
    assert read({**SIGLIP, "size": 16}, tmp_path)["preprocess"].crop == "squash"  # as the first ViTs have it
    assert read({**CLIP, "size": 18}, tmp_path)["preprocess"].crop == "center"  # as the first CLIPs have it
    beit = {**CLIP, "size": {"height": 18, "width": 18}}
    assert read(beit, tmp_path)["preprocess"] == Preprocess(18, 16, "bilinear", crop="squash")


def test_a_config_of_timm_is_followed(tmp_path: Path) -> None:
    fed = read(TIMM, tmp_path)
    assert fed["preprocess"] == Preprocess(213, 192, "bicubic", crop="squash")
    assert (fed["mean"], fed["std"], fed["scale"]) == ((0.5, 0.25, 1), (0.5, 0.5, 0.5), 1)
    border = {**TIMM["pretrained_cfg"], "crop_mode": "border", "crop_pct": 1.0}
    assert read(border, tmp_path)["preprocess"] == Preprocess(192, 192, "bicubic", crop="border", fill="#8040ff")
    plain = {**TIMM["pretrained_cfg"], "crop_mode": None}
    assert read(plain, tmp_path)["preprocess"].crop == "center"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({**CLIP, "do_center_crop": False}, "does not crop"),
        ({**CLIP, "size": {"height": 16, "width": 20}}, "not one side"),
        ({**CLIP, "size": {"longest_edge": 16}}, "not one side"),
        ({**CLIP, "crop_size": 20}, "crops 20 px out of 18 px"),
        ({**CLIP, "do_resize": False}, "do_resize is False"),
        ({**SIGLIP, "do_pad": True}, "do_pad is True"),
        ({name: value for name, value in CLIP.items() if name != "image_mean"}, "'image_mean' is missing"),
        ({"pretrained_cfg": {**TIMM["pretrained_cfg"], "crop_mode": "tile"}}, "crop_mode is 'tile'"),
        ({"pretrained_cfg": {**TIMM["pretrained_cfg"], "input_size": [3, 64, 32]}}, "not one side"),
        ([], "is not a supported"),
        ("text", "is not a supported"),
    ],
)
def test_a_config_that_cannot_be_followed_says_why(config: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read(config, tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path / "none.json")


@pytest.mark.parametrize("modern", [True, False])
def test_what_torch_exports_is_adopted_and_its_scores_are_noticed(modern: bool, tmp_path: Path) -> None:
    """The exporter of today leaves the weights in a file beside the model."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    body = nn.Sequential(nn.Conv2d(3, 96, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for name, network in (("body", body), ("classifier", nn.Sequential(body, nn.Linear(96, 10)))):
        path = tmp_path / f"{name}.onnx"
        options: dict[str, Any] = {"dynamo": False, "dynamic_axes": {"x": {0: "n"}}, "input_names": ["x"]}
        if modern:
            options = {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "verbose": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters, about themselves
            torch.onnx.export(network.eval(), (torch.zeros(2, 3, 32, 32),), path, **options)
        assert (tmp_path / f"{name}.onnx.data").exists() == modern
        done = sslfeat("adopt", path, "--image-size", "32", "--crop", "squash", "--out", tmp_path / f"our-{name}.onnx")
        assert done.returncode == 0, done.stderr
        assert "ImageNet's mean 0.485,0.456,0.406 and std 0.229,0.224,0.225, an assumption" in done.stderr
        assert ("10 values: this looks like class scores" in done.stderr) == (name == "classifier")
        ours = Encoder.load(tmp_path / f"our-{name}.onnx", "cpu")
        assert ours.card.preprocess.crop == "squash"
        pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
        fed = (pixels / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        with torch.inference_mode():
            wanted = network(torch.tensor(fed.transpose(0, 3, 1, 2), dtype=torch.float32)).numpy()
        np.testing.assert_allclose(ours.run(pixels), wanted, atol=1e-5)
        assert not any(tensor.external_data for tensor in onnx.load(tmp_path / f"our-{name}.onnx").graph.initializer)


def test_which_of_several_outputs_is_taken_and_why(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["pixels", "weight"], ["maps"], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["maps"], ["one"]),
        helper.make_node("Flatten", ["one"], ["pooled"]),
        helper.make_node("Relu", ["pooled"], ["scores"]),
    ]
    shapes: dict[str, list[str | int | None]] = {"maps": ["batch", 80, 4, 4], "pooled": ["batch", 80], "scores": ["batch", 80]}
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(80, 3, 4, 4)).astype(np.float32), "weight")
    for names in (("pooled",), ("maps", "pooled"), ("maps", "pooled", "scores")):
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in names]
        image = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 16, 16])
        graph = helper.make_graph(nodes, "several", [image], ports, [weight])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
        adopt = ("adopt", tmp_path / "m.onnx", "--out", tmp_path / "ours.onnx", "--overwrite", "--json")
        done = sslfeat(*adopt)
        told = json.loads(done.stdout)
        if len(names) == 3:
            assert "it has 3 outputs: maps (batch, 80, 4, 4), pooled (batch, 80), scores (batch, 80)" in told["error"]
            assert "--output NAME" in told["cure"]
            continue
        said = [text for text in told["remarks"] if "outputs" in text]
        assert len(said) == len(names) - 1
        assert all("pooled (batch, 80). Using 'pooled', the only one of shape (N, D)" in text for text in said)
        assert all("--output" in text for text in said)
    chosen = json.loads(sslfeat(*adopt, "--output", "maps", "--pool", "mean").stdout)
    assert not any("Using" in text for text in chosen["remarks"])
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [image], ports[:2], [weight]), ir_version=10,
                                opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "m.onnx")  # fmt: skip
    pooled = json.loads(sslfeat(*adopt, "--pool", "mean").stdout)
    assert "Using 'maps', the only one that --pool mean can convert to an embedding" in pooled["remarks"][0]


def test_embeddings_that_are_nearly_equal_are_noted() -> None:
    file = adopt(foreign(), WISH, PIXELS, "given")
    assert alike(file, PIXELS) == ""
    assert alike(file, PIXELS[:1]) == ""
    equal = np.repeat(PIXELS[:1], 9, 0)
    assert alike(file, equal).startswith("the embeddings of 9 images are nearly equal (mean cosine 1.000000): check --mean")
