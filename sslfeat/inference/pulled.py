"""Download of encoder files by a name in a table, from a hub (``hf://owner/repo/file.onnx``), or from a URL.

A file is stored in the cache after its sha256, if known, and its contents have been checked. With ``SSLFEAT_OFFLINE=1``,
only the cache is used.
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

TABLE = Path(__file__).parent.parent / "models" / "zoo" / "encoders.json"  # in the folder of the shipped encoders
TABLE_VARIABLE = "SSLFEAT_ENCODERS"
SOURCE = "source.json"
SHA256 = re.compile("[0-9a-f]{64}")
HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[^/@]+))?/(?P<file>[^@]+)")
PATIENCE = 600.0  # seconds to wait for another process that downloads the same file
Step = Callable[[int, int | None], None]  # bytes received, total bytes (None: unknown)


@dataclass(frozen=True)
class Listed:
    """Entry of the table: name, URL (empty: shipped) and properties of an encoder.

    ``quality`` maps names to figures in percent, as in the encoder's card.
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
    """Table of named encoders."""

    encoders: tuple[Listed, ...]
    format: int = 1


@dataclass(frozen=True)
class Pulled:
    """A cached file: URL, file name, ``version`` (for example an ETag, to detect changes), sha256 and fingerprint."""

    url: str
    file: str
    version: str
    sha256: str
    fingerprint: str


def listed() -> dict[str, Listed]:
    """Encoders of the table and of the table named by ``SSLFEAT_ENCODERS``, by name. Raises InputError for a bad table."""
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
    """Return the local file of an encoder by name or URL; download it if it is not in the cache or has changed.

    Raises UsageError for an invalid ``sha256``, InputError for an unknown name, RemoteError if the download fails or has
    another sha256, EncoderFileError if it is not an encoder file.
    """
    if sha256 and not SHA256.fullmatch(sha256 := sha256.lower().removeprefix("sha256:")):
        raise UsageError(f"sha256 {sha256[:80]!r} is not 64 hexadecimal digits")
    if is_remote(name_or_url):
        return _pull(name_or_url, sha256, step)
    line = listed().get(name_or_url)
    if line is None:
        raise InputError(f"{name_or_url!r} is neither a URL nor in the table of encoders ({', '.join(sorted(listed()))})")
    if sha256 not in ("", line.sha256):
        raise InputError(f"{line.name}: sha256 {sha256} was given, but the table has {line.sha256}")
    return _pull(line.url, line.sha256, step) if line.url else TABLE.with_name(f"{line.name}.onnx")


def pulled(fingerprint: str) -> Iterator[Path]:
    """Yield the cached encoder files with this fingerprint."""
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
            raise RemoteError(f"{missing}, and {OFFLINE} is set: unset it and run 'sslfeat pull' once")
        new = place / f"new-{_file_name(url)}"
        version = _fetch(url, new, kept.version if kept else "", step)
        if version is None and kept is not None:
            _check(url, place / kept.file, kept.sha256, sha256)
            return place / kept.file
        result = _accept(url, new, version or "", sha256)
    make_room(place)
    return result


def _fetch(url: str, path: Path, known: str, step: Step) -> str | None:
    """Download to ``path`` and return the version; None if it is still the ``known`` one."""
    if (where := _http(url)) is not None:
        token = os.environ.get("HF_TOKEN", "") if url.startswith("hf://") else ""
        download = Download(where, path, MAX_BYTES, step, f"Bearer {token}" if token else "")
        return download.version if download.run(known) else None
    remote = RemoteFolder(url)
    found = remote.object()
    if found is None:
        raise RemoteError(f"{url}: no such file: check the URL")
    if found.size > MAX_BYTES:
        raise RemoteError(f"{url} is larger than the limit of {MAX_BYTES} bytes")
    if known and found.token == known:
        return None
    remote.fetch("", path, found, lambda done: step(done, found.size))
    return found.token


def _accept(url: str, new: Path, version: str, sha256: str) -> Path:
    """Check a downloaded file and move it to the cache, or delete it if it is invalid."""
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
        raise RemoteError(f"{url} has sha256 {found}, expected {sha256}: the file was discarded")


def _read(place: Path) -> Pulled | None:
    """Record of a cached file; None if there is none, or the file has changed."""
    kept = _record(place)
    return kept if kept and atomic.sha256_file(place / kept.file) == kept.sha256 else None


def _record(place: Path) -> Pulled | None:
    """Read the record of a cached file; None if it is missing or damaged (the file is then downloaded again)."""
    path = place / SOURCE
    if not path.exists():
        return None
    with contextlib.suppress(RemoteError):
        kept = parse_record(Pulled, path.read_bytes(), str(path), RemoteError)
        if (place / kept.file).is_file() and Path(kept.file).name == kept.file:
            return kept
    return None


def _http(url: str) -> str | None:
    """HTTP address of a URL, including hub files; None for URLs that are read with fsspec. Raises UsageError."""
    if url.startswith(("http://", "https://")):
        return url
    if not url.startswith("hf://"):
        return None
    named = HUB.fullmatch(url)
    if named is None:
        raise UsageError(f"{url} is not a hub file: use hf://OWNER/REPO/FILE.onnx or hf://OWNER/REPO@REVISION/FILE.onnx")
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{hub}/{named['repo']}/resolve/{named['revision'] or 'main'}/{named['file']}"


def _file_name(url: str) -> str:
    name = re.sub(r"[^\w.-]", "_", url.split("?")[0].split("#")[0].rstrip("/").rsplit("/", 1)[-1])
    return name if name.endswith(".onnx") else f"{name or 'encoder'}.onnx"
