"""Convert an encoder, run the result in its runtime, and compare; a result beyond its tolerance is rejected and not written."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnx

from sslfeat.data.dataset import ImageRecord, find_inputs
from sslfeat.data.decode import Pixels
from sslfeat.data.holdout import SEEN, draw_panel
from sslfeat.data.sampling import decode_all
from sslfeat.errors import OVERWRITE, ExportError, ParityError
from sslfeat.export.artifact import ABOUT, CARD, TARGET_KEY, Artifact, hash_folder
from sslfeat.export.gates import Agreement, Drop, GateResult, check_classes, check_enough, drop_of, judge, likeness
from sslfeat.export.images import DRAWN, images_to_check
from sslfeat.export.runner import BATCH_SIZES, measure
from sslfeat.export.sources import Origin
from sslfeat.export.targets.base import Source, Target
from sslfeat.export.targets.device import write_device_files
from sslfeat.export.targets.registry import find_target
from sslfeat.inference.backends import OnnxRuntimeBackend
from sslfeat.inference.model_card import Parity
from sslfeat.inference.onnx_model import EncoderFile, check_encoder, with_card
from sslfeat.numerics.sampling import evenly
from sslfeat.storage import atomic, staged

LABELED, CHECKED = 4000, 64
PACKAGES = ("onnx", "onnxruntime-gpu", "onnxruntime", "openvino", "ncnn", "pnnx", "executorch", "coremltools", "torch")


Stage = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """Comparison of an artifact. ``likeness`` is None if it was not run. ``seconds``: by batch size, of the reference
    (onnxruntime with one thread) and of the artifact. ``overridden``: gates that failed and were allowed. ``remark``: further
    information."""

    target: str
    out: str
    bytes: int
    reference_bytes: int
    likeness: Agreement | None
    drop: Drop | None
    verdicts: list[GateResult]
    overridden: list[str]
    seconds: dict[int, tuple[float, float]]
    images: str
    remark: str


@dataclass(frozen=True)
class ExportRequest:
    """A ``target`` by name and the output path ``out``. ``images``: for calibration and comparison.

    ``labeled``: a folder of class folders, for also comparing classifiers. ``allow``: write the artifact even if a gate fails,
    and record which. ``web_runtime``: a copy of onnxruntime-web.
    """

    target: str
    out: Path
    images: Sequence[str] = ()
    labeled: str | None = None
    allow: bool = False
    overwrite: bool = False
    web_runtime: Path | None = None


def convert(origin: Origin, request: ExportRequest, stage: Stage = lambda what: None) -> Report:
    """Convert an encoder as requested; ``stage`` is called with a description of each stage.

    Raises ParityError, with the figures, for an artifact that fails its gates, ExportError if it cannot be made or run.
    """
    target = find_target(request.target)
    target.check_machine(request.web_runtime)
    target.check_encoder(origin.file, origin.weights is not None)
    _check_free(request.out, target, request.overwrite)
    if request.labeled and target.gate.drop is not None:
        check_classes([str(item.label) for item in _labeled(request.labeled)])
    with images_to_check(request.images, () if target.shows else origin.own) as (sources, image_source):
        return _converted(target, origin, request, sources, image_source, stage)


def _converted(
    target: Target, origin: Origin, request: ExportRequest, sources: Sequence[bytes], image_source: str, stage: Stage
) -> Report:
    file, out = origin.file, request.out
    if not sources:
        raise ExportError("there are no images for the comparison: give some with --images")
    compared = target.runtime is not None or target.check is not None
    if compared:
        check_enough(len(sources) - min(SEEN, len(sources) // 5), target.gate)
    stage("reading the images for calibration and comparison")
    panel = draw_panel(sources, file.card.preprocess)
    if compared:
        check_enough(len(panel.judged), target.gate)  # before removing unreadable images and duplicates
    source = Source(file, origin.weights, panel.seen, panel.names, request.web_runtime, panel.further)
    place = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        made = place / ("encoder.onnx" if target.is_file else "folder")
        if not target.is_file:
            made.mkdir()
        stage(f"making {target.name} ({target.about})")
        target.make(source, made)
        if compared:
            stage(f"comparing {target.name} with the encoder")
        report = _judged(target, source, made, panel.judged, image_source, request)
        if target.shows and image_source != DRAWN:
            remark = f"{report.remark}; it contains thumbnails of {min(target.shows, len(panel.names))} of your images"
            report = dataclasses.replace(report, remark=remark)
        _sign(target, file, made, report)
        report = dataclasses.replace(report, out=str(out), bytes=_size(made))
        staged.replace(made, out)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return report


def _judged(target: Target, source: Source, made: Path, judged: Pixels, image_source: str, request: ExportRequest) -> Report:
    file = source.file
    report = Report(target.name, "", 0, len(file.data), None, None, [], [], {}, image_source, "")
    if target.runtime is None and target.check is None:
        return report
    if not target.is_file:
        _describe(target, file, made, report)  # needed for loading it in its runtime
    reference = made.parent / "reference.onnx"
    reference.write_bytes(file.data)
    seconds, remark = {}, ""
    if target.check is not None:
        checked = target.check(source, made, source.shown[:CHECKED])
        rows = checked.reference
        if rows is None:
            rows = OnnxRuntimeBackend(file.data, "cpu", 1).run(judged[:CHECKED])
        like, remark = likeness(rows, [checked.embeddings]), checked.remark
    else:
        measured = measure(made, reference, judged)
        like, seconds = likeness(measured.reference, list(measured.found.values())), measured.seconds
    labeled = request.labeled if target.gate.drop is not None else None
    drop = _drop(made, reference, source, labeled) if labeled else None
    verdicts = judge(target.gate, like, drop)
    failed = [str(verdict) for verdict in verdicts if not verdict.passed]
    if failed and not request.allow:
        cure = _cure(target, image_source, verdicts, drop)
        raise ParityError(f"target {target.name} differs from the encoder: {'; '.join(failed)}; nothing was written{cure}")
    return dataclasses.replace(
        report, likeness=like, drop=drop, verdicts=verdicts, overridden=failed, seconds=seconds, remark=remark
    )


def _cure(target: Target, image_source: str, verdicts: list[GateResult], drop: Drop | None) -> str:
    """Possible cure for a failed gate."""
    if image_source == DRAWN:
        return "; drawn images differ from photographs: give your own with --images"
    limits = [verdict.limit for verdict in verdicts if not verdict.passed and verdict.figure.endswith("drop")]
    if drop is not None and limits and max(drop.knn, drop.linear) <= min(limits):
        return f"; {drop.test} labeled images are too few to show a loss below one point: give more"
    half = "openvino-fp16" if target.name.startswith("openvino") else "fp16"
    return f"; --target {half} is half the size and has a larger tolerance" if target.gate.overlap is not None else ""


def _drop(made: Path, reference: Path, source: Source, labeled: str) -> Drop:
    """Features of up to LABELED images that were not used for calibration."""
    inputs = _labeled(labeled)
    some = [inputs[number] for number in evenly(len(inputs), LABELED)]
    pixels, fine = decode_all([item.path for item in some], source.file.card.preprocess)
    fitted = () if source.further is None else source.further.drawn
    seen = {image.tobytes() for image in (*source.seen, *fitted)}
    fine &= np.array([image.tobytes() not in seen for image in pixels], bool)
    labels = [str(item.label) for item, good in zip(some, fine, strict=True) if good]
    found = measure(made, reference, pixels[fine], laps=1)
    return drop_of(found.reference, found.found[max(BATCH_SIZES)], labels)


def _labeled(folder: str) -> list[ImageRecord]:
    inputs = [item for item in find_inputs([folder], "folder") if item.label is not None]
    if not inputs:
        raise ExportError(f"{folder} contains no images in class folders")
    return inputs


def _sign(target: Target, file: EncoderFile, made: Path, report: Report) -> None:
    """Write the report into the artifact."""
    if not target.is_file:
        write_device_files(target, file, made, [str(verdict) for verdict in report.verdicts])
        _describe(target, file, made, report)
        return
    like = report.likeness
    if like is None:
        raise ExportError(f"target {target.name} was not measured")
    model = onnx.load_model_from_string(made.read_bytes())
    parity = Parity(like.images, f"{target.name} beside {file.fingerprint[:12]}: {report.images}", BATCH_SIZES,
                    like.max_abs_diff, like.scale, like.cosine, like.overlap)  # fmt: skip
    card = dataclasses.replace(file.card, name=f"{file.card.name}-{target.name}", parity=parity)
    about = json.dumps(asdict(_about(target, file, report, {})), sort_keys=True)
    data = with_card(model, card, **{TARGET_KEY: about})
    check_encoder(data)
    made.write_bytes(data)


def _describe(target: Target, file: EncoderFile, made: Path, report: Report) -> None:
    (made / CARD).write_text(file.card.to_json() + "\n", encoding="utf-8")
    (made / ABOUT).write_bytes(atomic.json_bytes(asdict(_about(target, file, report, hash_folder(made)))))


def _about(target: Target, file: EncoderFile, report: Report, files: dict[str, str]) -> Artifact:
    return Artifact(
        target=target.name,
        runtime=target.runtime,
        main=target.main,
        of=file.fingerprint,
        files=files,
        unrun=target.unrun,
        images=report.images,
        remark=report.remark,
        likeness=report.likeness,
        drop=report.drop,
        gates=tuple(str(verdict) for verdict in report.verdicts),
        overridden=tuple(report.overridden),
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _check_free(out: Path, target: Target, overwrite: bool) -> None:
    if not out.parent.is_dir():
        raise ExportError(f"the folder {out.parent} does not exist")
    if not out.exists():
        return
    if not overwrite:
        raise ExportError(f"{out} exists", f"choose another file or folder, or replace it with {OVERWRITE}")
    if out.is_dir() and not (out / ABOUT).exists():
        raise ExportError(f"{out} is a folder that was not made by 'sslfeat export'", "choose another")
    if out.is_dir() == target.is_file:
        raise ExportError(f"{out} is a {'folder' if out.is_dir() else 'file'}, target {target.name} is not", "choose another")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
