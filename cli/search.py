"""``sslfeat search``: find the nearest indexed images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslfeat.cli.console import check_files, note, say, say_json
from sslfeat.cli.exits import BAD_INPUTS
from sslfeat.cli.options import Json, Overwrite, Provider
from sslfeat.cli.sources import check_order, check_quoted
from sslfeat.errors import UsageError
from sslfeat.system.plurals import counted

if TYPE_CHECKING:
    from sslfeat.reports.gallery import Shown
    from sslfeat.retrieval.hits import Hit
    from sslfeat.retrieval.query import Searched

LONGEST = 60  # maximum characters of a metadata value on the page


def search(
    place: Annotated[str, typer.Argument(metavar="INDEX", help="index folder, or the URL of a vector store (see push)")],
    queries: Annotated[
        list[str] | None, typer.Argument(metavar="QUERY...", help="query images, folders, quoted globs, or features folders")
    ] = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="use this indexed image as query, by its path; repeatable")
    ] = None,
    top: Annotated[int, typer.Option("--top", "-t", help="maximum number of results: hits per query", min=1)] = 10,
    where: Annotated[
        list[str] | None,
        typer.Option(help="condition on hits: label=TEXT, path~GLOB, price<50, taken>=2024-01-31, != and !~ negate; repeatable"),
    ] = None,
    min_score: Annotated[float | None, typer.Option(help="minimum score of hits")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="encoder file or name; required if the encoder of the index is not found")
    ] = None,
    provider: Provider = "auto",
    files: Annotated[bool, typer.Option("--files", "-f", help="print paths only, one per line")] = False,
    out: Annotated[Path | None, typer.Option(help="output: HTML page with images")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Find the nearest indexed images of each query image."""
    if not queries and not ids:
        raise UsageError("give query images, or --id PATH of an indexed image")
    check_files(overwrite, [out] if out else [], (".html",))
    check_quoted("search", [place, *(queries or ())])
    check_order("search", "index", place, queries or [])
    from sslfeat.retrieval.query import gather

    with _opened(place) as searched:
        searched.check(top, where or ())
        found = gather(searched, queries or [], ids or [], encoder, provider)
        for name, reason in found.failures:
            note(f"{name}: {reason}")
        hits = searched.hits(found, top, where or (), min_score) if found.names else []
        for line in searched.notes:
            note(line)
        answers = [Answer(name, nearest) for name, nearest in zip(found.names, hits, strict=True)]
        about, made_by, images = searched.about, searched.encoder, len(searched)
    if out is not None:
        _page(out, f"{about}{'; where ' if where else ''}{' and '.join(where or ())}", answers)
        note(f"{out}: {counted(len(answers), 'query')}")
    if as_json:
        say_json("search", {"queries": [answer.plain() for answer in answers]}, made_by, images)
    elif files:
        for path in dict.fromkeys(hit.path for answer in answers for hit in answer.hits):
            say(path)
    else:
        _table(answers)
    if found.failures:
        raise typer.Exit(BAD_INPUTS)


@contextmanager
def _opened(place: str) -> Iterator[Searched]:
    """Open an index folder or a vector store."""
    from sslfeat.retrieval.query import SearchedIndex
    from sslfeat.stores.registry import is_store, open_store
    from sslfeat.stores.search import SearchedStore

    if not is_store(place):
        yield SearchedIndex(Path(place))
        return
    with open_store(place) as store:
        yield SearchedStore(store)


@dataclass(frozen=True)
class Answer:
    """Hits of one query."""

    query: str
    hits: list[Hit]

    def plain(self) -> dict[str, Any]:
        """The value for JSON."""
        hits = [
            {"path": hit.path, "label": hit.label, "score": round(hit.score, 6), "metadata": dict(hit.metadata)}
            for hit in self.hits
        ]
        return {"query": self.query, "hits": hits}


def _table(answers: Sequence[Answer]) -> None:
    for answer in answers:
        say(answer.query)
        for place, hit in enumerate(answer.hits, 1):
            label = f"  [{hit.label}]" if hit.label is not None else ""
            say(f"  {place:3d}  {hit.score:9.4f}  {hit.path}{label}")
        if not answer.hits:
            say("       nothing found")


def _page(path: Path, about: str, answers: Sequence[Answer]) -> None:
    from sslfeat.reports.gallery import Shown, gallery
    from sslfeat.reports.render import write_page

    sections = []
    for answer in answers:
        query = Shown(answer.query, "query", marked=True)
        sections.append((Path(answer.query).name, [query, *map(_shown, answer.hits)]))
    write_page(path, gallery("Search", about, sections))


def _shown(hit: Hit) -> Shown:
    """Score, label and metadata, without fields equal to the label."""
    from sslfeat.reports.gallery import Shown

    known = {name: text for name, text in hit.metadata.items() if text != hit.label}
    facts = [f"{name}: {shorten(text, LONGEST, placeholder='...')}" for name, text in known.items()]
    return Shown(hit.path, " ".join(filter(None, (f"{hit.score:.4f}", hit.label))), facts=facts)
