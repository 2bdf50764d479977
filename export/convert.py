"""An encoder is converted, run in the runtime it is for, and compared; what differs is refused and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnx

from sslfeat import store
from sslfeat.card import CARD_KEY, Parity
from sslfeat.encoder_file import EncoderFile, check_encoder
from sslfeat.errors import ExportError, ParityError
from sslfeat.export.artefact import ABOUT, CARD, Artefact, hash_folder
from sslfeat.export.gates import Drop, Likeness, Verdict, drop_of, judge, likeness
from sslfeat.export.measure import BATCH_SIZES, measure
from sslfeat.export.source import DRAWN, Origin, pictures
from sslfeat.export.targets.registry import find_target
from sslfeat.export.targets.target import Source, Target
from sslfeat.images import Pixels
from sslfeat.inputs import find_inputs
from sslfeat.judges import draw_panel
from sslfeat.picked import decode_all, spread
from sslfeat.sessions import OnnxSession

TARGET_KEY = "sslfeat.target"
LABELLED, CHECKED = 4000, 64
PACKAGES = ("onnx", "onnxruntime-gpu", "onnxruntime", "openvino", "ncnn", "pnnx", "executorch", "coremltools", "torch")


@dataclass(frozen=True)
class Report:
    """How an artefact compares. ``likeness`` is None where nothing was run; ``seconds`` are by batch size: the reference's,
    in onnxruntime on one thread, and the artefact's. ``overridden`` are the gates that failed and were allowed; ``remark`` is
    what else there is to tell."""

    target: str
    out: str
    bytes: int
    reference_bytes: int
    likeness: Likeness | None
    drop: Drop | None
    verdicts: list[Verdict]
    overridden: list[str]
    seconds: dict[int, tuple[float, float]]
    pictures: str
    remark: str


def convert(
    origin: Origin, name: str, out: Path, images: Sequence[str] = (), labelled: str | None = None, allow: bool = False,
    overwrite: bool = False, web_runtime: Path | None = None,
) -> Report:  # fmt: skip
    """Make target ``name`` of an encoder at ``out``. ``images`` are the pictures to calibrate and judge with.

    ``labelled`` is a folder of class folders: then classifiers must not lose by it either. Raises ParityError, naming the
    figures, for an artefact beyond its gates unless ``allow``, ExportError for one that cannot be made or run.
    """
    target = find_target(name)
    _check_free(out, target, overwrite)
    with pictures(images, () if target.shows else origin.own) as (sources, told):
        return _converted(target, origin, out, sources, told, labelled, allow, web_runtime)


def _converted(
    target: Target, origin: Origin, out: Path, sources: Sequence[bytes], told: str, labelled: str | None, allow: bool,
    web_runtime: Path | None,
) -> Report:  # fmt: skip
    file = origin.file
    if not sources:
        raise ExportError("there are no images to judge by: give some with --images")
    panel = draw_panel(sources, file.card.preprocess)
    source = Source(file, origin.weights, panel.seen, panel.names, web_runtime)
    place = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        made = place / ("encoder.onnx" if target.is_file else "folder")
        if not target.is_file:
            made.mkdir()
        target.make(source, made)
        report = _judged(target, source, made, panel.judged, told, labelled, allow)
        if target.shows and told != DRAWN:
            remark = f"{report.remark}; thumbnails of {min(target.shows, len(panel.names))} of your images are in it"
            report = dataclasses.replace(report, remark=remark)
        _sign(target, file, made, report)
        report = dataclasses.replace(report, out=str(out), bytes=_size(made))
        _put(made, out)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return report


def _judged(
    target: Target, source: Source, made: Path, judged: Pixels, told: str, labelled: str | None, allow: bool
) -> Report:
    file = source.file
    report = Report(target.name, "", 0, len(file.data), None, None, [], [], {}, told, "")
    if target.runtime is None and target.check is None:
        return report
    if not target.is_file:
        _describe(target, file, made, report)  # the runtime is found by it
    reference = made.parent / "reference.onnx"
    reference.write_bytes(file.data)
    seconds, remark = {}, ""
    if target.check is not None:
        checked = target.check(source, made, source.shown[:CHECKED])
        wanted = checked.reference
        if wanted is None:
            wanted = OnnxSession(file.data, "cpu", 1).run(judged[:CHECKED])
        like, remark = likeness(wanted, [checked.embeddings]), checked.told
    else:
        measured = measure(made, reference, judged)
        like, seconds = likeness(measured.reference, list(measured.found.values())), measured.seconds
    drop = _drop(made, reference, source, labelled) if labelled and target.gate.drop is not None else None
    verdicts = judge(target.gate, like, drop)
    failed = [str(verdict) for verdict in verdicts if not verdict.passed]
    if failed and not allow:
        cure = _cure(target, told, verdicts, drop)
        raise ParityError(
            f"target {target.name} differs from the encoder: {'; '.join(failed)}; nothing was written{cure}"
        )
    return dataclasses.replace(
        report, likeness=like, drop=drop, verdicts=verdicts, overridden=failed, seconds=seconds, remark=remark
    )


def _cure(target: Target, told: str, verdicts: list[Verdict], drop: Drop | None) -> str:
    """What may help against a gate that failed."""
    if told == DRAWN:
        return "; drawn images are unlike photographs, give some of yours with --images"
    limits = [verdict.limit for verdict in verdicts if not verdict.passed and verdict.figure.endswith("drop")]
    if drop is not None and limits and max(drop.knn, drop.linear) <= min(limits):
        return f"; {drop.test} labelled images are too few to show that no point is lost: give more"
    return "; --target fp16 is half the size, and nearer" if target.gate.overlap is not None else ""


def _drop(made: Path, reference: Path, source: Source, labelled: str) -> Drop:
    """On up to LABELLED images, none of which ranges were taken from."""
    inputs = [item for item in find_inputs([labelled], "folder") if item.label is not None]
    if not inputs:
        raise ExportError(f"{labelled} has no pictures in class folders")
    some = [inputs[number] for number in spread(len(inputs), LABELLED)]
    pixels, fine = decode_all([item.raw for item in some], source.file.card.preprocess)
    seen = {picture.tobytes() for picture in source.seen}
    fine &= np.array([picture.tobytes() not in seen for picture in pixels], bool)
    labels = [str(item.label) for item, good in zip(some, fine, strict=True) if good]
    found = measure(made, reference, pixels[fine], laps=1)
    return drop_of(found.reference, found.found[max(BATCH_SIZES)], labels)


def _sign(target: Target, file: EncoderFile, made: Path, report: Report) -> None:
    """Write the report into the artefact."""
    if not target.is_file:
        _describe(target, file, made, report)
        return
    like = report.likeness
    if like is None:
        raise ExportError(f"target {target.name} was not measured")
    model = onnx.load_model_from_string(made.read_bytes())
    parity = Parity(like.images, f"{target.name} beside {file.fingerprint[:12]}: {report.pictures}", BATCH_SIZES,
                    like.max_abs_diff, like.scale, like.cosine, like.overlap)  # fmt: skip
    card = dataclasses.replace(file.card, name=f"{file.card.name}-{target.name}", parity=parity)
    del model.metadata_props[:]
    model.metadata_props.add(key=CARD_KEY, value=card.to_json())
    model.metadata_props.add(key=TARGET_KEY, value=json.dumps(asdict(_about(target, file, report, {})), sort_keys=True))
    data: bytes = model.SerializeToString(deterministic=True)
    check_encoder(data)
    made.write_bytes(data)


def _describe(target: Target, file: EncoderFile, made: Path, report: Report) -> None:
    (made / CARD).write_text(file.card.to_json() + "\n", encoding="utf-8")
    (made / ABOUT).write_bytes(store.json_bytes(asdict(_about(target, file, report, hash_folder(made)))))


def _about(target: Target, file: EncoderFile, report: Report, files: dict[str, str]) -> Artefact:
    return Artefact(
        target=target.name,
        runtime=target.runtime,
        main=target.main,
        of=file.fingerprint,
        files=files,
        unrun=target.unrun,
        pictures=report.pictures,
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
        raise ExportError(f"{out} exists: choose another --out, or replace it with --overwrite")
    if out.is_dir() and not (out / ABOUT).exists():
        raise ExportError(f"{out} is a folder that 'sslfeat export' did not make: choose another --out")
    if out.is_dir() == target.is_file:
        raise ExportError(
            f"{out} is a {'folder' if out.is_dir() else 'file'}, target {target.name} is not: choose another --out"
        )


def _put(made: Path, out: Path) -> None:
    old = made.parent / "old"
    replaced = out.is_dir()
    if replaced:
        out.rename(old)
    try:
        made.rename(out)
    except OSError:
        if replaced:
            old.rename(out)
        raise


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
