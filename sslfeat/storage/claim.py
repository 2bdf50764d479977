"""One writer per remote folder or share: numbered claims, created exclusively, with heartbeats, released or expired.

The claim with the highest number is valid. Stores have no locks, and a killed writer cannot release its claim: another
writer waits to see whether the claim object still changes, so no clocks are compared. To take over, it creates
the next number, which only one writer can do. The holder checks for a higher number before each commit.

Shares are numbered separately. A writer creates its claim before it looks for conflicting ones: of two that start
at the same time, at least one sees the other. An expired claim is followed by a released one, which stops its writer if it wakes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sslfeat.errors import RemoteError
from sslfeat.storage import atomic
from sslfeat.storage.records import parse_record
from sslfeat.storage.remote import RemoteFolder

FOLDER = "__sslfeat__"  # names ignored by table readers
CLAIM = re.compile(FOLDER + r"/claim(?:-(\d+-of-\d+))?-(\d{5,})\.json", re.ASCII)
BEAT = 5.0  # seconds
SILENT = 4  # missed heartbeats before a claim expires


@dataclass(frozen=True)
class ClaimRecord:
    """Holder (``token``; ``host`` and ``process`` for messages), number of heartbeats, and whether it was released."""

    token: str
    machine: str
    host: str
    process: int
    since: str
    beats: int = 0
    released: bool = False


def is_claim(name: str) -> bool:
    """Whether an object of this name is a claim, not content of the folder."""
    return CLAIM.fullmatch(name) is not None


def excludes(one: str, other: str) -> bool:
    """Whether two writers, each of a share as ``3-of-8`` or of all (empty), might write the same: two shares may not."""
    if not one or not other:
        return True
    (number, count), (number_of_other, count_of_other) = (map(int, share.split("-of-")) for share in (one, other))
    return (number - number_of_other) % math.gcd(count, count_of_other) == 0


def this_machine(cache: Path) -> str:
    """Name of this machine and cache, whose writers exclude each other by a local lock."""
    path = cache / "machine"
    if not path.exists():
        atomic.write_atomic(path, uuid.uuid4().hex.encode())
    return f"{socket.gethostname()}/{path.read_text()}"


@dataclass(frozen=True)
class HeldClaim:
    """Checks whether a claim is still valid: its name, the name of the next, and its token."""

    name: str
    following: str
    token: str

    def check(self, remote: RemoteFolder) -> None:
        """Raise RemoteError if another writer has taken over, e.g. while this machine was suspended."""
        record = None if remote.get(self.following) is not None else _read(remote, self.name)
        if record is None or record.token != self.token:
            raise RemoteError(f"{remote.url}: another writer took over while the connection was lost")


class Claim:
    """The right to write to a remote folder, or, with ``share`` as ``3-of-8``, to that share of it."""

    def __init__(self, remote: RemoteFolder, machine: str, share: str = "") -> None:
        """``machine`` from ``this_machine``, whose local lock for this folder and share must be held."""
        self._remote, self._share, self._number = remote, share, 0
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self._record = ClaimRecord(uuid.uuid4().hex, machine, socket.gethostname(), os.getpid(), since)
        self._ended = threading.Event()

    @property
    def hold(self) -> HeldClaim:
        """The held claim, for checks in other processes."""
        return HeldClaim(_name(self._share, self._number), _name(self._share, self._number + 1), self._record.token)

    @contextlib.contextmanager
    def held(self) -> Iterator[Claim]:
        """Hold the claim within the block. Raises RemoteError, naming the other, if a writer that excludes this one is alive."""
        self._take()
        beating = threading.Thread(target=self._beat, daemon=True)
        beating.start()
        try:
            self._exclude()
            yield self
        finally:
            self._ended.set()
            beating.join(BEAT)
            with contextlib.suppress(RemoteError):  # store unreachable: the claim expires
                self._write(dataclasses.replace(self._record, released=True))

    def check(self) -> None:
        """Raise RemoteError if another writer has taken over."""
        self.hold.check(self._remote)

    def _take(self) -> None:
        """Create the next claim of this share once the last one is released or expired."""
        while True:
            numbers = self._numbers().get(self._share, [])
            latest = max(numbers, default=0)
            record = _read(self._remote, _name(self._share, latest))
            if record and record.machine != self._record.machine:  # else its process died, since we hold the local lock
                self._outlast([_name(self._share, latest)])
            self._number = latest + 1
            self._remote.create(self.hold.name, self._bytes(self._record))
            if max(self._numbers().get(self._share, []), default=0) == self._number and self._is_mine():
                self._remote.delete(_name(self._share, number) for number in numbers)
                return

    def _exclude(self) -> None:
        """Ensure that no conflicting writer is alive, or commits anything if it wakes.

        A writer that creates its claim later sees ours.
        """
        latest = {share: max(numbers) for share, numbers in self._numbers().items() if share != self._share}
        others = {_name(*other): other for other in latest.items() if excludes(other[0], self._share)}
        ended = self._bytes(dataclasses.replace(self._record, released=True))
        for share, number in [others[name] for name in self._outlast(others)]:
            self._remote.create(_name(share, number + 1), ended)

    def _outlast(self, names: Iterable[str]) -> list[str]:
        """Expired ones of these claims; the others were released. Raises RemoteError if one is held."""
        records = {name: _read(self._remote, name) for name in names}
        held = {name: record for name, record in records.items() if record and not record.released}
        for _ in range(SILENT):
            if not held:
                break
            time.sleep(BEAT)
            for name, before in list(held.items()):
                now = _read(self._remote, name)
                if now is None or now.released:
                    del held[name]
                elif now != before:
                    raise RemoteError(
                        f"{self._remote.url} is being written by process {now.process} on {now.host}, since {now.since}: "
                        "wait for it, or choose another location"
                    )
        return list(held)

    def _numbers(self) -> dict[str, list[int]]:
        """Numbers of existing claims, by share."""
        numbers: dict[str, list[int]] = {}
        for found in map(CLAIM.fullmatch, self._remote.list(FOLDER)):
            if found:
                numbers.setdefault(found[1] or "", []).append(int(found[2]))
        return numbers

    def _is_mine(self) -> bool:
        record = _read(self._remote, self.hold.name)
        return record is not None and record.token == self._record.token

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            self._record = dataclasses.replace(self._record, beats=self._record.beats + 1)
            with contextlib.suppress(RemoteError):  # whoever writes parts meets it, too, and says so
                self._write(self._record)

    def _write(self, record: ClaimRecord) -> None:
        """Unless another writer has taken over: it deletes this claim, which is not to come back."""
        if self._is_mine():
            self._remote.put(self.hold.name, self._bytes(record))

    def _bytes(self, record: ClaimRecord) -> bytes:
        return atomic.json_bytes(dataclasses.asdict(record))


def _name(share: str, number: int) -> str:
    return f"{FOLDER}/claim{'-' if share else ''}{share}-{number:05d}.json"


def _read(remote: RemoteFolder, name: str) -> ClaimRecord | None:
    data = remote.get(name)
    return None if data is None else parse_record(ClaimRecord, data, f"{remote.url}/{name}", RemoteError)
