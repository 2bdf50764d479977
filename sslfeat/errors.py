"""All exceptions raised by sslfeat. Each message names the problem, the path or value, and the cure.

SslfeatError
├── InputError        an input does not exist or is invalid
│   └── UsageError    invalid command or call: an option's value, two mutually exclusive options
├── ImageError        one image cannot be read (the run continues without it)
├── EncoderFileError  an encoder file is invalid
├── ProviderError     the requested execution provider is not available
├── FeaturesError     a features folder is locked, damaged, or belongs to another run
├── RetrievalError    an index folder is locked, damaged, or incompatible with the request
├── StoreError        a vector store cannot be reached, or is incompatible with the request
├── RemoteError       a location on an object store or a server cannot be used, or is locked by another writer
├── TrainingError     a training run cannot start, resume, or continue
├── ExportError       an encoder cannot be exported
│   └── ParityError   the features of the exported file differ from the torch encoder's
├── ServeError        a service cannot start, or cannot answer a request
├── MissingExtraError required optional packages are not installed
└── InterruptedRun    stopped by a signal; committed work is kept
"""

from __future__ import annotations

import contextlib
import difflib
import shlex
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires

# options named in cures, with their command-line and Python spelling
OVERWRITE, RESUME, UPDATE, TRUST_CODE = (
    f"--{name.replace('_', '-')} ({name}=True in Python)" for name in ("overwrite", "resume", "update", "trust_code")
)


def install_line(extra: str) -> str:
    """Return a pip command that installs the packages of ``extra`` one by one, since sslfeat may not be on any package index."""
    try:
        found = requires("sslfeat") or []
    except PackageNotFoundError:  # a checkout that was never installed
        found = []
    markers = {f'extra == "{extra}"', f"extra == '{extra}'"}
    packages = []
    for name, _, marker in (line.partition(";") for line in found):
        conditions = [condition.strip(" ()") for condition in marker.split(" and ")]
        if not markers.isdisjoint(conditions):  # pip evaluates the others, such as the platform
            packages.append("; ".join(filter(None, (name.strip(), " and ".join(c for c in conditions if c not in markers)))))
    if not packages:
        return f"pip install -e '.[{extra}]' in a checkout of sslfeat"
    return f"pip install {shlex.join(packages)}"


def did_you_mean(word: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """Suggest the entry of ``known`` closest to ``word``; empty if no similarity (``difflib``, 0 to 1) reaches ``likeness``."""
    near = difflib.get_close_matches(word, list(known), 1, likeness)
    return f"did you mean {near[0]!r}?" if near else ""


def known_names(given: Iterable[str], known: Iterable[str], call: str, cures: Mapping[str, str] | None = None) -> None:
    """Raise UsageError for the first keyword argument in ``given`` that ``call`` does not accept (``known``).

    ``cures`` maps commonly tried names to the correct spelling.
    """
    names = list(known)
    for name in given:
        if name not in names:
            cure = (cures or {}).get(name) or did_you_mean(name, names)
            raise UsageError(f"{call} has no parameter {name!r}, only {', '.join(names)}", cure)


class SslfeatError(Exception):
    """Base class of all exceptions raised by sslfeat.

    ``cure`` is the command or change that fixes the problem, if known; it is appended to ``str(error)``.
    """

    def __init__(self, message: str = "", cure: str = "") -> None:
        super().__init__(f"{message}: {cure}" if cure else message)
        self.cure = cure


class InputError(SslfeatError):
    """Images, options or names do not exist or contradict each other."""


class UsageError(InputError):
    """Invalid value of an option, or mutually exclusive options. Exit code 2."""


class ImageError(SslfeatError):
    """One image cannot be read. ``str(error)`` is the reason without the path, identical in every run."""


class EncoderFileError(SslfeatError):
    """An encoder file is damaged, unsafe, or violates the encoder contract."""


class ProviderError(SslfeatError):
    """The requested execution provider does not work on this machine."""


class FeaturesError(SslfeatError):
    """A features folder is locked by another writer, damaged, or belongs to a different run."""


class RetrievalError(SslfeatError):
    """An index folder is locked by another writer, damaged, or built from another encoder's features."""


class StoreError(SslfeatError):
    """A vector store cannot be reached, rejects a request, or contains data of another encoder or program."""


class RemoteError(SslfeatError):
    """A location on an object store or server is unreachable, returned unexpected bytes, or is locked by another writer."""


class TrainingError(SslfeatError):
    """A training run cannot start, resume, or continue."""


class ExportError(SslfeatError):
    """An encoder cannot be exported."""


class ParityError(ExportError):
    """The exported file's features differ from the torch encoder's by more than the tolerance."""


class ServeError(SslfeatError):
    """A service cannot start with the given arguments, or cannot answer a request."""


class MissingExtraError(SslfeatError):
    """A command needs packages of an extra that is not installed."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(f"this needs the package {package!r}", install_line(extra))


@contextlib.contextmanager
def needs(extra: str, package: str | None = None) -> Iterator[None]:
    """Context for imports of ``package``, or of any package of ``extra``: raise MissingExtraError if one is missing."""
    try:
        yield
    except ImportError as error:
        if package is None and (not isinstance(error, ModuleNotFoundError) or str(error.name).split(".")[0] == "sslfeat"):
            raise
        raise MissingExtraError(extra, package or str(error.name)) from error


class InterruptedRun(SslfeatError):
    """Work was stopped by a signal; run the same command again to continue."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.cure = "run the same command again"
        self.signum = signum
