"""Reuse of rows of a features folder for images whose file, or its sha256, is unchanged.

A file whose size and two times match the record is considered unchanged. Other files are hashed if a file of the same size
was embedded. Touched, copied or renamed files are therefore not embedded again, but replaced files are, whatever their time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sslfeat.data.hashing import DIGEST, hash_files, parse_digests
from sslfeat.data.manifest import MISSING, Manifest, Mask, Numbers
from sslfeat.data.results import Embedded
from sslfeat.errors import FeaturesError
from sslfeat.features.commits import CommitRecord, read_commit
from sslfeat.features.formats import read_columns, read_embeddings
from sslfeat.features.metadata import FeaturesMetadata, files_of, part_count, slice_of

OPEN, FAILED = -1, -2  # instead of a row number: not embedded yet, and embedding failed
MEMORY = 256 << 20  # bytes of cached old parts: renamed files access rows in any order


@dataclass(frozen=True)
class _OldPart:
    embeddings: npt.NDArray[np.float32]
    facts: list[tuple[str, int, int]]


class Reuse:
    """Reusable old rows, read on demand for each part of the new folder."""

    def __init__(
        self, folder: Path, run: FeaturesMetadata, before: Manifest, now: Manifest, check: Callable[[], None] = lambda: None
    ) -> None:
        """Read the committed parts of ``folder`` and hash candidate files. ``check`` is called often, and may raise to stop.

        Raises FeaturesError if a committed part is invalid.
        """
        self._folder, self._run, self._before, self._now = folder, run, before, now
        self._starts = [0]  # first row of each part
        self._row_of = np.full(len(before.inputs), OPEN, np.int64)
        self._digests = self._read_old(check)
        self._rows, self._hashes = self._match(check)
        self._cache: OrderedDict[int, _OldPart] = OrderedDict()
        self._last = np.full(len(self._starts), MISSING, np.int64)  # for each old part, the last input that needs it
        held = np.flatnonzero(self._rows != MISSING)
        self._last[self._part_of(self._rows[held])] = held

    @property
    def held(self) -> int:
        """Number of inputs that need not be embedded."""
        return int((self._rows != MISSING).sum())

    def missing(self, start: int, stop: int) -> list[int]:
        """Numbers of the inputs from ``start`` to ``stop`` that must be embedded."""
        found: list[int] = (start + np.flatnonzero(self._rows[start:stop] == MISSING)).tolist()
        return found

    def rows(self, start: int, stop: int) -> dict[int, Embedded]:
        """Embeddings of the other inputs, by number."""
        rows = self._rows[start:stop]
        held = np.flatnonzero(rows != MISSING)
        held = held[np.argsort(rows[held], kind="stable")]  # so that no old part is read twice
        parts = self._part_of(rows[held])
        known: dict[int, Embedded] = {}
        for index, part in zip(held.tolist(), parts.tolist(), strict=True):
            old, row = self._part(part), int(rows[index]) - self._starts[part]
            known[start + index] = Embedded(old.embeddings[row], *old.facts[row])
        for part in [part for part in self._cache if self._last[part] < stop]:
            del self._cache[part]
        return known

    def same(self, was: Numbers, numbers: Numbers) -> Mask:
        """Whether old inputs ``was`` have the same content as new inputs ``numbers``, for ``ManifestDiff.between``."""
        rows, result = self._row_of[was], np.ones(len(was), bool)  # inputs not embedded yet may have changed
        failed, held = rows == FAILED, rows >= 0
        then, there = (was[failed], numbers[failed])  # without sha256, compare size and time
        result[failed] = (self._before.sizes[then] == self._now.sizes[there]) & (
            self._before.modified[then] == self._now.modified[there]
        )
        result[held] = self._digests[rows[held]] == self._hashes[numbers[held]]
        return result

    def _read_old(self, check: Callable[[], None]) -> npt.NDArray[np.bytes_]:
        """Set the row numbers of all inputs; return the sha256 of all rows, S32, of all intact parts."""
        digests = [np.zeros(0, DIGEST)]
        for part in range(part_count(self._run)):
            check()
            commit = read_commit(self._folder, self._run, part)
            columns = None if commit is None else read_columns(self._folder, files_of(self._run, part))
            if columns is not None and commit is not None:
                path = self._folder / files_of(self._run, part)[-1]
                if columns.num_rows != commit.rows:
                    raise FeaturesError(f"{path}: {columns.num_rows} rows, expected {commit.rows}")
                try:
                    digests.append(parse_digests(columns["sha256"].to_pylist()))
                except ValueError as error:
                    raise FeaturesError(f"{path}: invalid sha256: {error}") from error
                self._number_rows(part, commit, columns)
            self._starts.append(self._starts[-1] + (commit.rows if commit else 0))
        return np.concatenate(digests)

    def _number_rows(self, part: int, commit: CommitRecord, columns: pa.Table) -> None:
        numbers = slice_of(self._run, part)
        failed = {name for name, _ in commit.failures}
        names = [(number, self._before.inputs[number].name) for number in numbers]
        good = [(number, name) for number, name in names if name not in failed]
        self._row_of[numbers.start : numbers.stop] = FAILED
        if [name for _, name in good] == columns["path"].to_pylist():  # else the names are ambiguous
            first = self._starts[-1]
            self._row_of[[number for number, _ in good]] = np.arange(first, first + len(good))

    def _match(self, check: Callable[[], None]) -> tuple[Numbers, npt.NDArray[np.bytes_]]:
        """Return the reusable row of each input, or MISSING, and the sha256 of the files that were hashed."""
        now, old = self._now, self._now.unchanged(self._before)
        rows = np.full(len(now.inputs), MISSING, np.int64)
        sure = old != MISSING
        rows[sure] = np.maximum(self._row_of[old[sure]], MISSING)
        hashes = np.zeros(len(now.inputs), DIGEST)
        unsure = np.flatnonzero(~sure & (now.sizes != MISSING) & np.isin(now.sizes, self._before.sizes))
        hashes[unsure] = hash_files([now.inputs[index].path for index in unsure.tolist()], check)
        if len(self._digests):
            order = np.argsort(self._digests, kind="stable")
            places = np.searchsorted(self._digests, hashes[unsure], sorter=order)
            candidates = order[np.minimum(places, len(order) - 1)]
            found = (self._digests[candidates] == hashes[unsure]) & (hashes[unsure] != b"")
            rows[unsure[found]] = candidates[found]
        return rows, hashes

    def _part_of(self, rows: Numbers) -> Numbers:
        found: Numbers = np.searchsorted(self._starts, rows, side="right") - 1
        return found

    def _part(self, number: int) -> _OldPart:
        if number not in self._cache:
            files = files_of(self._run, number)
            columns = read_columns(self._folder, files)
            facts = zip(*(columns[name].to_pylist() for name in ("sha256", "width", "height")), strict=True)
            embeddings = read_embeddings(self._folder, files, self._run.encoder.card.dim)
            self._cache[number] = _OldPart(embeddings, list(facts))
            while len(self._cache) > 1 and sum(part.embeddings.nbytes for part in self._cache.values()) > MEMORY:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number]
