"""``sslfeat push``: copy features to a vector store."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sslfeat.cli.console import progress, say, say_json
from sslfeat.cli.options import Json

if TYPE_CHECKING:
    from sslfeat.stores.push import Pushed


def push(
    features: Annotated[Path, typer.Argument(help="features folder")],
    to: Annotated[
        str, typer.Option(help="URL of the collection: SCHEME://HOST:PORT/NAME; schemes: milvus, pgvector, lancedb, qdrant")
    ],
    metric: Annotated[
        Literal["cosine", "ip", "l2"] | None,
        typer.Option(help="similarity metric; default: cosine, or that of the collection; ip: inner product"),
    ] = None,
    sync: Annotated[bool, typer.Option("--sync", help="make the contents equal to the source; other rows are removed")] = False,
    as_json: Json = False,
) -> None:
    """Copy features to a vector store. Only new and changed rows are written; an interrupted command resumes.

    Search with 'sslfeat search URL QUERY'. A password can be given in SSLFEAT_STORE_PASSWORD instead of the URL.
    """
    from sslfeat.features.metadata import read_run
    from sslfeat.stores.push import push as push_features

    start = time.monotonic()
    with progress(1.0, "of the rows") as show:

        def report(pushed: Pushed, total: int) -> None:
            rate = pushed.done / max(time.monotonic() - start, 1e-9)
            written = pushed.added + pushed.replaced
            show(pushed.done / max(total, 1), f"{pushed.done}/{total}  {written} written  {rate:.0f} rows/s")

        pushed = push_features(features, to, metric, sync, report)
    seconds = time.monotonic() - start
    if as_json:
        facts = dataclasses.asdict(pushed)
        images = facts.pop("rows")
        say_json("push", {**facts, "seconds": round(seconds, 3)}, read_run(features).encoder.identity, images)
        return
    counts = f"{pushed.added} added, {pushed.replaced} replaced, {pushed.removed} removed, {pushed.unchanged} unchanged"
    say(f"{counts}; {pushed.rows} rows in total, {seconds:.1f} s")
