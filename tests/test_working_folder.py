"""Nothing is imported from the working folder: it may be a download of a stranger's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sslfeat.inference.onnx_model import read_encoder_file
from tests.conftest import TINY_SIZE, contents, tiny_model

CANARY = "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\nraise SystemExit('imported')\n"
MODULES = ("numpy", "json", "PIL", "onnx", "onnxruntime", "typer", "filelock", "site", "subprocess", "sslfeat", "torch")


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with modules that leave a mark where they are imported."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(CANARY)
    monkeypatch.chdir(folder)
    return folder


def marks(folder: Path) -> list[str]:
    return [name for name in contents(folder) if name.endswith(".ran")]


def test_the_canaries_sing(hostile: Path) -> None:
    """What the tests below rely on: without precautions, these modules are imported."""
    subprocess.run([sys.executable, "-c", "import numpy"], check=False, capture_output=True)
    assert marks(hostile) == ["numpy.ran"]


@pytest.mark.parametrize("start", ["script", "module"])
def test_commands(start: str, hostile: Path, tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    """``embed`` starts the decoding processes."""
    script = Path(sys.executable).with_name("sslfeat")
    if start == "script" and not script.exists():
        pytest.skip("the console script is not installed")
    if start == "module":
        # python itself looks for the package that -m names in the working folder, before any line of ours runs
        (hostile / "sslfeat.py").unlink()
    command = [script] if start == "script" else [sys.executable, "-m", "sslfeat"]
    done = subprocess.run(
        [*command, "embed", image_folder, "--encoder", tiny, "--out", tmp_path / "out"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert marks(hostile) == []


def test_foreign_models(hostile: Path) -> None:
    """``adopt`` runs them in a child."""
    apart = pytest.importorskip("sslfeat.export.adopt.subprocess")
    from sslfeat.data.decode import Preprocess
    from sslfeat.export.adopt.foreign_model import AdoptRequest

    pixels = np.zeros((2, TINY_SIZE, TINY_SIZE, 3), np.uint8)
    made = apart.adopt_apart(tiny_model().SerializeToString(), AdoptRequest(Preprocess(TINY_SIZE, TINY_SIZE)), pixels, "none")
    assert made.card.preprocess.size == TINY_SIZE
    assert marks(hostile) == []


def test_measured_artifacts(hostile: Path, tiny: Path) -> None:
    """``compare`` and the gates of ``export`` run runtimes in a child."""
    from sslfeat.export.runner import measure

    assert read_encoder_file(tiny).card.dim
    pixels = np.random.default_rng(0).integers(0, 256, (16, TINY_SIZE, TINY_SIZE, 3), np.uint8)
    measured = measure(tiny, tiny, pixels, laps=1)
    np.testing.assert_allclose(measured.reference, next(iter(measured.found.values())), rtol=1e-5)
    assert marks(hostile) == []
