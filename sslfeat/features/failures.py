"""failures.csv: the images that could not be used, one line each, and why."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from sslfeat.storage import atomic
from sslfeat.system.plurals import counted

FAILURES_NAME = "failures.csv"
SHOWN = 5  # reasons
WORDS = {f"cannot be opened: {os.strerror(errno.ENOENT)}": "there is no such file, though a list or a link names it"}


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


def read_failures(file: Path) -> list[tuple[str, str]]:
    """The (path, reason) rows of a ``failures.csv``; none if it is not there, or is no such table."""
    try:
        with file.open(encoding="utf-8", newline="") as text:
            return [(row[0], row[1]) for row in csv.reader(text) if len(row) == 2][1:]
    except (OSError, ValueError, csv.Error):
        return []


def summed_up(failures: Iterable[tuple[str, str]], before: Iterable[tuple[str, str]] | None) -> list[str]:
    """A line for each of the usual reasons, and one for how many failed that did not ``before``, where that is known."""
    rows = list(failures)
    reasons = Counter(reason for _, reason in rows)
    lines = [f"{counted(number, 'image')}: {WORDS.get(reason, reason)}" for reason, number in reasons.most_common(SHOWN)]
    if (rest := sum(reasons.values()) - sum(number for _, number in reasons.most_common(SHOWN))) > 0:
        lines.append(f"{counted(rest, 'image')}: for other reasons")
    if before is not None:
        known = {path for path, _ in before}
        new = [path for path, _ in rows if path not in known]
        lines.append(f"new since the last run: {len(new)} of the {len(rows)}{f', such as {new[0]}' if new else ''}")
    return lines
