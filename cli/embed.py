"""``sslfeat embed``: pictures become a features folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from sslfeat.cli.console import note, progress, say, say_json
from sslfeat.cli.exits import BAD_INPUTS, ERROR


def embed(
    images: Annotated[
        list[str], typer.Argument(help="folders, pictures, quoted globs, .txt lists, - for standard input")
    ],
    out: Annotated[Path, typer.Option(help="features folder")] = Path("features"),
    encoder: Annotated[str | None, typer.Option(help="encoder file, or a name from 'sslfeat models'")] = None,
    batch_size: Annotated[int, typer.Option(help="pictures per inference")] = 32,
    part_size: Annotated[int, typer.Option(help="pictures per part file: what a crash can cost")] = 1024,
    provider: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Annotated[int | None, typer.Option(help="inference threads; default: all cores")] = None,
    num_workers: Annotated[int | None, typer.Option(help="decoding threads; default: as many")] = None,
    labels: Annotated[str, typer.Option(help="auto (folders that look like classes), folder, none")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="discard the features that --out holds")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="unreadable pictures are an error")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as JSON")] = False,
) -> None:
    """Embed pictures with a frozen encoder. Killed or interrupted, the same command goes on where it was."""
    from sslfeat.embed import embed_to_folder
    from sslfeat.encoder import Encoder
    from sslfeat.inputs import find_inputs
    from sslfeat.zoo import DEFAULT

    start = time.monotonic()
    inputs = find_inputs(images, labels)
    loaded = Encoder.load(encoder or DEFAULT, provider, threads)
    note(f"{len(inputs)} pictures, encoder {loaded.card.name} ({loaded.dim}-d), provider {loaded.provider}")
    resumed: int | None = None
    with progress(len(inputs), "embedded") as show:

        def report(done: int, failed: int) -> None:
            nonlocal resumed
            resumed = done if resumed is None else resumed
            rate = (done - resumed) / max(time.monotonic() - start, 1e-9)
            show(done, f"{done}/{len(inputs)}  {rate:.0f} images/s  {failed} failed")

        summary = embed_to_folder(
            loaded,
            inputs,
            out,
            batch_size=batch_size,
            part_size=part_size,
            workers=num_workers,
            overwrite=overwrite,
            report=report,
        )
    seconds = time.monotonic() - start
    if as_json:
        counts = {"embedded": summary.embedded, "failed": summary.failed, "resumed": summary.resumed}
        say_json({"out": str(out), **counts, "seconds": round(seconds, 3), "fingerprint": loaded.fingerprint})
    else:
        before = f", {summary.resumed} of them before" if summary.resumed else ""
        say(f"{out}: {summary.embedded} embedded, {summary.failed} failed{before}, {seconds:.1f} s")
    if summary.failed:
        note(f"the failed pictures and why: {out / 'failures.csv'}")
        raise typer.Exit(ERROR if strict else BAD_INPUTS)
