"""Writing a remote folder: work is done in a local folder, under a claim, and uploaded; it resumes after being killed.

Local work stays in the cache until it is uploaded. The remote side is authoritative: if its record
differs from the local one, another process has written there, and the local state is discarded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sslfeat.errors import RemoteError
from sslfeat.storage import atomic
from sslfeat.storage.cache import READING, WRITING, locked, make_room, place_of, replace, root
from sslfeat.storage.claim import FOLDER, Claim, is_claim, this_machine
from sslfeat.storage.mirror import Mirror, rank
from sslfeat.storage.remote import RemoteFolder

UPLOADING = ".uploading"  # describes completed work that is being uploaded
RECORDS = (f"{FOLDER}/features.json", "index.json")


@dataclass(frozen=True)
class Staging:
    """A remote folder being written: ``mirror.folder`` is where. ``finished``: an earlier upload of the same ``work``
    was carried through just now, and nothing is left to do."""

    mirror: Mirror
    claim: Claim
    work: str
    finished: bool = False

    def upload(self) -> None:
        """Upload the local folder; if interrupted, the next writer on this machine completes it."""
        atomic.write_atomic(self.mirror.place / UPLOADING, self.work.encode())
        self.mirror.push_all(self.claim.check)
        (self.mirror.place / UPLOADING).unlink()

    def keep(self) -> None:
        """Keep the local folder as the copy for reading, to avoid downloading it."""
        url, place = self.mirror.remote.url, self.mirror.place
        self.mirror.save()
        with contextlib.suppress(RemoteError), locked(copy := place_of(READING, url), url):  # else a reader is using it
            replace(place, copy)
            make_room(copy)


@contextlib.contextmanager
def staged(url: str, work: str, wanted: Callable[[str], bool] = lambda name: True, share: str = "") -> Iterator[Staging]:
    """Hold the claim to ``url``, with its existing ``wanted`` files in the local folder.

    ``work`` says what is done, as the command's arguments do. ``share`` as ``3-of-8``: of a folder that several fill.
    Raises RemoteError if a writer that excludes this one is at it, or if the place holds other things.
    """
    place = place_of(WRITING, f"{url}#{share}" if share else url)
    with locked(place, url):
        remote = RemoteFolder(url)
        _refuse_strangers(remote)
        with Claim(remote, this_machine(root()), share).held() as claim:
            mirror = Mirror(remote, place)
            uploading = place / UPLOADING
            before = uploading.read_text() if uploading.exists() else None
            if before is None:
                _begin(mirror, wanted, bool(share))
                yield Staging(mirror, claim, work)
                return
            staging = Staging(mirror, claim, before)
            staging.upload()
            yield Staging(mirror, claim, work, finished=before == work)


def _begin(mirror: Mirror, wanted: Callable[[str], bool], by_share: bool) -> None:
    there = mirror.there()
    records = [name for name in there if rank(name) == 2]
    stale = not records if by_share else not there and mirror.known  # a share creates nothing before there is a record
    if stale or any(_local(mirror, name) != mirror.remote.get(name) for name in records):
        mirror.remove(mirror.names())
    if records:
        mirror.fetch({name: known for name, known in there.items() if wanted(name)})
        mirror.save()


def _local(mirror: Mirror, name: str) -> bytes | None:
    path = mirror.folder / name
    return path.read_bytes() if path.exists() else None


def _refuse_strangers(remote: RemoteFolder) -> None:
    if remote.is_empty() or any(map(is_claim, remote.list(FOLDER))) or any(remote.object(name) for name in RECORDS):
        return
    raise RemoteError(f"{remote.url} contains other files: choose a new or empty location")
