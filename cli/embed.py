"""``sslfeat embed`` and ``repair``: write and repair a features folder."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sslfeat.cli.console import note, say, say_json, working
from sslfeat.cli.exits import BAD_INPUTS, ERROR
from sslfeat.cli.options import BatchSize, Exclude, Json, Overwrite, Provider, Strict, Threads
from sslfeat.cli.places import copies
from sslfeat.cli.sources import check_images, given_of, shown
from sslfeat.errors import UsageError
from sslfeat.system.plurals import counted

if TYPE_CHECKING:
    from sslfeat.data.dataset import ImageRecord
    from sslfeat.data.manifest_diff import ManifestDiff
    from sslfeat.features.metadata import FeaturesMetadata
    from sslfeat.features.writer import Summary
    from sslfeat.inference.model_card import Identity

    Job = Callable[..., tuple[Summary, object]]  # (encoder, inputs, out, options, report=); returns changes, if known

Precision = Literal["fp32", "int8", "bf16", "auto"]
LabelsFrom = Literal["auto", "folder", "none"]


def embed(
    ctx: typer.Context,
    images: Annotated[list[str], typer.Argument(help="folders, images, globs, lists, tar, zip, Parquet, videos, URLs; -: stdin")],
    out: Annotated[Path, typer.Option(help="output: features folder")] = Path("features"),
    encoder: Annotated[str | None, typer.Option(help="encoder file or name; default: sslfeat-small")] = None,
    batch_size: BatchSize = None,
    part_size: Annotated[int, typer.Option(help="images per part file; a crash loses only unfinished parts")] = 1024,
    format_: Annotated[Literal["parquet", "npy"], typer.Option("--format", help="npy: layout of clip-retrieval")] = "parquet",
    precision: Annotated[Precision, typer.Option(help="arithmetic precision; verified on a sample unless fp32")] = "fp32",
    decode: Annotated[Literal["exact", "fast"], typer.Option(help="image decoding; fast: resize with cykooz.resizer")] = "exact",
    provider: Provider = "auto",
    threads: Threads = 1,
    num_workers: Annotated[int | None, typer.Option(help="worker processes; default: one per core")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="maximum number of pixels of an image; default: 179 million")] = None,
    max_memory: Annotated[int, typer.Option(help="maximum memory to decode one image, MiB")] = 2048,
    max_seconds: Annotated[float, typer.Option(help="maximum time to decode one image, s")] = 30.0,
    exclude: Exclude = None,
    labels: Annotated[LabelsFrom, typer.Option(help="source of labels: folder names; auto: if they look like classes")] = "auto",
    every: Annotated[str | None, typer.Option(help="interval between video frames, such as 1s, 500ms, 2min")] = None,
    update: Annotated[bool, typer.Option("--update", help="embed only new and changed images")] = False,
    overwrite: Overwrite = False,
    parts: Annotated[str | None, typer.Option(help="K/N: embed share K of N; other processes embed the others")] = None,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="execution engine; ray: a Ray cluster")] = "local",
    address: Annotated[str | None, typer.Option(help="address of the Ray cluster; default: a temporary local cluster")] = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Embed images with a frozen encoder. To resume after an interruption, repeat the command."""
    from sslfeat.system.cores import one_thread_each

    one_thread_each()
    from sslfeat.data.containers.video import parse_interval
    from sslfeat.data.dataset import find_inputs
    from sslfeat.data.decode_worker import Limits
    from sslfeat.data.transforms import MAX_PIXELS, Decoding
    from sslfeat.features.writer import Options
    from sslfeat.inference.encoder import Encoder
    from sslfeat.inference.onnx_model import read_encoder_file
    from sslfeat.inference.registry import DEFAULT, resolve

    check_images("embed", images)
    start = time.monotonic()
    job = _job(parts, engine, address, update, overwrite, precision, out)
    decoding = Decoding(decode, MAX_PIXELS if max_pixels is None else max_pixels)
    decoding.require()
    limits, given = Limits(max_seconds, max_memory << 20), given_of(ctx, images)
    options = Options(batch_size, part_size, num_workers, format_, decoding, limits, given)
    inputs = find_inputs(images, labels, exclude or (), note, None if every is None else parse_interval(every))
    _say_labels(inputs, labels)
    loaded = Encoder.load(encoder or DEFAULT, provider, threads)
    note(f"{counted(len(inputs), 'image')}, encoder {loaded.card.name} ({loaded.dim}-d), provider {loaded.provider}")
    if precision != "fp32":
        from sslfeat.features.auto_precision import settle

        file = read_encoder_file(resolve(encoder or DEFAULT))
        paths = [record.path for record in inputs]
        with working("measuring precisions on a sample of the images"):
            loaded = settle(file, loaded, paths, precision, decoding, None if overwrite else out, note)
    failed_before = _failures_of(out)
    with shown(len(inputs)) as report:
        summary, changes = job(loaded, inputs, out, options, report=report)
    if changes is not None:
        note(f"since the last run: {changes}")
    seconds, before = time.monotonic() - start, None if changes is None else failed_before
    _finish("embed", summary, loaded.identity, seconds, strict, as_json, before)


def _job(parts: str | None, engine: str, address: str | None, update: bool, overwrite: bool, precision: str, out: Path) -> Job:
    """Select the function that embeds. Raises UsageError for mutually exclusive options."""
    from sslfeat.engines.shares import Share, embed_share
    from sslfeat.features.update import update_folder
    from sslfeat.features.writer import embed_to_folder

    if update and overwrite:
        raise UsageError("--update and --overwrite are mutually exclusive")
    if address and engine != "ray":
        raise UsageError("--address requires --engine ray")
    if parts and (engine == "ray" or overwrite or update):
        raise UsageError("--parts cannot be combined with --engine ray, --overwrite or --update")
    if update and engine == "ray":
        raise UsageError("--update cannot be combined with --engine ray")
    if update:
        return lambda *given, report: update_folder(*given, report=report, look=partial(_check_update, out))
    mirrored = copies(overwrite)
    if parts:
        share = Share.parse(parts)
        share.check_precision(precision, out)
        return lambda *given, report: (embed_share(*given, share=share, report=report, copies=mirrored), None)
    spread = None
    if engine == "ray":
        from sslfeat.engines.ray_cluster import RayEngine

        spread = RayEngine(address)
    return lambda *given, report: (
        embed_to_folder(*given, overwrite=overwrite, report=report, engine=spread, copies=mirrored),
        None,
    )


def _check_update(out: Path, kept: FeaturesMetadata, run: FeaturesMetadata, changes: ManifestDiff, held: int) -> None:
    """Warn if metadata is lost because a list is missing. Raises UsageError if most images would be removed or lose metadata."""
    left_out = () if kept.given is None or run.given is None else kept.given.beyond(run.given)
    if kept.given is None or run.given is None or not left_out:
        _check_lists(out, kept, run, changes)
        return
    line = shlex.join(kept.given.joined(run.given).update(out))
    count = kept.inputs.count
    if 2 * min(changes.removed, count - held) > count:  # moved and renamed images are kept
        raise UsageError(
            f"{changes.removed} of the {counted(count, 'image')} of {out} would be removed: it was computed from "
            f"{shlex.join(kept.given.images)}, and {shlex.join(left_out)} {_is(left_out)} missing from this command "
            "(to replace it, use --overwrite instead of --update)",
            line,
        )
    if changes.undescribed:
        note(
            f"warning: the metadata of {counted(changes.undescribed, 'image')} was removed: {shlex.join(left_out)} "
            f"{'was' if len(left_out) == 1 else 'were'} given before, and {_is(left_out)} missing from "
            f"this command (to keep it: {line})"
        )


def _check_lists(out: Path, kept: FeaturesMetadata, run: FeaturesMetadata, changes: ManifestDiff) -> None:
    """Raises UsageError if the same lists no longer describe most of the images: they may be truncated."""
    before, now = kept.given, run.given
    same = before is None or now is None or (before.value("--labels") == now.value("--labels") and not now.beyond(before))
    losses = {"metadata": changes.undescribed, "labels": changes.unlabeled if same else 0}  # a new table replaces folder labels
    for what, lost in losses.items():
        if 2 * lost > kept.inputs.count:
            raise UsageError(
                f"{lost} of the {counted(kept.inputs.count, 'image')} of {out} would lose their {what}: check that "
                f"{shlex.join(now.images) if now else 'the input'} is complete (to use it anyway, "
                "use --overwrite instead of --update)"
            )


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def repair(
    folder: Annotated[Path, typer.Argument(help="features folder")],
    encoder: Annotated[str | None, typer.Option(help="encoder file or name; required unless it is a shipped encoder")] = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Recompute the damaged or missing parts of a features folder."""
    from sslfeat.system.cores import one_thread_each

    one_thread_each()
    from sslfeat.features.metadata import read_run
    from sslfeat.features.update import load_encoder, repair_folder

    start = time.monotonic()
    loaded = load_encoder(folder, encoder)
    with shown(read_run(folder).inputs.count) as report:
        summary = repair_folder(loaded, folder, report=report)
    _finish("repair", summary, loaded.identity, time.monotonic() - start, strict, as_json)


def _finish(
    command: str, summary: Summary, encoder: Identity, seconds: float, strict: bool, as_json: bool,
    failed_before: Sequence[tuple[str, str]] | None = None,
) -> None:  # fmt: skip
    """Report counts, time per stage and reasons of failures; failures determine the exit code."""
    from sslfeat.features.failures import read_failures, summed_up

    shares = summary.spent.shares()
    if as_json:
        counts = {"embedded": summary.embedded, "failed": summary.failed, "resumed": summary.resumed}
        counts["missing_parts"] = summary.missing
        times = {f"{name}_share": round(share, 4) for name, share in shares.items()}
        times["seconds"] = round(summary.spent.wall, 3)
        facts = {"out": str(summary.folder), **counts, "seconds": round(seconds, 3), "time": times}
        say_json(command, facts, encoder, summary.embedded + summary.failed)
    else:
        done = summary.embedded + summary.failed
        before = f" ({summary.resumed} of {done} by an earlier run)" if summary.resumed else ""
        say(f"{summary.folder}: {summary.embedded} embedded, {summary.failed} failed{before}, {seconds:.1f} s")
        if done > summary.resumed:
            note(
                f"time of {counted(summary.spent.workers, 'worker')}: {shares['decode']:.0%} decoding, "
                f"{shares['infer']:.0%} inference, {shares['wait']:.0%} waiting; writing {summary.spent.write:.1f} s"
            )
    if summary.missing:
        note(f"{summary.missing} parts of {summary.folder} belong to other shares; the last to finish lists the failed images")
    if summary.failed:
        if not summary.missing:
            for line in summed_up(read_failures(summary.failures), failed_before):
                note(line)
            note(f"list of failed images: {summary.failures}")
        raise typer.Exit(ERROR if strict else BAD_INPUTS)


def _failures_of(out: Path) -> list[tuple[str, str]]:
    from sslfeat.features.failures import FAILURES_NAME, read_failures
    from sslfeat.features.metadata import META_FOLDER

    return read_failures(out / META_FOLDER / FAILURES_NAME)


def _say_labels(inputs: Sequence[ImageRecord], labels: str) -> None:
    """Report the number of classes, or why folder names are not used as labels."""
    from sslfeat.data.read import exists

    classes = {record.label for record in inputs} - {None}
    without = sum(record.label is None for record in inputs)
    if classes and without:
        there = [record for record in inputs if exists(record.path)]  # a row of a table need not have an image
        classes = {record.label for record in there} - {None}
        without = sum(record.label is None for record in there)
    if classes and without:
        note(f"labels: {_classes(len(classes))}; without a label: {counted(without, 'image')} (--labels none ignores labels)")
    elif not classes and labels == "auto" and len(_folders(inputs)) > 2:
        note("labels: none, since the folders do not look like classes (images at several depths); --labels folder uses them")


def _classes(number: int) -> str:
    return "1 class" if number == 1 else f"{number} classes"


def _folders(inputs: Sequence[ImageRecord]) -> set[bytes]:
    """Folders of the images, without containers."""
    from sslfeat.data.containers.registry import is_container

    return {folder for record in inputs if not is_container(folder := os.path.dirname(record.path))}
