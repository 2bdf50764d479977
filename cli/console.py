"""How commands speak: results on standard output, everything else on standard error, progress where a person looks."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sslfeat.errors import UsageError
from sslfeat.storage.atomic import finite

# what would move a terminal's cursor, color it, or turn the direction of reading, as names of files can
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))} | {
    code: f"\\u{code:04x}" for code in (0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
PLAIN_SECONDS = 10.0  # between progress lines where there is no terminal


def say(text: str) -> None:
    """A result, on standard output; characters that the terminal cannot show, or would obey, are escaped."""
    _write(sys.stdout, text)


def note(text: str) -> None:
    """Anything that is not the result, on standard error."""
    _write(sys.stderr, text)


def say_json(value: Any) -> None:
    """The result for a program; NaN and infinity, which JSON does not have, are null."""
    say(json.dumps(finite(value), indent=1, sort_keys=True))


@contextlib.contextmanager
def progress(total: float, unit: str) -> Iterator[Callable[[float, str], None]]:
    """Yield ``show(done, detail)``: a bar with ETA on a terminal, a plain line every ten seconds elsewhere."""
    if sys.stderr is not None and sys.stderr.isatty():
        with _bar(total) as show:
            yield show
        return
    last = time.monotonic()
    first: tuple[float, float] | None = None  # when and where the work began: a resumed run does not begin at 0

    def show_plain(done: float, detail: str) -> None:
        nonlocal last, first
        now = time.monotonic()
        if first is None and done > 0:
            first = (now, done)
        if now - last < PLAIN_SECONDS and done < total:
            return
        last = now
        eta = ""
        if first and done > first[1]:
            eta = f"  ETA {(now - first[0]) * (total - done) / (done - first[1]):.0f} s"
        note(f"{100 * done / total:5.1f}% {unit}  {detail}{eta}")

    yield show_plain


@contextlib.contextmanager
def _bar(total: float) -> Iterator[Callable[[float, str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)

        def show(done: float, detail: str) -> None:
            bar.update(task, completed=done, description=detail)

        yield show


def check_new(overwrite: bool, *paths: Path | None) -> None:
    """Raises UsageError if one of the files to be written is there already, unless ``overwrite``. None is no file."""
    there = [path for path in paths if path is not None and path.exists()]
    if there and not overwrite:
        raise UsageError(f"{there[0]} exists: give another name, or replace it with --overwrite")


def _write(stream: Any, text: str) -> None:
    if stream is None:  # closed by whoever started this process, as services do
        return
    encoding = stream.encoding or "utf-8"
    stream.write(text.translate(CONTROLS).encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
