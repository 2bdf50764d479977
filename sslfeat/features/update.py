"""Update of a features folder: embed new and modified images, keep unchanged rows, drop removed images.

``repair_folder`` recomputes missing or damaged parts.
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

Look = Callable[[FeaturesMetadata, FeaturesMetadata, ManifestDiff, int], None]  # old run, new run, changes, number of kept rows


def update_folder(
    encoder: Encoder,
    inputs: Sequence[ImageRecord],
    out: Path,
    options: Options | None = None,
    *,
    report: Report = lambda progress: None,
    look: Look = lambda kept, run, changes, held: None,
) -> tuple[Summary, ManifestDiff | None]:
    """Update the features folder ``out`` to ``inputs``; return the summary and the changes (None: a new folder).

    If the images differ, ``look`` is called before anything is written, and may raise to stop. The old features remain
    complete until the new ones are. Repeat an interrupted call to continue. Raises like ``embed_to_folder``.
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
        run = replace(run, processor=kept.processor)  # of the kept rows
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
    """Recompute missing or damaged parts from the same images with the same encoder and settings.

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
    """Load the encoder of the features folder ``out``: the given one, or a shipped one with its fingerprint.

    Raises FeaturesError if neither matches, EncoderFileError and ProviderError as in loading.
    """
    run = read_run(out)
    hints = [path_or_name] if path_or_name else []
    found = find_encoder(run.encoder.card.name, run.encoder.fingerprint, hints, bool(hints), FeaturesError)
    return as_recorded(found, Encoder(found, run.provider, run.threads), run.precision, out)


def _check(stop: signals.Stop, out: Path) -> None:
    if stop.signum:
        raise InterruptedRun(stop.signum, f"interrupted; {out} is unchanged: run it again to continue")


def _begin(new: Path, run: FeaturesMetadata, manifest: Manifest, files: dict[str, bytes]) -> None:
    """Create the new folder, or continue with an existing one of the same run."""
    atomic.make_folder(new)
    refuse_strangers(new)
    if (new / RUN_NAME).exists():
        if read_run(new) == run:
            return
        empty_folder(new)
    begin_folder(new, run, manifest, files)
