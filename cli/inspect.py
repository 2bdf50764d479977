"""``sslfeat info``, ``verify`` and ``models``: inspect encoders, runs, features and indexes."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sslfeat.cli.console import Named, note, say, say_json
from sslfeat.cli.exits import ERROR
from sslfeat.cli.options import Json
from sslfeat.cli.sources import CONFIG, kind_of
from sslfeat.errors import InputError, RetrievalError, TrainingError, UsageError, needs


def info(
    path: Annotated[str, typer.Argument(help="encoder file or name, target folder, training run, features folder or index")],
    as_json: Json = False,
) -> None:
    """Print the card of an encoder, or the metadata of a target, training run, features folder or index."""
    kind, described, encoder, images = _describe(path)
    if as_json:
        say_json("info", {"kind": kind, "about": described}, encoder, images)
        return
    _print(described)
    made = described if kind == "target" else described.get("target")
    if kind in ("target", "encoder") and made:
        _say_gates(made)
    if kind == "target":
        _say_how_to_run(Path(path), described)


def verify(
    path: Annotated[str, typer.Argument(help="features folder, index, encoder file or name, or target folder")],
    sources: Annotated[bool, typer.Option("--sources", help="also verify the source images of a features folder")] = False,
    as_json: Json = False,
) -> None:
    """Verify a features folder, index, target or encoder file against its hashes; a target also runs its sample input."""
    from sslfeat.inference.registry import resolve

    kind, faults, besides = kind_of(path), [], ""
    place = Path(path) if kind is not None else resolve(path)
    if sources and kind != "features":
        raise UsageError(f"{path} is not a features folder: --sources requires one")
    if kind == "index":
        faults = list(_index_faults(place))
    elif kind == "features":
        faults = list(_faults(place, sources))
    elif place.is_dir():
        faults, besides = _target_faults(place)
    else:
        from sslfeat.errors import EncoderFileError
        from sslfeat.inference.onnx_model import read_encoder_file

        try:
            recorded = read_encoder_file(place).recorded
        except EncoderFileError as error:
            recorded, faults = True, [str(error)]
        if not recorded:
            note(f"{path} has no fingerprint, so modified weights cannot be detected: 'sslfeat export' writes one")
    for fault in faults:
        note(fault)
    if as_json:
        say_json("verify", {"path": path, "whole": not faults, "faults": faults})
    elif not faults:
        say(f"{path}: {'complete and unmodified' if place.is_dir() else 'a valid encoder file'}{besides and f'; {besides}'}")
    if faults:
        raise typer.Exit(ERROR)


def _faults(folder: Path, sources: bool) -> Iterator[str]:
    from sslfeat.features.verify import verify

    return verify(folder, sources)


def _index_faults(folder: Path) -> Iterator[str]:
    from sslfeat.retrieval.storage import read_metadata, verify_file

    metadata = read_metadata(folder)
    for name in metadata.files:
        try:
            verify_file(folder, name, metadata, fresh=True)
        except RetrievalError as error:
            yield str(error)


def _target_faults(folder: Path) -> tuple[list[str], str]:
    from sslfeat.export.verify import verify_artifact

    _check_target(folder)
    return verify_artifact(folder)


def models(as_json: Json = False) -> None:
    """List the shipped encoders."""
    from sslfeat.inference.onnx_model import read_encoder_file
    from sslfeat.inference.registry import names, resolve

    files = {name: read_encoder_file(resolve(name)) for name in names()}
    if as_json:
        say_json("models", {"encoders": [_encoder(file) for file in files.values()]})
        return
    for name, file in files.items():
        card = file.card
        say(f"{name}  {card.dim}-d, {card.preprocess.size} px, {len(file.data) / 1e6:.1f} MB")
        say(f"    {card.method} {card.backbone}, trained on {card.training_data.name}; license: {card.license}")


def _describe(path: str) -> tuple[str, dict[str, Any], Named | None, int | None]:
    """Kind, metadata, encoder and number of images."""
    folder, kind = Path(path), kind_of(path)
    if kind == "index":
        from sslfeat.retrieval.storage import read_metadata

        index = read_metadata(folder)
        about = {name: value for name, value in index.plain().items() if name != "files"}
        return "index", about, index.encoder, index.rows - index.removed
    if kind == "features":
        return "features", *_features(folder)
    if kind == "run":
        return "run", _run(folder), None, None
    if folder.is_dir():
        about, made_of = _target(folder)
        return "target", about, made_of, None
    from sslfeat.inference.onnx_model import read_encoder_file
    from sslfeat.inference.registry import resolve

    file = read_encoder_file(resolve(path))
    return "encoder", {**_encoder(file), **_exported(file)}, file.identity, None


def _encoder(file: Any) -> dict[str, Any]:
    return {**json.loads(file.card.to_json()), "fingerprint": file.fingerprint, "bytes": len(file.data)}


def _exported(file: Any) -> dict[str, Any]:
    """The record that ``export --target`` writes into an encoder file, as ``target``; empty without one."""
    from sslfeat.export.artifact import target_of

    made = target_of(file.data)
    return {} if made is None else {"target": dataclasses.asdict(made)}


def _say_gates(made: dict[str, Any]) -> None:
    """Print which tolerances an exported encoder met, and which were overridden."""
    say(f"exported to {made['target']} from the encoder {made['of'][:12]}")
    if not made["gates"]:
        say(f"  not compared with it: {made['unrun']}")
    for gate in made["gates"]:
        say(f"  {gate}{'; overridden by --allow' if gate in made['overridden'] else ''}")


def _say_how_to_run(folder: Path, made: dict[str, Any]) -> None:
    """Print the programs in the folder that run the encoder; older folders have none."""
    programs = [str(folder / name) for name in made["files"] if name.startswith("check.")]
    if programs:
        say(f"to run it: {', '.join(programs)}; requirements and license: {folder / 'README.md'}")


def _target(folder: Path) -> tuple[dict[str, Any], Named]:
    """Verified record of a folder written by ``export --target``, and its encoder. Raises InputError."""
    from sslfeat.export.artifact import read_artifact
    from sslfeat.inference.model_card import Identity

    _check_target(folder)
    about, card = read_artifact(folder)
    return {**dataclasses.asdict(about), "card": json.loads(card.to_json())}, Identity(card.name, about.of)


def _check_target(folder: Path) -> None:
    """Raises InputError for a folder without the record of a target."""
    from sslfeat.export.artifact import ABOUT
    from sslfeat.features.metadata import RUN_NAME
    from sslfeat.retrieval.storage import META

    if not (folder / ABOUT).is_file():
        raise InputError(
            f"{folder} is neither a features folder ({RUN_NAME}), an index ({META}), a target ({ABOUT}) "
            "nor a training run (config.yaml)"
        )


def _features(folder: Path) -> tuple[dict[str, Any], Named, int]:
    from sslfeat.features.commits import read_commit
    from sslfeat.features.files import commit_numbers
    from sslfeat.features.metadata import part_count
    from sslfeat.features.reader import Watched

    watched = Watched(folder)
    run = watched.run

    def count() -> dict[str, Any]:
        commits = [commit for number in commit_numbers(folder) if (commit := read_commit(folder, run, number))]
        return {
            "parts": f"{len(commits)}/{part_count(run)}",
            "rows": sum(commit.rows for commit in commits),
            "failures": sum(len(commit.failures) for commit in commits),
            "parts_of_other_processors": dict(Counter(commit.processor for commit in commits if commit.processor)),
        }

    counts = watched.reading(count)
    first = ("rows", "failures", "parts")  # most important first
    return {**{name: counts[name] for name in first}, **run.plain(), **counts}, run.encoder.identity, counts["rows"]


def _run(folder: Path) -> dict[str, Any]:
    with needs("train"):
        import yaml
    path, metrics = folder / CONFIG, folder / "metrics.csv"
    try:
        config = yaml.safe_load(path.read_bytes())
        lines = metrics.read_text().splitlines() if metrics.is_file() else []
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TrainingError(f"{folder} is not a training run: {error}") from error
    if not isinstance(config, dict):
        raise TrainingError(f"{path} is not a training config: it contains {str(config)[:60]!r}")
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=False)) if len(lines) > 1 else {}
    return {"config": config, "last": last, "exportable": (folder / "encoder.safetensors").is_file()}


def _print(value: dict[str, Any], indent: str = "") -> None:
    for name, item in value.items():
        if item is None or (not item and isinstance(item, str | dict | list)):
            continue  # unknown
        if isinstance(item, dict):
            say(f"{indent}{name}:")
            _print(item, indent + "  ")
        else:
            say(f"{indent}{name}: {item}")
