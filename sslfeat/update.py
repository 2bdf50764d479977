"""Features of pictures that changed: what is new or modified is embedded, the rest taken over, what is gone left out.

``repair_folder`` is the same for a folder whose pictures did not change, but whose files did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sslfeat import signals, store
from sslfeat.changes import Changes
from sslfeat.embed import Job, Options, Report, Summary, embed_to_folder
from sslfeat.encoder import Encoder
from sslfeat.errors import FeaturesError
from sslfeat.features import RUN_NAME, files_of, part_count, read_commit, read_run
from sslfeat.folder import begin_folder, check_settings, empty_folder
from sslfeat.inputs import Input
from sslfeat.layouts import read_columns, read_embeddings
from sslfeat.outcomes import Embedded
from sslfeat.precision import as_recorded
from sslfeat.preprocess import Decoding
from sslfeat.stock import MISSING, Stock
from sslfeat.swap import UPDATE_NAME, finish_swap, swap
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
        before = Stock.load(out, kept["inputs"]["sha256"])
        changes = Changes.between(before, stock)
        if kept["inputs"]["sha256"] == run["inputs"]["sha256"]:
            return Job(encoder, stock, out, options, run, stop, report).fill(), changes
        new = out / UPDATE_NAME
        _begin(new, run, stock, encoder.files)
        summary = Job(encoder, stock, new, options, run, stop, report, Reuse(out, kept, before, stock)).fill()
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
        stock = Stock.load(out, run["inputs"]["sha256"])
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


class Reuse:
    """Rows of an old folder for the inputs that did not change, given out part by part of the new one.

    Both lists are sorted, so the old parts are read once, in order, and one at a time.
    """

    def __init__(self, folder: Path, run: dict[str, Any], before: Stock, now: Stock) -> None:
        self._rows = _old_rows(folder, run, before)
        self._numbers = now.unchanged(before)
        self._current: tuple[int, Embedded] | None = next(self._rows, None)

    def __call__(self, start: int, stop: int) -> dict[int, Embedded]:
        """Embeddings of the unchanged among inputs ``start`` to ``stop``, by their new numbers."""
        known: dict[int, Embedded] = {}
        for index in range(start, stop):
            number = int(self._numbers[index])
            if number == MISSING:
                continue
            while self._current is not None and self._current[0] < number:
                self._current = next(self._rows, None)
            if self._current is not None and self._current[0] == number:
                known[index] = self._current[1]
        return known


def _old_rows(folder: Path, run: dict[str, Any], before: Stock) -> Iterator[tuple[int, Embedded]]:
    """Number of the input and its row, for every row of every part that is intact; failures are left out."""
    size, dim = int(run["part_size"]), run["encoder"]["card"]["dim"]
    for part in range(part_count(run)):
        files = files_of(run, part)
        commit = read_commit(folder, part, files)
        if commit is None:
            continue
        columns = read_columns(folder, files).to_pydict()
        embeddings = read_embeddings(folder, files, dim)
        row = 0
        for number in range(part * size, min((part + 1) * size, len(before.inputs))):
            if row < commit.rows and columns["path"][row] == before.inputs[number].name:
                facts = (columns[name][row] for name in ("sha256", "width", "height"))
                yield number, Embedded(embeddings[row], *facts)
                row += 1


def _begin(new: Path, run: dict[str, Any], stock: Stock, files: dict[str, bytes]) -> None:
    """Start the new folder, or go on with it if it was begun for the same pictures."""
    store.make_folder(new)
    if (new / RUN_NAME).exists():
        if read_run(new) == run:
            return
        empty_folder(new)
    begin_folder(new, run, stock, files)
