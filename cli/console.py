"""Console output: results on standard output, messages and progress on standard error."""

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

SCHEMA = 1  # version of the JSON output
# characters in file names that could move a terminal's cursor, color it, or change the text direction
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))} | {
    code: f"\\u{code:04x}" for code in (0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
CALLED: dict[str, str] = {}  # names to print instead of paths of local copies
PLAIN_SECONDS = 10.0  # interval between progress lines without a terminal


def say(text: str) -> None:
    """Print a result to standard output; control characters and characters that cannot be encoded are escaped."""
    _write(sys.stdout, text)


def note(text: str) -> None:
    """Print a message to standard error."""
    _write(sys.stderr, text)


class Named(Protocol):
    """Name and fingerprint of an encoder, for JSON."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...


def say_json(command: str, facts: Mapping[str, Any], encoder: Named | None = None, images: int | None = None) -> None:
    """Print a result as JSON (docs/json.md); NaN and infinity become null.

    ``encoder`` and number of ``images`` used by the command; null if not applicable.
    """
    named = None if encoder is None else {"name": encoder.name, "fingerprint": encoder.fingerprint}
    value = {"schema": SCHEMA, "command": command, "encoder": named, "images": images, **facts}
    say(_json(finite(value)))


def say_error(command: str | None, message: str, cure: str) -> None:
    """Print an error as JSON; ``cure`` is null if unknown."""
    say(_json({"schema": SCHEMA, "command": command, "error": message, "cure": cure or None}))


def _json(value: Any) -> str:
    """JSON text, in UTF-8 if the stream is; characters that ``say`` escapes differently are escaped here."""
    unicode = sys.stdout is not None and codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    text = json.dumps(value, indent=1, ensure_ascii=not unicode)
    return re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)


class Eta:
    """Estimate of the remaining seconds, from the rate since the start of the current step."""

    def __init__(self, total: float) -> None:
        self.total = total
        self.began = self.at = time.monotonic()
        self.start: float | None = None  # initial progress: not 0 for a resumed run
        self.done = 0.0

    def update(self, done: float) -> None:
        """Set the progress. A smaller value starts another step; an unchanged initial value is preparation."""
        self.at = time.monotonic()
        if self.start is None or done < self.done or done <= self.start:
            self.began, self.start = self.at, done
        self.done = done

    def seconds(self) -> float | None:
        """Remaining seconds; None before any progress."""
        if self.start is None or self.done <= self.start:
            return None
        left = (self.at - self.began) * (self.total - self.done) / (self.done - self.start)
        return max(0.0, left - (time.monotonic() - self.at))


def call(path: Path, name: str) -> None:
    """Print ``name`` instead of ``path``, also as the prefix of paths inside it, in all later output."""
    CALLED[str(path)] = name.rstrip("/")


@contextlib.contextmanager
def progress(total: float, unit: str = "") -> Iterator[Callable[[float, str], None]]:
    """Yield ``show(done, detail)``: a bar with ETA on a terminal, otherwise a line every ten seconds."""
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
    """Yield ``stage(what)``, which prints the current step if progress is unknown; on a terminal with the elapsed time."""
    if not _on_terminal():
        yield lambda what: note(f"{what} ...")
        return
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    with _live(SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()) as bar:
        task = bar.add_task("", total=None)
        yield lambda what: bar.reset(task, description=what.translate(CONTROLS))


@contextlib.contextmanager
def measured(known: bool) -> Iterator[Callable[[float, str], None]]:
    """Yield ``step(share, what)``: a bar if progress is ``known``, otherwise the current step."""
    if known:
        with progress(1.0) as show:
            yield show
        return
    with stages() as stage:
        yield lambda share, what: stage(what)


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """A single step, without progress."""
    with stages() as stage:
        stage(what)
        yield


@contextlib.contextmanager
def _bar(eta: Eta) -> Iterator[Callable[[float, str], None]]:
    from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TextColumn
    from rich.text import Text

    class Remaining(ProgressColumn):
        """Estimated remaining time; the column of Rich does not support less than one update per 30 seconds."""

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
    """Raises UsageError for an output file with none of the ``endings``, or one that exists, unless ``overwrite``.

    Raises InputError if its folder does not exist.
    """
    for path in files:
        if path.suffix not in endings:
            raise UsageError(f"--out {path} must end in {' or '.join(endings)}")
    check_folders(*files)
    check_new(overwrite, *files)


def check_folders(*files: Path) -> None:
    """Raises InputError if the folder of an output file does not exist."""
    for path in files:
        if not path.parent.is_dir():
            raise InputError(f"the folder {path.parent} does not exist", near_path(path.parent))


def check_new(overwrite: bool, *paths: Path | None) -> None:
    """Raises UsageError if an output file exists, unless ``overwrite``. None is ignored."""
    there = [path for path in paths if path is not None and path.exists()]
    if there and not overwrite:
        raise UsageError(f"{there[0]} exists", "choose another name, or replace it with --overwrite")


def _write(stream: Any, text: str) -> None:
    if stream is None:  # closed by the parent process, as services do
        return
    for path, name in CALLED.items():
        text = text.replace(path, name)
    encoding = stream.encoding or "utf-8"
    stream.write(text.translate(CONTROLS).encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
