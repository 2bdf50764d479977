"""``sslfeat samples``: write sample images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sslfeat.cli.console import say, say_json
from sslfeat.cli.options import Json, Overwrite
from sslfeat.errors import UsageError
from sslfeat.system.plurals import counted


def samples(
    out: Annotated[Path, typer.Option(help="output: folder for the images")] = Path("samples"),
    count: Annotated[int, typer.Option(help="number of images", min=1)] = 40,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Generate sample images in one folder per class."""
    from sslfeat.data.synthetic import KINDS, draw_samples

    there = [out / kind for kind in KINDS if (out / kind).exists()]
    if there and not overwrite:
        raise UsageError(f"{there[0]} exists", "choose another --out, or replace it with --overwrite")
    draw_samples(out, count)
    if as_json:
        say_json("samples", {"out": str(out)}, images=count)
    else:
        say(f"{out}: {counted(count, 'image')}")
