"""Every measured figure of README and docs/ comes from ``benchmarks/results/``: this fills them in.

    python benchmarks/figures.py            # rewrites the pages whose figures have drifted
    python benchmarks/figures.py --check    # exit code 1 if any has

A figure is a marked span, the file and the keys on the way to the value, then a format, with a factor where the unit differs:

    <!-- figure transfer; CIFAR-10, 32 px; sslfeat-small; mAP; .1f -->19.3<!-- end -->
    <!-- figure index_million; chosen; figures; memory; .0f * 1e-6 -->1550<!-- end -->

and a table is what ``benchmarks/tables.py`` makes under that name:

    <!-- table transfer -->

    | ... |

    <!-- end -->

No line begins with the mark of a figure: Markdown would end the paragraph there.
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
    """A file of ``benchmarks/results``. Raises FileNotFoundError."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def figure(what: str) -> str:
    """``FILE; KEY; ...; FORMAT`` as the text of that value. Raises KeyError with the path that leads nowhere."""
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
    """The page with all its figures and tables made anew."""
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
