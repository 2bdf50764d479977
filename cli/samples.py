"""``sslfeat samples``: images to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sslfeat.cli.console import say


def samples(
    out: Annotated[Path, typer.Option(help="folder to draw into")] = Path("samples"),
    count: Annotated[int, typer.Option(help="number of images")] = 40,
) -> None:
    """Draw sample images, a folder a kind."""
    from sslfeat.data.synthetic import draw_samples

    say(f"{out}: {draw_samples(out, count)} images")
