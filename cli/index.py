"""``sslfeat index``: build an index from features or images, and update it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sslfeat.cli.console import note, progress, say, say_json
from sslfeat.cli.options import BatchSize, Exclude, Json, Overwrite, Provider, parse_bytes
from sslfeat.cli.sources import check_images, end_with, given_of, shown
from sslfeat.errors import InputError, UsageError
from sslfeat.system.plurals import counted

if TYPE_CHECKING:
    from sslfeat.features.given import Given
    from sslfeat.retrieval.create import Events
    from sslfeat.retrieval.selection import IndexRequirements

Kind = Literal["auto", "flat", "ivf", "hnsw", "hnswsq", "ivfpq"]


def index(
    ctx: typer.Context,
    source: Annotated[list[str], typer.Argument(help="features folder, or images to embed first")],
    out: Annotated[Path, typer.Option(help="output: index folder")] = Path("index"),
    metric: Annotated[Literal["cosine", "ip", "l2"], typer.Option(help="similarity metric; ip: inner product")] = "cosine",
    recall: Annotated[float, typer.Option(help="minimum recall at 1 and at 10, 0 to 1")] = 0.95,
    memory: Annotated[
        str | None, typer.Option(help="memory limit for searching, such as 500M or 2G; default: half of the free memory")
    ] = None,
    build_memory: Annotated[
        str | None,
        typer.Option(
            help="memory limit for building, such as 1G; default: most of the free memory; larger indexes are built in shards"
        ),
    ] = None,
    shards: Annotated[
        int | None, typer.Option(help="number of files to split the vectors into; default: as required by --build-memory", min=1)
    ] = None,
    kind: Annotated[Kind, typer.Option(help="kind of index; auto: the fastest that meets --memory and --recall")] = "auto",
    workload: Annotated[
        Literal["batch", "single"], typer.Option(help="queries to optimize for: in batches, or one by one")
    ] = "batch",
    exclude: Exclude = None,
    encoder: Annotated[str | None, typer.Option(help="encoder file or name; for embedding images and queries")] = None,
    batch_size: BatchSize = None,
    provider: Provider = "auto",
    add: Annotated[bool, typer.Option("--add", help="add to an index; images with the same path are replaced")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="remove the images of SOURCE from the index")] = False,
    sync: Annotated[bool, typer.Option("--sync", help="make the contents equal to the source; unchanged rows are kept")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Build a nearest-neighbor index and measure its recall, or update an index."""
    if add + remove + sync + overwrite > 1:
        raise UsageError("--add, --remove, --sync and --overwrite are mutually exclusive")
    start = time.monotonic()
    failed = 0
    if remove:
        from sslfeat.retrieval.maintenance import remove as remove_rows

        with _events() as events:
            changed: Any = remove_rows(out, _named(source, out), events=events)
    else:
        from sslfeat.retrieval.create import check_free, requirements_of
        from sslfeat.retrieval.storage import META

        requirements = requirements_of(
            recall, parse_bytes("--memory", memory), kind, workload, parse_bytes("--build-memory", build_memory), shards
        )
        if (add or sync) and (out / META).exists():
            _check_same(ctx, out)
        else:
            check_free(out, overwrite)
        embedding = (encoder, provider, batch_size)
        features, failed = _features(source, exclude or [], out, embedding, overwrite, given_of(ctx, source))
        with _events() as events:
            changed = _fill(features, out, metric, requirements, encoder, add or sync, sync, overwrite, events)
    _tell(out, None if changed is None else changed, time.monotonic() - start, as_json)
    if failed:
        from sslfeat.features.files import FAILED_NAME

        note(f"{counted(failed, 'image')} could not be read: {features / FAILED_NAME}")
        end_with(failed)


def _check_same(ctx: typer.Context, out: Path) -> None:
    """Raises UsageError if options differ from those that an existing index was built with."""
    from sslfeat.retrieval.storage import read_metadata

    built = read_metadata(out)
    before = {
        "kind": built.figures.asked,
        "recall": built.figures.target,
        "workload": built.figures.workload,
        "metric": built.metric,
    }
    for name, value in before.items():
        source = ctx.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT" and ctx.params[name] != value:
            raise UsageError(
                f"{out} was built with --{name} {value}, which --add and --sync keep",
                f"omit --{name}, or rebuild with --overwrite",
            )


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


def _features(
    source: list[str], exclude: list[str], out: Path, embedding: tuple[str | None, str, int | None], overwrite: bool,
    given: Given | None,
) -> tuple[Path, int]:  # fmt: skip
    """The given features folder, or one embedded from the images of SOURCE; and the number of failed images."""
    from sslfeat.features.metadata import RUN_NAME

    if len(source) == 1 and (Path(source[0]) / RUN_NAME).is_file():
        if exclude:
            raise UsageError("--exclude applies to images, not to a features folder")
        return Path(source[0]), 0
    from sslfeat.data.dataset import find_inputs
    from sslfeat.features.update import update_folder
    from sslfeat.features.writer import Options, embed_to_folder
    from sslfeat.inference.encoder import Encoder
    from sslfeat.inference.registry import DEFAULT
    from sslfeat.retrieval.storage import FEATURES

    check_images("index", source)
    inputs = find_inputs(source, exclude=exclude, note=note)
    encoder, provider, batch_size = embedding
    loaded, options = Encoder.load(encoder or DEFAULT, provider), Options(batch_size, given=given)
    note(f"{counted(len(inputs), 'image')}, encoder {loaded.card.name} ({loaded.dim}-d), provider {loaded.provider}")
    with shown(len(inputs)) as report:
        if overwrite:
            summary = embed_to_folder(loaded, inputs, out / FEATURES, options, overwrite=True, report=report)
        else:
            summary, _ = update_folder(loaded, inputs, out / FEATURES, options, report=report)
    return out / FEATURES, summary.failed


def _named(source: list[str], out: Path) -> set[str]:
    """Paths to remove: those of a features folder or an image folder, or the path itself. Raises InputError if unknown."""
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
        raise InputError(f"{out} contains no image {min(unknown)} ({len(unknown)} unknown): ids.parquet lists its paths")
    return names


@contextmanager
def _events() -> Iterator[Events]:
    """Callbacks for notes and the progress of each stage."""
    from sslfeat.retrieval.create import Events

    with progress(1.0, "of this step") as show:

        def step(stage: str, done: int, total: int) -> None:
            show(done / max(total, 1), f"{stage} {done}/{total}")

        spoken: Callable[[str], None] = note
        yield Events(spoken, step)


def _tell(out: Path, changed: Any, seconds: float, as_json: bool) -> None:
    import dataclasses

    from sslfeat.retrieval.storage import META, read_metadata

    metadata = read_metadata(out)
    size = sum((out / name).stat().st_size for name in (*metadata.files, META))
    figures = metadata.figures
    if as_json:
        changes = None if changed is None else dataclasses.asdict(changed)
        names = ("factory", "metric", "settings", "rows", "removed", "dim", "figures")
        facts = {name: value for name, value in metadata.plain().items() if name in names}
        facts["figures"]["memory_bytes"] = facts["figures"].pop("memory")
        more = {"bytes": size, "seconds": round(seconds, 3), "changes": changes}
        say_json("index", {"out": str(out), **facts, **more}, metadata.encoder, metadata.rows - metadata.removed)
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
    if changed is None or changed.rebuilt:
        note(f"chosen: {figures.why}")
