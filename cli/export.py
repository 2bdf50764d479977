"""``sslfeat export``: convert a run or an encoder to a verified ONNX file, or to another runtime."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sslfeat.cli.console import check_new, note, say, say_json, stages, working
from sslfeat.cli.options import CardName, Json, License, Overwrite, Seed, TrustCode, Weights
from sslfeat.cli.sources import kind_of
from sslfeat.errors import InputError, UsageError, needs
from sslfeat.system.plurals import counted

if TYPE_CHECKING:
    from sslfeat.export.convert import Report
    from sslfeat.inference.onnx_model import EncoderFile

Target = Literal[
    "onnx", "onnx-full", "int8", "fp16", "ort", "openvino", "openvino-fp16", "openvino-int8", "ncnn", "executorch", "litert",
    "web", "coreml", "tensorrt", "triton",
]  # fmt: skip
DEFAULT: Target = "onnx"
PUBLISHED = ("torchvision/", "timm/")


def export(
    source: Annotated[
        str | None, typer.Argument(help="run folder of 'sslfeat train', encoder file or name, torchvision/NAME or timm/NAME")
    ] = None,
    target: Annotated[Target, typer.Option(help="format or runtime to export to")] = DEFAULT,
    out: Annotated[
        Path | None, typer.Option(help="output: file or folder; default: NAME.onnx, NAME-TARGET.onnx or NAME-TARGET/")
    ] = None,
    random_init: Annotated[str | None, typer.Option(help="export a BACKBONE with random weights, as a baseline")] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="layers of the features, such as layer3:2x2+layer4,whiten=0.25,dim=512; default: the last layer"),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="side of the images, px; default: as in training", min=1)] = None,
    weights: Weights = None,
    seed: Seed = 0,
    images: Annotated[
        list[str] | None, typer.Option(help="images: for calibration and verification; default: those of the run; repeatable")
    ] = None,
    probe_data: Annotated[
        str | None, typer.Option(help="class folders to evaluate on; int8: kNN and probe accuracy may drop by at most one point")
    ] = None,
    allow: Annotated[bool, typer.Option("--allow", help="write the output even if it exceeds a tolerance; recorded")] = False,
    web_runtime: Annotated[
        Path | None, typer.Option(help="dist folder of onnxruntime-web, for --target web; default: download with npm")
    ] = None,
    name: CardName = None,
    data_name: Annotated[str | None, typer.Option(help="name of the training data, for the model card")] = None,
    data_license: Annotated[str, typer.Option(help="license of the training data, for the model card")] = "not stated",
    quality: Annotated[Path | None, typer.Option(help="JSON file of metric names and values, for the model card")] = None,
    license: License = "not stated",
    overwrite: Overwrite = False,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Export an encoder. Before the result is written, it is run in its own runtime and compared with the original."""
    if (source is None) == (random_init is None):
        raise UsageError("give either SOURCE (a run folder or an encoder) or --random-init BACKBONE")
    if random_init is not None and image_size is None:
        raise UsageError("--random-init needs --image-size")
    if weights is not None and (target != DEFAULT or not (source or "").startswith(PUBLISHED)):
        raise UsageError(
            "--weights requires timm/NAME or torchvision/NAME, and the default target", "export the resulting file to --target"
        )
    if source is not None and Path(source).is_dir() and kind_of(source) is None:
        raise UsageError(
            f"{source} is neither a run folder nor an encoder: if it contains images, use --images",
            f"sslfeat export ENCODER --target {target} --images {shlex.quote(source)}",
        )
    if target != DEFAULT:
        made_of = (source, random_init, image_size, seed)
        _target(
            made_of, target, out, images or [], probe_data, allow, layer, name, overwrite, web_runtime, trust_code, as_json,
        )  # fmt: skip
        return
    card = (name, data_name, data_license, license, _figures(quality))
    out = out or Path(f"{_stem(source or f'{random_init}-random')}.onnx")
    _encoder_file(
        source, random_init, image_size, seed, out, images or [], layer, card, overwrite, trust_code,
        as_json, weights,
    )  # fmt: skip


def _figures(path: Path | None) -> dict[str, float]:
    """A JSON object of names and numbers. Raises InputError."""
    try:
        found = {} if path is None else json.loads(path.read_text())
        return {str(name): float(value) for name, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"--quality {path} is not a JSON object of names and numbers: {error}") from error


def _encoder_file(
    source: str | None, random_init: str | None, image_size: int | None, seed: int, out: Path, images: list[str],
    layer: str | None, card: tuple[str | None, str | None, str, str, dict[str, float]], overwrite: bool,
    trust_code: bool, as_json: bool, weights: Path | None,
) -> None:  # fmt: skip
    from sslfeat.export.sources import check_exporter, run_folder

    pretrained = source is not None and source.startswith(PUBLISHED)
    run = None if source is None or pretrained else run_folder(source)
    if source is not None and not pretrained and run is None:
        raise InputError(
            f"{source} is not a run folder: for an encoder file, choose another --target (see sslfeat export --help)"
        )
    check_new(overwrite, out)
    check_exporter()
    with needs("export"):
        from sslfeat.export.from_run import Labels, export_random, export_run
        from sslfeat.export.pretrained import export_pretrained
    with working(f"exporting {source or random_init} and comparing with PyTorch"):
        if random_init is not None and image_size is not None:
            file = export_random(random_init, image_size, seed, out, images, overwrite)
        elif pretrained:
            file = export_pretrained(str(source), out, images, card[3], overwrite, weights or True, image_size)
        elif run is not None:
            labels = Labels(*card) if run == Path(str(source)) else Labels(*card).or_those_of(str(source))
            file = export_run(run, out, labels, images, overwrite, layer, trust_code, image_size)
    parity = file.card.parity
    figures = {"max_abs_diff": parity.max_abs_diff, "scale": parity.scale}
    figures |= {"min_cosine": parity.min_cosine, "neighbor_overlap": parity.neighbor_overlap}
    if as_json:
        facts = {"target": DEFAULT, "out": str(out), "bytes": len(file.data), "dim": file.card.dim, **figures}
        say_json("export", facts, file.identity, parity.images)
        return
    say(f"{out}: {len(file.data) / 1e6:.1f} MB, {file.card.dim}-d, {file.card.preprocess.size} px, {file.fingerprint}")
    say(
        f"parity with PyTorch on {counted(parity.images, 'image')}: "
        + ", ".join(f"{key} {value}" for key, value in figures.items())
    )
    if run is not None and run == Path(str(source)):
        _say_how_far(run, file)


def _say_how_far(run: Path, file: EncoderFile) -> None:
    """Print a note if the run is incomplete or untrained."""
    from sslfeat.models.engine.run_folder import came_to_an_end

    steps = 0 if file.card.training is None else file.card.training.steps
    if not came_to_an_end(run):
        line = shlex.join(["sslfeat", "train", "--out", str(run), "--resume"])
        note(f"{run} was interrupted after {counted(steps, 'step')}; to continue: {line}")
    elif steps == 0:
        note(f"{run} was not trained (0 steps): this is the initial encoder")


def _target(
    given: tuple[str | None, str | None, int | None, int], target: str, out: Path | None, images: list[str],
    probe_data: str | None, allow: bool, layer: str | None, name: str | None, overwrite: bool, web_runtime: Path | None,
    trust_code: bool, as_json: bool,
) -> None:  # fmt: skip
    """``given``: source or backbone with random weights, image size in px, and seed."""
    from sslfeat.export.convert import ExportRequest, convert
    from sslfeat.export.sources import origin, random_origin
    from sslfeat.export.targets.registry import find_target

    found = find_target(target)
    source, random_init, image_size, seed = given
    stem = _stem(source or f"{random_init}-random")
    out = out or Path(f"{stem}-{target}{'.onnx' if found.is_file else ''}")
    check_new(overwrite, out)
    found.check_machine(web_runtime)
    with stages() as stage:
        stage(f"reading {source or random_init}")
        if random_init is not None and image_size is not None:
            made_of = random_origin(random_init, image_size, seed, name or stem, images)
        else:
            made_of = origin(str(source), name, images, layer, trust_code, image_size)
        report = convert(made_of, ExportRequest(target, out, images, probe_data, allow, overwrite, web_runtime), stage)
    if as_json:
        say_json("export", _plain(report), made_of.file.identity, report.likeness.images if report.likeness else 0)
    else:
        _say(report, found.unrun)


def _stem(source: str) -> str:
    """Name of a run folder, encoder or network, for output names."""
    return Path(source).resolve().name.removesuffix(".onnx")


def _plain(report: Report) -> dict[str, Any]:
    return {"image_source" if name == "images" else name: value for name, value in dataclasses.asdict(report).items()}


def _say(report: Report, unrun: str) -> None:
    like = report.likeness
    say(f"{report.out}: {report.bytes / 1e6:.1f} MB, {report.bytes / report.reference_bytes:.2f} of the encoder file")
    if like is None:
        note(f"target {report.target}: {unrun}")
        return
    rows: list[tuple[str, Any]] = [
        ("images", f"{like.images} {report.images}"),
        ("cosine, minimum", f"{like.cosine:.7f}{_unseen(like.cosine_bound, '.7f', f'{100 * like.share:.4g} % of images')}"),
        ("max abs diff", f"{like.max_abs_diff:.3g} of {like.scale:.3g}"),
        ("overlap@10", f"{like.overlap:.4f}{_unseen(like.overlap_bound, '.4f', f'{like.images} images on average')}"),
    ]
    if report.drop is not None:
        for title, points, ends in (
            ("kNN drop", report.drop.knn, report.drop.knn_interval),
            ("probe drop", report.drop.linear, report.drop.linear_interval),
        ):
            within = "" if ends is None else f" [{ends[0]:+.2f}, {ends[1]:+.2f}]"
            rows.append((title, f"{points:+.2f}{within} points on {counted(report.drop.test, 'image')}"))
    if report.remark:
        rows.append(("note", report.remark))
    for batch, (reference, own) in report.seconds.items():
        times = f"{1000 * own:.2f} ms, encoder file {1000 * reference:.2f} ms, ratio {reference / own:.2f}"
        rows.append((f"batch {batch}", times))
    for title, value in rows:
        say(f"  {title:<14} {value}")
    for failed in report.overridden:
        note(f"tolerance exceeded (--allow): {failed}")


def _unseen(bound: float | None, shape: str, of: str) -> str:
    """Bound at 95 % confidence for other images like these."""
    return "" if bound is None else f"; unseen images: at least {bound:{shape}} for {of} (95 % confidence)"
