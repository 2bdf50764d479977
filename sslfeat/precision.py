"""Faster arithmetic, where it proves on the pictures at hand that it keeps their features and neighbours.

Tried in this order of speed as measured: ``int8`` in onnxruntime, ``bf16`` in OpenVINO. One that moves a feature or swaps
neighbours by more than the gates allow is not taken, and the reason is kept in ``run.json``.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslfeat.decoder import Limits
from sslfeat.encoder import Encoder
from sslfeat.encoder_file import EncoderFile
from sslfeat.errors import FeaturesError, InputError, MissingExtraError
from sslfeat.features import RUN_NAME, read_run
from sslfeat.images import Decoded, Pixels
from sslfeat.isolated import IsolatedDecoder
from sslfeat.likeness import cosines, neighbour_overlap
from sslfeat.preprocess import Decoding
from sslfeat.sessions import OnnxSession, OpenVinoSession, Session

PRECISIONS = ("fp32", "auto", "bf16", "int8")
LOWER = ("int8", "bf16")
INT8_NAME = "encoder-int8.onnx"
SAMPLE = 256  # pictures to compare on, and as many to take ranges from
FEWEST = 50
MIN_COSINE = {"int8": 0.999, "bf16": 0.9995}
MIN_OVERLAP = 0.95
MIN_GAIN = 1.05  # times as fast, or it is not worth it
BATCH = 8


@dataclass(frozen=True)
class Trial:
    """A lower precision beside float32 on the same pictures: worst cosine, shared neighbours, times as fast."""

    min_cosine: float
    neighbour_overlap: float
    speed: float
    holds: bool


def settle(
    file: EncoderFile, encoder: Encoder, sources: Sequence[bytes], asked: str, decoding: Decoding, out: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Encoder:  # fmt: skip
    """The encoder in the precision ``asked`` for, if it holds on ``sources``, else as it is; says which and why.

    What the features folder ``out`` was begun with is kept. Raises InputError for an unknown precision or one that the
    provider lacks, MissingExtraError for ``bf16`` without OpenVINO.
    """
    if asked not in PRECISIONS:
        raise InputError(f"precision {asked!r} is unknown: {', '.join(PRECISIONS)}")
    if asked == "fp32":
        return encoder
    if encoder.provider != "cpu":
        raise InputError(f"precision {asked} is for the CPU, but the provider is {encoder.provider}: leave it out")
    kept = _kept(file, encoder, asked, out) if out else None
    if kept is not None:
        return kept
    pixels = _sample(sources, encoder, decoding)
    if len(pixels) < FEWEST:
        why = f"{len(pixels)} readable pictures are too few to judge by, {FEWEST} are needed"
        say(f"precision fp32: {why}")
        return encoder.in_precision({"asked": asked, "ran": "fp32", "why": why})
    return _choose(file, encoder, pixels, asked, say)


def _choose(file: EncoderFile, encoder: Encoder, pixels: Pixels, asked: str, say: Callable[[str], None]) -> Encoder:
    judged, seen = pixels[::2], pixels[1::2]  # ranges are not taken from the pictures that judge
    trials: dict[str, Trial] = {}
    reasons: dict[str, str] = {}
    sessions: dict[str, tuple[Session, bytes | None]] = {}
    for name in LOWER if asked == "auto" else (asked,):
        try:
            sessions[name] = _open(name, file.data, seen, encoder.threads)
        except MissingExtraError as error:
            if asked == name:
                raise
            reasons[name] = str(error)
            continue
        trials[name] = _try(name, encoder, sessions[name][0], judged)
        reasons[name] = _verdict(name, trials[name])
    usable = [name for name, trial in trials.items() if trial.holds and (asked == name or trial.speed > MIN_GAIN)]
    ran = max(usable, key=lambda name: trials[name].speed, default="fp32")
    for reason in reasons.values():
        say(reason)
    say(f"precision {ran}")
    record: dict[str, Any] = {
        "asked": asked,
        "ran": ran,
        "pictures": len(judged),
        "tried": {name: asdict(trial) for name, trial in trials.items()},
        "why": list(reasons.values()),
    }
    session, data = sessions.get(ran, (None, None))
    if data is not None:
        record["sha256"] = hashlib.sha256(data).hexdigest()
    return encoder.in_precision(record, session, {INT8_NAME: data} if data is not None else {})


def _verdict(name: str, trial: Trial) -> str:
    figures = (
        f"{name}: {trial.speed:.2f} x as fast as fp32, cosine at least {trial.min_cosine:.5f}, "
        f"{100 * trial.neighbour_overlap:.1f} % of neighbours kept"
    )
    if not trial.holds:
        return f"{figures}; refused: cosine {MIN_COSINE[name]} and {100 * MIN_OVERLAP:.0f} % are asked"
    return figures


def _try(name: str, encoder: Encoder, session: Session, pixels: Pixels) -> Trial:
    batches = np.array_split(pixels, -(-len(pixels) // BATCH))
    wanted, found = (np.concatenate([each.run(batch) for batch in batches]) for each in (encoder, session))
    cosine = float(cosines(wanted, found).min()) if np.isfinite(found).all() else 0.0
    overlap = neighbour_overlap(wanted, found) if np.isfinite(found).all() else 0.0
    laps: dict[str, list[float]] = {"fp32": [], name: []}
    for _ in range(5):
        for lap, runs in (("fp32", encoder), (name, session)):
            began = time.perf_counter()
            runs.run(batches[0])
            laps[lap].append(time.perf_counter() - began)
    speed = statistics.median(laps["fp32"]) / statistics.median(laps[name])
    holds = cosine >= MIN_COSINE[name] and overlap >= MIN_OVERLAP
    return Trial(round(cosine, 6), round(overlap, 4), round(speed, 2), holds)


def _open(name: str, data: bytes, seen: Pixels, threads: int) -> tuple[Session, bytes | None]:
    if name == "bf16":
        return OpenVinoSession(data, "bf16", threads), None
    from sslfeat.quantize import quantize

    lower = quantize(data, seen)
    return OnnxSession(lower, "cpu", threads), lower


def _kept(file: EncoderFile, encoder: Encoder, asked: str, out: Path) -> Encoder | None:
    """The precision that ``out`` was begun with, if it was begun by this encoder with the same wish."""
    if not (out / RUN_NAME).exists():
        return None
    run = read_run(out)
    if run["precision"]["asked"] != asked or run["encoder"]["fingerprint"] != encoder.fingerprint:
        return None
    return as_recorded(file, encoder, run["precision"], out)


def as_recorded(file: EncoderFile, encoder: Encoder, record: dict[str, Any], out: Path) -> Encoder:
    """The encoder in the precision that ``run.json`` of the features folder ``out`` records.

    Raises FeaturesError if the quantised file that it keeps is missing or altered.
    """
    if record["ran"] == "fp32":
        return encoder.in_precision(record)
    if record["ran"] == "bf16":
        return encoder.in_precision(record, OpenVinoSession(file.data, "bf16", encoder.threads))
    try:
        data = (out / INT8_NAME).read_bytes()
    except OSError as error:
        raise FeaturesError(
            f"{out / INT8_NAME} cannot be read: {error.strerror}; start afresh with --overwrite"
        ) from error
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise FeaturesError(f"{out / INT8_NAME} was altered: start afresh with --overwrite")
    return encoder.in_precision(record, OnnxSession(data, "cpu", encoder.threads), {INT8_NAME: data})


def _sample(sources: Sequence[bytes], encoder: Encoder, decoding: Decoding) -> Pixels:
    """Readable pictures spread evenly over ``sources``, uint8 (up to 2 x SAMPLE, S, S, 3)."""
    numbers = np.unique(np.linspace(0, len(sources) - 1, min(len(sources), 2 * SAMPLE)).astype(int))
    size = encoder.card.preprocess.size
    pixels = np.empty((len(numbers), size, size, 3), np.uint8)
    with closing(IsolatedDecoder(encoder.card.preprocess, decoding, Limits())) as decoder:
        outcomes = decoder.decode([sources[number] for number in numbers], pixels)
    return pixels[[isinstance(outcome, Decoded) for outcome in outcomes]]
