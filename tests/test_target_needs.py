"""What each target needs is looked for before an image is decoded or anything is converted, and the cure is named."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sslfeat.errors import ExportError, MissingExtraError, SslfeatError
from sslfeat.export import convert as converting
from sslfeat.export.convert import ExportRequest, convert
from sslfeat.export.sources import Origin
from sslfeat.export.targets import base, web
from sslfeat.export.targets.registry import TARGETS
from sslfeat.inference.onnx_model import EncoderFile, check_encoder, with_card
from tests.conftest import sslfeat, tiny_card, tiny_model

TORCH = ("torch", "torchvision", "yaml", "safetensors")
# by target: the packages, whether it takes torch weights, the least opset, and what else there must be
TABLE: dict[str, tuple[tuple[str, ...], bool, int, str]] = {
    "onnx-full": ((), False, 18, "filter"),
    "int8": ((), False, 0, "63 images"),
    "fp16": ((), False, 0, "small weights"),
    "ort": ((), False, 0, ""),
    "openvino": (("openvino",), False, 0, ""),
    "openvino-fp16": (("openvino",), False, 0, ""),
    "openvino-int8": (("openvino",), False, 0, "63 images"),
    "ncnn": ((*TORCH, "ncnn", "pnnx"), True, 0, ""),
    "executorch": ((*TORCH, "executorch"), True, 0, ""),
    "litert": ((*TORCH, "litert_torch", "ai_edge_litert"), True, 0, ""),
    "web": ((), False, 18, "filter, programs"),
    "coreml": ((*TORCH, "coremltools"), True, 0, ""),
    "tensorrt": ((), False, 0, ""),
    "triton": ((), False, 0, ""),
}


class Worked(Exception):
    """Images were looked for: nothing stood against it."""


def adopted(opset: int = 20, filter_: str = "bicubic", weight: float = 1.0) -> EncoderFile:
    model = tiny_model()
    model.opset_import[0].version = opset
    values = numpy_helper.to_array(model.graph.initializer[0]) * weight
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values.astype(np.float32), "weight"))
    card = tiny_card("theirs")
    prep = dataclasses.replace(card.preprocess, filter=filter_)
    return check_encoder(with_card(model, dataclasses.replace(card, method="adopted", preprocess=prep)))


@pytest.fixture(autouse=True)
def all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every package and program is there; whoever looks for images has found nothing that stood against it."""

    def looked_for(*arguments: object) -> None:
        raise Worked

    monkeypatch.setattr(base, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(converting, "images_to_check", looked_for)


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., tuple[type, str]]:
    def asked(target: str, file: EncoderFile, weights: bool = True, runtime: Path | None = None) -> tuple[type, str]:
        origin = Origin(file, (lambda: pytest.fail("loaded too early")) if weights else None)
        try:
            convert(origin, ExportRequest(target, tmp_path / "out", web_runtime=runtime))
        except (SslfeatError, Worked) as error:
            assert list(tmp_path.iterdir()) == []
            return type(error), str(error)
        return type(None), ""

    return asked


def test_the_table_has_every_target() -> None:
    assert TABLE.keys() == TARGETS.keys()


@pytest.mark.parametrize("name", TABLE)
def test_packages(name: str, ask: Callable[..., tuple[type, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(name, adopted())[0] is Worked
    for package in {package for packages, *_ in TABLE.values() for package in packages}:
        monkeypatch.setattr(base, "find_spec", lambda given, away=package: None if given == away else given)
        kind, said = ask(name, adopted())
        assert (kind is MissingExtraError) == (package in TABLE[name][0]), package
        assert kind is Worked or (f"needs the package '{package}'" in said and "pip install" in said)
        assert package != "torch" or kind is Worked or "'torch>=" in said  # which ncnn's and Core ML's extras do not bring


@pytest.mark.parametrize("name", TABLE)
def test_an_adopted_encoder_has_no_torch_weights(name: str, ask: Callable[..., tuple[type, str]]) -> None:
    kind, said = ask(name, adopted(), weights=False)
    assert kind is (ExportError if TABLE[name][1] else Worked)
    assert kind is Worked or (
        "which the encoder file 'theirs' does not contain: choose a target that can be made from an encoder file" in said
        and "distill" in said
    )


@pytest.mark.parametrize("name", TABLE)
def test_opset_filter_and_weights(name: str, ask: Callable[..., tuple[type, str]]) -> None:
    least, besides = TABLE[name][2:]
    kind, said = ask(name, adopted(opset=17))
    assert kind is (ExportError if least >= 18 else Worked)
    assert kind is Worked or ("has opset 17" in said and "export the model again with opset 18" in said)
    kind, said = ask(name, adopted(filter_="box"))
    assert kind is (ExportError if "filter" in besides else Worked)
    assert kind is Worked or ("'box'" in said and "choose a target for resized images" in said)
    kind, said = ask(name, adopted(weight=1e9))
    assert kind is (ExportError if besides == "small weights" else Worked)
    assert kind is Worked or "--target int8" in said


@pytest.mark.parametrize("name", TABLE)
def test_programs(name: str, ask: Callable[..., tuple[type, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    needed = "programs" in TABLE[name][3]
    if needed:
        assert "not the dist folder" in ask(name, adopted(), runtime=tmp_path)[1]
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "npm" else program)
    assert ("--web-runtime" in ask(name, adopted())[1]) == needed
    with monkeypatch.context() as patched:
        patched.setattr(web, "INSTALLED", tmp_path)
        assert ("lacks LICENSE, ThirdPartyNotices.txt" in ask(name, adopted())[1]) == needed
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert ("install chromium" in ask(name, adopted())[1]) == needed


@pytest.mark.parametrize("name", TABLE)
def test_images_are_counted_before_they_are_decoded(
    name: str, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sslfeat.export.images import images_to_check

    def decoded(*arguments: object) -> None:
        raise Worked

    monkeypatch.setattr(converting, "images_to_check", images_to_check)
    monkeypatch.setattr(converting, "draw_panel", decoded)
    few = "63 images" in TABLE[name][3]
    origin = Origin(adopted(), lambda: pytest.fail("loaded too early"))
    with pytest.raises(ExportError if few else Worked, match="give 63 or more" if few else None):
        convert(origin, ExportRequest(name, tmp_path / "out", [str(image_folder)]))  # of 40
    if few:
        one = tmp_path / "one class"
        shutil.copytree(image_folder / "circles", one / "circles")
        with pytest.raises(ExportError, match="at least two classes"):
            convert(origin, ExportRequest(name, tmp_path / "out", [str(image_folder)], labeled=str(one)))


def test_the_command_says_so(tmp_path: Path) -> None:
    onnx.save(onnx.load_model_from_string(adopted().data), tmp_path / "theirs.onnx")
    for name in ("ncnn", "executorch", "coreml"):
        done = sslfeat("export", tmp_path / "theirs.onnx", "--target", name, "--images", tmp_path / "nothing")
        assert (done.returncode, "'theirs' does not contain: choose a target" in done.stderr) == (1, True), done.stderr
        assert "reading the images" not in done.stderr
