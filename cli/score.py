"""``sslfeat score``: what can be said of features without labels?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sslfeat.cli.console import say, say_json
from sslfeat.errors import FeaturesError

MEASURED = 20_000  # pictures, spread evenly over the folder


def score(
    folders: Annotated[list[Path], typer.Argument(metavar="FEATURES...", help="features folders")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure features without labels, several folders side by side: rank, decay, uniformity, redundancy, hubness."""
    import dataclasses

    from sslfeat.evaluation.score import MEANING
    from sslfeat.evaluation.score import score as measure
    from sslfeat.features import Features

    found = []
    for folder in folders:
        features = Features.load(folder)
        rows = features.embeddings
        rows = rows[:: max(1, len(rows) // MEASURED)][:MEASURED]
        try:
            figures = dataclasses.asdict(measure(rows))
        except FeaturesError as error:
            raise FeaturesError(f"{folder}: {error}") from error
        found.append({"folder": str(folder), "encoder": features.run["encoder"]["card"]["name"], **figures})
    if as_json:
        say_json(found)
        return
    names = [str(row["encoder"])[:18] for row in found]
    say(f"{'':<18}" + "".join(f"{name:>20}" for name in names))
    say(f"{'pictures, units':<18}" + "".join(f"{_sizes(row):>20}" for row in found))
    for figure, meaning in MEANING.items():
        say(f"{figure:<18}" + "".join(f"{row[figure]:>20.3f}" for row in found) + f"   {meaning}")


def _sizes(row: dict[str, object]) -> str:
    return f"{row['images']}, {row['dim']}"
