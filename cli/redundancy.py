"""``sslfeat redundancy``: how much do the units of an encoder say twice?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sslfeat.cli.console import say, say_json
from sslfeat.errors import FeaturesError

MEASURED = 20_000  # pictures, spread evenly over the folder


def redundancy(
    folder: Annotated[Path, typer.Argument(metavar="FEATURES", help="features folder")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure without labels how many directions the features fill, and how far units repeat each other."""
    import dataclasses

    from sslfeat.features import Features
    from sslfeat.redundancy import redundancy as measure

    rows = Features.load(folder).embeddings
    rows = rows[:: max(1, len(rows) // MEASURED)][:MEASURED]
    if len(rows) <= rows.shape[1]:
        raise FeaturesError(
            f"{folder} has {len(rows)} pictures for {rows.shape[1]} units: it takes more pictures than units"
        )
    found = measure(rows)
    if as_json:
        say_json({**dataclasses.asdict(found), "images": len(rows)})
        return
    say(f"{len(rows)} pictures, {found.live} units, {found.dead} dead")
    say(f"effective rank      {found.effective_rank:8.1f}  directions in use, of {found.live + found.dead}")
    say(f"mean |correlation|  {found.correlation:8.3f}  of two units")
    say(f"predictability      {found.predictability:8.3f}  R^2 of a unit given all others")
    say(f"total correlation   {found.total_correlation:8.1f}  nats, as if Gaussian")
