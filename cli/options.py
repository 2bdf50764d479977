"""Options shared by several commands.

An option has the same name, type and meaning in every command. Help is ``meaning: details`` or ``meaning; details``; a test
checks that the meaning is the same for every option of that name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from sslfeat.errors import UsageError

Where = Literal["auto", "cpu", "cuda"]
Projection = Literal["pca", "tsne", "umap"]
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

Json = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace existing output")]
Strict = Annotated[bool, typer.Option("--strict", help="treat unreadable images as an error")]
Provider = Annotated[Where, typer.Option("--provider", help="execution device; auto: a GPU if available")]
Threads = Annotated[int, typer.Option("--threads", help="threads per inference")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="images per batch; default: 4 on a CPU, 32 on a GPU")]
Seed = Annotated[int, typer.Option("--seed", help="random seed")]
Limit = Annotated[int, typer.Option("--limit", help="maximum number of images; larger sets are sampled at random")]
License = Annotated[str, typer.Option("--license", help="license of the weights, for the model card")]
CardName = Annotated[str | None, typer.Option("--name", help="name for the model card; default: the file name")]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="weights file for timm/NAME or torchvision/NAME, .safetensors or .pth; default: download"),
]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="allow running the Python file of the method stored in the run")]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", help="skip paths, file names or folder names that match this glob; repeatable"),
]
Labels = Annotated[
    str,
    typer.Option(
        "--labels",
        metavar="<features|folder|none|TABLE>",
        help="source of labels: the features, the folder names, a .csv, .tsv or .parquet table, or none",
    ),
]
Column = Annotated[str | None, typer.Option("--column", help="label column of the table; default: recognized by name")]
PathColumn = Annotated[str | None, typer.Option("--path-column", help="image column of the table; default: recognized by name")]
Separator = Annotated[str, typer.Option("--separator", help="separator of multiple labels per image; default: single labels")]
ProjectionMethod = Annotated[Projection, typer.Option("--projection", help="2-d projection method; umap needs the extra umap")]
FeaturesSource = Annotated[Path, typer.Argument(metavar="FEATURES", help="features folder, or images to embed first")]


def parse_bytes(option: str, text: str | None, least: int = 1) -> int | None:
    """Parse ``500M`` as a number of bytes; None stays None. Raises UsageError if it is invalid or less than ``least``."""
    if text is None:
        return None
    parsed = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    size = int(float(parsed[1]) * UNITS[parsed[2].upper()]) if parsed else -1
    if size < least:
        raise UsageError(f"{option} {text!r} is not a size: give a number of bytes, 500M, or 2G")
    return size
