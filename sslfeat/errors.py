"""Every error that sslfeat raises on purpose. Each says what, which path or value, and what to do.

SslfeatError
├── InputError        what was asked for is not there or makes no sense
│   └── UsageError    the command or call itself is wrong: an option's value, two options that exclude each other
├── ImageError        one image cannot be used (the run goes on without it)
├── EncoderFileError  an encoder file is refused
├── ProviderError     the execution provider asked for cannot run here
├── FeaturesError     a features folder is busy, damaged, or made by another run
├── RetrievalError    an index folder is busy, damaged, or does not fit what was asked of it
├── StoreError        a vector store cannot be reached, or does not fit what was asked of it
├── RemoteError       a place on an object store or a server cannot be used, or another writer holds it
├── TrainingError     a training run cannot start, resume, or go on
├── ExportError       an encoder could not be exported
│   └── ParityError   the exported file does not give the torch encoder's features
├── ServeError        a service cannot start, or cannot answer a request
├── MissingExtraError a part of sslfeat needs packages that are not installed
└── InterruptedRun    a signal stopped the work; what was committed stays
"""

from __future__ import annotations

import contextlib
import difflib
import shlex
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires

# options that cures speak of, as the command line and as Python spells them
OVERWRITE, RESUME, UPDATE, TRUST_CODE = (
    f"--{name.replace('_', '-')} ({name}=True in Python)" for name in ("overwrite", "resume", "update", "trust_code")
)


def install_line(extra: str) -> str:
    """A pip command that installs the packages of ``extra``: they are named one by one, so no index need have sslfeat."""
    try:
        found = requires("sslfeat") or []
    except PackageNotFoundError:  # a checkout that was never installed
        found = []
    markers = {f'extra == "{extra}"', f"extra == '{extra}'"}
    packages = []
    for name, _, marker in (line.partition(";") for line in found):
        conditions = [condition.strip(" ()") for condition in marker.split(" and ")]
        if not markers.isdisjoint(conditions):  # pip heeds the others, such as the platform
            packages.append("; ".join(filter(None, (name.strip(), " and ".join(c for c in conditions if c not in markers)))))
    if not packages:
        return f"pip install -e '.[{extra}]' in a checkout of sslfeat"
    return f"pip install {shlex.join(packages)}"


def did_you_mean(word: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """The question that names the nearest of ``known``; empty if none has that likeness (``difflib``, 0 to 1) with ``word``."""
    near = difflib.get_close_matches(word, list(known), 1, likeness)
    return f"did you mean {near[0]!r}?" if near else ""


def known_names(given: Iterable[str], known: Iterable[str], call: str, cures: Mapping[str, str] | None = None) -> None:
    """Raise UsageError for the first of the keyword names that ``call`` was ``given`` and that is none of ``known``.

    ``cures`` says what to write for names that people try.
    """
    names = list(known)
    for name in given:
        if name not in names:
            cure = (cures or {}).get(name) or did_you_mean(name, names)
            raise UsageError(f"{call} takes no {name!r}: it takes {', '.join(names)}", cure)


class SslfeatError(Exception):
    """Root of the tree: ``except SslfeatError`` catches all that sslfeat raises on purpose.

    ``cure`` is the command or change that mends it where it is known; then ``str(error)`` ends with it.
    """

    def __init__(self, message: str = "", cure: str = "") -> None:
        super().__init__(f"{message}: {cure}" if cure else message)
        self.cure = cure


class InputError(SslfeatError):
    """Images, options or names that were asked for do not exist or contradict each other."""


class UsageError(InputError):
    """An option has a value that it cannot have, or options exclude each other: exit code 2."""


class ImageError(SslfeatError):
    """One image cannot be read. ``str(error)`` is the reason, without the path, the same on every run."""


class EncoderFileError(SslfeatError):
    """An encoder file is damaged, hostile, or breaks the encoder contract."""


class ProviderError(SslfeatError):
    """The execution provider that was asked for does not work on this machine."""


class FeaturesError(SslfeatError):
    """A features folder is locked by another writer, damaged, or belongs to a different run."""


class RetrievalError(SslfeatError):
    """An index folder is locked by another writer, damaged, or made of another encoder's features."""


class StoreError(SslfeatError):
    """A vector store cannot be reached, refuses, or holds what another encoder or program put there."""


class RemoteError(SslfeatError):
    """A place on an object store or a server cannot be reached, gave other bytes, or is held by another writer."""


class TrainingError(SslfeatError):
    """A training run cannot start, resume, or go on."""


class ExportError(SslfeatError):
    """An encoder could not be exported."""


class ParityError(ExportError):
    """The exported file's features differ from the torch encoder's by more than the tolerance."""


class ServeError(SslfeatError):
    """A service cannot start with what it was given, or cannot answer a request."""


class MissingExtraError(SslfeatError):
    """A command needs packages of an extra that is not installed."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(f"this needs the package {package!r}", install_line(extra))


@contextlib.contextmanager
def needs(extra: str, package: str | None = None) -> Iterator[None]:
    """Around imports of ``package``, or of all that ``extra`` brings: one that is missing is an error that names the cure."""
    try:
        yield
    except ImportError as error:
        if package is None and (not isinstance(error, ModuleNotFoundError) or str(error.name).split(".")[0] == "sslfeat"):
            raise
        raise MissingExtraError(extra, package or str(error.name)) from error


class InterruptedRun(SslfeatError):
    """Work was stopped by a signal; run the same command again to go on."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.cure = "run the same command again"
        self.signum = signum
