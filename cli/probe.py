"""``sslfeat probe``: how good are these features?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sslfeat.cli.console import say, say_json


def probe(
    train: Annotated[Path, typer.Argument(help="features folder with labels")],
    test: Annotated[
        Path | None, typer.Argument(help="another to test on; default: a fifth of each class of the first")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the splits and the bootstrap")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Judge features by a linear probe and by nearest neighbours (top-1, with 95% bootstrap intervals)."""
    import dataclasses

    from sslfeat.features import Features
    from sslfeat.probe import Accuracy, probe_folders

    features = Features.load(train)
    result = probe_folders(features, None if test is None else Features.load(test), seed)
    if as_json:
        say_json({**dataclasses.asdict(result), "encoder": features.run["encoder"]["card"]["name"]})
        return

    def show(name: str, accuracy: Accuracy) -> None:
        say(f"{name:<12} {100 * accuracy.top1:5.2f}%  [{100 * accuracy.low:.2f}, {100 * accuracy.high:.2f}]")

    say(f"{result.train} train, {result.test} test, {result.classes} classes, majority {100 * result.majority:.2f}%")
    show(f"linear C={result.c:g}", result.linear)
    for k, accuracy in result.knn.items():
        show(f"kNN k={k}", accuracy)
