"""``sslfeat report``: all that can be said of features, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sslfeat.cli.console import check_new, note, say


def report(
    folder: Annotated[Path, typer.Argument(metavar="FEATURES", help="features folder")],
    out: Annotated[Path, typer.Option(help="the page")] = Path("report.html"),
    labels: Annotated[
        str, typer.Option(help="features (as embedded), folder, or a table with columns path and label")
    ] = "features",
    column: Annotated[str | None, typer.Option(help="of the table, with the labels")] = None,
    path_column: Annotated[str | None, typer.Option(help="of the table, with the paths")] = None,
    separator: Annotated[str, typer.Option(help="between the labels of an image that has several")] = "",
    method: Annotated[str, typer.Option("--map", help="pca, tsne or umap (extra: umap)")] = "pca",
    title: Annotated[str | None, typer.Option(help="of the page")] = None,
    limit: Annotated[int, typer.Option(help="images at most, a random choice of more")] = 50_000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the page")] = False,
    seed: Annotated[int, typer.Option(help="of every random choice")] = 0,
) -> None:
    """Write one page, to be mailed: card, data, probe, figures without labels, map, clusters, neighbors, duplicates."""
    from sslfeat.evaluation.probing.labels import LabelSource
    from sslfeat.reports.render import write_page
    from sslfeat.reports.report import ReportOptions
    from sslfeat.reports.report import report as make

    check_new(overwrite, out)
    source = LabelSource(labels, column, path_column, separator)
    options = ReportOptions(title, source, method, limit, seed)
    write_page(out, make(folder, options, lambda part: note(f"{part.lower()} ...")))
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
