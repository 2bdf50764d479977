"""``sslfeat dedupe``: which pictures are there more than once, and moving the others aside."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslfeat.cli.console import note, progress, say, say_json
from sslfeat.cli.exits import BAD_INPUTS
from sslfeat.errors import InputError

if TYPE_CHECKING:
    from sslfeat.retrieval.duplicates import Duplicates
    from sslfeat.retrieval.quarantine import Moved

SHOWN = 20  # groups in the table


def dedupe(
    features: Annotated[Path | None, typer.Argument(help="features folder")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="cosine from which on pictures are copies; default: chosen")
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="write a line for every picture of a group")] = None,
    html: Annotated[Path | None, typer.Option(help="write a page with the groups' pictures inside")] = None,
    apply_to: Annotated[
        Path | None, typer.Option("--apply", help="move all but the kept pictures to this folder")
    ] = None,
    undo_from: Annotated[Path | None, typer.Option("--undo", help="put back what --apply moved to this folder")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Find exact and near duplicates, as groups with the picture to keep; nothing is ever deleted."""
    if undo_from is not None:
        if features is not None or apply_to is not None:
            raise InputError("--undo FOLDER takes nothing else")
        from sslfeat.retrieval.quarantine import undo

        _end(undo(undo_from), "put back", as_json)
        return
    if features is None:
        raise InputError("give a features folder, or --undo FOLDER")
    from sslfeat.retrieval.duplicates import find_duplicates

    with progress(1.0, "compared") as show:
        found = find_duplicates(
            features, threshold, lambda stage, done, total: show(done / total, f"{stage} {done}/{total}")
        )
    if csv_file is not None:
        _write_csv(csv_file, found)
    if html is not None:
        _write_page(html, found)
    if as_json and apply_to is None:
        say_json({**dataclasses.asdict(found), "copies": found.copies})
    elif not as_json:
        _table(found)
    if apply_to is not None:
        from sslfeat.retrieval.quarantine import apply

        _end(apply(found, apply_to), f"moved to {apply_to}", as_json)


def _table(found: Duplicates) -> None:
    for group in found.groups[:SHOWN]:
        say(f"{group.kept.path}  {group.kept.width} x {group.kept.height}")
        for copy in group.copies:
            said = "same file" if copy.exact else f"{copy.similarity:.4f}"
            say(f"    {said:>9}  {copy.path}  {copy.width} x {copy.height}")
    if len(found.groups) > SHOWN:
        say(f"... and {len(found.groups) - SHOWN} groups more: --csv, --html or --json has them all")
    say(
        f"{found.copies} copies in {len(found.groups)} groups among {found.pictures} pictures; "
        f"cosine of at least {found.threshold:g}: {found.why}"
    )


def _write_csv(path: Path, found: Duplicates) -> None:
    from sslfeat import store

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("group", "kept", "path", "similarity", "exact", "width", "height", "sha256"))
    for number, group in enumerate(found.groups):
        for copy in (group.kept, *group.copies):
            facts: tuple[Any, ...] = (copy.path, copy.similarity, copy.exact, copy.width, copy.height, copy.sha256)
            writer.writerow((number, copy is group.kept, *facts))
    store.write_atomic(path, text.getvalue().encode())


def _write_page(path: Path, found: Duplicates) -> None:
    from sslfeat.pages.gallery import Shown, gallery
    from sslfeat.pages.page import write_page

    sections = []
    for number, group in enumerate(found.groups, 1):
        kept = Shown(group.kept.path, f"kept, {group.kept.width} x {group.kept.height}", marked=True)
        copies = [
            Shown(copy.path, f"{'same file' if copy.exact else f'{copy.similarity:.4f}'}, {copy.width} x {copy.height}")
            for copy in group.copies
        ]
        sections.append((f"Group {number}", [kept, *copies]))
    about = f"{found.copies} copies in {len(found.groups)} groups among {found.pictures} pictures; threshold {found.threshold:g}"
    write_page(path, gallery("Duplicates", about, sections))


def _end(result: Moved, what: str, as_json: bool) -> None:
    if as_json:
        say_json({"moved": result.moved, "failures": list(result.failures)})
    else:
        say(f"{result.moved} pictures {what}")
    for path, reason in result.failures:
        note(f"{path}: {reason}")
    if result.failures:
        raise typer.Exit(BAD_INPUTS)
