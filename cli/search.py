"""``sslfeat search``: which indexed images are most like these?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslfeat.cli.console import check_new, note, say, say_json
from sslfeat.cli.exits import BAD_INPUTS
from sslfeat.errors import UsageError

if TYPE_CHECKING:
    from sslfeat.retrieval.index import Hit, Index


def search(
    folder: Annotated[Path, typer.Argument(metavar="INDEX", help="index folder")],
    queries: Annotated[
        list[str] | None, typer.Argument(metavar="QUERY...", help="images, folders, quoted globs, or features folders")
    ] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="search with this indexed image, by its path")] = None,
    top: Annotated[int, typer.Option("--top", "-t", help="hits a query")] = 10,
    where: Annotated[list[str] | None, typer.Option(help="only label=TEXT or path~GLOB; != and !~ for not; repeatable")] = None,
    min_score: Annotated[float | None, typer.Option(help="only hits of at least this score")] = None,
    encoder: Annotated[str | None, typer.Option(help="the index's encoder, if it is not found")] = None,
    provider: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    files: Annotated[bool, typer.Option("--files", "-f", help="print paths only, one a line")] = False,
    html: Annotated[Path | None, typer.Option(help="write a page with the images found inside")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the page")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Find the indexed images nearest to each query."""
    if not queries and not ids:
        raise UsageError("give images to search with, or --id PATH of an indexed one")
    if top < 1:
        raise UsageError(f"--top {top} is too few: give 1 or more")
    check_new(overwrite, html)
    from sslfeat.retrieval.query import gather

    found, index = gather(folder, queries or [], ids or [], encoder, provider)
    for name, reason in found.failures:
        note(f"{name}: {reason}")
    answers: list[Answer] = []
    if found.names:
        hits = index.search(found.vectors, top, where=where or (), min_score=min_score, exclude=found.rows)
        answers = [Answer(name, hits.of(number)) for number, name in enumerate(found.names)]
    if html is not None:
        _page(html, index, answers)
        note(f"{html}: {len(answers)} queries")
    if as_json:
        say_json([answer.plain() for answer in answers])
    elif files:
        for path in dict.fromkeys(hit.path for answer in answers for hit in answer.hits):
            say(path)
    else:
        _table(answers)
    if found.failures:
        raise typer.Exit(BAD_INPUTS)


@dataclass(frozen=True)
class Answer:
    """One query's hits."""

    query: str
    hits: list[Hit]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        hits = [{"path": hit.path, "label": hit.label, "score": round(hit.score, 6)} for hit in self.hits]
        return {"query": self.query, "hits": hits}


def _table(answers: Sequence[Answer]) -> None:
    for answer in answers:
        say(answer.query)
        for place, hit in enumerate(answer.hits, 1):
            label = f"  [{hit.label}]" if hit.label is not None else ""
            say(f"  {place:3d}  {hit.score:9.4f}  {hit.path}{label}")
        if not answer.hits:
            say("       nothing found")


def _page(path: Path, index: Index, answers: Sequence[Answer]) -> None:
    from sslfeat.reports.gallery import Shown, gallery
    from sslfeat.reports.render import write_page

    sections = []
    for answer in answers:
        hits = [Shown(hit.path, f"{hit.score:.4f}" + (f" {hit.label}" if hit.label else "")) for hit in answer.hits]
        sections.append((Path(answer.query).name, [Shown(answer.query, "query", marked=True), *hits]))
    made_by = index.metadata.encoder.name if index.metadata.encoder else "vectors"
    about = f"{len(index)} images, {index.metric}, {index.metadata.factory}, encoder {made_by}"
    write_page(path, gallery("Search", about, sections))
