"""A features folder on an object store: each part is uploaded when it is committed, followed by its commit record.

If a record and the part's files exist on the store, they are trusted without download, because the record is uploaded
only after the files. ``sslfeat verify`` and ``repair`` of the URL download and check everything.
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

ORDER = (1, 0, 2)  # of deletion: commit records first, features.json last


class RemoteCopies(Copies):
    """Copies on an object store; see ``Copies``."""

    def __init__(self, mirror: Mirror, hold: HeldClaim, overwrite: bool = False) -> None:
        """``hold`` is the claim on the folder. With ``overwrite``, existing objects are deleted when the run begins."""
        self._mirror, self._hold, self._overwrite = mirror, hold, overwrite
        self._there: set[str] = set()
        self._kept = 0

    def agreed(self) -> bool:
        """See ``remote_begin.agreed``."""
        self._hold.check(self._mirror.remote)
        return agreed(self._mirror)

    def complete(self) -> None:
        """Fetch all missing files, so that images can be compared with the committed rows."""
        self._mirror.fetch(self._mirror.there())

    def begin(self) -> None:
        """Upload the inputs, then ``features.json``. Objects of other or withdrawn runs are deleted first."""
        self._hold.check(self._mirror.remote)
        self._there = {name for name in self._mirror.there() if OWN.fullmatch(name)}
        if self._overwrite or RUN_NAME not in self._there:
            self._mirror.remote.delete(sorted(self._there, key=lambda name: ORDER.index(rank(name))))
            self._there = set()
        self._mirror.push(name for name in self._mirror.names() if is_about(name) and rank(name) != 1 and name != FAILED_NAME)

    def held(self, out: Path, run: FeaturesMetadata, number: int) -> CommitRecord | None:
        """Return the commit record of a part on the store; a part that exists only locally is uploaded."""
        if commit_path(Path(), number).as_posix() in self._there:
            with contextlib.suppress(FeaturesError):  # inconsistent record: the part is recomputed
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
        if self._kept > limit():  # it is on the store; make room for the next
            self._mirror.remove(commit.files)

    def refresh(self, name: str) -> None:
        """Fetch the file if it differs; delete it if it was deleted on the store."""
        found = self._mirror.remote.object(name)
        if found is not None:
            self._mirror.fetch({name: found})
        elif (self._mirror.folder / name).exists():
            self._mirror.remove([name])

    def gather(self) -> None:
        """Fetch the records of parts committed by others."""
        self._mirror.fetch({name: known for name, known in self._mirror.there().items() if is_about(name) and rank(name) == 1})

    def finish(self) -> None:
        """Upload ``failures.csv``; delete quantized encoders that are not used."""
        self._hold.check(self._mirror.remote)
        self._mirror.remote.delete(name for name in ENCODERS if not (self._mirror.folder / name).exists())
        self._mirror.push([FAILED_NAME])

    def elsewhere(self) -> WorkersPlace:
        """The same store and claim."""
        return WorkersPlace(self._mirror.remote.url, self._hold)


@dataclass(frozen=True)
class WorkersPlace:
    """See ``copies.Place``: parts are in the cache of the worker's machine until they are uploaded."""

    url: str
    hold: HeldClaim

    def open(self) -> tuple[Path, Copies]:
        """Reuse a free cache folder; leftovers of interrupted workers are removed."""
        place, lock = free_place(READING, self.url)
        mirror = Mirror(RemoteFolder(self.url), place)
        mirror.remove(mirror.names())
        return mirror.folder, _WorkersCopies(mirror, self.hold, lock)


class _WorkersCopies(RemoteCopies):
    """Deletes parts locally after upload. Its cache folder is locked for the lifetime of the object."""

    def __init__(self, mirror: Mirror, hold: HeldClaim, lock: contextlib.ExitStack) -> None:
        super().__init__(mirror, hold)
        self._lock = lock

    def committed(self, out: Path, number: int, commit: CommitRecord) -> None:
        """See ``RemoteCopies``."""
        super().committed(out, number, commit)
        left = (*commit.files, commit_path(Path(), number).as_posix())
        self._mirror.remove(name for name in left if (out / name).exists())
