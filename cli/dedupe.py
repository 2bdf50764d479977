"""``sslfeat dedupe``: which images are there more than once, and moving the others aside."""

from __future__ import annotations

import csv
import dataclasses
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslfeat.cli.console import check_new, note, progress, say, say_json
from sslfeat.cli.exits import BAD_INPUTS
from sslfeat.errors import UsageError

if TYPE_CHECKING:
    from sslfeat.dedup.moves import Moved
    from sslfeat.dedup.near_duplicates import Duplicates

SHOWN = 20  # groups in the table


def dedupe(
    features: Annotated[Path | None, typer.Argument(help="features folder")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="compare the pixels of images whose features have at least this cosine")
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="write a line for every image of a group")] = None,
    html: Annotated[Path | None, typer.Option(help="write a page with the groups' images inside")] = None,
    apply_to: Annotated[Path | None, typer.Option("--apply", help="move all but the kept images to this folder")] = None,
    scenes: Annotated[bool, typer.Option("--scenes", help="with --apply: other shots of the same scene, too")] = False,
    decided: Annotated[
        Path | None, typer.Option(help="instead of features: groups decided on the page of 'sslfeat serve'")
    ] = None,
    undo_from: Annotated[Path | None, typer.Option("--undo", help="put back what --apply moved to this folder")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="move without asking")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the files of --csv and --html")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Find images that are there more than once, as groups with the one to keep; nothing is ever deleted."""
    if undo_from is not None:
        if features is not None or apply_to is not None:
            raise UsageError("--undo FOLDER takes neither features nor --apply")
        from sslfeat.dedup.moves import undo

        _end(undo(undo_from, trusted=yes), "put back", as_json)
        return
    if (features is None) == (decided is None):
        raise UsageError("give a features folder, or --decided PLAN, or --undo FOLDER")
    if apply_to is not None and not yes and (sys.stdin is None or not sys.stdin.isatty()):
        raise UsageError("--apply asks before it moves: where nobody can answer, say --yes")
    check_new(overwrite, csv_file, html)
    found = _found(features, decided, threshold)
    for path, why in found.failures:
        note(f"{path}: could not be compared: {why}")
    if csv_file is not None:
        _write_csv(csv_file, found)
    if html is not None:
        _write_page(html, found)
    if as_json and apply_to is None:
        say_json({**dataclasses.asdict(found), "copies": found.copies, "scenes": found.scenes})
    elif not as_json:
        _table(found)
    if apply_to is not None:
        _apply(found, features, apply_to, scenes or decided is not None, yes, as_json)
    elif found.failures:
        raise typer.Exit(BAD_INPUTS)


def _found(features: Path | None, decided: Path | None, threshold: float | None) -> Duplicates:
    from sslfeat.dedup.decisions import read_duplicates
    from sslfeat.dedup.near_duplicates import find_duplicates

    if features is None:
        return read_duplicates(decided or Path())
    with progress(1.0, "of this step") as show:
        return find_duplicates(
            features, threshold, lambda stage, done, total: show(done / max(1, total), f"{stage} {done}/{total}")
        )


def _apply(found: Duplicates, features: Path | None, folder: Path, scenes: bool, yes: bool, as_json: bool) -> None:
    from sslfeat.dedup.moves import apply

    count = found.copies + (found.scenes if scenes else 0)
    if not yes and not typer.confirm(f"move {count} images to {folder}?", err=True):
        return
    result = apply(found, folder, scenes)
    if result.moved:
        where = features or "FEATURES"
        note(
            f"next: 'sslfeat embed IMAGES --out {where} --update', and 'sslfeat index {where} --out INDEX --sync' for each "
            "index of them"
        )
    _end(result, f"moved to {folder}", as_json)


def _table(found: Duplicates) -> None:
    for group in found.groups[:SHOWN]:
        say(f"{group.kept.path}  {group.kept.width} x {group.kept.height}")
        for copy in group.copies:
            say(f"    {copy.verdict:<12}  {copy.path}  {copy.width} x {copy.height}")
    if len(found.groups) > SHOWN:
        say(f"... and {len(found.groups) - SHOWN} groups more: --csv, --html or --json has them all")
    counts = f"{found.copies} copies in {len(found.groups)} groups, with {found.scenes} other shots of a scene,"
    say(f"{counts} among {found.images} images")


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
    counts = f"{found.copies} copies in {len(found.groups)} groups, with {found.scenes} other shots"
    about = f"{counts}, among {found.images} images. Framed: the one to keep."
    write_page(path, gallery("Duplicates", about, sections))


def _end(result: Moved, what: str, as_json: bool) -> None:
    if as_json:
        say_json({"moved": result.moved, "failures": list(result.failures)})
    else:
        say(f"{result.moved} images {what}")
    for path, reason in result.failures:
        note(f"{path}: {reason}")
    if result.failures:
        raise typer.Exit(BAD_INPUTS)
