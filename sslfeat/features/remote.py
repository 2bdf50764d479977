"""A features folder on an object store: each part is uploaded as soon as it is committed, its commit record after it.

A record there, with the part's files beside it, is trusted without fetching them: it was written only after they had been
proved to be there. ``sslfeat verify`` and ``repair`` of the URL fetch and rehash everything.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from sslfeat.errors import FeaturesError
from sslfeat.features.commits import CommitRecord, check_record, commit_path, read_commit
from sslfeat.features.copies import Copies
from sslfeat.features.files import ENCODERS, FAILED_NAME
from sslfeat.features.formats import OWN_NAME
from sslfeat.features.metadata import META_FOLDER, RUN_NAME, FeaturesMetadata
from sslfeat.features.remote_begin import agreed, is_about
from sslfeat.storage.cache import READING, free_place, limit
from sslfeat.storage.claim import HeldClaim
from sslfeat.storage.mirror import Mirror, rank
from sslfeat.storage.remote import RemoteFolder

OWN = re.compile(
    rf"{OWN_NAME.pattern}|{META_FOLDER}/(part-\d{{5,}}\.json|inputs\.arrow|failures\.csv|features\.json|encoder-\w+\.onnx)"
)

ORDER = (1, 0, 2)  # of deleting: no part counts whose files are gone, and the last makes it nobody's folder


class RemoteCopies(Copies):
    """The parts of a run that are on the store; see ``Copies``."""

    def __init__(self, mirror: Mirror, hold: HeldClaim, overwrite: bool = False) -> None:
        """``hold`` is of the claim under which this is done. With ``overwrite``, what is there goes when the run begins."""
        self._mirror, self._hold, self._overwrite = mirror, hold, overwrite
        self._there: set[str] = set()
        self._kept = 0

    def agreed(self) -> bool:
        """See ``remote_begin``."""
        self._hold.check(self._mirror.remote)
        return agreed(self._mirror)

    def complete(self) -> None:
        """Fetch what is not here, for images are to be compared with what was embedded."""
        self._mirror.fetch(self._mirror.there())

    def begin(self) -> None:
        """Upload what the run is of, then what it is. What is there of another run, or of one that was withdrawn, goes first."""
        self._hold.check(self._mirror.remote)
        self._there = {name for name in self._mirror.there() if OWN.fullmatch(name)}
        if self._overwrite or RUN_NAME not in self._there:
            self._mirror.remote.delete(sorted(self._there, key=lambda name: ORDER.index(rank(name))))
            self._there = set()
        self._mirror.push(name for name in self._mirror.names() if is_about(name) and rank(name) != 1 and name != FAILED_NAME)

    def held(self, out: Path, run: FeaturesMetadata, number: int) -> CommitRecord | None:
        """The commit record of a part that is there; one that is only here is uploaded."""
        if commit_path(Path(), number).as_posix() in self._there:
            with contextlib.suppress(FeaturesError):  # a record that lies: the part is made again
                commit = check_record(out, run, number)
                if self._there.issuperset(commit.files):
                    return commit
        here = read_commit(out, run, number)
        if here is not None:
            self.committed(out, number, here)
        return here

    def committed(self, out: Path, number: int, commit: CommitRecord) -> None:
        """Upload a part, then its record. Raises RemoteError if another writer has taken over."""
        self._hold.check(self._mirror.remote)
        self._mirror.upload(commit.files)
        self._hold.check(self._mirror.remote)
        self._mirror.upload([commit_path(Path(), number).as_posix()])
        self._kept += sum((out / name).stat().st_size for name in commit.files)
        if self._kept > limit():  # it is on the store, and the next one needs the room
            self._mirror.remove(commit.files)

    def refresh(self, name: str) -> None:
        """Fetch it if it is another than here; it goes where it is gone there."""
        found = self._mirror.remote.object(name)
        if found is not None:
            self._mirror.fetch({name: found})
        elif (self._mirror.folder / name).exists():
            self._mirror.remove([name])

    def gather(self) -> None:
        """Fetch the records of parts that others committed."""
        self._mirror.fetch({name: known for name, known in self._mirror.there().items() if is_about(name) and rank(name) == 1})

    def finish(self) -> None:
        """Upload ``failures.csv``; an encoder that somebody was about to begin with goes."""
        self._hold.check(self._mirror.remote)
        self._mirror.remote.delete(name for name in ENCODERS if not (self._mirror.folder / name).exists())
        self._mirror.push([FAILED_NAME])

    def elsewhere(self) -> WorkersPlace:
        """The same store, under the same claim."""
        return WorkersPlace(self._mirror.remote.url, self._hold)


@dataclass(frozen=True)
class WorkersPlace:
    """See ``copies.Place``: a worker has its parts in the cache of its machine until they are on the store."""

    url: str
    hold: HeldClaim

    def open(self) -> tuple[Path, Copies]:
        """The folder holds what no worker had time to remove before it ended."""
        place, lock = free_place(READING, self.url)
        mirror = Mirror(RemoteFolder(self.url), place)
        mirror.remove(mirror.names())
        return mirror.folder, _WorkersCopies(mirror, self.hold, lock)


class _WorkersCopies(RemoteCopies):
    """A part leaves the worker when it is on the store; its place is locked as long as this lives."""

    def __init__(self, mirror: Mirror, hold: HeldClaim, lock: contextlib.ExitStack) -> None:
        super().__init__(mirror, hold)
        self._lock = lock

    def committed(self, out: Path, number: int, commit: CommitRecord) -> None:
        """See ``RemoteCopies``."""
        super().committed(out, number, commit)
        left = (*commit.files, commit_path(Path(), number).as_posix())
        self._mirror.remove(name for name in left if (out / name).exists())
