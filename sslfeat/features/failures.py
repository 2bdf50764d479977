"""failures.csv: the images that could not be used, one line each, and why."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from sslfeat.storage import atomic

FAILURES_NAME = "failures.csv"


def write_failures(folder: Path, failures: Iterable[tuple[str, str]]) -> None:
    """Write (path, reason) rows to ``folder/failures.csv``; a folder without failures gets the header alone."""
    atomic.write_atomic(folder / FAILURES_NAME, failures_bytes(failures))


def failures_bytes(failures: Iterable[tuple[str, str]]) -> bytes:
    """What ``failures.csv`` holds for these (path, reason) rows."""
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    plain.writerow(("path", "reason"))
    for row in failures:
        writer = quoting if any("\r" in cell for cell in row) else plain  # which it would leave bare, and readers break at
        writer.writerow([cell.replace("\0", "\\x00") for cell in row])  # readers end or refuse a text there
    return text.getvalue().encode()
