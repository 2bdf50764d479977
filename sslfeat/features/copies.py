"""Hooks that copy committed parts to another location, used if the features folder is on an object store."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sslfeat.features.commits import CommitRecord, read_commit
from sslfeat.features.metadata import FeaturesMetadata


class Place(Protocol):
    """Location where workers on other machines write their parts. Picklable."""

    def open(self) -> tuple[Path, Copies]:
        """On a worker: return the folder to write parts to, with its ``features.json``, and its Copies."""
        ...


class Copies:
    """No copies: parts exist in the folder only. For object stores see ``remote.py``."""

    def agreed(self) -> bool:
        """Create the folder in all locations, or take over the one created first by another worker.

        Returns False if another worker had listed the inputs before; the folder then contains its list: compare, and call again.
        """
        return True

    def complete(self) -> None:
        """Fetch all previously committed rows into the folder."""

    def begin(self) -> None:
        """Called after ``features.json`` was written."""

    def held(self, out: Path, run: FeaturesMetadata, number: int) -> CommitRecord | None:
        """Return the commit record of a committed part, else None."""
        return read_commit(out, run, number)

    def committed(self, out: Path, number: int, commit: CommitRecord) -> None:
        """Called after a part and its record were written."""

    def refresh(self, name: str) -> None:
        """Fetch the current version of a file that other workers may have written."""

    def gather(self) -> None:
        """Fetch the commit records written by other workers."""

    def finish(self) -> None:
        """Called after all parts are committed and the failures are listed."""

    def elsewhere(self) -> Place | None:
        """Location for workers on other machines; None if they use the same path."""
        return None


NO_COPIES = Copies()
