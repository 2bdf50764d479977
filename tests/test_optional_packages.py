"""Without scikit-learn, SciPy and matplotlib every command does what it can, and says what it left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BLOCKED = "matplotlib", "scipy", "sklearn", "umap"
MAIN = f"""
import sys
sys.modules.update(dict.fromkeys({BLOCKED}))
from sslfeat.cli.app import main
main()
"""


def without(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_clusters_are_judged_but_for_the_matched_accuracy(embedded: Path, tmp_path: Path) -> None:
    done = without(tmp_path, "cluster", embedded, "-k", "3")
    assert done.returncode == 0, done.stderr
    assert "silhouette 0." in done.stdout and "NMI" in done.stdout and "accuracy" not in done.stdout
    assert "scipy" in done.stderr and "pip install" in done.stderr


def test_a_map_is_written_without_its_png(embedded: Path, tmp_path: Path) -> None:
    done = without(tmp_path, "map", embedded)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["map.html"]
    assert "map.png" in done.stderr and "matplotlib" in done.stderr


@pytest.mark.parametrize("part", ["Probe", "Clusters", "Map"])
def test_a_report_has_all_its_parts(part: str, report_without: str) -> None:
    assert f">{part}</h2>" in report_without
    assert "Not measured" not in report_without


@pytest.fixture(scope="module")
def report_without(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    done = without(folder, "report", embedded)
    assert done.returncode == 0, done.stderr
    return (folder / "report.html").read_text()


def test_a_probe_needs_none_of_them(embedded: Path, tmp_path: Path) -> None:
    done = without(tmp_path, "probe", embedded, "--out", "probe")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "probe" / "confusion.svg").exists()
