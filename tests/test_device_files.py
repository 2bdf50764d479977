"""What a target's folder carries to the device: its programs run the very artifact, and its README says what it takes."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sslfeat import Encoder
from sslfeat.data.synthetic import draw_samples
from sslfeat.export import verify as verifying
from sslfeat.export.artifact import hash_folder, read_artifact
from sslfeat.export.convert import ExportRequest, convert
from sslfeat.export.sources import origin
from sslfeat.export.targets.device import COMPARE, SNIPPETS, program
from sslfeat.export.targets.registry import TARGETS
from sslfeat.export.verify import verify_artifact
from tests.conftest import sslfeat

ELSEWHERE = ("litert", "web", "openvino-fp16")  # by .ci/litert, in a browser (test_web_target), as openvino-int8
FOLDERS = [name for name, target in TARGETS.items() if not target.is_file and name not in ELSEWHERE]
BY_PYTHON = [name for name in FOLDERS if name not in ("coreml", "tensorrt", "triton")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny encoder in every target that is made here, in folders with a space in their names."""
    place = tmp_path_factory.mktemp("on the device")
    draw_samples(place / "images", 80, seed=7)
    for name in FOLDERS:
        convert(origin("sslfeat-tiny"), ExportRequest(name, place / f"for {name}", [str(place / "images")], allow=True))
    return {name: place / f"for {name}" for name in FOLDERS}


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("name", BY_PYTHON)
def test_the_program_runs_the_artifact_and_sees_what_differs(name: str, made: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "on a phone"
    shutil.copytree(made[name], folder)
    done = run(sys.executable, folder / "check.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"{TARGETS[name].main}: cosine [01]\.\d+ with the encoder's embedding of golden\.rgb", done.stdout)
    wanted = np.fromfile(folder / "golden.f32", "<f4")
    (wanted[::-1]).tofile(folder / "golden.f32")
    assert run(sys.executable, folder / "check.py", cwd=tmp_path).returncode == 1
    wanted[:100].tofile(folder / "golden.f32")
    assert run(sys.executable, folder / "check.py", cwd=tmp_path).returncode == 1


@pytest.mark.parametrize("name", FOLDERS)
def test_the_sample_is_what_the_encoder_makes_of_it(name: str, made: dict[str, Path]) -> None:
    readme = (made[name] / "README.md").read_text()
    (width, height), = re.findall(r"drawn image of (\d+) x (\d+) px", readme)  # fmt: skip
    pixels = np.fromfile(made[name] / "golden.rgb", np.uint8).reshape(int(height), int(width), 3)
    encoder = Encoder.load("sslfeat-tiny", provider="cpu")
    (row,) = encoder.embed([pixels])
    np.testing.assert_allclose(np.fromfile(made[name] / "golden.f32", "<f4"), row, atol=1e-5)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_readme_has_what_a_device_team_asks(name: str, made: dict[str, Path]) -> None:
    about, card = read_artifact(made[name])
    readme = (made[name] / "README.md").read_text()
    assert {"README.md", "golden.rgb", "golden.f32"} <= about.files.keys()
    assert "{{" not in readme
    words = " ".join(readme.split())
    assert "mean and standard deviation are inside" in words
    rule = "resize the shorter side to 80 px, the other to `80 * other // shorter`, and keep the center, 80 x 80 px, from `round("
    assert (rule in words) == (name != "onnx-full")
    assert ("INFERENCE_PRECISION_HINT: f32" in words) == name.startswith("openvino")
    assert f"Weights: {card.license}\n" in readme
    assert "research, non-commercial" in card.training_data.license
    assert card.training_data.license in readme
    for verdict in about.gates or (about.unrun,):
        assert verdict in readme
    for template in TARGETS[name].device.programs:
        assert f"`{program(template)}`" in readme
        text = (made[name] / program(template)).read_text()
        assert "{{" not in text
        assert ("Not run by sslfeat" in text) == (name not in BY_PYTHON or not template.endswith(".py.in"))
        if template.endswith(".py.in"):
            compile(text, template, "exec")


def test_every_target_has_a_program_and_every_template_a_target() -> None:
    named = {name for target in TARGETS.values() for name in target.device.programs}
    assert {path.name for path in SNIPPETS.iterdir()} == {*named, COMPARE, "README.md.in"}
    assert all(target.is_file or target.device.programs for target in TARGETS.values())


def test_trtexecs_output_is_compared(made: dict[str, Path], tmp_path: Path) -> None:
    """By a stand-in for trtexec, which there is not without a GPU: it writes what it was asked to, in trtexec's form."""
    folder = tmp_path / "on a server"
    shutil.copytree(made["tensorrt"], folder)
    stand_in = tmp_path / "bin" / "trtexec"
    stand_in.parent.mkdir()
    stand_in.write_text(f"""#!{sys.executable}
import json, sys
import numpy as np
options = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
assert options["shapes"] == "image:1x80x80x3" and options["loadInputs"] == "image:golden.rgb"
values = np.fromfile("golden.f32", "<f4").tolist()
json.dump([{{"name": "embedding", "dimensions": "1x256", "values": values}}], open(options["exportOutput"], "w"))
""")
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    done = run(
        "env", f"PATH={stand_in.parent}:{Path(sys.executable).parent}:/usr/bin:/bin", "sh", folder / "check.sh", cwd=tmp_path
    )
    assert done.stdout == "encoder.plan: cosine 1.0000000 with the embedding of golden.rgb; 0.9995 or more is right\n", (
        done.stderr
    )
    assert done.returncode == 0


def test_info_says_how_to_run_it(made: dict[str, Path]) -> None:
    done = sslfeat("info", made["ncnn"])
    assert f"to run it: {made['ncnn'] / 'check.cpp'}, {made['ncnn'] / 'check.py'}; requirements" in done.stdout
    done = sslfeat("verify", made["ncnn"])
    assert done.returncode == 0


def test_verify_names_every_fault_and_runs_the_sample(made: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "copied"
    shutil.copytree(made["ncnn"], folder)
    (folder / "README.md").unlink()
    for name in ("check.py", "encoder.bin"):
        (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    done = sslfeat("verify", folder, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["whole"]) == (1, False)
    assert [re.findall(r"\S+ (?=is missing|was modified)", fault) for fault in told["faults"]] == [
        [f"{folder / name} "] for name in ("README.md", "check.py", "encoder.bin")
    ]
    for name in FOLDERS:
        done = sslfeat("verify", made[name])
        assert done.returncode == 0, done.stderr
        assert ("golden.rgb gives golden.f32" in done.stdout) == (name != "coreml")


@pytest.mark.parametrize("name", ["ncnn", "tensorrt"])
def test_verify_names_a_wrong_embedding_and_a_runtime_that_is_missing(
    name: str, made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copied"
    shutil.copytree(made[name], folder)
    np.fromfile(folder / "golden.f32", "<f4")[::-1].tofile(folder / "golden.f32")
    told = json.loads((folder / "target.json").read_text())
    (folder / "target.json").write_text(json.dumps({**told, "files": hash_folder(folder)}))
    (fault,), said = verify_artifact(folder)
    assert re.search(rf"{TARGETS[name].main} returns another embedding of golden.rgb than golden.f32: cosine 0\.", fault)
    assert said == ""
    monkeypatch.setattr(verifying, "find_spec", lambda package: None)
    faults, _ = verify_artifact(made[name])
    assert [("was not run: this needs the package 'ncnn': pip install" in fault) for fault in faults] == [True] * (name == "ncnn")
