"""failures.csv: images that could not be embedded, with the reason."""

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
WORDS = {f"cannot be opened: {os.strerror(errno.ENOENT)}": "no such file (named in a list, or by a broken link)"}


def write_failures(folder: Path, failures: Iterable[tuple[str, str]]) -> None:
    """Write (path, reason) rows to ``folder/failures.csv``; without failures, only the header."""
    atomic.write_atomic(folder / FAILURES_NAME, failures_bytes(failures))


def failures_bytes(failures: Iterable[tuple[str, str]]) -> bytes:
    """Serialize (path, reason) rows as ``failures.csv``."""
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    plain.writerow(("path", "reason"))
    for row in failures:
        writer = quoting if any("\r" in cell for cell in row) else plain  # csv does not quote \r, but readers break lines there
        writer.writerow([cell.replace("\0", "\\x00") for cell in row])  # some readers truncate or reject text at NUL
    return text.getvalue().encode()


def read_failures(file: Path) -> list[tuple[str, str]]:
    """Read the (path, reason) rows of a ``failures.csv``; empty if it is missing or malformed."""
    try:
        with file.open(encoding="utf-8", newline="") as text:
            return [(row[0], row[1]) for row in csv.reader(text) if len(row) == 2][1:]
    except (OSError, ValueError, csv.Error):
        return []


def summed_up(failures: Iterable[tuple[str, str]], before: Iterable[tuple[str, str]] | None) -> list[str]:
    """Return a line for each of the most frequent reasons, and one with the number of new failures if ``before`` is known."""
    rows = list(failures)
    reasons = Counter(reason for _, reason in rows)
    lines = [f"{counted(number, 'image')}: {WORDS.get(reason, reason)}" for reason, number in reasons.most_common(SHOWN)]
    if (rest := sum(reasons.values()) - sum(number for _, number in reasons.most_common(SHOWN))) > 0:
        lines.append(f"{counted(rest, 'image')}: other reasons")
    if before is not None:
        known = {path for path, _ in before}
        new = [path for path, _ in rows if path not in known]
        lines.append(f"new since the last run: {len(new)} of the {len(rows)}{f', such as {new[0]}' if new else ''}")
    return lines
