"""The embedding job: a list of images becomes a features folder, part by part, and survives being killed anywhere.

Each part is a fixed slice of the sorted inputs. Its files are written first, its commit record, holding their sha256,
last; a later run trusts nothing but records whose hashes match. No clock, no order of arrival enters a file, so a run
that was killed and repeated leaves the same bytes as one that was not.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sslfeat.data.batching import batched
from sslfeat.data.dataset import ImageRecord
from sslfeat.data.decode_worker import DEFAULT_LIMITS, Limits
from sslfeat.data.manifest import Manifest
from sslfeat.data.results import Batch, Embedded, Failed
from sslfeat.data.subprocess_decoder import SubprocessDecoder
from sslfeat.data.transforms import EXACT, Decoding
from sslfeat.errors import FeaturesError, InputError, InterruptedRun
from sslfeat.features.failures import FAILURES_NAME, write_failures
from sslfeat.features.files import finish_exchange
from sslfeat.features.folder import describe, open_folder
from sslfeat.features.formats import FOLDERS, encode_part, part_files
from sslfeat.features.metadata import (
    META_FOLDER,
    CommitRecord,
    commit_path,
    files_of,
    part_count,
    read_commit,
    slice_of,
)
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.pipeline import embed_batches
from sslfeat.storage import atomic
from sslfeat.system import signals
from sslfeat.system.cores import available_cores

PART_SIZE = 1024


@dataclass(frozen=True)
class Options:
    """How to embed. ``batch_size`` images share an inference (default: 4, on a GPU 32), ``part_size`` a part.

    ``workers`` decode and infer at the same time (default: one for each core that an inference does not use).
    ``layout`` is ``parquet`` or ``npy``, ``limits`` are what one image may cost.
    """

    batch_size: int | None = None
    part_size: int = PART_SIZE
    workers: int | None = None
    layout: str = "parquet"
    decoding: Decoding = EXACT
    limits: Limits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        if (self.batch_size or 1) < 1 or self.part_size < 1 or (self.workers or 1) < 1:
            raise InputError(
                f"batch size {self.batch_size}, part size {self.part_size} and workers {self.workers} must be at least 1"
            )
        part_files(self.layout, 0, 1)

    def describe(self, encoder: Encoder, manifest: Manifest) -> dict[str, Any]:
        """The fields of ``features.json`` for a run with these options."""
        return describe(encoder, manifest, self.layout, self.decoding, self.part_size, self.batch_size)


@dataclass
class Spent:
    """Seconds: ``wall`` of the whole job, ``write`` of it writing; ``decode`` and ``infer`` summed over ``workers``."""

    workers: int = 1
    wall: float = 0.0
    write: float = 0.0
    decode: float = 0.0
    infer: float = 0.0

    def shares(self) -> dict[str, float]:
        """Of the workers' time: decoding, inferring, waiting; and of the wall time, writing."""
        whole = max(self.workers * self.wall, 1e-9)
        busy = {"decode": self.decode / whole, "infer": self.infer / whole}
        return {**busy, "wait": max(0.0, 1 - sum(busy.values())), "write": self.write / max(self.wall, 1e-9)}


@dataclass(frozen=True)
class Summary:
    """A finished job: its folder, images embedded and failed, how many were there before, and where the time went."""

    folder: Path
    embedded: int
    failed: int
    resumed: int
    spent: Spent

    @property
    def failures(self) -> Path:
        """The table of images that failed."""
        return self.folder / META_FOLDER / FAILURES_NAME


@dataclass(frozen=True)
class EmbedProgress:
    """Inputs, of which so many are done and failed so far, and ``resumed`` were there before this run began."""

    total: int
    done: int
    failed: int
    resumed: int


Report = Callable[[EmbedProgress], None]


class Known(Protocol):
    """Where outcomes that need not be computed again come from: asked part by part, in order."""

    def missing(self, start: int, stop: int) -> list[int]: ...

    def rows(self, start: int, stop: int) -> dict[int, Embedded]: ...


class Nothing:
    """Nothing is known: all are to be embedded."""

    def missing(self, start: int, stop: int) -> list[int]:
        """As ``Known`` says."""
        return list(range(start, stop))

    def rows(self, start: int, stop: int) -> dict[int, Embedded]:
        """As ``Known`` says."""
        return {}


def embed_to_folder(
    encoder: Encoder,
    inputs: Sequence[ImageRecord],
    out: Path,
    options: Options | None = None,
    *,
    overwrite: bool = False,
    report: Report = lambda progress: None,
) -> Summary:
    """Embed ``inputs`` (sorted, from ``find_inputs``) into the folder ``out``, or finish what an earlier run began.

    Files are decoded in processes of their own, so that none can end the run. Raises FeaturesError if ``out`` belongs
    to another run, was made of other images (``update_folder`` is for those), or is being written; InterruptedRun
    after SIGINT or SIGTERM, with all committed parts kept.
    """
    options = options or Options()
    with atomic.exclusive(out, FeaturesError), signals.deferred() as stop:
        finish_exchange(out)
        manifest = Manifest.take(inputs)
        run = options.describe(encoder, manifest)
        run, manifest = open_folder(out, run, manifest, encoder.files, overwrite)
        return FeatureRun(encoder, manifest, out, options, run, stop, report).fill()


@dataclass
class FeatureRun:
    """A features folder being filled; its lock is held and its ``features.json`` written, which ``run`` is."""

    encoder: Encoder
    manifest: Manifest
    out: Path
    options: Options
    run: dict[str, Any]
    stop: signals.Stop
    report: Report
    known: Known = field(default_factory=Nothing)

    def __post_init__(self) -> None:
        self.spent = Spent(self.options.workers or max(1, available_cores() // self.encoder.threads))
        self.done = self.failed = self.resumed = 0
        self.commits: dict[int, CommitRecord] = {}

    def fill(self) -> Summary:
        """Embed every part that is not committed, then write ``failures.csv``."""
        began = time.monotonic()
        for name in FOLDERS if self.options.layout == "npy" else ():
            atomic.make_folder(self.out / name)
        parts = range(part_count(self.run))
        for number in parts:
            if commit := read_commit(self.out, self.run, number):
                self.commits[number] = commit
                self.done += commit.rows + len(commit.failures)
                self.failed += len(commit.failures)
        self.resumed = self.done
        self._say()
        missing = [number for number in parts if number not in self.commits]
        plans = ((number, self._plan(number)) for number in missing)
        ahead, here = itertools.tee(plans)
        flat = ([self.manifest.inputs[i].raw for i in batch] for _, batches in ahead for batch in batches)
        with closing(embed_batches(self.encoder, flat, self.spent.workers, self._decoder, self._check)) as stream:
            for number, batches in here:
                self._check()
                numbers = slice_of(self.run, number)
                known = self.known.rows(numbers.start, numbers.stop)
                outcomes: dict[int, Embedded | Failed] = dict(known)
                self.resumed += len(known)
                self._count(list(known.values()))
                for indices, batch in zip(batches, itertools.islice(stream, len(batches)), strict=True):
                    outcomes.update(zip(indices, batch.outcomes, strict=True))
                    self._count(batch.outcomes, batch)
                self._commit(number, outcomes)
        failures = [failure for number in parts for failure in self.commits[number].failures]
        write_failures(self.out / META_FOLDER, failures)
        self.spent.wall = time.monotonic() - began
        return Summary(self.out, len(self.manifest.inputs) - len(failures), len(failures), self.resumed, self.spent)

    def _plan(self, number: int) -> list[list[int]]:
        """The batches of input numbers that a part needs embedded: numbers alone, for plans are made far ahead."""
        numbers = slice_of(self.run, number)
        return list(batched(self.known.missing(numbers.start, numbers.stop), int(self.run["batch_size"])))

    def _commit(self, number: int, outcomes: dict[int, Embedded | Failed]) -> None:
        """Write a part, then the record that makes it count."""
        began = time.monotonic()
        pairs = [(self.manifest.inputs[index], outcomes[index]) for index in sorted(outcomes)]
        rows = [(item, outcome) for item, outcome in pairs if isinstance(outcome, Embedded)]
        failures = tuple((item.name, outcome.reason) for item, outcome in pairs if isinstance(outcome, Failed))
        contents = encode_part(self.options.layout, rows, self.encoder.dim)
        files = dict(zip(files_of(self.run, number), contents, strict=True))
        for name, data in files.items():
            atomic.write_atomic(self.out / name, data)
        commit = CommitRecord.of(files, len(rows), failures)
        atomic.write_atomic(commit_path(self.out, number), commit.to_json())
        self.commits[number] = commit
        self.spent.write += time.monotonic() - began

    def _count(self, outcomes: Sequence[Embedded | Failed], batch: Batch | None = None) -> None:
        self.done += len(outcomes)
        self.failed += sum(isinstance(outcome, Failed) for outcome in outcomes)
        if batch:
            self.spent.decode += batch.decode
            self.spent.infer += batch.infer
        self._say()

    def _say(self) -> None:
        self.report(EmbedProgress(len(self.manifest.inputs), self.done, self.failed, self.resumed))

    def _decoder(self) -> SubprocessDecoder:
        return SubprocessDecoder(self.encoder.card.preprocess, self.options.decoding, self.options.limits)

    def _check(self) -> None:
        if self.stop.signum:
            raise InterruptedRun(self.stop.signum, f"interrupted; {self.out} keeps {self._kept()} inputs: run it again to go on")

    def _kept(self) -> int:
        return sum(commit.rows + len(commit.failures) for commit in self.commits.values())
