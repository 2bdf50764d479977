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
    from sslfeat.retrieval.index import Hits, Index


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
) -> None:  # fmt: skip
    """Find the indexed images nearest to each query."""
    if not queries and not ids:
        raise UsageError("give images to search with, or --id PATH of an indexed one")
    if top < 1:
        raise UsageError(f"--top {top} is too few: give 1 or more")
    check_new(overwrite, html)
    from sslfeat.retrieval.query import gather

    asked, index = gather(folder, queries or [], ids or [], encoder, provider)
    for name, reason in asked.failures:
        note(f"{name}: {reason}")
    answers: list[Answer] = []
    if asked.names:
        hits = index.search(asked.vectors, top, where=where or (), min_score=min_score, exclude=asked.rows)
        answers = [Answer(name, hits, number) for number, name in enumerate(asked.names)]
    if html is not None:
        _page(html, index, answers)
        note(f"{html}: {len(answers)} queries")
    if as_json:
        say_json([answer.plain() for answer in answers])
    elif files:
        for path in dict.fromkeys(hit["path"] for answer in answers for hit in answer.plain()["hits"]):
            say(path)
    else:
        _table(answers)
    if asked.failures:
        raise typer.Exit(BAD_INPUTS)


@dataclass(frozen=True)
class Answer:
    """One query's hits."""

    query: str
    hits: Hits
    number: int

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        found = self.hits.of(self.number)
        return {
            "query": self.query,
            "hits": [{"path": hit.path, "label": hit.label, "score": round(hit.score, 6)} for hit in found],
        }


def _table(answers: Sequence[Answer]) -> None:
    for answer in answers:
        say(answer.query)
        found = answer.plain()["hits"]
        for place, hit in enumerate(found, 1):
            label = f"  [{hit['label']}]" if hit["label"] is not None else ""
            say(f"  {place:3d}  {hit['score']:9.4f}  {hit['path']}{label}")
        if not found:
            say("       nothing found")


def _page(path: Path, index: Index, answers: Sequence[Answer]) -> None:
    from sslfeat.reports.gallery import Shown, gallery
    from sslfeat.reports.render import write_page

    sections = []
    for answer in answers:
        found = answer.plain()["hits"]
        captions = [f"{hit['score']:.4f}" + (f" {hit['label']}" if hit["label"] else "") for hit in found]
        hits = [Shown(hit["path"], caption) for hit, caption in zip(found, captions, strict=True)]
        sections.append((Path(answer.query).name, [Shown(answer.query, "query", marked=True), *hits]))
    made_by = index.metadata.encoder.name if index.metadata.encoder else "vectors"
    about = f"{len(index)} images, {index.metric}, {index.metadata.factory}, encoder {made_by}"
    write_page(path, gallery("Search", about, sections))
