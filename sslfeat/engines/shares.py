"""Shares: many processes, each started by whatever starts processes, embed parts of one features folder.

Nothing passes between them but the folder. Part ``n`` of it belongs to share ``n mod N + 1``, so that every share gets parts
from all along the inputs. Shares hold the folder's lock together, whoever comes last writes ``failures.csv``, and where a
lock does not reach (some network file systems) the same share twice, or two that both come last, write the same bytes.
On an object store each share has a claim of its own instead, and fills a local folder from which ``copies`` go there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sslfeat.data.dataset import ImageRecord
from sslfeat.data.manifest import Manifest
from sslfeat.errors import FeaturesError, UsageError
from sslfeat.features.copies import NO_COPIES, Copies
from sslfeat.features.files import finish_exchange
from sslfeat.features.folder import join_folder, ready_folder
from sslfeat.features.metadata import RUN_NAME, part_count
from sslfeat.features.writer import FeatureRun, Options, Report, Summary
from sslfeat.inference.encoder import Encoder
from sslfeat.storage import atomic
from sslfeat.system import signals

WRITTEN = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)


@dataclass(frozen=True)
class Share:
    """The ``number``-th of ``count`` shares of the parts, counted from 1."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"share {self.number}/{self.count}: the first number must be from 1 to the second")

    @classmethod
    def parse(cls, text: str) -> Share:
        """``K/N``. Raises UsageError."""
        found = WRITTEN.fullmatch(text.strip())
        if not found:
            raise UsageError(f"parts {text!r}: give K/N, the K-th of N shares, such as 3/16")
        return cls(int(found[1]), int(found[2]))

    @property
    def name(self) -> str:
        """As claims have it."""
        return f"{self.number}-of-{self.count}"

    def of(self, parts: int) -> range:
        """The numbers, of ``parts`` that there are, that are this share's."""
        return range(self.number - 1, parts, self.count)

    def check_precision(self, asked: str, out: Path) -> None:
        """Raise FeaturesError if each share would find out for itself what precision its images allow: the first does."""
        if asked != "fp32" and self.number > 1 and not (out / RUN_NAME).exists():
            raise FeaturesError(
                f"{out} is not begun, and share 1/{self.count} settles what --precision {asked} comes to: start that one first"
            )


def embed_share(
    encoder: Encoder,
    inputs: Sequence[ImageRecord],
    out: Path,
    options: Options | None = None,
    *,
    share: Share,
    report: Report = lambda progress: None,
    copies: Copies = NO_COPIES,
) -> Summary:
    """Embed one share of ``inputs`` (sorted, from ``find_inputs``: all of them, the same in every share) into ``out``.

    Killed or interrupted, the same call goes on. Raises FeaturesError if other shares were given other images or settings,
    if a process that is no share is writing, or if the system has no locks that can be shared; InterruptedRun as
    ``embed_to_folder`` does.
    """
    options = options or Options()
    manifest = Manifest.take(inputs)
    run = options.describe(encoder, manifest)

    def begin() -> None:
        finish_exchange(out)
        ready_folder(out, run, manifest, encoder.files)
        while not copies.agreed():
            join_folder(out, run, manifest, copies.complete)

    with atomic.shared(out, FeaturesError, begin), signals.deferred() as stop:
        kept, listed = join_folder(out, run, manifest, copies.complete)
        parts = share.of(part_count(kept))
        return FeatureRun(encoder, listed, out, options, kept, stop, report, copies=copies, parts=parts).fill()
