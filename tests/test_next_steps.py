"""What a run says to do next can be pasted, and what cannot work is refused before images are read."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from sslfeat.models.engine.schedule import ended_by
from tests.conftest import sslfeat

pytest.importorskip("torch")
RUN = ("--backbone", "resnet10_w8", "--image-size", "32", "--batch-size", "8", "--provider", "cpu")


def test_the_next_command_can_be_pasted_and_resume_alone_goes_on(image_folder: Path, tmp_path: Path) -> None:
    method, run = tmp_path / "mine.py", tmp_path / "a run"
    method.write_text(
        "from sslfeat.models.method import register\n"
        "from sslfeat.models.methods.rotation import Rotation\n\n\n"
        '@register("turned-mine")\n'
        "class Mine(Rotation):\n"
        '    """As rotation."""\n'
    )
    done = sslfeat("train", method, image_folder, "--out", run, *RUN, "--steps", "2", "--minutes", "60")
    assert done.returncode == 0, done.stderr
    assert "--steps ended the run" in done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("next: "))
    words = shlex.split(line.removeprefix("next: sslfeat "))
    assert words == ["export", str(run), "--trust-code"]
    exported = sslfeat(*words, "--out", tmp_path / "e.onnx")
    assert exported.returncode == 0, exported.stderr
    assert sslfeat("train", "--out", run, "--resume", "--trust-code").returncode == 0
    refused = sslfeat("train", "--out", run, "--resume", "--trust-code", "--steps", "9")
    assert refused.returncode == 2
    assert "omit steps" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "nothing", "--resume"), "nothing contains no run to resume"),
        (("distill", "IMAGES"), "give an encoder with --teacher ENCODER"),
        (("rotation", "IMAGES", "--teacher", "sslfeat-small"), "teacher is an option of distill"),
        (("rotation", "IMAGES", "--init", "x.onnx"), "give the run folder that it was exported from"),
        (("rotation", "ONE"), "there is 1 image: training needs at least 2"),
    ],
)
def test_what_cannot_work_is_refused_with_the_cure(
    arguments: tuple[str, ...], said: str, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    shutil.copy(next(path for path in sorted(image_folder.rglob("*")) if path.is_file()), tmp_path / "one")
    places = {"IMAGES": str(image_folder), "ONE": "one"}
    done = sslfeat("train", *(places.get(word, word) for word in arguments))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "reading images" not in done.stderr


def test_a_resume_without_a_run_is_said(image_folder: Path, tmp_path: Path) -> None:
    done = sslfeat("train", "rotation", image_folder, "--out", tmp_path / "run", *RUN, "--steps", "1", "--resume")
    assert done.returncode == 0, done.stderr
    assert "contains no checkpoint: starting a new run" in done.stderr


def test_which_budget_ended_a_run() -> None:
    assert ended_by({"steps": 1.0}) is None
    assert ended_by({"steps": 0.4, "minutes": 1.0}) == (
        "--minutes ended the run, since this budget was reached first; used of the others: 40% of --steps"
    )
