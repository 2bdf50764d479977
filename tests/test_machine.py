"""What a benchmark keeps beside its figures."""

from __future__ import annotations

import json
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pytest

from sslfeat.system.cores import available_cores, processor
from sslfeat.system.machine import save_measured

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_figures_are_saved_with_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    save_measured(tmp_path / "found.json", {"rate": 1.5, "machine": "an older one"})
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["rate"] == 1.5
    kept = found["machine"]
    assert (kept["processor"], kept["cores"]) == (processor(), available_cores())
    assert kept["threads"]["OMP_NUM_THREADS"] == "1"
    assert abs((date.fromisoformat(kept["date"]) - date.today()).days) <= 1
    assert kept["versions"]["numpy"] == version("numpy")
    assert "machine" in found


def test_no_benchmark_writes_its_results_another_way() -> None:
    """Results are JSON at the end of ``main``; what one step keeps for the next is not."""
    steps = {"agreement.py": 1, "methods.py": 2, "transfer.py": 1}
    for path in sorted(BENCHMARKS.glob("*.py")):
        assert path.read_text().count('indent=1) + "\\n")') == steps.get(path.name, 0), path.name
