"""``sslfeat predict``: classify images with a saved probe."""

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
    probe: Annotated[Path, typer.Argument(help="folder written by 'sslfeat probe --out'")],
    inputs: Annotated[list[str], typer.Argument(help="features folders, images, image folders, quoted globs")],
    out: Annotated[
        list[Path] | None,
        typer.Option(help="output: .csv, .jsonl, .parquet or .html file; default: printed; repeatable"),
    ] = None,
    top: Annotated[int, typer.Option("--top", "-t", help="maximum number of results: classes per image", min=1)] = 1,
    encoder: Annotated[
        str | None, typer.Option(help="encoder file or name; required if the encoder of the probe is not found")
    ] = None,
    provider: Provider = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Classify images, or rows of features folders, with a saved probe."""
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
        f"{counted(len(predictions), 'image')}, classified by {probe.resolve().name}. For each class: the most and the least "
        "confident predictions, with probabilities."
    )
    write_page(path, gallery("Predictions", about, prediction_sheet(predictions)))
