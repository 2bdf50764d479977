"""Options that several commands have: one name, one type and one meaning, which a test holds.

Help is ``meaning: more`` or ``meaning; more``: the meaning is the same for every option of that name.
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

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace what is there")]
Strict = Annotated[bool, typer.Option("--strict", help="unreadable images are an error")]
Provider = Annotated[Where, typer.Option("--provider", help="where to run")]
Threads = Annotated[int, typer.Option("--threads", help="threads per inference")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="images at once; default: 4, on a GPU 32")]
Seed = Annotated[int, typer.Option("--seed", help="of every random choice")]
Limit = Annotated[int, typer.Option("--limit", help="images at most; of more a random choice")]
License = Annotated[str, typer.Option("--license", help="license of the weights, on the card")]
CardName = Annotated[str | None, typer.Option("--name", help="name on the card; default: the file's")]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="file of weights of timm/NAME or torchvision/NAME, .safetensors or .pth; default: a download"),
]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="run the .py file of the run's method")]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", help="leave out what matches this glob: a path, or a file's or folder's name; repeatable"),
]
Labels = Annotated[
    str,
    typer.Option(
        "--labels",
        metavar="<features|folder|none|TABLE>",
        help="where labels come from: the features, the images' folders, a .csv, .tsv or .parquet, or nowhere",
    ),
]
Column = Annotated[str | None, typer.Option("--column", help="of the table of labels: the label")]
PathColumn = Annotated[str | None, typer.Option("--path-column", help="of the table of labels: the image")]
Separator = Annotated[str, typer.Option("--separator", help="divides labels, where images carry several")]
ProjectionMethod = Annotated[Projection, typer.Option("--projection", help="how to map into the plane; umap: extra umap")]
FeaturesSource = Annotated[Path, typer.Argument(metavar="FEATURES", help="features folder; or images, embedded first")]


def parse_bytes(option: str, text: str | None, least: int = 1) -> int | None:
    """``500M`` as a number of bytes; None for None. Raises UsageError for what is no such number, or less than ``least``."""
    if text is None:
        return None
    parsed = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    size = int(float(parsed[1]) * UNITS[parsed[2].upper()]) if parsed else -1
    if size < least:
        raise UsageError(f"{option} {text!r} cannot be read: give bytes, or 500M, or 2G")
    return size
