"""What onnxruntime's native code warns of while it is imported tells a user nothing, and is not printed; errors are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MAIN = """
import os, sys

class Noise:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            os.write(2, b"\\x1b[0;93m2026-01-01 [W:onnxruntime:Default, device_discovery.cc:322 GetGpuDevices] Failed\\x1b[m\\n")
            os.write(2, b"onnxruntime cpuid_info warning: Unknown CPU vendor\\n")
            os.write(2, b"2026-01-01 [E:onnxruntime:Default, real.cc:1 Real] a real error\\n")

sys.meta_path.insert(0, Noise())
from sslfeat.cli.app import main
main()
"""


@pytest.mark.parametrize("command", ["embed", "bench", "export", "compare", "adopt", "doctor"])
def test_warnings_of_an_import_are_dropped_and_errors_kept(command: str, tiny: Path, image_folder: Path, tmp_path: Path) -> None:
    arguments: dict[str, list[str | Path]] = {
        "embed": [image_folder, "--encoder", tiny, "--out", "f"],
        "bench": [tiny, "--batch-size", "1", "--seconds", "0.01"],
        "export": [tiny, "--target", "ort", "--images", image_folder, "--out", "o"],
        "compare": [tiny, tiny, "--images", image_folder],
        "adopt": [tiny, "--image-size", "16", "--out", "a.onnx"],  # is refused
        "doctor": [],
    }
    run = [sys.executable, "-c", MAIN, command, *map(str, arguments[command])]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == (command == "adopt"), done.stderr
    assert "W:onnxruntime" not in done.stderr and "cpuid_info" not in done.stderr
    assert "a real error" in done.stderr


def test_nothing_is_lost_when_the_block_fails() -> None:
    lines = (
        "import os\nfrom sslfeat.system.stderr import without_lines\n"
        "with without_lines(b'noise'):\n    os.write(2, b'noise\\nkept\\n')\n    raise SystemExit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "kept\n")


@pytest.mark.parametrize(
    "before",
    [
        "import tempfile\ndef none(): raise FileNotFoundError(2, 'no usable folder')\ntempfile.TemporaryFile = none\n",
        "import sys\nsys.stderr.close()\n",
    ],
    ids=["no temporary folder", "closed"],
)
def test_an_import_does_not_fail_for_what_would_be_dropped(before: str) -> None:
    lines = before + "import sslfeat.inference.backends\nprint('imported')\n"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert done.stdout == "imported\n", done.stderr
