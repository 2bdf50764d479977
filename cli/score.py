"""``sslfeat score``: evaluate features without labels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sslfeat.cli.console import note, say, say_json
from sslfeat.cli.options import Json
from sslfeat.cli.sources import end_with, sought
from sslfeat.errors import FeaturesError

RANKED = "mean rank by rank_me (highest first), alpha (nearest to 1), uniformity and hubness (lowest first)"
MEASURED = 20_000  # maximum number of images, sampled at random


def score(
    sources: Annotated[list[Path], typer.Argument(metavar="FEATURES...", help="features folders, or images to embed first")],
    as_json: Json = False,
) -> None:
    """Evaluate features without labels: rank, spectral decay, uniformity, redundancy, hubness. Several folders are ranked."""
    import dataclasses

    from sslfeat.evaluation.unsupervised import check_enough, mean_ranks
    from sslfeat.evaluation.unsupervised import score as measure
    from sslfeat.features.reader import Features
    from sslfeat.numerics.sampling import sample

    wanted = sought(*sources)
    for one in wanted:
        with _named(one.source):
            check_enough(*one.shape())
    scores, found, failed = [], [], 0
    for one in wanted:
        failed += one.make()
        folder = one.folder
        features = Features.load(folder)
        rows = features.embeddings[sample(len(features.paths), MEASURED)]
        with _named(folder):
            scores.append(measure(rows))
        encoder = dataclasses.asdict(features.run.encoder.identity)
        found.append({"folder": str(folder), "encoder": encoder, "of": len(features.paths), **dataclasses.asdict(scores[-1])})
    for row, rank in zip(found, mean_ranks(scores), strict=True):
        row["mean_rank"] = rank
    if as_json:
        say_json("score", {"folders": found})
    else:
        _say(found)
    end_with(failed)


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Prefix errors with the folder."""
    try:
        yield
    except FeaturesError as error:
        raise FeaturesError(f"{folder}: {error}") from error


def _say(found: list[dict[str, Any]]) -> None:
    from sslfeat.evaluation.unsupervised import MEANING

    ranks = [row["mean_rank"] for row in found]
    names = [str(row["folder"]) for row in found]
    wide = max(20, *(len(name) + 2 for name in names))
    say(f"{'':<18}" + "".join(f"{name:>{wide}}" for name in names))
    say(f"{'encoder':<18}" + "".join(f"{row['encoder']['name'][: wide - 2]:>{wide}}" for row in found))
    say(f"{'images, dim':<18}" + "".join(f"{_sizes(row):>{wide}}" for row in found))
    for figure, meaning in MEANING.items():
        say(f"{figure:<18}" + "".join(f"{row[figure]:>{wide}.3f}" for row in found) + f"   {meaning}")
    if any(row["images"] < row["of"] for row in found):
        note(f"larger folders were measured on a random sample of {MEASURED} images")
    if len(found) > 1:
        say(f"{'mean_rank':<18}" + "".join(f"{rank:>{wide}.2f}" for rank in ranks) + "   " + RANKED)
        first = [name for name, rank in zip(names, ranks, strict=True) if rank == min(ranks)]
        say(f"lowest mean_rank: {' and '.join(first)}" + (" (tie)" if len(first) > 1 else ""))
        if len({row["of"] for row in found}) > 1:
            note("the folders contain different numbers of images: compare encoders on the same images")
        note("this ranking did not correlate with probe accuracy beyond chance (docs/score.md)")


def _sizes(row: dict[str, object]) -> str:
    return f"{row['images']}, {row['dim']}"
