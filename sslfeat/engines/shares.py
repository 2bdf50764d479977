"""Shares: independent processes that embed parts of the same features folder.

They communicate only through the folder. Part ``n`` belongs to share ``n mod N + 1``, so that each share gets parts from the
whole range of inputs. Shares hold a shared lock on the folder, and the last one writes ``failures.csv``. Where locks do not
work (some network file systems), duplicate shares, or two last shares, write identical bytes. On an object store each share
has its own claim instead, and fills a local folder, which is uploaded by ``copies``.
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
    """Share ``number`` of ``count`` of the parts, counted from 1."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"share {self.number}/{self.count}: the first number must be from 1 to the second")

    @classmethod
    def parse(cls, text: str) -> Share:
        """Parse ``K/N``. Raises UsageError."""
        found = WRITTEN.fullmatch(text.strip())
        if not found:
            raise UsageError(f"parts {text!r}: expected K/N, share K of N, for example 3/16")
        return cls(int(found[1]), int(found[2]))

    @property
    def name(self) -> str:
        """Name in claims."""
        return f"{self.number}-of-{self.count}"

    def of(self, parts: int) -> range:
        """Part numbers of this share, of ``parts`` in total."""
        return range(self.number - 1, parts, self.count)

    def check_precision(self, asked: str, out: Path) -> None:
        """Raise FeaturesError if the precision is not decided yet, which is done by the first share for all."""
        if asked != "fp32" and self.number > 1 and not (out / RUN_NAME).exists():
            raise FeaturesError(
                f"{out} does not exist yet, and share 1/{self.count} decides the result of --precision {asked}: start it first"
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
    """Embed one share of ``inputs`` (all inputs, sorted, from ``find_inputs``; the same for all shares) into ``out``.

    Repeat the call to resume after an interruption. Raises FeaturesError if other shares have different images or settings, if
    a process that is not a share is writing, or if the system has no shared locks; InterruptedRun as ``embed_to_folder``.
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
