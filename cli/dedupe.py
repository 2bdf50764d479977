"""``sslfeat dedupe``: find duplicates, and move them to another folder."""

from __future__ import annotations

import csv
import dataclasses
import io
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslfeat.cli.console import check_files, note, progress, say, say_json
from sslfeat.cli.options import Json, Overwrite
from sslfeat.cli.sources import end_with, kind_of, sought
from sslfeat.errors import UsageError
from sslfeat.system.near import missing
from sslfeat.system.plurals import counted

if TYPE_CHECKING:
    from sslfeat.dedup.moves import Moved
    from sslfeat.dedup.near_duplicates import Duplicates

SHOWN = 20  # groups in the table
ENDINGS, GROUPS = (".csv", ".html", ".json"), Path("duplicates.json")


def dedupe(
    source: Annotated[
        Path | None, typer.Argument(metavar="FEATURES", help="features folder, images to embed first, or groups (.json)")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="minimum cosine of compared pairs; default: automatic")] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="output: .json: groups, accepted instead of FEATURES; .csv: one line per image; .html: a page; "
            "default: duplicates.json; repeatable"
        ),
    ] = None,
    apply_to: Annotated[Path | None, typer.Option("--apply", help="move all images but the kept ones to this folder")] = None,
    scenes: Annotated[bool, typer.Option("--scenes", help="with --apply: also move other shots of the same scene")] = False,
    decided: Annotated[
        Path | None, typer.Option(help="instead of features: groups reviewed on the page of 'sslfeat serve'")
    ] = None,
    undo_from: Annotated[Path | None, typer.Option("--undo", help="move images back that --apply moved to this folder")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="move without confirmation")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Find groups of duplicate images, each with one image to keep. Copies can be moved, and are never deleted."""
    from sslfeat.dedup.aside import check_aside

    if undo_from is not None:
        if source is not None or apply_to is not None:
            raise UsageError("--undo cannot be combined with features or --apply")
        _undo(undo_from, yes, as_json)
        return
    if (source is None) == (decided is None):
        raise UsageError("give a features folder, groups (.json), --decided GROUPS, or --undo FOLDER")
    groups = decided or (source if source and source.suffix == ".json" else None)
    if groups is not None and not groups.exists():
        raise missing(groups, "'sslfeat dedupe FEATURES --out GROUPS.json' writes groups")
    if apply_to is not None and not yes and (sys.stdin is None or not sys.stdin.isatty()):
        raise UsageError("--apply asks for confirmation, which needs a terminal: add --yes")
    files = out if out is not None else [] if groups or as_json or apply_to else [GROUPS]
    check_files(overwrite, files, ENDINGS)
    if groups is not None:
        found, features, failed = *_read(groups, threshold, by_hand=decided is not None), 0
        if apply_to is not None:
            check_aside(apply_to, _images(features, found), _given(features))
    else:
        features, failed = _features(source or Path(), threshold, apply_to)
        found = _find(features, threshold)
    failures = _not_moved(found.failures, apply_to)
    for path, why in failures:
        note(f"{path}: could not be compared: {why}")
    for file in files:
        _write(file, found)
    if as_json and apply_to is None:
        _say_json(found, features)
    elif not as_json:
        _table(found, SHOWN if groups is None or apply_to is None else 0)
    if apply_to is not None:
        _apply(found, features, apply_to, scenes or found.by_hand, yes, as_json)
    elif not as_json and _moving(found, found.by_hand):
        _say_how_to_apply(found, features, [groups] if groups else files)
    end_with(failed or len(failures))


def _undo(folder: Path, yes: bool, as_json: bool) -> None:
    from sslfeat.dedup.moves import undo

    result = undo(folder, trusted=yes)
    _say_moved(result, "moved back", as_json)
    end_with(len(result.failures))


def _features(source: Path, threshold: float | None, apply_to: Path | None) -> tuple[Path, int]:
    """Features folder of ``source``, embedded if needed after all checks; and the number of failed images."""
    from sslfeat.dedup.aside import check_aside
    from sslfeat.dedup.near_duplicates import check_threshold

    (wanted,) = sought(source)
    check_threshold(threshold)
    if apply_to is not None:
        if wanted.inputs is None:
            check_aside(apply_to, _images(wanted.folder, None), _given(wanted.folder))
        else:
            check_aside(apply_to, [item.path for item in wanted.inputs], [str(source)])
    return wanted.folder, wanted.make()


def _find(features: Path, threshold: float | None) -> Duplicates:
    from sslfeat.dedup.near_duplicates import find_duplicates

    with progress(1.0, "of this step") as show:
        return find_duplicates(
            features, threshold, lambda stage, done, total: show(done / max(1, total), f"{stage} {done}/{total}")
        )


def _read(file: Path, threshold: float | None, by_hand: bool) -> tuple[Duplicates, Path | None]:
    """Groups from a file, and their features folder, if it exists."""
    from sslfeat.dedup.decisions import read_duplicates
    from sslfeat.features.metadata import read_run

    if threshold is not None:
        raise UsageError("--threshold applies to a features folder, not to existing groups")
    found = read_duplicates(file)
    if by_hand and not found.by_hand:
        raise UsageError(f"{file} contains no reviewed groups", shlex.join(["sslfeat", "dedupe", str(file), "--apply", "FOLDER"]))
    features = Path(found.features) if found.features and kind_of(found.features) == "features" else None
    if features is not None and read_run(features).inputs.sha256 != found.inputs:
        note(f"{features} was updated after {file} was written: new images are not in any group")
    return found, features


def _images(features: Path | None, found: Duplicates | None) -> Iterable[bytes]:
    """Paths of all compared images, or, without features, of the images of the groups."""
    from sslfeat.data.names import possible_paths
    from sslfeat.features.metadata import load_manifest, read_run

    if features is not None:
        return (record.path for record in load_manifest(features, read_run(features)).inputs)
    copies = [copy for group in (found.groups if found else ()) for copy in (group.kept, *group.copies)]
    return (path for copy in copies for path in possible_paths(copy.path))


def _given(features: Path | None) -> tuple[str, ...]:
    """Folders and lists that the features were computed from, if known."""
    from sslfeat.features.metadata import read_run

    given = read_run(features).given if features is not None else None
    return given.images if given else ()


def _say_how_to_apply(found: Duplicates, features: Path | None, files: Sequence[Path]) -> None:
    """Print the command that moves the copies without another comparison, if the groups are in one of ``files``."""
    from sslfeat.dedup.aside import beside

    file = next((file for file in files if file.suffix == ".json"), None)
    if file is None:
        note(f"next: add --out {GROUPS} to save the groups, so that copies can be moved without another comparison")
        return
    line = ["sslfeat", "dedupe", str(file), "--apply", beside(_images(features, found), _given(features))]
    note(f"next, to move the copies: {shlex.join(line)}")


def _not_moved(failures: Sequence[tuple[str, str]], folder: Path | None) -> list[tuple[str, str]]:
    """Failures, except for images that an earlier --apply moved to this folder."""
    from sslfeat.dedup.moves import moved_before

    before = moved_before(folder, (path for path, _ in failures)) if folder is not None else set()
    return [(path, why) for path, why in failures if path not in before]


def _apply(found: Duplicates, features: Path | None, folder: Path, scenes: bool, yes: bool, as_json: bool) -> None:
    from sslfeat.dedup.moves import apply

    if not yes and not typer.confirm(f"move {counted(_moving(found, scenes), 'image')} to {folder}?", err=True):
        return
    result = apply(found, folder, scenes)
    _say_moved(result, f"moved to {folder}", as_json)
    if result.moved or result.gone:
        _say_how_to_follow(features)
    end_with(len(result.failures))


def _moving(found: Duplicates, scenes: bool) -> int:
    return found.copies + (found.scenes if scenes else 0)


def _say_how_to_follow(features: Path | None) -> None:
    """Print the commands that update features and indexes after images were moved."""
    from sslfeat.features.metadata import read_run

    where = features or Path("FEATURES")
    given = read_run(features).given if features else None
    if given is None:
        note(
            f"next: repeat the 'sslfeat embed' command of {where} with --update and the same folders and lists (if a list is "
            "omitted, its labels and metadata are lost);"
        )
    else:
        note(f"next: {shlex.join(given.update(where))}")
    note(f"then, for each index: {shlex.join(['sslfeat', 'index', str(where)])} --out INDEX --sync")


def _table(found: Duplicates, shown: int) -> None:
    """Print the first ``shown`` groups, and the counts."""
    for group in found.groups[:shown]:
        say(f"{group.kept.path}  {group.kept.width} x {group.kept.height}")
        for copy in group.copies:
            say(f"    {copy.verdict:<12}  {copy.path}  {copy.width} x {copy.height}")
    if len(found.groups) > shown > 0:
        say(f"... and {len(found.groups) - shown} more groups: --out FILE.csv, .html or .json writes all of them")
    say(f"{found.counts()}, among {counted(found.images, 'image')}")


def _write(file: Path, found: Duplicates) -> None:
    from sslfeat.dedup.decisions import write_duplicates

    {".csv": _write_csv, ".html": _write_page, ".json": write_duplicates}[file.suffix](file, found)


def _say_json(found: Duplicates, features: Path | None) -> None:
    from sslfeat.features.metadata import read_run

    plain = {name: value for name, value in dataclasses.asdict(found).items() if name != "images"}
    made_by = None if features is None else read_run(features).encoder.identity
    say_json("dedupe", {**plain, "copies": found.copies, "scenes": found.scenes}, made_by, found.images)


def _write_csv(path: Path, found: Duplicates) -> None:
    from sslfeat.storage import atomic

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("group", "kept", "path", "verdict", "similarity", "width", "height", "sha256"))
    for number, group in enumerate(found.groups):
        for copy in (group.kept, *group.copies):
            facts: tuple[Any, ...] = (copy.path, copy.verdict, copy.similarity, copy.width, copy.height, copy.sha256)
            writer.writerow((number, copy is group.kept, *facts))
    atomic.write_atomic(path, text.getvalue().encode())


def _write_page(path: Path, found: Duplicates) -> None:
    from sslfeat.reports.gallery import Shown, gallery
    from sslfeat.reports.render import write_page

    sections = []
    for number, group in enumerate(found.groups, 1):
        kept = Shown(group.kept.path, f"kept, {group.kept.width} x {group.kept.height}", marked=True)
        copies = [Shown(copy.path, f"{copy.verdict}, {copy.width} x {copy.height}") for copy in group.copies]
        sections.append((f"Group {number}", [kept, *copies]))
    about = f"{found.counts()}, among {counted(found.images, 'image')}. The image to keep is framed."
    write_page(path, gallery("Duplicates", about, sections))


def _say_moved(result: Moved, what: str, as_json: bool) -> None:
    if as_json:
        say_json("dedupe", {"moved": result.moved, "failures": list(result.failures)})
    elif result.gone:
        say(f"none of the {counted(result.gone, 'image')} exists: all were already moved or deleted")
    else:
        some = f", {result.before} of them earlier" if result.before else ""
        images, all_before = counted(result.moved, "image"), 0 < result.before == result.moved
        say(f"{images} {'were' if result.moved > 1 else 'was'} {what} earlier" if all_before else f"{images} {what}{some}")
    for path, reason in result.failures:
        note(f"{path}: {reason}")
