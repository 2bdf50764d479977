"""What ``doctor`` says is so, and the lines that it gives mend what it found."""

from __future__ import annotations

import json
import platform
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from sslfeat.errors import EncoderFileError, ProviderError
from sslfeat.inference import diagnostics, encoder
from sslfeat.inference.registry import DEFAULT, resolve
from tests.conftest import sslfeat

ROOT = Path(__file__).parent.parent


def installed(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], needs: list[str] | None = None) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(diagnostics, "version", version)
    if needs is not None:
        monkeypatch.setattr(diagnostics, "requires", lambda name: needs)


def test_every_extra_is_one_of_the_project() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(diagnostics.EXTRAS) == set(told) - {"all", "dev"}


def test_the_command(tmp_path: Path) -> None:
    done = sslfeat("doctor", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    states = {check["name"]: check["state"] for check in told["checks"]}
    assert states["provider cpu"] == "works"
    assert set(diagnostics.EXTRAS) < set(states)
    assert all(check["cure"] for check in told["checks"] if check["name"] in diagnostics.EXTRAS and check["state"] == "missing")


@pytest.mark.parametrize(
    ("versions", "state", "told"),
    [
        ({"one": "2.0", "two": "1.0"}, "installed", "one 2.0, two 1.0"),
        ({"one": "2.0"}, "missing", "two not installed"),
        ({}, "missing", "one, two not installed"),
        ({"one": "1.9", "two": "1.0"}, "broken", "one 1.9, not >=2"),
        ({"one": "1.9"}, "missing", "two not installed; one 1.9, not >=2"),
    ],
)
def test_extras(versions: dict[str, str], state: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["always>=1", "one>=2; extra == 'umap'", 'two; extra == "umap"', "three>=9; extra == 'flow'"]
    installed(monkeypatch, versions, needs)
    (check,) = [check for check in diagnostics.extras() if check.name == "umap"]
    assert (check.state, check.message, bool(check.cure)) == (state, told, state != "installed")


def test_a_checkout_that_was_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(diagnostics, "requires", requires)
    assert {check.state for check in diagnostics.extras()} == {"missing"}


def test_two_wheels_of_onnxruntime_are_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, {"onnxruntime": "1.30", "onnxruntime-gpu": "1.31"})
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(diagnostics, "gpu_count", lambda: 0)
    assert diagnostics.providers()[0].cure == "pip uninstall -y onnxruntime-gpu onnxruntime && pip install onnxruntime"
    monkeypatch.setattr(diagnostics, "gpu_count", lambda: 1)
    check = diagnostics.providers()[0]
    assert (check.name, check.state) == ("onnxruntime", "broken")
    assert check.cure == "pip uninstall -y onnxruntime-gpu onnxruntime && pip install onnxruntime-gpu"
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert diagnostics.providers()[0].cure.endswith("&& pip install onnxruntime")
    installed(monkeypatch, {"onnxruntime-gpu": "1.31"})
    assert diagnostics.providers()[0].name == "provider cpu"


def test_a_gpu_whose_libraries_are_missing_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [check.state for check in diagnostics.providers()] == ["works", "missing" if not encoder.gpu_count() else "works"]
    monkeypatch.setattr(diagnostics, "gpu_count", lambda: 1)

    def load(name: str, provider: str) -> encoder.Encoder:
        if provider == "cuda":
            raise ProviderError("provider cuda cannot run here (libcublas): install it")
        return original(name, provider)

    original = encoder.Encoder.load
    monkeypatch.setattr(encoder.Encoder, "load", load)
    cpu, cuda = diagnostics.providers()
    assert cpu.state == "works"
    assert (cuda.state, cuda.message) == ("broken", "provider cuda cannot run here (libcublas): install it")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dinov2_vits14", "'sslfeat export timm/NAME --out encoder.onnx' .* 'sslfeat adopt'"),
        ("timm/vit_small_patch14_dinov2", "'sslfeat export timm/NAME"),
        ("resnet50", "'sslfeat export timm/NAME"),
        (DEFAULT[:-1], f"did you mean '{DEFAULT}'"),
        (DEFAULT.upper(), "export timm"),
        ("no/such.onnx", "check the path"),
        ("such.onnx", "check the path"),
        ("folder/encoder", "check the path"),
    ],
)
def test_an_unknown_encoder_is_answered_with_what_is_near(name: str, said: str) -> None:
    with pytest.raises(EncoderFileError, match=rf"is neither a file nor a shipped encoder \(.*{DEFAULT}.*\): .*{said}"):
        resolve(name)


@pytest.mark.parametrize(
    ("there", "docker", "states"),
    [
        ((), 0, {"web": "missing", "triton": "missing", "docker": "missing"}),
        (("npm", "chromium", "docker", "tritonserver"), 0, {"web": "installed", "triton": "installed", "docker": "works"}),
        (("npm", "docker"), 1, {"web": "missing", "triton": "missing", "docker": "missing"}),
    ],
)
def test_tools_of_targets(there: tuple[str, ...], docker: int, states: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    import subprocess

    from sslfeat.export.tools import tools

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, docker, "29.1\n", "no daemon\n")

    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in there else None)
    monkeypatch.setattr(subprocess, "run", run)
    found = {check.name: check for check in tools()}
    assert {name: check.state for name, check in found.items()} == states
    assert all(check.cure for check in found.values() if check.state == "missing")
    assert not docker or found["docker"].message == "no daemon"
