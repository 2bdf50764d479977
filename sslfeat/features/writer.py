"""Embed images into a features folder, part by part; a killed run can be continued.

Each part is a fixed slice of the sorted inputs. Its files are written first, its commit record with their sha256 last; a
resumed run uses only records whose hashes match. Files depend neither on time nor on the order of completion, so a resumed
run writes the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sslfeat.data.batching import batched
from sslfeat.data.dataset import ImageRecord
from sslfeat.data.decode_worker import DEFAULT_LIMITS, Limits
from sslfeat.data.manifest import Manifest
from sslfeat.data.results import Batch, Embedded, Failed
from sslfeat.data.subprocess_decoder import SubprocessDecoder
from sslfeat.data.transforms import EXACT, Decoding
from sslfeat.errors import FeaturesError, InputError, InterruptedRun
from sslfeat.features.commits import CommitRecord, check_record, commit_path
from sslfeat.features.copies import NO_COPIES, Copies
from sslfeat.features.failures import FAILURES_NAME, write_failures
from sslfeat.features.files import commit_numbers, finish_exchange
from sslfeat.features.folder import describe, open_folder
from sslfeat.features.formats import FOLDERS, encode_part, part_files
from sslfeat.features.given import Given
from sslfeat.features.metadata import META_FOLDER, FeaturesMetadata, files_of, part_count, slice_of
from sslfeat.features.reuse import Reuse
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.pipeline import ImageDecoder, embed_batches
from sslfeat.storage import atomic
from sslfeat.system import signals
from sslfeat.system.cores import available_cores, processor

PART_SIZE = 1024
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of embedding. ``batch_size``: images per inference (default: 4, on a GPU 32); ``part_size``: images per part.

    ``workers``: number of threads that decode and infer (default: the number of cores divided by the encoder's threads).
    ``layout``: ``parquet`` or ``npy``. ``limits``: limits for one image. ``given``: the original inputs and options.
    """

    batch_size: int | None = None
    part_size: int = PART_SIZE
    workers: int | None = None
    layout: str = "parquet"
    decoding: Decoding = EXACT
    limits: Limits = DEFAULT_LIMITS
    given: Given | None = None

    def __post_init__(self) -> None:
        if (self.batch_size or 1) < 1 or self.part_size < 1 or (self.workers or 1) < 1:
            raise InputError(
                f"batch size {self.batch_size}, part size {self.part_size} and workers {self.workers} must be at least 1"
            )
        part_files(self.layout, 0, 1)

    def describe(self, encoder: Encoder, manifest: Manifest) -> FeaturesMetadata:
        """Create the ``features.json`` of a run with these options."""
        return describe(encoder, manifest, self.layout, self.decoding, self.part_size, self.batch_size, self.given)


@dataclass
class Spent:
    """Seconds: ``wall`` in total, ``write`` for writing; ``decode`` and ``infer`` are sums over ``workers``."""

    workers: int = 1
    wall: float = 0.0
    write: float = 0.0
    decode: float = 0.0
    infer: float = 0.0

    def shares(self) -> dict[str, float]:
        """Fractions of the workers' time spent decoding, inferring and waiting; and of the wall time, writing."""
        whole = max(self.workers * self.wall, 1e-9)
        busy = {"decode": self.decode / whole, "infer": self.infer / whole}
        return {**busy, "wait": max(0.0, 1 - sum(busy.values())), "write": self.write / max(self.wall, 1e-9)}


@dataclass(frozen=True)
class Summary:
    """Result of a job: folder, number of images embedded, failed, and resumed from an earlier run, and the time spent.

    ``missing``: number of parts left to other shares; ``failures.csv`` is written when there are none.
    """

    folder: Path
    embedded: int
    failed: int
    resumed: int
    spent: Spent
    missing: int = 0

    @property
    def failures(self) -> Path:
        """Path of the table of failed images."""
        return self.folder / META_FOLDER / FAILURES_NAME


@dataclass(frozen=True)
class EmbedProgress:
    """Number of inputs: total, done, failed, and ``resumed`` from an earlier run."""

    total: int
    done: int
    failed: int
    resumed: int


Report = Callable[[EmbedProgress], None]
Engine = Callable[["FeatureRun", list[int]], None]  # embeds and commits these parts


def embed_to_folder(
    encoder: Encoder,
    inputs: Sequence[ImageRecord],
    out: Path,
    options: Options | None = None,
    *,
    overwrite: bool = False,
    report: Report = lambda progress: None,
    copies: Copies = NO_COPIES,
    engine: Engine | None = None,
) -> Summary:
    """Embed ``inputs`` (sorted, from ``find_inputs``) into the folder ``out``, or resume an earlier run.

    Files are decoded in separate processes, so that a crash cannot end the run; an ``engine`` may embed elsewhere. Raises
    FeaturesError if ``out`` belongs to another run, has other images (use ``update_folder``), or is being written;
    InterruptedRun after SIGINT or SIGTERM, with all committed parts kept.
    """
    options = options or Options()
    with atomic.exclusive(out, FeaturesError), signals.deferred() as stop:
        finish_exchange(out)
        manifest = Manifest.take(inputs)
        run = options.describe(encoder, manifest)
        run, manifest = open_folder(out, run, manifest, encoder.files, overwrite, copies.complete)
        return FeatureRun(encoder, manifest, out, options, run, stop, report, copies=copies).fill(engine)


@dataclass
class FeatureRun:
    """A features folder being written; its lock is held and its ``features.json`` (``run``) written."""

    encoder: Encoder
    manifest: Manifest
    out: Path
    options: Options
    run: FeaturesMetadata
    stop: signals.Stop
    report: Report
    reuse: Reuse | None = None  # rows to reuse
    copies: Copies = NO_COPIES
    parts: Sequence[int] | None = None  # part numbers of this share; None: all

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.spent = Spent(self.options.workers or max(1, available_cores() // self.encoder.threads))
        self.done = self.failed = self.resumed = 0
        self.commits: dict[int, CommitRecord] = {}
        self.numbers = range(part_count(self.run)) if self.parts is None else self.parts
        self.total = sum(len(slice_of(self.run, number)) for number in self.numbers)
        self.processor = processor() if self.run.processor not in ("", processor()) else None  # if different

    def fill(self, engine: Engine | None = None) -> Summary:
        """Embed all parts that are not committed, here or with ``engine``, then write ``failures.csv``."""
        (engine or FeatureRun.embed)(self, self.look())
        return self.finish()

    def look(self) -> list[int]:
        """Find the committed parts; return the numbers of the others."""
        for name in FOLDERS if self.options.layout == "npy" else ():
            atomic.make_folder(self.out / name)
        self.copies.begin()
        for number in self.numbers:
            if commit := self.copies.held(self.out, self.run, number):
                self.add(number, commit)
        self.resumed = self.done
        self.say()
        return [number for number in self.numbers if number not in self.commits]

    def add(self, number: int, commit: CommitRecord) -> None:
        """Register a committed part."""
        self.commits[number] = commit
        self.done += commit.rows + len(commit.failures)
        self.failed += len(commit.failures)

    def embed(self, missing: Iterable[int]) -> None:
        """Embed these parts, and commit each when it is complete."""
        plans = ((number, self._plan(number)) for number in missing)
        ahead, here = itertools.tee(plans)
        flat = ([self.manifest.inputs[i].path for i in batch] for _, batches in ahead for batch in batches)
        with closing(embed_batches(self.encoder, flat, self.spent.workers, self._decoder, self.check)) as stream:
            for number, batches in here:
                self.check()
                numbers = slice_of(self.run, number)
                known = self.reuse.rows(numbers.start, numbers.stop) if self.reuse else {}
                outcomes: dict[int, Embedded | Failed] = dict(known)
                self.resumed += len(known)
                self._count(list(known.values()))
                for indices, batch in zip(batches, itertools.islice(stream, len(batches)), strict=True):
                    outcomes.update(zip(indices, batch.outcomes, strict=True))
                    self._count(batch.outcomes, batch)
                self._commit(number, outcomes)

    def finish(self) -> Summary:
        """Write ``failures.csv`` if all parts are committed: the last share does; simultaneous writers write the same bytes."""
        missing = self._look_at_others() if self.parts is not None else 0
        if not missing:
            commits = [self.commits[number] for number in range(part_count(self.run))]
            write_failures(self.out / META_FOLDER, [failure for commit in commits for failure in commit.failures])
            self.copies.finish()
        self._warn_of_processors()
        self.spent.wall = time.monotonic() - self.began
        return Summary(self.out, self.done - self.failed, self.failed, self.resumed, self.spent, missing)

    def _look_at_others(self) -> int:
        """Find the parts committed by others by their records; return the number of missing parts."""
        self.copies.gather()
        there = set(commit_numbers(self.out))
        missing = sum(number not in there for number in range(part_count(self.run)))
        for number in range(part_count(self.run)) if not missing else ():
            if number not in self.commits:
                self.commits[number] = check_record(self.out, self.run, number)
        return missing

    def _warn_of_processors(self) -> None:
        others = sorted({commit.processor for commit in self.commits.values() if commit.processor})
        if others:
            logger.warning(
                "%s was started on %r; parts of it were computed on %s: features may differ in the last bits",
                self.out, self.run.processor, ", ".join(map(repr, others)),
            )  # fmt: skip

    def _plan(self, number: int) -> list[list[int]]:
        """Batches of input numbers to embed for a part (numbers only, because plans are made far ahead)."""
        numbers = slice_of(self.run, number)
        missing = self.reuse.missing(numbers.start, numbers.stop) if self.reuse else list(numbers)
        return list(batched(missing, self.run.batch_size))

    def _commit(self, number: int, outcomes: dict[int, Embedded | Failed]) -> None:
        """Write a part, then its commit record."""
        began = time.monotonic()
        pairs = [(self.manifest.inputs[index], outcomes[index]) for index in sorted(outcomes)]
        rows = [(record, outcome) for record, outcome in pairs if isinstance(outcome, Embedded)]
        failures = tuple((record.name, outcome.reason) for record, outcome in pairs if isinstance(outcome, Failed))
        contents = encode_part(self.options.layout, rows, self.encoder.dim)
        files = dict(zip(files_of(self.run, number), contents, strict=True))
        for name, data in files.items():
            atomic.write_atomic(self.out / name, data)
        commit = CommitRecord.of(files, len(rows), failures, self.processor)
        atomic.write_atomic(commit_path(self.out, number), commit.to_json())
        self.copies.committed(self.out, number, commit)
        self.commits[number] = commit
        self.spent.write += time.monotonic() - began

    def _count(self, outcomes: Sequence[Embedded | Failed], batch: Batch | None = None) -> None:
        self.done += len(outcomes)
        self.failed += sum(isinstance(outcome, Failed) for outcome in outcomes)
        if batch:
            self.spent.decode += batch.decode
            self.spent.infer += batch.infer
        self.say()

    def say(self) -> None:
        """Report progress."""
        self.report(EmbedProgress(self.total, self.done, self.failed, self.resumed))

    def _decoder(self) -> ImageDecoder:
        return SubprocessDecoder(self.encoder.card.preprocess, self.options.decoding, self.options.limits)

    def check(self) -> None:
        """Raise InterruptedRun if a stop signal was received."""
        if self.stop.signum:
            raise InterruptedRun(
                self.stop.signum, f"interrupted; {self.out} keeps {self._kept()} inputs: run it again to continue"
            )

    def _kept(self) -> int:
        return sum(commit.rows + len(commit.failures) for commit in self.commits.values())
