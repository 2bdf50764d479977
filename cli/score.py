"""``sslfeat score``: what can be said of features without labels?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sslfeat.cli.console import note, say, say_json
from sslfeat.errors import FeaturesError

RANKED = "1 is best: by rank_me (most), alpha (nearest to 1), uniformity (least), hubness (least)"
MEASURED = 20_000  # images, a random choice of more


def score(
    folders: Annotated[list[Path], typer.Argument(metavar="FEATURES...", help="features folders")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure features without labels, several folders side by side: rank, decay, uniformity, redundancy, hubness."""
    import dataclasses

    from sslfeat.evaluation.unsupervised import MEANING, mean_ranks
    from sslfeat.evaluation.unsupervised import score as measure
    from sslfeat.features.reader import Features
    from sslfeat.numerics.sampling import sample

    scores, found = [], []
    for folder in folders:
        features = Features.load(folder)
        rows = features.embeddings[sample(len(features.paths), MEASURED)]
        try:
            scores.append(measure(rows))
        except FeaturesError as error:
            raise FeaturesError(f"{folder}: {error}") from error
        name = features.run["encoder"]["card"]["name"]
        found.append({"folder": str(folder), "encoder": name, "of": len(features.paths), **dataclasses.asdict(scores[-1])})
    ranks = mean_ranks(scores)
    for row, rank in zip(found, ranks, strict=True):
        row["mean_rank"] = rank
    if as_json:
        say_json(found)
        return
    names = [str(row["encoder"])[:18] for row in found]
    say(f"{'':<18}" + "".join(f"{name:>20}" for name in names))
    say(f"{'images, units':<18}" + "".join(f"{_sizes(row):>20}" for row in found))
    for figure, meaning in MEANING.items():
        say(f"{figure:<18}" + "".join(f"{row[figure]:>20.3f}" for row in found) + f"   {meaning}")
    if any(row["images"] < row["of"] for row in found):
        note(f"of larger folders a random {MEASURED} images were measured")
    if len(found) > 1:
        say(f"{'mean rank':<18}" + "".join(f"{rank:>20.2f}" for rank in ranks) + "   " + RANKED)
        best = [row for row in found if row["mean_rank"] == min(ranks)]
        say(f"predicted best: {' and '.join(str(row['folder']) for row in best)}")
        if len({row["of"] for row in found}) > 1:
            note("the folders hold different numbers of images: compare encoders on the same ones")
        note("a prediction, no more: docs/score.md says how well it agreed with a probe")


def _sizes(row: dict[str, object]) -> str:
    return f"{row['images']}, {row['dim']}"
