"""How commands speak: results on standard output, everything else on standard error, progress where a person looks."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from sslfeat.store import finite

PLAIN_SECONDS = 10.0  # between progress lines where there is no terminal


def say(text: str) -> None:
    """A result, on standard output; characters that the terminal cannot show are escaped."""
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
    if sys.stderr.isatty():
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


def _write(stream: Any, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
