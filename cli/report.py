"""``sslfeat report``: evaluate a features folder on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sslfeat.cli.console import check_folders, check_new, progress, say, say_json
from sslfeat.cli.options import (
    Column,
    FeaturesSource,
    Json,
    Labels,
    Limit,
    Overwrite,
    PathColumn,
    ProjectionMethod,
    Seed,
    Separator,
)
from sslfeat.cli.sources import end_with, sought


def report(
    source: FeaturesSource,
    out: Annotated[Path, typer.Option(help="output: HTML page")] = Path("report.html"),
    labels: Labels = "features",
    column: Column = None,
    path_column: PathColumn = None,
    separator: Separator = "",
    projection: ProjectionMethod = "pca",
    title: Annotated[str | None, typer.Option(help="title of the page")] = None,
    limit: Limit = 50_000,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write a self-contained HTML report: card, data, probe, label-free metrics, map, clusters, neighbors, duplicates."""
    from sslfeat.evaluation.probing.labels import LabelSource
    from sslfeat.features.reader import FeaturesFolder
    from sslfeat.reports.render import write_page
    from sslfeat.reports.report import ReportOptions
    from sslfeat.reports.report import report as make

    check_folders(out)
    check_new(overwrite, out)
    options = ReportOptions(title, LabelSource(labels, column, path_column, separator), projection, limit, seed)
    (wanted,) = sought(source)
    wanted.check_labels(options.source)
    folder, failed = wanted.folder, wanted.make()
    with progress(1.0) as show:
        write_page(out, make(folder, options, show))
    size = out.stat().st_size
    if as_json:
        opened = FeaturesFolder(folder)
        say_json("report", {"out": str(out), "bytes": size}, opened.run.encoder.identity, opened.rows())
    else:
        say(f"{out}: {size / 1e6:.1f} MB")
    end_with(failed)
