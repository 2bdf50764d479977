"""Encoder files from elsewhere: by a name in a table, from a hub (``hf://owner/repo/file.onnx``), or by any URL.

A file counts once its sha256, where one is known, and the contract of encoder files have been checked; then it is kept in
the cache. With ``SSLFEAT_OFFLINE=1`` nothing but the cache is used.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sslfeat.errors import EncoderFileError, InputError, RemoteError, UsageError
from sslfeat.inference.onnx_model import MAX_BYTES, read_encoder_file
from sslfeat.storage import atomic
from sslfeat.storage.cache import ENCODERS, OFFLINE, is_offline, locked, make_room, place_of, root
from sslfeat.storage.download import Download
from sslfeat.storage.records import parse_record
from sslfeat.storage.remote import RemoteFolder
from sslfeat.storage.urls import is_remote

TABLE = Path(__file__).parent.parent / "models" / "zoo" / "encoders.json"  # beside the encoders in the box
TABLE_VARIABLE = "SSLFEAT_ENCODERS"
SOURCE = "source.json"
SHA256 = re.compile("[0-9a-f]{64}")
HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[^/@]+))?/(?P<file>[^@]+)")
PATIENCE = 600.0  # seconds that one waits for another that fetches the same
Step = Callable[[int, int | None], None]  # bytes that are there, of all (None: not known)


@dataclass(frozen=True)
class Listed:
    """A line of the table: where the encoder of this name is (empty: in the box), and what it is, for choosing.

    ``quality`` holds figures by name, in percent, as the encoder's card does.
    """

    name: str
    url: str
    sha256: str
    license: str
    dim: int
    quality: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.url and not is_remote(self.url):
            raise ValueError(f"url is {self.url[:60]!r}")
        if not SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 is {self.sha256[:60]!r}, not 64 hexadecimal digits")


@dataclass(frozen=True)
class EncoderTable:
    """Encoders that go by a name."""

    encoders: tuple[Listed, ...]
    format: int = 1


@dataclass(frozen=True)
class Pulled:
    """A file in the cache: where it came from, the ``version`` by which the place tells whether it has changed, what it is."""

    url: str
    file: str
    version: str
    sha256: str
    fingerprint: str


def listed() -> dict[str, Listed]:
    """The encoders of the table, and of the one that ``SSLFEAT_ENCODERS`` names, by name. Raises InputError for a bad table."""
    tables = [TABLE, *([Path(more)] if (more := os.environ.get(TABLE_VARIABLE)) else [])]
    found: dict[str, Listed] = {}
    for path in tables:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"the table of encoders {path} cannot be read: {error.strerror}") from error
        found |= {line.name: line for line in parse_record(EncoderTable, data, str(path), InputError).encoders}
    return found


def pull(name_or_url: str, sha256: str = "", step: Step = lambda done, total: None) -> Path:
    """The local file of an encoder by name or URL, fetched if it is not in the cache, or has changed since.

    Raises UsageError for an ill-formed ``sha256``, InputError for a name that is not known, RemoteError if the file cannot
    be had or has another sha256, EncoderFileError if it is no encoder file.
    """
    if sha256 and not SHA256.fullmatch(sha256 := sha256.lower().removeprefix("sha256:")):
        raise UsageError(f"sha256 {sha256[:80]!r} is not 64 hexadecimal digits")
    if is_remote(name_or_url):
        return _pull(name_or_url, sha256, step)
    line = listed().get(name_or_url)
    if line is None:
        raise InputError(f"{name_or_url!r} is neither a URL nor in the table of encoders ({', '.join(sorted(listed()))})")
    if sha256 not in ("", line.sha256):
        raise InputError(f"{line.name}: the table has sha256 {line.sha256}, {sha256} was given: one of them is wrong")
    return _pull(line.url, line.sha256, step) if line.url else TABLE.with_name(f"{line.name}.onnx")


def pulled(fingerprint: str) -> Iterator[Path]:
    """The files in the cache that are on record as encoders of this fingerprint."""
    for path in sorted((root() / ENCODERS).glob(f"*/{SOURCE}")):
        if (kept := _record(path.parent)) and kept.fingerprint == fingerprint:
            yield path.parent / kept.file


def _pull(url: str, sha256: str, step: Step) -> Path:
    place = place_of(ENCODERS, url)
    with locked(place, url, PATIENCE):
        kept = _read(place)
        if kept is not None and (is_offline() or sha256 == kept.sha256) and sha256 in ("", kept.sha256):
            return place / kept.file
        if is_offline():
            missing = f"{url} is not in the cache{' with that sha256' if kept else ''}"
            raise RemoteError(f"{missing}, and {OFFLINE} is set: pull it once without")
        new = place / f"new-{_file_name(url)}"
        version = _fetch(url, new, kept.version if kept else "", step)
        if version is None and kept is not None:
            _check(url, place / kept.file, kept.sha256, sha256)
            return place / kept.file
        result = _accept(url, new, version or "", sha256)
    make_room(place)
    return result


def _fetch(url: str, path: Path, known: str, step: Step) -> str | None:
    """The version that was fetched to ``path``; None if it is still the ``known`` one."""
    if (where := _http(url)) is not None:
        token = os.environ.get("HF_TOKEN", "") if url.startswith("hf://") else ""
        download = Download(where, path, MAX_BYTES, step, f"Bearer {token}" if token else "")
        return download.version if download.run(known) else None
    remote = RemoteFolder(url)
    found = remote.object()
    if found is None:
        raise RemoteError(f"{url}: there is no such file: is the URL right?")
    if found.size > MAX_BYTES:
        raise RemoteError(f"{url} is larger than {MAX_BYTES} bytes, which is the limit")
    if known and found.token == known:
        return None
    remote.fetch("", path, found, lambda done: step(done, found.size))
    return found.token


def _accept(url: str, new: Path, version: str, sha256: str) -> Path:
    """Take a fetched file into the cache if it is what it should be; else delete it."""
    try:
        found = atomic.sha256_file(new)
        _check(url, new, found, sha256)
        try:
            file = read_encoder_file(new)
        except EncoderFileError as error:
            raise EncoderFileError(str(error).replace(str(new), url)) from error
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    path = new.with_name(_file_name(url))
    new.replace(path)
    record = Pulled(url, path.name, version, found, file.fingerprint)
    atomic.write_atomic(path.with_name(SOURCE), atomic.json_bytes(asdict(record)))
    return path


def _check(url: str, path: Path, found: str, sha256: str) -> None:
    if sha256 not in ("", found):
        raise RemoteError(f"{url} has sha256 {found}, not {sha256}: it is another file than was meant, and is not used")


def _read(place: Path) -> Pulled | None:
    """What the cache holds in this place; None if that is nothing, or not what it was."""
    kept = _record(place)
    return kept if kept and atomic.sha256_file(place / kept.file) == kept.sha256 else None


def _record(place: Path) -> Pulled | None:
    """What is said to be in this place; None if nothing is, or what is said is damaged: it is fetched again then."""
    path = place / SOURCE
    if not path.exists():
        return None
    with contextlib.suppress(RemoteError):
        kept = parse_record(Pulled, path.read_bytes(), str(path), RemoteError)
        if (place / kept.file).is_file() and Path(kept.file).name == kept.file:
            return kept
    return None


def _http(url: str) -> str | None:
    """The address for HTTP, of a hub's file, too; None for what is fetched through fsspec. Raises UsageError."""
    if url.startswith(("http://", "https://")):
        return url
    if not url.startswith("hf://"):
        return None
    named = HUB.fullmatch(url)
    if named is None:
        raise UsageError(f"{url} names no file of a hub: give hf://OWNER/REPO/FILE.onnx or hf://OWNER/REPO@REVISION/FILE.onnx")
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{hub}/{named['repo']}/resolve/{named['revision'] or 'main'}/{named['file']}"


def _file_name(url: str) -> str:
    name = re.sub(r"[^\w.-]", "_", url.split("?")[0].split("#")[0].rstrip("/").rsplit("/", 1)[-1])
    return name if name.endswith(".onnx") else f"{name or 'encoder'}.onnx"
