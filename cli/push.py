"""``sslfeat push``: features go into a vector store that people already run."""

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
        Literal["cosine", "ip", "l2"] | None, typer.Option(help="of likeness; default: cosine, or the store's; ip: inner product")
    ] = None,
    sync: Annotated[bool, typer.Option("--sync", help="make it hold the source alone; other rows are removed")] = False,
    as_json: Json = False,
) -> None:
    """Bring features into a vector store. Only what is new or changed is written; killed, the same command goes on.

    'sslfeat search URL QUERY' then answers from there. SSLFEAT_STORE_PASSWORD holds a password that the URL does not.
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
    say(f"{counts}; {pushed.rows} rows are there, {seconds:.1f} s")
