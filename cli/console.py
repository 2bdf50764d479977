"""How commands speak: results on standard output, everything else on standard error, progress where a person looks."""

from __future__ import annotations

import codecs
import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sslfeat.errors import InputError, UsageError
from sslfeat.storage.atomic import finite
from sslfeat.system.near import near_path

if TYPE_CHECKING:
    from rich.progress import Progress

SCHEMA = 1  # of what --json prints
# what would move a terminal's cursor, color it, or turn the direction of reading, as names of files can
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))} | {
    code: f"\\u{code:04x}" for code in (0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
CALLED: dict[str, str] = {}  # what stands for the paths of local copies
PLAIN_SECONDS = 10.0  # between progress lines where there is no terminal


def say(text: str) -> None:
    """A result, on standard output; characters that the terminal cannot show, or would obey, are escaped."""
    _write(sys.stdout, text)


def note(text: str) -> None:
    """Anything that is not the result, on standard error."""
    _write(sys.stderr, text)


class Named(Protocol):
    """An encoder, as JSON names it."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...


def say_json(command: str, facts: Mapping[str, Any], encoder: Named | None = None, images: int | None = None) -> None:
    """The result for a program, as docs/json.md has it; NaN and infinity, which JSON does not have, are null.

    ``encoder`` and ``images`` are what the command worked with, null where that makes no sense.
    """
    named = None if encoder is None else {"name": encoder.name, "fingerprint": encoder.fingerprint}
    value = {"schema": SCHEMA, "command": command, "encoder": named, "images": images, **facts}
    say(_json(finite(value)))


def say_error(command: str | None, message: str, cure: str) -> None:
    """An error for a program; ``cure`` is null where none is known."""
    say(_json({"schema": SCHEMA, "command": command, "error": message, "cure": cure or None}))


def _json(value: Any) -> str:
    """In UTF-8 where the stream is; what ``say`` would escape otherwise than JSON does is escaped here."""
    unicode = sys.stdout is not None and codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    text = json.dumps(value, indent=1, ensure_ascii=not unicode)
    return re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)


class Eta:
    """Seconds that are left, by the pace since the work, or this step of it, began."""

    def __init__(self, total: float) -> None:
        self.total = total
        self.began = self.at = time.monotonic()
        self.start: float | None = None  # where the work began: a resumed run does not begin at 0
        self.done = 0.0

    def update(self, done: float) -> None:
        """``done`` of ``total``; less than before is another step, and as much as at first is getting ready."""
        self.at = time.monotonic()
        if self.start is None or done < self.done or done <= self.start:
            self.began, self.start = self.at, done
        self.done = done

    def seconds(self) -> float | None:
        """None before there is a pace to go by."""
        if self.start is None or self.done <= self.start:
            return None
        left = (self.at - self.began) * (self.total - self.done) / (self.done - self.start)
        return max(0.0, left - (time.monotonic() - self.at))


def call(path: Path, name: str) -> None:
    """From now on, write ``name`` for ``path`` and what is in it."""
    CALLED[str(path)] = name.rstrip("/")


@contextlib.contextmanager
def progress(total: float, unit: str = "") -> Iterator[Callable[[float, str], None]]:
    """Yield ``show(done, detail)``: a bar with ETA on a terminal, a plain line every ten seconds elsewhere."""
    eta = Eta(total)
    if _on_terminal():
        with _bar(eta) as show:
            yield show
        return
    last = time.monotonic()

    def show_plain(done: float, detail: str) -> None:
        nonlocal last
        eta.update(done)
        now = time.monotonic()
        if now - last < PLAIN_SECONDS and done < total:
            return
        last = now
        left = eta.seconds() if done < total else None
        note(f"{100 * done / total:5.1f}% {unit}  {detail}{'' if left is None else f'  ETA {left:.0f} s'}")

    yield show_plain


@contextlib.contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Yield ``stage(what)``, which says what is being done where nothing tells how far it is: on a terminal with its time."""
    if not _on_terminal():
        yield lambda what: note(f"{what} ...")
        return
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    with _live(SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()) as bar:
        task = bar.add_task("", total=None)
        yield lambda what: bar.reset(task, description=what.translate(CONTROLS))


@contextlib.contextmanager
def measured(known: bool) -> Iterator[Callable[[float, str], None]]:
    """Yield ``step(share, what)``: a bar where it is ``known`` how far the work is, else what is being done."""
    if known:
        with progress(1.0) as show:
            yield show
        return
    with stages() as stage:
        yield lambda share, what: stage(what)


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """A single such stage."""
    with stages() as stage:
        stage(what)
        yield


@contextlib.contextmanager
def _bar(eta: Eta) -> Iterator[Callable[[float, str], None]]:
    from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TextColumn
    from rich.text import Text

    class Remaining(ProgressColumn):
        """Rich's own forgets a pace of less than a report in half a minute."""

        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            left = eta.seconds()
            minutes, seconds = divmod(round(left or 0), 60)
            return Text("ETA -:--:--" if left is None else f"ETA {minutes // 60}:{minutes % 60:02d}:{seconds:02d}")

    columns = (BarColumn(), TaskProgressColumn(), Remaining(), TextColumn("{task.description}", markup=False))
    with _live(*columns) as bar:
        task = bar.add_task("", total=eta.total)

        def show(done: float, detail: str) -> None:
            eta.update(done)
            bar.update(task, completed=done, description=detail.translate(CONTROLS))

        yield show


def _live(*columns: Any) -> Progress:
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def check_files(overwrite: bool, files: Sequence[Path], endings: Sequence[str]) -> None:
    """Raises UsageError for a file to be written that has none of the ``endings``, or is there already, unless ``overwrite``.

    Raises InputError if its folder does not exist.
    """
    for path in files:
        if path.suffix not in endings:
            raise UsageError(f"--out {path} must end in {' or '.join(endings)}")
    check_folders(*files)
    check_new(overwrite, *files)


def check_folders(*files: Path) -> None:
    """Raises InputError if the folder of a file to be written does not exist."""
    for path in files:
        if not path.parent.is_dir():
            raise InputError(f"the folder {path.parent} does not exist", near_path(path.parent))


def check_new(overwrite: bool, *paths: Path | None) -> None:
    """Raises UsageError if one of the files to be written is there already, unless ``overwrite``. None is no file."""
    there = [path for path in paths if path is not None and path.exists()]
    if there and not overwrite:
        raise UsageError(f"{there[0]} exists", "give another name, or replace it with --overwrite")


def _write(stream: Any, text: str) -> None:
    if stream is None:  # closed by whoever started this process, as services do
        return
    for path, name in CALLED.items():
        text = text.replace(path, name)
    encoding = stream.encoding or "utf-8"
    stream.write(text.translate(CONTROLS).encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
