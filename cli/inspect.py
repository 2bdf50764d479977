"""``sslfeat info``, ``verify`` and ``models``: look at what is there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sslfeat.cli.console import note, say, say_json
from sslfeat.cli.exits import ERROR, needs
from sslfeat.errors import InputError, TrainingError, UsageError

Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def info(
    path: Annotated[str, typer.Argument(help="encoder file or name, target folder, training run, features folder or index")],
    as_json: Json = False,
) -> None:
    """Print the card of an encoder, or what is known of a target, a training run, a features folder or an index."""
    described = _describe(path)
    if as_json:
        say_json(described)
    else:
        _print(described)


def verify(
    path: Annotated[Path, typer.Argument(help="features folder, index, encoder file or target folder")],
    sources: Annotated[bool, typer.Option("--sources", help="read the images of a features folder again too")] = False,
) -> None:
    """Rehash a features folder, an index or a target, or check an encoder file; every fault is named."""
    from sslfeat.features.metadata import RUN_NAME, exchanging
    from sslfeat.retrieval.storage import META

    features = (path / RUN_NAME).is_file() or exchanging(path)
    if sources and not features:
        raise UsageError(f"{path} is no features folder: --sources is for those")
    if (path / META).is_file():
        _verify_index(path)
    elif path.is_dir() and not features:
        _target(path)
    elif not path.is_dir():
        from sslfeat.inference.onnx_model import read_encoder_file

        read_encoder_file(path)
    elif found := list(_faults(path, sources)):
        for fault in found:
            note(fault)
        raise typer.Exit(ERROR)
    say(f"{path}: whole and unaltered" if path.is_dir() else f"{path}: a sound encoder file")


def _faults(folder: Path, sources: bool) -> Iterator[str]:
    from sslfeat.features.verify import verify

    return verify(folder, sources)


def _verify_index(folder: Path) -> None:
    from sslfeat.retrieval.storage import IDS, VECTORS, read_meta, verify_file

    for name in (VECTORS, IDS):
        verify_file(folder, name, read_meta(folder), fresh=True)


def models(as_json: Json = False) -> None:
    """List the encoders that come with sslfeat."""
    from sslfeat.inference.onnx_model import read_encoder_file
    from sslfeat.inference.registry import names, resolve

    files = {name: read_encoder_file(resolve(name)) for name in names()}
    if as_json:
        say_json([_encoder(file) for file in files.values()])
        return
    for name, file in files.items():
        card = file.card
        say(f"{name}  {card.dim}-d, {card.preprocess.size} px, {len(file.data) / 1e6:.1f} MB")
        say(f"    {card.method} {card.backbone}, trained on {card.training_data.name}; license: {card.license}")


def _describe(path: str) -> dict[str, Any]:
    from sslfeat.features.metadata import RUN_NAME, exchanging
    from sslfeat.retrieval.storage import META, read_meta

    folder = Path(path)
    if (folder / META).is_file():
        return {name: value for name, value in read_meta(folder).items() if name != "files"}
    if (folder / RUN_NAME).is_file() or exchanging(folder):
        return _features(folder)
    if (folder / "config.yaml").is_file():
        return _run(folder)
    if folder.is_dir():
        return _target(folder)
    from sslfeat.inference.onnx_model import read_encoder_file
    from sslfeat.inference.registry import resolve

    return _encoder(read_encoder_file(resolve(path)))


def _encoder(file: Any) -> dict[str, Any]:
    return {**json.loads(file.card.to_json()), "fingerprint": file.fingerprint, "bytes": len(file.data)}


def _target(folder: Path) -> dict[str, Any]:
    """What a folder that ``export --target`` made says of itself, which is checked. Raises InputError for another."""
    from sslfeat.export.artifact import ABOUT, read_artifact
    from sslfeat.features.metadata import RUN_NAME
    from sslfeat.retrieval.storage import META

    if not (folder / ABOUT).is_file():
        raise InputError(
            f"{folder} is neither a features folder ({RUN_NAME}), an index ({META}), a target ({ABOUT}) "
            "nor a training run (config.yaml)"
        )
    about, card = read_artifact(folder)
    return {**dataclasses.asdict(about), "card": json.loads(card.to_json())}


def _features(folder: Path) -> dict[str, Any]:
    from sslfeat.features.files import commit_numbers
    from sslfeat.features.metadata import part_count, read_commit
    from sslfeat.features.reader import Watched

    watched = Watched(folder)
    run = watched.run

    def count() -> dict[str, Any]:
        commits = [commit for number in commit_numbers(folder) if (commit := read_commit(folder, run, number))]
        return {
            "parts": f"{len(commits)}/{part_count(run)}",
            "rows": sum(commit.rows for commit in commits),
            "failures": sum(len(commit.failures) for commit in commits),
        }

    return {**run, **watched.reading(count)}


def _run(folder: Path) -> dict[str, Any]:
    with needs("train"):
        import yaml
    path, metrics = folder / "config.yaml", folder / "metrics.csv"
    try:
        config = yaml.safe_load(path.read_bytes())
        lines = metrics.read_text().splitlines() if metrics.is_file() else []
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TrainingError(f"{folder} is no training run: {error}") from error
    if not isinstance(config, dict):
        raise TrainingError(f"{path} is not a training config: it holds {str(config)[:60]!r}")
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=False)) if len(lines) > 1 else {}
    return {"config": config, "last": last, "exportable": (folder / "encoder.safetensors").is_file()}


def _print(value: dict[str, Any], indent: str = "") -> None:
    for name, item in value.items():
        if isinstance(item, dict):
            say(f"{indent}{name}:")
            _print(item, indent + "  ")
        else:
            say(f"{indent}{name}: {item}")
