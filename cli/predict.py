"""``sslfeat predict``: a saved probe names images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sslfeat.cli.console import check_files, note, say, say_json
from sslfeat.cli.options import Json, Overwrite, Provider
from sslfeat.cli.sources import check_order, end_with
from sslfeat.system.plurals import counted

if TYPE_CHECKING:
    from sslfeat.evaluation.probing.predict import Prediction


def predict(
    probe: Annotated[Path, typer.Argument(help="folder that 'sslfeat probe --out' wrote")],
    inputs: Annotated[list[str], typer.Argument(help="features folders, images, folders of them, quoted globs")],
    out: Annotated[
        list[Path] | None,
        typer.Option(help="output: .csv, .jsonl or .parquet, or a page, .html, instead of printing; repeatable"),
    ] = None,
    top: Annotated[int, typer.Option("--top", "-t", help="how many of the best: names an image", min=1)] = 1,
    encoder: Annotated[str | None, typer.Option(help="encoder file or name; needed if the probe's is not found")] = None,
    provider: Provider = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Name images, or the rows of features folders, by a saved probe."""
    from sslfeat.evaluation.probing.checkpoint import SavedProbe
    from sslfeat.evaluation.probing.predict import ENDINGS, table
    from sslfeat.evaluation.probing.predict import predict as run
    from sslfeat.storage import atomic

    files = out or []
    check_files(overwrite, files, (*ENDINGS, ".html"))
    check_order("predict", "probe", probe, inputs)
    saved = SavedProbe.load(probe)
    good, failed = [], 0
    for row in run(saved, inputs, top, encoder, provider):
        if row.reason:
            note(f"{row.path}: {row.reason}")
            failed += 1
            continue
        good.append(row)
        if not files and not as_json:
            names = zip(row.labels, row.probabilities, strict=True)
            say("\t".join([row.path, *(f"{name} {value:.3f}" for name, value in names)]))
    if as_json:
        named = [{"path": row.path, "labels": row.labels, "probabilities": row.probabilities} for row in good]
        say_json("predict", {"predictions": named, "failed": failed}, saved.encoder, len(good))
    for file in files:
        if file.suffix == ".html":
            _page(file, good, probe)
        else:
            atomic.write_atomic(file, table(good, file.suffix))
        note(f"{file}: {counted(len(good), 'image')}")
    end_with(failed)


def _page(path: Path, predictions: list[Prediction], probe: Path) -> None:
    from sslfeat.reports.gallery import gallery
    from sslfeat.reports.prediction_sheet import prediction_sheet
    from sslfeat.reports.render import write_page

    about = (
        f"{counted(len(predictions), 'image')}, named by {probe.resolve().name}. Of each name: those that it is surest of, and "
        "those that it is least sure of, with their probabilities."
    )
    write_page(path, gallery("Predictions", about, prediction_sheet(predictions)))
