"""``sslfeat embed`` and ``repair``: images become a features folder, and stay one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sslfeat.cli.console import note, progress, say, say_json
from sslfeat.cli.exits import BAD_INPUTS, ERROR
from sslfeat.errors import InputError

if TYPE_CHECKING:
    from sslfeat.data.dataset import ImageRecord
    from sslfeat.features.writer import EmbedProgress, Summary

Strict = Annotated[bool, typer.Option("--strict", help="unreadable images are an error")]
Json = Annotated[bool, typer.Option("--json", help="print the summary as JSON")]


def embed(
    images: Annotated[list[str], typer.Argument(help="folders, images, quoted globs, .txt lists, - for standard input")],
    out: Annotated[Path, typer.Option(help="features folder")] = Path("features"),
    encoder: Annotated[str | None, typer.Option(help="encoder file, or a name from 'sslfeat models'")] = None,
    batch_size: Annotated[int | None, typer.Option(help="images per inference; default: 4, on a GPU 32")] = None,
    part_size: Annotated[int, typer.Option(help="images per part file: what a crash can cost")] = 1024,
    format_: Annotated[str, typer.Option("--format", help="parquet, or npy as clip-retrieval reads it")] = "parquet",
    precision: Annotated[str, typer.Option(help="fp32; int8, bf16 or auto: faster, if these images allow")] = "fp32",
    decode: Annotated[str, typer.Option(help="exact, or fast: large JPEGs decoded at reduced size")] = "exact",
    provider: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Annotated[int, typer.Option(help="threads per inference")] = 1,
    num_workers: Annotated[int | None, typer.Option(help="decode and infer at once; default: one a core")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="refuse images of more; default: 179 million")] = None,
    max_memory: Annotated[int, typer.Option(help="MiB that decoding one image may take")] = 2048,
    max_seconds: Annotated[float, typer.Option(help="that decoding one image may take")] = 30.0,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="leave out what matches this glob: a path, or a file's or folder's name; repeatable"),
    ] = None,
    labels: Annotated[str, typer.Option(help="auto (folders that look like classes), folder, none")] = "auto",
    update: Annotated[bool, typer.Option("--update", help="embed what changed since, keep the rest")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="discard the features that --out holds")] = False,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Embed images with a frozen encoder. Killed or interrupted, the same command goes on where it was."""
    from sslfeat.system.cores import one_thread_each

    one_thread_each()
    from sslfeat.data.dataset import find_inputs
    from sslfeat.data.decode_worker import Limits
    from sslfeat.data.transforms import MAX_PIXELS, Decoding
    from sslfeat.features.writer import Options, embed_to_folder
    from sslfeat.inference.encoder import Encoder
    from sslfeat.inference.onnx_model import read_encoder_file
    from sslfeat.inference.registry import DEFAULT, resolve

    if update and overwrite:
        raise InputError("--update keeps what --overwrite discards: give one of them")
    start = time.monotonic()
    decoding = Decoding(decode, MAX_PIXELS if max_pixels is None else max_pixels)
    options = Options(batch_size, part_size, num_workers, format_, decoding, Limits(max_seconds, max_memory << 20))
    inputs = find_inputs(images, labels, exclude or (), note)
    _say_labels(inputs, labels)
    loaded = Encoder.load(encoder or DEFAULT, provider, threads)
    note(f"{len(inputs)} images, encoder {loaded.card.name} ({loaded.dim}-d), provider {loaded.provider}")
    if precision != "fp32":
        from sslfeat.features.auto_precision import settle

        file = read_encoder_file(resolve(encoder or DEFAULT))
        raws = [item.raw for item in inputs]
        loaded = settle(file, loaded, raws, precision, decoding, None if overwrite else out, note)
    changes = None
    with shown(len(inputs)) as report:
        if update:
            from sslfeat.features.update import update_folder

            summary, changes = update_folder(loaded, inputs, out, options, report=report)
        else:
            summary = embed_to_folder(loaded, inputs, out, options, overwrite=overwrite, report=report)
    if changes is not None:
        note(f"since the last run: {changes}")
    _finish(summary, loaded.fingerprint, time.monotonic() - start, strict, as_json)


def repair(
    folder: Annotated[Path, typer.Argument(help="features folder")],
    encoder: Annotated[str | None, typer.Option(help="the encoder that made it, if it is not one in the box")] = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Make the damaged or missing parts of a features folder again, and only those."""
    from sslfeat.system.cores import one_thread_each

    one_thread_each()
    from sslfeat.features.reader import read_run
    from sslfeat.features.update import load_encoder, repair_folder

    start = time.monotonic()
    loaded = load_encoder(folder, encoder)
    with shown(read_run(folder)["inputs"]["count"]) as report:
        summary = repair_folder(loaded, folder, report=report)
    _finish(summary, loaded.fingerprint, time.monotonic() - start, strict, as_json)


@contextmanager
def shown(total: int) -> Iterator[Callable[[EmbedProgress], None]]:
    start = time.monotonic()
    with progress(total, "embedded") as show:

        def report(now: EmbedProgress) -> None:
            rate = (now.done - now.resumed) / max(time.monotonic() - start, 1e-9)
            show(now.done, f"{now.done}/{now.total}  {rate:.0f} images/s  {now.failed} failed")

        yield report


def _finish(summary: Summary, fingerprint: str, seconds: float, strict: bool, as_json: bool) -> None:
    """Say what came of it and where the time went; bad images decide the exit code."""
    shares = summary.spent.shares()
    if as_json:
        counts = {"embedded": summary.embedded, "failed": summary.failed, "resumed": summary.resumed}
        times = {name: round(share, 4) for name, share in shares.items()}
        times["seconds"] = round(summary.spent.wall, 3)
        say_json(
            {
                "out": str(summary.folder),
                **counts,
                "seconds": round(seconds, 3),
                "time": times,
                "fingerprint": fingerprint,
            }
        )
    else:
        before = f", {summary.resumed} of them before" if summary.resumed else ""
        say(f"{summary.folder}: {summary.embedded} embedded, {summary.failed} failed{before}, {seconds:.1f} s")
        if summary.embedded + summary.failed > summary.resumed:
            note(
                f"time of {summary.spent.workers} workers: {shares['decode']:.0%} decoding, {shares['infer']:.0%} inference, "
                f"{shares['wait']:.0%} waiting; writing {summary.spent.write:.1f} s"
            )
    if summary.failed:
        note(f"the failed images and why: {summary.failures}")
        raise typer.Exit(ERROR if strict else BAD_INPUTS)


def _say_labels(inputs: Sequence[ImageRecord], labels: str) -> None:
    """Say what was taken for classes, and what stood in the way of taking folders for them."""
    classes = {item.label for item in inputs} - {None}
    without = sum(item.label is None for item in inputs)
    if classes and without:
        note(f"labels: {len(classes)} class folders; {without} images beside them have none (--labels none: no labels at all)")
    elif not classes and labels == "auto" and len({os.path.dirname(item.raw) for item in inputs}) > 2:
        note("labels: none, the folders do not look like classes (images at several depths); --labels folder takes them so")
