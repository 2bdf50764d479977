"""Mistakes in a method's own file are said with file, line and rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from sslfeat.errors import TrainingError
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.trainer import train
from sslfeat.models.method import find_method
from sslfeat.models.own_file import named_faults

HEAD = """from sslfeat.models.method import register
from sslfeat.models.methods.rotation import Rotation


@register("NAME")
class Mine(Rotation):
    def loss(self, views):
        loss, figures = super().loss(views)
        return LOSS
"""


@pytest.mark.parametrize(
    ("number", "outcome", "said"),
    [
        (0, "loss.repeat(3), figures", "line 7: Mine.loss must return a scalar tensor as loss, not a tensor of shape"),
        (1, "loss", "line 7: Mine.loss must return the loss and a dict of figures, not Tensor"),
        (2, "loss, {'angle': 'wide'}", "line 7: Mine.loss: the figure 'angle' must be a number, not str"),
        (3, "loss, {'angle': views[0]}", "line 7: Mine.loss: the figure 'angle' must be a number, not Tensor"),
        (4, "loss / nothing, figures", "line 9: NameError: name 'nothing' is not defined"),
        (
            5,
            "loss.detach(), figures",
            "line 7: Mine.loss must return a loss with a gradient: it depends on no parameter",
        ),
    ],
)
def test_a_wrong_loss(number: int, outcome: str, said: str, image_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEAD.replace("NAME", f"mine-{number}").replace("LOSS", outcome))
    with pytest.raises(TrainingError) as error:
        train(_one_step(path, image_folder), tmp_path / "run")
    assert f"{path}, {said}" in str(error.value)


HOOKS = """from sslfeat.models.method import register
from sslfeat.models.methods.rotation import Rotation


@register("hook-NUMBER")
class Mine(Rotation):
    def NAME(self, *given):
        OUTCOME


def broken():
    return [][1]
"""


@pytest.mark.parametrize(
    "name",
    ["__init__", "build_encoder", "prepare", "cycle_steps", "on_cycle", "preview", "choose", "views", "after_step"],
)
def test_an_error_in_any_function_is_named(name: str, image_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HOOKS.replace("NUMBER", name).replace("NAME", name).replace("OUTCOME", "broken()"))
    with pytest.raises(TrainingError) as error:
        train(_one_step(path, image_folder), tmp_path / "run")
    assert str(error.value) == f"{path}, line 12: IndexError: list index out of range"


@pytest.mark.parametrize(
    ("name", "outcome", "rule"),
    [
        ("cycle_steps", "0", "a number of steps, 1 or more"),
        ("on_cycle", "None", "the parameters that were reinitialized, () for none"),
        ("choose", "None", "8 indices of images, an array of integers"),
        ("choose", "given[0] + 1000", "8 indices of images, an array of integers"),
        ("preview", "given[0][:2]", "an image (3, H, W) or None"),
    ],
)
def test_what_a_function_must_return_is_said(name: str, outcome: str, rule: str, image_folder: Path, tmp_path: Path) -> None:
    path, number = tmp_path / "mine.py", f"{name}-{len(outcome)}"
    path.write_text(HOOKS.replace("NUMBER", number).replace("NAME", name).replace("OUTCOME", f"return {outcome}"))
    with pytest.raises(TrainingError) as error:
        train(_one_step(path, image_folder), tmp_path / "run")
    assert str(error.value) == f"{path}, line 7: Mine.{name} must return {rule}"


def test_an_error_of_options_is_named(image_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    config = "@dataclass(frozen=True)\n    class Config:\n        def __post_init__(self):\n            broken()\n\n    "
    text = HOOKS.replace("NUMBER", "options").replace("    def NAME", f"    {config}def hook").replace("OUTCOME", "pass")
    path.write_text(f"from dataclasses import dataclass\n{text}")
    with pytest.raises(TrainingError, match=r"mine.py, line 18: IndexError"):
        train(_one_step(path, image_folder), tmp_path / "run")


def test_a_relative_path_is_the_same_file(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(HOOKS.replace("NUMBER", "near").replace("NAME", "prepare").replace("OUTCOME", "broken()"))
    with pytest.raises(TrainingError, match=r"^mine.py, line 12: IndexError"):
        train(_one_step(Path("mine.py"), image_folder), tmp_path / "run")


def test_an_error_elsewhere_is_not_the_files(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), named_faults(str(tmp_path / "mine.py")):
        1 / 0  # noqa: B018


def _one_step(path: Path, images: Path) -> TrainConfig:
    """Of a run in which everything is called."""
    return TrainConfig(str(path), (str(images),), "resnet10_w8", 32, 8, steps=1, accelerator="cpu")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nimport no_such_module\n", "line 2: the module 'no_such_module' is not installed"),
        ("x = 1\n1 / 0\n", "line 2: ZeroDivisionError"),
        ("x = (\n", "line 1: SyntaxError"),
    ],
)
def test_a_file_that_does_not_load(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(TrainingError) as error:
        find_method(str(path))
    assert f"{path}, {said}" in str(error.value)


def test_the_name_of_a_method_that_is_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEAD.replace("NAME", "swav").replace("LOSS", "loss, figures"))
    with pytest.raises(TrainingError, match="Mine is registered as 'swav', the name of a built-in method"):
        find_method(str(path))


def test_a_method_without_views_is_told_so(image_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from sslfeat.models.method import Method, register\n\n\n"
        '@register("mine-without-views")\nclass Mine(Method):\n    """No views."""\n'
    )
    with pytest.raises(TrainingError, match="Mine must define views"):
        train(_one_step(path, image_folder), tmp_path / "run")
