"""The plan of docs/scale.md: its tables are those that the script writes, and what the script writes is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import plan

ROOT = Path(__file__).parent.parent


def measured(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return found


def test_the_page_has_what_the_script_writes() -> None:
    text = (ROOT / "docs" / "scale.md").read_text()
    assert text.count(plan.BEGIN) == text.count(plan.END) == 1
    written = text.split(plan.BEGIN)[1].split(plan.END)[0].strip()
    assert written == plan.tables(price=0.04, most_hours=12)
    for power in range(4, 10):
        assert written.count(f"| 10^{power} |") == len(plan.TITLES)


def test_writing_again_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, text = tmp_path / "scale.md", (ROOT / "docs" / "scale.md").read_text()
    page.write_text(text)
    for hours, same in (("3", False), ("12", True)):
        monkeypatch.setattr("sys.argv", ["plan.py", "--hours", hours, "--write", str(page)])
        plan.main()
        assert (page.read_text() == text) is same


def test_a_row_is_what_one_works_out_by_hand() -> None:
    rate = measured("embed")["shipped"]["images_per_second"]["sslfeat"]  # of two cores
    scale = measured("scale_out")
    cells = plan.row(10**6, plan.Figures.read("shipped"), 0.5, 12)
    assert cells[:3] == ["10^6", "one process", "2"]
    million = measured("million")
    hours = (1e6 / rate + million["list_seconds"] + million["look_seconds"]) / 3600
    assert cells[3] == (f"{hours:.2g} h" if hours >= 1 else f"{60 * hours:.2g} min")
    built = measured("index_million")["within a quarter of the memory"]
    assert cells[4] == f"{built['seconds'] / 60:.2g} min"
    assert cells[5] == f"{scale['bytes_per_image'] / 1e3:.2g} GB"
    assert cells[6] == f"{built['bytes'] / 1e9 * scale['dim'] / 384:.2g} GB"
    dollars = 0.5 * 2 * (hours + built["seconds"] / 3600)
    assert float(cells[8].lstrip("$")) == pytest.approx(dollars, abs=0.006)


def test_more_images_take_more_machines_and_no_row_takes_longer_than_is_asked() -> None:
    figures = plan.Figures(0.02, 1e-4, 1e-6, 2500, 2000, 200, 30)
    rows = [plan.row(10**power, figures, 0.04, 24) for power in plan.POWERS]
    assert [cells[2] for cells in rows] == ["2", "2", "2", "16", "64", "4 x 64"]
    assert "--parts K/4" in rows[-1][1]
    assert "`--part-size 8192`, 10 folders" in rows[-1][1]
    for cells in rows:
        value, unit = cells[3].split()
        assert unit != "h" or float(value) <= 24


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (75, "1.2 min"), (5000, "1.4 h"), (98 * 60, "1.6 h"), (400 * 3600, "400 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert plan.duration(seconds) == text
