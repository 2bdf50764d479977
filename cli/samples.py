"""``sslfeat samples``: images to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sslfeat.cli.console import say, say_json
from sslfeat.cli.options import Json, Overwrite
from sslfeat.errors import UsageError
from sslfeat.system.plurals import counted


def samples(
    out: Annotated[Path, typer.Option(help="output: folder to draw into")] = Path("samples"),
    count: Annotated[int, typer.Option(help="number of images", min=1)] = 40,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw sample images, a folder a kind."""
    from sslfeat.data.synthetic import KINDS, draw_samples

    there = [out / kind for kind in KINDS if (out / kind).exists()]
    if there and not overwrite:
        raise UsageError(f"{there[0]} exists", "give another --out, or draw over it with --overwrite")
    draw_samples(out, count)
    if as_json:
        say_json("samples", {"out": str(out)}, images=count)
    else:
        say(f"{out}: {counted(count, 'image')}")
