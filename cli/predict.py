"""``sslfeat predict``: a saved probe names images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sslfeat.cli.console import check_new, note, say, say_json
from sslfeat.cli.exits import BAD_INPUTS
from sslfeat.errors import UsageError

if TYPE_CHECKING:
    from sslfeat.evaluation.probing.predict import Prediction


def predict(
    probe: Annotated[Path, typer.Argument(help="folder that 'sslfeat probe --out' wrote")],
    inputs: Annotated[list[str], typer.Argument(help="features folders, images, folders of them, quoted globs")],
    out: Annotated[Path | None, typer.Option(help="write a .csv, .jsonl or .parquet instead of printing")] = None,
    html: Annotated[Path | None, typer.Option(help="write a page with images of each name inside")] = None,
    top: Annotated[int, typer.Option("--top", "-t", help="names an image")] = 1,
    encoder: Annotated[str | None, typer.Option(help="the probe's encoder, if it is not found")] = None,
    provider: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the files --out and --html")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Name images, or the rows of features folders, by a saved probe."""
    import dataclasses

    from sslfeat.evaluation.probing.checkpoint import SavedProbe
    from sslfeat.evaluation.probing.predict import ENDINGS, table
    from sslfeat.evaluation.probing.predict import predict as run
    from sslfeat.storage import atomic

    if out is not None and out.suffix not in ENDINGS:
        raise UsageError(f"--out {out} must end in one of {', '.join(ENDINGS)}")
    check_new(overwrite, out, html)
    good, failed = [], 0
    for row in run(SavedProbe.load(probe), inputs, top, encoder, provider):
        if row.reason:
            note(f"{row.path}: {row.reason}")
            failed += 1
            continue
        good.append(row)
        if out is None and html is None and not as_json:
            named = zip(row.labels, row.probabilities, strict=True)
            say("\t".join([row.path, *(f"{name} {value:.3f}" for name, value in named)]))
    if as_json:
        say_json([dataclasses.asdict(row) for row in good])
    if out is not None:
        atomic.write_atomic(out, table(good, out.suffix))
        note(f"{out}: {len(good)} images")
    if html is not None:
        _page(html, good, probe)
    if failed:
        raise typer.Exit(BAD_INPUTS)


def _page(path: Path, predictions: list[Prediction], probe: Path) -> None:
    from sslfeat.reports.gallery import gallery
    from sslfeat.reports.prediction_sheet import prediction_sheet
    from sslfeat.reports.render import write_page

    about = (
        f"{len(predictions)} images, named by {probe.resolve().name}. Of each name: those that it is surest of, and those "
        "that it is least sure of, with their probabilities."
    )
    write_page(path, gallery("Predictions", about, prediction_sheet(predictions)))
    note(f"{path}: {len(predictions)} images")
