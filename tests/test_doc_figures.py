"""Figures in README and docs/: each comes from ``benchmarks/results/``, or is no measurement and listed as such on its page."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.doc_pages import PAGES, ROOT

sys.path.insert(0, str(ROOT))

from benchmarks.figures import SPAN, figure, fill

CHECKED = [page for page in PAGES if page.name != "CHANGELOG.md"]
UNITS = "%|ms|s|MB|GB|MiB|GiB|images/s|queries/s|points|times|minutes|hours"
NUMBER = re.compile(rf"(?<![\w.@-])(?:\d[\d,]*\.\d+(?!\.?\d)(?: ?%)?|\d[\d,]* ?(?:{UNITS})(?![\w-]))")
PLAN = r"<!-- made by benchmarks/plan.py -->.*?<!-- end of plan -->"  # which test_plan.py holds
GIVEN = re.compile(r"<!-- not measured: (.*?) -->", re.DOTALL)


def prose(text: str) -> str:
    """What is left of a page without code, marked figures, comments and the targets of links."""
    for pattern in (r"(?ms)^( *)```.*?^\1```$", PLAN, SPAN.pattern, r"<!--.*?-->", r"`[^`\n]*`", r"\]\([^)]*\)"):
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    return text


def given(text: str) -> set[str]:
    """The numbers that a page says are settings, requirements or definitions."""
    return {number.strip() for found in GIVEN.findall(text) for number in found.split(";")}


@pytest.mark.parametrize("page", CHECKED, ids=lambda page: page.name)
def test_figures_are_those_of_the_results(page: Path) -> None:
    text = page.read_text()
    assert fill(text) == text, "run python benchmarks/figures.py"
    assert not re.search(r"(?m)^<!-- figure", text), "a mark at the beginning of a line ends the paragraph"


@pytest.mark.parametrize("page", CHECKED, ids=lambda page: page.name)
def test_no_figure_is_without_a_source(page: Path) -> None:
    text = page.read_text()
    found = set(NUMBER.findall(prose(text)))
    assert found - given(text) == set(), "mark them as figures, or list them under <!-- not measured: -->"
    assert given(text) - found == set(), "listed as not measured, and not on the page"


def test_a_figure_that_leads_nowhere_is_an_error() -> None:
    assert figure("transfer; CIFAR-10, 32 px; sslfeat-small; linear; .1f") == "63.8"
    assert figure("serve; images_per_second; photographs, .npy; .2f * 1e-3") == "0.39"
    with pytest.raises(KeyError, match="no 'sslfeat-large' there"):
        figure("transfer; CIFAR-10, 32 px; sslfeat-large; linear; .1f")
    with pytest.raises(FileNotFoundError):
        figure("nothing; x; .1f")


def test_a_figure_that_drifted_or_has_no_source_is_seen() -> None:
    drifted = "<!-- figure transfer; CIFAR-10, 32 px; sslfeat-small; linear; .1f -->99.9<!-- end -->"
    assert fill(drifted) == drifted.replace("99.9", "63.8")
    assert NUMBER.findall(prose(f"It is 3.1 times faster, 12 % smaller, {drifted}, `1.5`, v0.1.0, 384-d")) == ["3.1", "12 %"]
