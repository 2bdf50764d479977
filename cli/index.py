"""``sslfeat index``: features, or images straight away, become an index, and the index follows them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sslfeat.cli.console import note, progress, say, say_json
from sslfeat.cli.exits import BAD_INPUTS
from sslfeat.errors import InputError, UsageError

if TYPE_CHECKING:
    from sslfeat.retrieval.create import Events
    from sslfeat.retrieval.selection import IndexRequirements

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def index(
    source: Annotated[list[str], typer.Argument(help="features folder; or images, embedded first")],
    out: Annotated[Path, typer.Option(help="index folder")] = Path("index"),
    metric: Annotated[str, typer.Option(help="cosine, ip (inner product) or l2")] = "cosine",
    recall: Annotated[float, typer.Option(help="share of the nearest, of 1 as of 100, that must be found")] = 0.95,
    memory: Annotated[str | None, typer.Option(help="for searching, as 500M or 2G; default: half of what is free")] = None,
    kind: Annotated[str, typer.Option(help="auto, flat, ivf, hnsw or ivfpq")] = "auto",
    workload: Annotated[str, typer.Option(help="fastest for a batch of queries, or single ones")] = "batch",
    exclude: Annotated[list[str] | None, typer.Option(help="leave out images that match this glob; repeatable")] = None,
    encoder: Annotated[str | None, typer.Option(help="for images; kept in mind for searching")] = None,
    add: Annotated[bool, typer.Option("--add", help="add to the index, replacing rows of the same path")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="remove the images of SOURCE from the index")] = False,
    sync: Annotated[bool, typer.Option("--sync", help="make it hold SOURCE alone; only changes are touched")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the index")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print what was done as JSON")] = False,
) -> None:
    """Build an index that chooses its kind and measures its recall, or bring one up to date."""
    if add + remove + sync + overwrite > 1:
        raise UsageError("--add, --remove, --sync and --overwrite exclude each other: give one of them")
    start = time.monotonic()
    failed = 0
    if remove:
        from sslfeat.retrieval.maintenance import remove as remove_rows

        with _events() as events:
            changed: Any = remove_rows(out, _named(source, out), events=events)
    else:
        from sslfeat.retrieval.create import check_free, requirements_of
        from sslfeat.retrieval.storage import META

        requirements = requirements_of(recall, _bytes(memory), kind, workload)
        if not ((add or sync) and (out / META).exists()):
            check_free(out, overwrite)
        features, failed = _features(source, exclude or [], out, encoder, overwrite)
        with _events() as events:
            changed = _fill(features, out, metric, requirements, encoder, add or sync, sync, overwrite, events)
    _tell(out, None if changed is None else changed, time.monotonic() - start, as_json)
    if failed:
        from sslfeat.features.files import FAILED_NAME

        note(f"{failed} images could not be read: {features / FAILED_NAME}")
        raise typer.Exit(BAD_INPUTS)


def _fill(
    features: Path, out: Path, metric: str, requirements: IndexRequirements, encoder: str | None, living: bool, sync: bool,
    overwrite: bool, events: Events,
) -> Any:  # fmt: skip
    from sslfeat.retrieval.create import build_into
    from sslfeat.retrieval.maintenance import change
    from sslfeat.retrieval.storage import META
    from sslfeat.retrieval.vectors import FolderVectors

    vectors = FolderVectors(features, None if encoder is None else str(Path(encoder).resolve()))
    if living and (out / META).exists():
        return change(out, vectors, drop_missing=sync, events=events)
    build_into(out, vectors, metric, requirements, events, overwrite)
    return None


def _features(source: list[str], exclude: list[str], out: Path, encoder: str | None, overwrite: bool) -> tuple[Path, int]:
    """The features folder that SOURCE is, or becomes; and how many images failed."""
    from sslfeat.features.metadata import RUN_NAME

    if len(source) == 1 and (Path(source[0]) / RUN_NAME).is_file():
        if exclude:
            raise UsageError("--exclude is for images: a features folder is indexed as it is")
        return Path(source[0]), 0
    from sslfeat.cli.embed import shown
    from sslfeat.data.dataset import find_inputs
    from sslfeat.features.update import update_folder
    from sslfeat.features.writer import embed_to_folder
    from sslfeat.inference.encoder import Encoder
    from sslfeat.inference.registry import DEFAULT
    from sslfeat.retrieval.storage import FEATURES

    inputs = find_inputs(source, exclude=exclude, note=note)
    loaded = Encoder.load(encoder or DEFAULT)
    note(f"{len(inputs)} images, encoder {loaded.card.name} ({loaded.dim}-d), provider {loaded.provider}")
    with shown(len(inputs)) as report:
        if overwrite:
            summary = embed_to_folder(loaded, inputs, out / FEATURES, overwrite=True, report=report)
        else:
            summary, _ = update_folder(loaded, inputs, out / FEATURES, report=report)
    return out / FEATURES, summary.failed


def _named(source: list[str], out: Path) -> set[str]:
    """Paths as the index has them: of a features folder, of images and folders that are there, or as written."""
    from sslfeat.data.dataset import find_inputs
    from sslfeat.features.metadata import RUN_NAME
    from sslfeat.features.reader import FeaturesFolder
    from sslfeat.retrieval.index import Index

    names: set[str] = set()
    for spec in source:
        if (Path(spec) / RUN_NAME).is_file():
            names |= {path for part in FeaturesFolder(spec).parts() for path in part.columns["path"].to_pylist()}
        elif Path(spec).is_dir():
            names |= {item.name for item in find_inputs([spec], "none")}
        else:
            names.add(spec)
    unknown = names.difference(Index.load(out).columns["path"].to_pylist())
    if unknown:
        raise InputError(f"{out} has no image called {min(unknown)} ({len(unknown)} such names): see its ids.parquet")
    return names


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    parsed = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if parsed is None or float(parsed[1]) == 0:
        raise UsageError(f"--memory {text!r} cannot be read: give bytes, or 500M, or 2G")
    return int(float(parsed[1]) * UNITS[parsed[2].upper()])


@contextmanager
def _events() -> Iterator[Events]:
    """What is chosen, said as it happens; a bar for each stage."""
    from sslfeat.retrieval.create import Events

    with progress(1.0, "of this step") as show:

        def step(stage: str, done: int, total: int) -> None:
            show(done / max(total, 1), f"{stage} {done}/{total}")

        spoken: Callable[[str], None] = note
        yield Events(spoken, step)


def _tell(out: Path, changed: Any, seconds: float, as_json: bool) -> None:
    import dataclasses

    from sslfeat.retrieval.storage import FILES, read_metadata

    metadata = read_metadata(out)
    size = sum((out / name).stat().st_size for name in FILES)
    figures = metadata.figures
    if as_json:
        changes = None if changed is None else dataclasses.asdict(changed)
        names = ("factory", "metric", "settings", "rows", "removed", "dim", "figures", "encoder")
        plain = metadata.plain()
        facts = {name: plain[name] for name in names}
        say_json({"out": str(out), **facts, "bytes": size, "seconds": round(seconds, 3), "changes": changes})
        return
    if changed is not None:
        say(f"{out}: {changed}")
    rate, single = figures.queries_per_second, figures.single_queries_per_second
    settings = "".join(f" {name}={value}" for name, value in metadata.settings.get("10", {}).items())
    recalls = ", ".join(f"{recall:.3f} at {k}" for k, recall in figures.recall_at.items())
    found = f"recall {recalls}, on {figures.recall_queries} held-out queries" if metadata.settings else "exact"
    say(
        f"{out}: {metadata.rows - metadata.removed} x {metadata.dim} {metadata.metric}, {metadata.factory}{settings}: "
        f"{found}{f', {rate:.0f} queries/s ({single:.0f} one by one)' if rate else ''}, {size / 1e6:.1f} MB, {seconds:.1f} s"
    )
    note(f"chosen: {figures.why}")
