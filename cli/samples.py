"""``sslfeat samples``: pictures to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sslfeat.cli.console import say


def samples(
    out: Annotated[Path, typer.Option(help="folder to draw into")] = Path("samples"),
    count: Annotated[int, typer.Option(help="number of pictures")] = 40,
) -> None:
    """Draw sample pictures, a folder a kind."""
    from sslfeat.samples import draw_samples

    say(f"{out}: {draw_samples(out, count)} pictures")
