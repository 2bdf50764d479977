"""Features of images that changed: what is new or modified is embedded, the rest taken over, what is gone left out.

``repair_folder`` is the same for a folder whose images did not change, but whose files did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from sslfeat.data.dataset import ImageRecord
from sslfeat.data.manifest import Manifest
from sslfeat.data.manifest_diff import ManifestDiff
from sslfeat.errors import FeaturesError, InterruptedRun
from sslfeat.features.auto_precision import as_recorded
from sslfeat.features.files import exchange, finish_exchange
from sslfeat.features.folder import begin_folder, check_settings, empty_folder, refuse_strangers
from sslfeat.features.metadata import RUN_NAME, FeaturesMetadata, load_manifest, read_run
from sslfeat.features.reuse import Reuse
from sslfeat.features.writer import FeatureRun, Options, Report, Summary, embed_to_folder
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.registry import find_encoder
from sslfeat.storage import atomic, staged
from sslfeat.system import signals

Look = Callable[[FeaturesMetadata, FeaturesMetadata, ManifestDiff, int], None]  # before, now, what changed, images taken over


def update_folder(
    encoder: Encoder,
    inputs: Sequence[ImageRecord],
    out: Path,
    options: Options | None = None,
    *,
    report: Report = lambda progress: None,
    look: Look = lambda kept, run, changes, held: None,
) -> tuple[Summary, ManifestDiff | None]:
    """Bring the features folder ``out`` up to date with ``inputs``; returns what had changed (None: a new folder).

    If they are other images, ``look`` is told before anything is written, and may raise to stop.
    The old features stay whole until the new ones are. Killed or interrupted, the same call goes on. Raises as
    ``embed_to_folder`` does.
    """
    options = options or Options()
    if not (out / RUN_NAME).exists() and not (out / staged.UPDATE).exists():
        return embed_to_folder(encoder, inputs, out, options, report=report), None
    with atomic.exclusive(out, FeaturesError), signals.deferred() as stop:
        finish_exchange(out)
        atomic.remove_temporaries(out)
        kept = read_run(out)
        manifest = Manifest.take(inputs)
        run = options.describe(encoder, manifest)
        check_settings(kept, run, out)
        run = replace(run, processor=kept.processor)  # which made the rows that stay
        before = load_manifest(out, kept)
        if kept.inputs == run.inputs:
            changes = ManifestDiff.between(before, manifest)
            return FeatureRun(encoder, manifest, out, options, run, stop, report).fill(), changes
        reuse = Reuse(out, kept, before, manifest, lambda: _check(stop, out))
        changes = ManifestDiff.between(before, manifest, reuse.same)
        look(kept, run, changes, reuse.held)
        new = staged.place(out, FeaturesError)
        _begin(new, run, manifest, encoder.files)
        summary = FeatureRun(encoder, manifest, new, options, run, stop, report, reuse).fill()
        exchange(out)
        return Summary(out, summary.embedded, summary.failed, summary.resumed, summary.spent), changes


def repair_folder(encoder: Encoder, out: Path, *, report: Report = lambda progress: None) -> Summary:
    """Make the parts again that are missing or damaged, from the same images by the same encoder and settings.

    Raises FeaturesError if the encoder or a setting differs from those of ``features.json``, or that file is damaged.
    """
    with atomic.exclusive(out, FeaturesError), signals.deferred() as stop:
        finish_exchange(out)
        atomic.remove_temporaries(out)
        run = read_run(out)
        manifest = load_manifest(out, run)
        options = Options(run.batch_size, run.part_size, None, run.layout, run.decode)
        check_settings(run, options.describe(encoder, manifest), out)
        return FeatureRun(encoder, manifest, out, options, run, stop, report).fill()


def load_encoder(out: Path, path_or_name: str | None) -> Encoder:
    """The encoder that made the features folder ``out``: given, or the one in the box with its fingerprint.

    Raises FeaturesError if it is neither, EncoderFileError and ProviderError as loading does.
    """
    run = read_run(out)
    hints = [path_or_name] if path_or_name else []
    found = find_encoder(run.encoder.card.name, run.encoder.fingerprint, hints, bool(hints), FeaturesError)
    return as_recorded(found, Encoder(found, run.provider, run.threads), run.precision, out)


def _check(stop: signals.Stop, out: Path) -> None:
    if stop.signum:
        raise InterruptedRun(stop.signum, f"interrupted; {out} is as it was: run it again to update it")


def _begin(new: Path, run: FeaturesMetadata, manifest: Manifest, files: dict[str, bytes]) -> None:
    """Start the new folder, or go on with it if it was begun for the same images."""
    atomic.make_folder(new)
    refuse_strangers(new)
    if (new / RUN_NAME).exists():
        if read_run(new) == run:
            return
        empty_folder(new)
    begin_folder(new, run, manifest, files)
