"""``sslfeat info``, ``verify`` and ``models``: look at what is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sslfeat.cli.console import note, say, say_json
from sslfeat.cli.exits import ERROR, needs
from sslfeat.errors import InputError

Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def info(
    path: Annotated[str, typer.Argument(help="encoder file or name, training run, features folder or index")],
    as_json: Json = False,
) -> None:
    """Print the card of an encoder, or what is known of a training run, a features folder or an index."""
    described = _describe(path)
    if as_json:
        say_json(described)
    else:
        _print(described)


def verify(
    folder: Annotated[Path, typer.Argument(help="features folder or index")],
    sources: Annotated[bool, typer.Option("--sources", help="read the pictures again too")] = False,
) -> None:
    """Rehash a features folder or an index; every fault is named."""
    from sslfeat.retrieval.folder import IDS, META, VECTORS, read_meta, verify_file
    from sslfeat.verify import verify as faults

    if (folder / META).is_file():
        for name in (VECTORS, IDS):
            verify_file(folder, name, read_meta(folder), fresh=True)
        say(f"{folder}: whole and unaltered")
        return
    found = list(faults(folder, sources))
    for fault in found:
        note(fault)
    if found:
        raise typer.Exit(ERROR)
    say(f"{folder}: whole and unaltered")


def models(as_json: Json = False) -> None:
    """List the encoders that come with sslfeat."""
    from sslfeat.encoder_file import read_encoder_file
    from sslfeat.zoo import names, resolve

    files = {name: read_encoder_file(resolve(name)) for name in names()}
    if as_json:
        say_json([_encoder(file) for file in files.values()])
        return
    for name, file in files.items():
        card = file.card
        say(f"{name}  {card.dim}-d, {card.preprocess.size} px, {len(file.data) / 1e6:.1f} MB")
        say(f"    {card.method} {card.backbone}, trained on {card.training_data.name}; licence: {card.licence}")


def _describe(path: str) -> dict[str, Any]:
    from sslfeat.features import RUN_NAME
    from sslfeat.retrieval.folder import META, read_meta

    folder = Path(path)
    if (folder / META).is_file():
        return {name: value for name, value in read_meta(folder).items() if name != "files"}
    if (folder / RUN_NAME).is_file():
        return _features(folder)
    if (folder / "config.yaml").is_file():
        return _run(folder)
    if folder.is_dir():
        raise InputError(
            f"{path} is neither a features folder ({RUN_NAME}), an index ({META}) nor a training run (config.yaml)"
        )
    from sslfeat.encoder_file import read_encoder_file
    from sslfeat.zoo import resolve

    return _encoder(read_encoder_file(resolve(path)))


def _encoder(file: Any) -> dict[str, Any]:
    return {**json.loads(file.card.to_json()), "fingerprint": file.fingerprint, "bytes": len(file.data)}


def _features(folder: Path) -> dict[str, Any]:
    from sslfeat.features import files_of, part_count, read_commit, read_run

    run = read_run(folder)
    commits = [
        commit for number in range(part_count(run)) if (commit := read_commit(folder, number, files_of(run, number)))
    ]
    counts = {
        "parts": f"{len(commits)}/{part_count(run)}",
        "rows": sum(commit.rows for commit in commits),
        "failures": sum(len(commit.failures) for commit in commits),
    }
    return {**run, **counts}


def _run(folder: Path) -> dict[str, Any]:
    with needs("train"):
        import yaml
    config: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    metrics = folder / "metrics.csv"
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=False)) if len(lines) > 1 else {}
    return {"config": config, "last": last, "exportable": (folder / "encoder.safetensors").is_file()}


def _print(value: dict[str, Any], indent: str = "") -> None:
    for name, item in value.items():
        if isinstance(item, dict):
            say(f"{indent}{name}:")
            _print(item, indent + "  ")
        else:
            say(f"{indent}{name}: {item}")
