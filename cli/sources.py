"""What an argument is: a features folder, an index, images; and features of images, where features are wanted."""

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
MARKS = {  # by kind a file that has it; a test holds them to their packages, which take long to import
    "index": "index.json", "features": "__sslfeat__/features.json", "probe": "probe.json", "clusters": "clusters.parquet",
    "target": "target.json", "run": CONFIG,
}  # fmt: skip


def kind_of(path: str | Path) -> str | None:
    """What sslfeat made here, by its mark: ``features``, ``index``, ``probe``, ``clusters``, ``target`` or ``run``.

    ``encoder`` for an ONNX file, None for anything else, such as images.
    """
    from sslfeat.storage import staged

    folder = Path(path)
    if folder.suffix == ".onnx" and folder.is_file():
        return "encoder"
    if staged.is_marked(folder) and (folder / staged.UPDATE / MARKS["features"]).exists():  # being exchanged for an updated one
        return "features"
    return next((kind for kind, mark in MARKS.items() if (folder / mark).is_file()), None)


def check_order(command: str, wanted: str, first: str | Path, others: Sequence[str]) -> None:
    """Raises UsageError, with the line that was meant, if ``wanted`` is not the first argument but one of the others."""
    if kind_of(first) == wanted:
        return
    place = next((place for place, other in enumerate(others) if kind_of(other) == wanted), None)
    if place is not None:
        rest = [*others[:place], str(first), *others[place + 1 :]]
        line = shlex.join(["sslfeat", command, others[place], *rest])
        raise UsageError(f"{others[place]} is the {wanted}, which comes first", line)


def check_quoted(command: str, words: Sequence[str]) -> None:
    """Raises UsageError, with the line that was meant, if some of the words are one name that was not quoted."""
    for start in range(len(words)):
        for end in range(start + 2, len(words) + 1):
            name = " ".join(words[start:end])
            if Path(name).exists() and not all(Path(word).exists() for word in words[start:end]):
                line = shlex.join(["sslfeat", command, *words[:start], name, *words[end:]])
                raise UsageError(f"{name!r} exists: a name with spaces is quoted", line)


def check_images(command: str, images: Sequence[str]) -> None:
    """Raises UsageError if an encoder or what a command made stands where images are wanted, or a name was not quoted."""
    check_quoted(command, images)
    for spec in images:
        kind = kind_of(spec)
        if kind == "encoder":
            raise UsageError(f"{spec} is an encoder, not images", f"sslfeat {command} IMAGES --encoder {shlex.quote(spec)}")
        if kind in ("index", "features"):
            line = _meant(command, kind, spec)
            raise UsageError(f"{spec} is {'an' if kind == 'index' else 'a'} {kind} folder, not images", line)


def _meant(command: str, kind: str, spec: str) -> str:
    """The line that somebody wanted who gave such a folder to ``embed`` or ``index``."""
    quoted = shlex.quote(spec)
    if kind == "features":  # it is embedded already
        return f"sslfeat index {quoted} --out INDEX"
    return f"sslfeat index IMAGES --out {quoted} --add" if command == "index" else "sslfeat embed IMAGES --out FEATURES"


@dataclass(frozen=True)
class Sought:
    """Features that are in ``folder``, or will be, of ``inputs``, by ``encoder``: so that all else is checked before that."""

    source: Path
    folder: Path
    inputs: Sequence[ImageRecord] | None = None
    encoder: Encoder | None = None

    @property
    def paths(self) -> list[str]:
        """Of the images to be embedded; none if they are already."""
        return [item.name for item in self.inputs or ()]

    def shape(self) -> tuple[int, int]:
        """How many rows of how many units there are, or will be at most. Raises FeaturesError."""
        if self.inputs is not None and self.encoder is not None:
            return len(self.inputs), self.encoder.dim
        from sslfeat.features.reader import FeaturesFolder

        opened = FeaturesFolder(self.folder)
        return opened.rows(), opened.dim

    def check_labels(self, labels: LabelSource) -> Labeling | None:
        """The labels of the images to be embedded, None if they are already. Raises InputError if they cannot be had."""
        if self.inputs is None:
            return None
        return labels.find(self.paths, [item.label for item in self.inputs])

    def check_color(self, name: str) -> None:
        """Raise UsageError if the images to be embedded would have no column ``name``."""
        from sslfeat.evaluation.color_scale import check_column

        if self.inputs is not None:
            said = dict.fromkeys(column for item in self.inputs for column in item.metadata or ())
            check_column(name, ["path", "sha256", "width", "height", *said], self.source)

    def make(self) -> int:
        """Embed the images, if they are not yet, or bring the folder up to date; how many failed."""
        if self.inputs is None or self.encoder is None:
            return 0
        from sslfeat.features.given import Given
        from sslfeat.features.update import update_folder
        from sslfeat.features.writer import Options

        line = shlex.join(["sslfeat", "embed", str(self.source), "--out", str(self.folder), "--encoder"])
        note(f"{self.source} holds images: they are embedded first, into {self.folder} (by another encoder: {line} NAME)")
        encoder, given = self.encoder, Given.of([str(self.source)])
        note(f"{counted(len(self.inputs), 'image')}, encoder {encoder.card.name} ({encoder.dim}-d), provider {encoder.provider}")
        with shown(len(self.inputs)) as report:
            summary, _ = update_folder(encoder, self.inputs, self.folder, Options(given=given), report=report)
        if summary.failed:
            note(f"{counted(summary.failed, 'image')} could not be read: {summary.failures}")
        return summary.failed


def sought(*sources: Path) -> list[Sought]:
    """What each of ``sources`` is: a features folder, or images to be embedded. Nothing is written.

    The features of ``photos/`` are kept in ``photos-features``, and brought up to date the next time. Raises InputError,
    for two folders of images of one name, too: their features would go into one folder.
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
        raise InputError(f"{source} is of another kind ({kind}), not a features folder or images", _embedded(kind, source))
    from sslfeat.data.dataset import find_inputs

    try:
        inputs = find_inputs([str(source)], note=note)
    except InputError as error:
        raise InputError(f"{source} is not a features folder, and as images: {error}") from error
    out = Path(f"{source.resolve().name}-features")
    return Sought(source, out, inputs, _encoder_of(out))


def _encoder_of(out: Path) -> Encoder:
    """The encoder that made the features folder ``out``; where there is none, the one to make it. Raises InputError."""
    from sslfeat.features.metadata import RUN_NAME
    from sslfeat.features.update import load_encoder
    from sslfeat.inference.encoder import Encoder
    from sslfeat.inference.registry import DEFAULT

    try:
        return load_encoder(out, None) if (out / RUN_NAME).is_file() else Encoder.load(DEFAULT)
    except FeaturesError as error:
        raise InputError(
            f"{out} is there, made by an encoder that is not in the box", f"give {out} instead of the images"
        ) from error


def features_folder(source: Path) -> tuple[Path, int]:
    """The features folder that ``source`` is, and 0; or that of images, embedded now, and how many of them failed.

    Raises InputError.
    """
    (found,) = sought(source)
    return found.folder, found.make()


def _embedded(kind: str, source: Path) -> str:
    """The line that makes features by what was given in their place; empty where it is neither a run nor an encoder."""
    encoder = {"run": f"{source.resolve().name}.onnx", "encoder": str(source)}.get(kind)
    if encoder is None:
        return ""
    made = shlex.join(["sslfeat", "export", str(source), "--out", encoder]) + ", then " if kind == "run" else ""
    return f"{made}sslfeat embed IMAGES --encoder {shlex.quote(encoder)} --out FEATURES"


def given_of(ctx: typer.Context, images: Sequence[str]) -> Given | None:
    """What the command was given that decides features, as it was given; None for what cannot be given again."""
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
    """A bar of images embedded, with their rate."""
    start = time.monotonic()
    with progress(total, "embedded") as show:

        def report(now: EmbedProgress) -> None:
            rate = (now.done - now.resumed) / max(time.monotonic() - start, 1e-9)
            show(total * now.done / max(now.total, 1), f"{now.done}/{now.total}  {rate:.0f} images/s  {now.failed} failed")

        yield report


def end_with(failed: int) -> None:
    """Leave with the exit code that says that some inputs could not be used."""
    if failed:
        raise typer.Exit(BAD_INPUTS)
