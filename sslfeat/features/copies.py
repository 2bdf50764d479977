"""Where else the parts of a run go as they are committed: nowhere, unless the folder lies on an object store."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sslfeat.features.commits import CommitRecord, read_commit
from sslfeat.features.metadata import FeaturesMetadata


class Place(Protocol):
    """Where workers on other machines have their parts; it can be sent to them."""

    def open(self) -> tuple[Path, Copies]:
        """On a worker: the folder to write parts in, with its ``features.json``, and where they go from there."""
        ...


class Copies:
    """A run's parts in its folder alone; ``remote.py`` has them on a store, too."""

    def agreed(self) -> bool:
        """Whether the folder is begun everywhere, as whoever came first began it; it is here, too, now.

        False: somebody had listed the inputs before, and the folder has that list now: compare, and ask again.
        """
        return True

    def complete(self) -> None:
        """Have in the folder all rows that were committed before."""

    def begin(self) -> None:
        """The folder says what run it is of."""

    def held(self, out: Path, run: FeaturesMetadata, number: int) -> CommitRecord | None:
        """The commit record of a part that need not be made; None for another."""
        return read_commit(out, run, number)

    def committed(self, out: Path, number: int, commit: CommitRecord) -> None:
        """A part and its record were written."""

    def refresh(self, name: str) -> None:
        """Have in the folder a file that others may have written, as it is now."""

    def gather(self) -> None:
        """Have in the folder all commit records, for others may have written some."""

    def finish(self) -> None:
        """All parts are committed, and the failures listed."""

    def elsewhere(self) -> Place | None:
        """What workers on other machines need; None if they find the folder where it is here."""
        return None


NO_COPIES = Copies()
