"""Features of pictures that changed: what is new or modified is embedded, the rest taken over, what is gone left out.

``repair_folder`` is the same for a folder whose pictures did not change, but whose files did.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sslfeat import signals, store
from sslfeat.changes import Changes
from sslfeat.embed import Job, Options, Report, Summary, embed_to_folder
from sslfeat.encoder import Encoder
from sslfeat.errors import FeaturesError, InterruptedRun
from sslfeat.folder import begin_folder, check_settings, empty_folder, refuse_strangers
from sslfeat.inputs import Input
from sslfeat.precision import as_recorded
from sslfeat.preprocess import Decoding
from sslfeat.reuse import Reuse
from sslfeat.run_record import RUN_NAME, UPDATE_NAME, load_stock, read_run
from sslfeat.stock import Stock
from sslfeat.swap import finish_swap, swap, update_place
from sslfeat.zoo import find_encoder


def update_folder(
    encoder: Encoder,
    inputs: Sequence[Input],
    out: Path,
    options: Options | None = None,
    *,
    report: Report = lambda progress: None,
) -> tuple[Summary, Changes | None]:
    """Bring the features folder ``out`` up to date with ``inputs``; returns what had changed (None: a new folder).

    The old features stay whole until the new ones are. Killed or interrupted, the same call goes on. Raises as
    ``embed_to_folder`` does.
    """
    options = options or Options()
    if not (out / RUN_NAME).exists() and not (out / UPDATE_NAME).exists():
        return embed_to_folder(encoder, inputs, out, options, report=report), None
    with store.exclusive(out, FeaturesError), signals.deferred() as stop:
        finish_swap(out)
        store.remove_temporaries(out)
        kept = read_run(out)
        stock = Stock.take(inputs)
        run = options.describe(encoder, stock)
        check_settings(kept, run, out)
        before = load_stock(out, kept)
        if kept["inputs"] == run["inputs"]:
            changes = Changes.between(before, stock)
            return Job(encoder, stock, out, options, run, stop, report).fill(), changes
        reuse = Reuse(out, kept, before, stock, lambda: _check(stop, out))
        changes = Changes.between(before, stock, reuse.same)
        new = update_place(out)
        _begin(new, run, stock, encoder.files)
        summary = Job(encoder, stock, new, options, run, stop, report, reuse).fill()
        swap(out)
        return Summary(out, summary.embedded, summary.failed, summary.resumed, summary.spent), changes


def repair_folder(encoder: Encoder, out: Path, *, report: Report = lambda progress: None) -> Summary:
    """Make the parts again that are missing or damaged, from the same pictures by the same encoder and settings.

    Raises FeaturesError if the encoder or a setting differs from those of ``run.json``, or that file is damaged.
    """
    with store.exclusive(out, FeaturesError), signals.deferred() as stop:
        finish_swap(out)
        store.remove_temporaries(out)
        run = read_run(out)
        stock = load_stock(out, run)
        options = Options(run["batch_size"], run["part_size"], None, run["layout"], Decoding(**run["decode"]))
        check_settings(run, options.describe(encoder, stock), out)
        return Job(encoder, stock, out, options, run, stop, report).fill()


def load_encoder(out: Path, path_or_name: str | None) -> Encoder:
    """The encoder that made the features folder ``out``: given, or the one in the box with its fingerprint.

    Raises FeaturesError if it is neither, EncoderFileError and ProviderError as loading does.
    """
    run = read_run(out)
    made_by = run["encoder"]
    hints = [path_or_name] if path_or_name else []
    found = find_encoder(made_by["card"]["name"], made_by["fingerprint"], hints, bool(hints), FeaturesError)
    return as_recorded(found, Encoder(found, run["provider"], run["threads"]), run["precision"], out)


def _check(stop: signals.Stop, out: Path) -> None:
    if stop.signum:
        raise InterruptedRun(stop.signum, f"interrupted; {out} is as it was: run it again to update it")


def _begin(new: Path, run: dict[str, Any], stock: Stock, files: dict[str, bytes]) -> None:
    """Start the new folder, or go on with it if it was begun for the same pictures."""
    store.make_folder(new)
    refuse_strangers(new)
    if (new / RUN_NAME).exists():
        if read_run(new) == run:
            return
        empty_folder(new)
    begin_folder(new, run, stock, files)
