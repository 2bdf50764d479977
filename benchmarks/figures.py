"""Fill in the measured figures of README and docs/ from ``benchmarks/results/``.

    python benchmarks/figures.py            # update outdated pages
    python benchmarks/figures.py --check    # exit code 1 if any page is outdated

A figure is a marked span with the file, the keys of the value, and a format, with an optional factor for unit conversion:

    <!-- figure transfer; CIFAR-10, 32 px; sslfeat-small; mAP; .1f -->19.3<!-- end -->
    <!-- figure index_million; chosen; figures; memory; .0f * 1e-6 -->1550<!-- end -->

A table is made by the function of this name in ``benchmarks/tables.py``:

    <!-- table transfer -->

    | ... |

    <!-- end -->

No line may begin with the mark of a figure, because this would end the paragraph in Markdown.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results"
SPAN = re.compile(r"<!-- (?P<kind>figure|table) (?P<what>.*?) -->(?P<text>.*?)<!-- end -->", re.DOTALL)


@functools.cache
def results(name: str) -> Any:
    """Contents of a file of ``benchmarks/results``. Raises FileNotFoundError."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def figure(what: str) -> str:
    """Format the value of ``FILE; KEY; ...; FORMAT``. Raises KeyError, with the path, for an unknown key."""
    name, *keys, style = (part.strip() for part in what.split(";"))
    value = results(name)
    for key in keys:
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, ValueError) as error:
            raise KeyError(f"{what}: {name}.json has no {key!r} there") from error
    style, _, factor = (part.strip() for part in style.partition("*"))
    return format(value * float(factor) if factor else value, style)


def fill(text: str) -> str:
    """Update all figures and tables of a page."""
    from benchmarks.tables import TABLES

    def made(match: re.Match[str]) -> str:
        what = match["what"]
        new = figure(what) if match["kind"] == "figure" else f"\n\n{TABLES[what]()}\n\n"
        return f"<!-- {match['kind']} {what} -->{new}<!-- end -->"

    return SPAN.sub(made, text)


def pages() -> list[Path]:
    """README and the pages of docs/."""
    return sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    drifted = [(page, new) for page in pages() if (new := fill(page.read_text())) != page.read_text()]
    for page, new in drifted:
        print(page.relative_to(ROOT))
        if not check:
            page.write_text(new)
    return int(check and bool(drifted))


if __name__ == "__main__":
    sys.exit(main())
