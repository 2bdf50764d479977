"""Local copy of a remote folder: differing files are downloaded, new ones uploaded, commit records last.

Names with a leading dot (locks, temporary files, unfinished updates) are not uploaded, claims are not downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sslfeat.errors import RemoteError
from sslfeat.storage import atomic
from sslfeat.storage.cache import OFFLINE, READING, is_offline, locked, make_room, place_of, root
from sslfeat.storage.claim import is_claim
from sslfeat.storage.records import parse_record
from sslfeat.storage.remote import RemoteFolder, RemoteObject

LEDGER = ".ledger.json"
RECORD = re.compile(r"(.*/)?(features|index)\.json")  # records of folders: uploaded last, deleted first
COMMIT = re.compile(r"(.*/)?__sslfeat__/part-\d+\.json")  # commit records of parts
OURS = re.compile(
    r"(features/)?(__sslfeat__/[^/]+|part-\d+\.parquet|(img_emb|metadata)/[^/]+_\d+\.(npy|parquet))"
    r"|index(-\d+)?\.faiss|index\.json|ids\.parquet"
)  # only these may be deleted; other files are the user's
STREAMS = 8  # concurrent downloads
ATTEMPTS = 3  # to find an unchanging folder
PATIENCE = 600.0  # seconds to wait for another process that downloads the same folder
Step = Callable[[int, int], None]  # bytes that are there, of all


def no_step(done: int, total: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class Known:
    """A synchronized file: size and token of the object, and a stamp of the local file."""

    size: int
    token: str
    stamp: tuple[int, ...]


@dataclass(frozen=True)
class Ledger:
    """Synchronized files by name."""

    url: str
    files: dict[str, Known] = field(default_factory=dict)
    format: int = 1


def rank(name: str) -> int:
    """Upload order: payload, commit records, records of folders; deletion in reverse order."""
    return 2 if RECORD.fullmatch(name) else 1 if COMMIT.fullmatch(name) else 0


class Mirror:
    """Copy of ``remote`` in ``place``; ``folder`` is the copy, with the name of the remote folder."""

    def __init__(self, remote: RemoteFolder, place: Path) -> None:
        self.remote, self.place = remote, place
        last = remote.url.split("://", 1)[-1].rsplit("/", 1)[-1]
        self.folder = place / (last if last.strip(".") else "folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = _read_ledger(place)
        self.known = dict(kept.files) if kept else {}
        if kept is None:
            self.save()

    def names(self) -> list[str]:
        """Local files in upload order."""
        found = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        names = [name for path in found if not _is_hidden(name := path.as_posix())]
        return sorted(names, key=lambda name: (rank(name), name))

    def there(self) -> dict[str, RemoteObject]:
        """Remote objects without claims."""
        return {name: known for name, known in self.remote.list().items() if not is_claim(name) and not _is_hidden(name)}

    def pull(self, step: Step = no_step) -> None:
        """Update the copy from the remote folder. Raises RemoteError if that is empty or keeps changing."""
        for _ in range(ATTEMPTS):
            there = self.there()
            if not there:
                raise RemoteError(f"{self.remote.url}: the folder does not exist or is empty: check the URL")
            self.fetch(there, step)
            now = self.there()
            if all(now.get(name) == known for name, known in there.items() if rank(name) == 2):
                break
        else:
            raise RemoteError(f"{self.remote.url} keeps being modified: repeat the command when that is finished")
        self.remove(name for name in self.names() if name not in there)
        self.save()

    def fetch(self, there: dict[str, RemoteObject], step: Step = no_step) -> None:
        """Download missing and differing objects, payload before records."""
        missing = {name: known for name, known in there.items() if not self._is_known(name, known)}
        total = sum(known.size for known in missing.values())
        done: dict[str, int] = {}

        def one(name: str) -> None:
            path, known = self.folder / name, missing[name]

            def count(size: int) -> None:
                done[name] = size
                step(sum(list(done.values())), total)

            self.remote.fetch(name, path, known, count)
            self.known[name] = Known(known.size, known.token, _stamp(path))

        for level in (0, 1, 2):
            with ThreadPoolExecutor(STREAMS) as pool:
                list(pool.map(one, [name for name in missing if rank(name) == level]))

    def remove(self, names: Iterable[str]) -> None:
        """Delete local files, records first."""
        for name in sorted(names, key=rank, reverse=True):
            (self.folder / name).unlink()
            self.known.pop(name, None)

    def push(self, names: Iterable[str]) -> None:
        """Upload files in this order, skipping unchanged ones."""
        for name in names:
            found = self.remote.object(name)
            if found is None or not self._is_same(name, found):
                self.upload([name])
            else:
                self.known[name] = Known(found.size, found.token, _stamp(self.folder / name))

    def upload(self, names: Iterable[str]) -> None:
        """Upload files in this order unconditionally; ``save`` records them as synchronized."""
        for name in names:
            path = self.folder / name
            put = self.remote.put_file(name, path)
            self.known[name] = Known(put.size, put.token, _stamp(path))

    def push_all(self, check: Callable[[], None]) -> None:
        """Make the remote folder equal to this complete copy; ``check`` is called before each step, and may raise.

        Records that change go first: a reader finds the old folder, none, or the new one.
        """
        names, there = self.names(), self.there()
        same = {name for name in names if name in there and self._is_same(name, there[name])}
        gone = [name for name in there if name not in same and (rank(name) or name not in names) and OURS.fullmatch(name)]
        for name in sorted(gone, key=rank, reverse=True):
            check()
            self.remote.delete([name])
        for name in names:
            if name not in same:
                check()
                self.upload([name])
        self.save()

    def save(self) -> None:
        """Write the ledger of synchronized files."""
        ledger = Ledger(self.remote.url, self.known)
        atomic.write_atomic(self.place / LEDGER, atomic.json_bytes(asdict(ledger)))

    def is_complete(self) -> bool:
        """Whether a copy was downloaded and is unmodified."""
        return bool(self.known) and all(_stamp(self.folder / name) == known.stamp for name, known in self.known.items())

    def _is_same(self, name: str, there: RemoteObject) -> bool:
        return self._is_known(name, there) or self.remote.is_same(name, there, self.folder / name)

    def _is_known(self, name: str, there: RemoteObject) -> bool:
        known = self.known.get(name)
        if known is None or not there.token:
            return False
        return (known.size, known.token, known.stamp) == (there.size, there.token, _stamp(self.folder / name))


def localize(url: str, fresh: bool = False, step: Step = no_step) -> Path:
    """Local copy of the remote folder ``url``; unchanged files are not downloaded again.

    ``fresh`` downloads everything. Raises RemoteError if the folder is empty, or if offline without a copy.
    """
    place = place_of(READING, url)
    with locked(place, url, PATIENCE):
        mirror = Mirror(RemoteFolder(url), place)
        if is_offline():
            if not mirror.is_complete():
                raise RemoteError(f"{url} is not in the cache, and {OFFLINE} is set: unset it to download")
            return mirror.folder
        if fresh:
            mirror.known.clear()
        mirror.pull(step)
    make_room(place)
    return mirror.folder


def name_of(path: Path) -> str:
    """Display name of a folder: its URL if it is a copy or inside one."""
    whole = path.absolute()
    for copy in (whole, *whole.parents):
        if copy.is_relative_to(root()) and (ledger := _read_ledger(copy.parent)):
            return "/".join((ledger.url, *whole.relative_to(copy).parts))
    return str(path)


def _read_ledger(place: Path) -> Ledger | None:
    """Read the ledger; None if it is missing or damaged, so that everything is compared again."""
    path = place / LEDGER
    if not path.exists():
        return None
    try:
        return parse_record(Ledger, path.read_bytes(), str(path), RemoteError)
    except RemoteError:
        return None


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _stamp(path: Path) -> tuple[int, ...]:
    """Value that changes with the file; empty if it is missing."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
