"""Kinds of arguments (features folder, index, images), and embedding of images where features are required."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sslfeat.cli.console import CALLED, note, progress
from sslfeat.cli.exits import BAD_INPUTS
from sslfeat.errors import FeaturesError, InputError, UsageError
from sslfeat.system.plurals import counted

if TYPE_CHECKING:
    from sslfeat.data.dataset import ImageRecord
    from sslfeat.evaluation.probing.labels import Labeling, LabelSource
    from sslfeat.features.given import Given
    from sslfeat.features.writer import EmbedProgress
    from sslfeat.inference.encoder import Encoder

CONFIG = "config.yaml"  # of a training run
MARKS = {  # identifying file by kind; tests compare with their packages, which are slow to import
    "index": "index.json", "features": "__sslfeat__/features.json", "probe": "probe.json", "clusters": "clusters.parquet",
    "target": "target.json", "run": CONFIG,
}  # fmt: skip


def kind_of(path: str | Path) -> str | None:
    """Kind of a folder written by sslfeat: ``features``, ``index``, ``probe``, ``clusters``, ``target`` or ``run``.

    ``encoder`` for an ONNX file, None for anything else, such as images.
    """
    from sslfeat.storage import staged

    folder = Path(path)
    if folder.suffix == ".onnx" and folder.is_file():
        return "encoder"
    if staged.is_marked(folder) and (folder / staged.UPDATE / MARKS["features"]).exists():  # being replaced by an update
        return "features"
    return next((kind for kind, mark in MARKS.items() if (folder / mark).is_file()), None)


def check_order(command: str, wanted: str, first: str | Path, others: Sequence[str]) -> None:
    """Raise UsageError with the correct command if the ``wanted`` kind is not the first argument but one of the others."""
    if kind_of(first) == wanted:
        return
    place = next((place for place, other in enumerate(others) if kind_of(other) == wanted), None)
    if place is not None:
        rest = [*others[:place], str(first), *others[place + 1 :]]
        line = shlex.join(["sslfeat", command, others[place], *rest])
        raise UsageError(f"{others[place]} is the {wanted}, which must come first", line)


def check_quoted(command: str, words: Sequence[str]) -> None:
    """Raise UsageError with the correct command if consecutive words are one unquoted path."""
    for start in range(len(words)):
        for end in range(start + 2, len(words) + 1):
            name = " ".join(words[start:end])
            if Path(name).exists() and not all(Path(word).exists() for word in words[start:end]):
                line = shlex.join(["sslfeat", command, *words[:start], name, *words[end:]])
                raise UsageError(f"{name!r} exists: quote paths with spaces", line)


def check_images(command: str, images: Sequence[str]) -> None:
    """Raise UsageError if an encoder, a features folder, an index or an unquoted path is given instead of images."""
    check_quoted(command, images)
    for spec in images:
        kind = kind_of(spec)
        if kind == "encoder":
            raise UsageError(f"{spec} is an encoder, not images", f"sslfeat {command} IMAGES --encoder {shlex.quote(spec)}")
        if kind in ("index", "features"):
            line = _meant(command, kind, spec)
            raise UsageError(f"{spec} is {'an' if kind == 'index' else 'a'} {kind} folder, not images", line)


def _meant(command: str, kind: str, spec: str) -> str:
    """Suggest a command for a features folder or index given to ``embed`` or ``index`` as images."""
    quoted = shlex.quote(spec)
    if kind == "features":  # already embedded
        return f"sslfeat index {quoted} --out INDEX"
    return f"sslfeat index IMAGES --out {quoted} --add" if command == "index" else "sslfeat embed IMAGES --out FEATURES"


@dataclass(frozen=True)
class Sought:
    """Existing features in ``folder``, or ``inputs`` to embed into it after all other arguments were checked."""

    source: Path
    folder: Path
    inputs: Sequence[ImageRecord] | None = None
    encoder: Encoder | None = None

    @property
    def paths(self) -> list[str]:
        """Paths of the images to embed; empty for existing features."""
        return [item.name for item in self.inputs or ()]

    def shape(self) -> tuple[int, int]:
        """Number of rows (at most, before embedding) and dimension. Raises FeaturesError."""
        if self.inputs is not None and self.encoder is not None:
            return len(self.inputs), self.encoder.dim
        from sslfeat.features.reader import FeaturesFolder

        opened = FeaturesFolder(self.folder)
        return opened.rows(), opened.dim

    def check_labels(self, labels: LabelSource) -> Labeling | None:
        """Labels of the images to embed; None for existing features. Raises InputError if there are none."""
        if self.inputs is None:
            return None
        return labels.find(self.paths, [item.label for item in self.inputs])

    def check_color(self, name: str) -> None:
        """Raise UsageError if the images to embed have no column ``name``."""
        from sslfeat.evaluation.color_scale import check_column

        if self.inputs is not None:
            said = dict.fromkeys(column for item in self.inputs for column in item.metadata or ())
            check_column(name, ["path", "sha256", "width", "height", *said], self.source)

    def make(self) -> int:
        """Embed the images, or update their features; returns the number of failures."""
        if self.inputs is None or self.encoder is None:
            return 0
        from sslfeat.features.given import Given
        from sslfeat.features.update import update_folder
        from sslfeat.features.writer import Options

        line = shlex.join(["sslfeat", "embed", str(self.source), "--out", str(self.folder), "--encoder"])
        note(f"{self.source} contains images: embedding them into {self.folder} first (with another encoder: {line} NAME)")
        encoder, given = self.encoder, Given.of([str(self.source)])
        note(f"{counted(len(self.inputs), 'image')}, encoder {encoder.card.name} ({encoder.dim}-d), provider {encoder.provider}")
        with shown(len(self.inputs)) as report:
            summary, _ = update_folder(encoder, self.inputs, self.folder, Options(given=given), report=report)
        if summary.failed:
            note(f"{counted(summary.failed, 'image')} could not be read: {summary.failures}")
        return summary.failed


def sought(*sources: Path) -> list[Sought]:
    """Find features folders, or images to embed, for ``sources``. Nothing is written.

    Features of ``photos/`` are kept in ``photos-features``, and updated the next time. Raises InputError, also for two
    image folders of the same name, whose features would share a folder.
    """
    found = [_sought(source) for source in sources]
    made = [item for item in found if item.inputs is not None]
    for number, item in enumerate(made):
        other = next((other for other in made[:number] if other.folder == item.folder and not _same(other, item)), None)
        if other is not None:
            line = shlex.join(["sslfeat", "embed", str(item.source), "--out", f"{item.folder}-2"])
            raise InputError(f"{other.source} and {item.source} would both be embedded into {item.folder}", line)
    return found


def _same(one: Sought, other: Sought) -> bool:
    return one.source.resolve() == other.source.resolve()


def _sought(source: Path) -> Sought:
    kind = kind_of(source)
    if kind == "features":
        return Sought(source, source)
    if kind is not None:
        raise InputError(f"{source} is neither a features folder nor images: its kind is {kind!r}", _embedded(kind, source))
    from sslfeat.data.dataset import find_inputs

    try:
        inputs = find_inputs([str(source)], note=note)
    except InputError as error:
        raise InputError(f"{source} is not a features folder, and cannot be read as images: {error}") from error
    out = Path(f"{source.resolve().name}-features")
    return Sought(source, out, inputs, _encoder_of(out))


def _encoder_of(out: Path) -> Encoder:
    """Encoder of the features folder ``out``, or the default for a new one. Raises InputError."""
    from sslfeat.features.metadata import RUN_NAME
    from sslfeat.features.update import load_encoder
    from sslfeat.inference.encoder import Encoder
    from sslfeat.inference.registry import DEFAULT

    try:
        return load_encoder(out, None) if (out / RUN_NAME).is_file() else Encoder.load(DEFAULT)
    except FeaturesError as error:
        raise InputError(f"{out} exists, but its encoder is not a shipped one", f"give {out} instead of the images") from error


def features_folder(source: Path) -> tuple[Path, int]:
    """Return the features folder of ``source``, embedding it first if it contains images, and the number of failed images.

    Raises InputError.
    """
    (found,) = sought(source)
    return found.folder, found.make()


def _embedded(kind: str, source: Path) -> str:
    """Command that computes features with the given run or encoder; empty for other kinds."""
    encoder = {"run": f"{source.resolve().name}.onnx", "encoder": str(source)}.get(kind)
    if encoder is None:
        return ""
    made = shlex.join(["sslfeat", "export", str(source), "--out", encoder]) + ", then " if kind == "run" else ""
    return f"{made}sslfeat embed IMAGES --encoder {shlex.quote(encoder)} --out FEATURES"


def given_of(ctx: typer.Context, images: Sequence[str]) -> Given | None:
    """Arguments of the command that determine the features; None if the command cannot be repeated."""
    from sslfeat.features.given import OPTIONS, Given

    options = []
    for parameter in ctx.command.params:
        name = next((name for name in parameter.opts if name in OPTIONS), None)
        source = ctx.get_parameter_source(str(parameter.name))
        if name and source is not None and source.name != "DEFAULT":
            value = ctx.params[str(parameter.name)]
            options += [
                word
                for one in (value if isinstance(value, list | tuple) else [value])
                for word in (name, CALLED.get(str(one), str(one)))
            ]
    return Given.of(images, options)


@contextmanager
def shown(total: int) -> Iterator[Callable[[EmbedProgress], None]]:
    """Progress of embedding, with images per second."""
    start = time.monotonic()
    with progress(total, "embedded") as show:

        def report(now: EmbedProgress) -> None:
            rate = (now.done - now.resumed) / max(time.monotonic() - start, 1e-9)
            show(total * now.done / max(now.total, 1), f"{now.done}/{now.total}  {rate:.0f} images/s  {now.failed} failed")

        yield report


def end_with(failed: int) -> None:
    """Exit with the code for unusable inputs, if any."""
    if failed:
        raise typer.Exit(BAD_INPUTS)
