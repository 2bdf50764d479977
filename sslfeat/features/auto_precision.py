"""Select a lower precision if it preserves the features and the nearest neighbors of the user's images.

Candidates are ``int8`` in onnxruntime and OpenVINO, and ``bf16`` in OpenVINO. They are compared in order of speed, and the
first that passes is used, so that the reported figures are not a maximum over several. Decisions use confidence bounds for
unseen images (``numerics/bounds.py``); the reason for each rejection is recorded in ``features.json``.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.data.decode import Pixels
from sslfeat.data.holdout import FEWEST_FOR_NEIGHBORS, Panel, draw_panel
from sslfeat.data.transforms import Decoding
from sslfeat.errors import FeaturesError, InputError, MissingExtraError, UsageError
from sslfeat.features.metadata import META_FOLDER, RUN_NAME, read_run
from sslfeat.inference.backends import OnnxRuntimeBackend, OpenVinoBackend, Session
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.onnx_model import EncoderFile
from sslfeat.numerics.bounds import least, shared_at_least
from sslfeat.numerics.similarity import NEIGHBORS, cosines, overlaps
from sslfeat.system.cores import available_cores
from sslfeat.system.timing import times_as_fast

PRECISIONS = ("fp32", "auto", "bf16", "int8")
WAYS = (("int8", "onnxruntime"), ("int8", "openvino"), ("bf16", "openvino"))
PLAIN = ("fp32", "onnxruntime")
Way = tuple[str, str]  # precision and runtime
INT8_NAME = f"{META_FOLDER}/encoder-int8.onnx"
MIN_COSINE = {"int8": 0.999, "bf16": 0.9995}
MIN_OVERLAP = 0.95
MIN_GAIN = 1.05  # minimum speedup
BATCH, LAPS, SECONDS = 8, 5, 4.0  # timing: minimum number of laps, and duration


@dataclass(frozen=True)
class PrecisionTrial:
    """Comparison of a lower precision with float32 on the same images: minimum cosine, shared neighbors, speedup.

    With 95 % confidence, the fraction ``share`` of unseen images has a cosine of at least ``cosine_bound``, and the mean share
    of preserved neighbors is at least ``overlap_bound``. Values are None if the precision was not compared: no faster than
    float32, or slower than one that passed.
    """

    min_cosine: float | None
    neighbor_overlap: float | None
    speed: float
    holds: bool
    share: float | None = None
    cosine_bound: float | None = None
    overlap_bound: float | None = None


def settle(
    file: EncoderFile, encoder: Encoder, sources: Sequence[bytes], requested: str, decoding: Decoding, out: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Encoder:  # fmt: skip
    """Return the encoder in the ``requested`` precision if it passes on ``sources``, else unchanged; report the reason.

    An existing features folder ``out`` keeps its precision. Raises InputError for an unknown precision or one that the
    provider does not support, MissingExtraError for ``bf16`` without OpenVINO.
    """
    if requested not in PRECISIONS:
        raise UsageError(f"unknown precision {requested!r}: use one of {', '.join(PRECISIONS)}")
    if requested == "fp32":
        return encoder
    if file.fingerprint != encoder.fingerprint:
        raise InputError(f"the encoder {encoder.card.name!r} has changed in the meantime: run the command again")
    if encoder.provider != "cpu":
        raise InputError(f"precision {requested} requires the CPU, not provider {encoder.provider}: omit it")
    kept = _kept(file, encoder, requested, out) if out else None
    if kept is not None:
        return kept
    panel = draw_panel(sources, encoder.card.preprocess, decoding)
    if len(panel.judged) < FEWEST_FOR_NEIGHBORS:
        count = len(panel.judged) + len(panel.seen)
        least_count = FEWEST_FOR_NEIGHBORS * 5 // 4 + 1
        why = f"only {count} readable images for the comparison, {least_count} are required"
        say(f"precision fp32: {why}")
        return encoder.in_precision({"asked": requested, "ran": "fp32", "why": why})
    return _choose(file, encoder, panel, requested, say)


def _choose(file: EncoderFile, encoder: Encoder, panel: Panel, requested: str, say: Callable[[str], None]) -> Encoder:
    bench = _Bench(encoder, panel.judged)
    reasons: dict[Way, str] = {}
    sessions: dict[Way, Session] = {}
    int8 = functools.cache(lambda: _quantized(file.data, panel.seen))
    for way in WAYS:
        if requested not in ("auto", way[0]):
            continue
        try:
            sessions[way] = _open(way, int8() if way[0] == "int8" else file.data, encoder.threads)
        except MissingExtraError as error:
            if requested == "bf16":
                raise
            reasons[way] = f"{_name(way)}: {error}"
    trials = bench.time(sessions)
    ran = PLAIN
    for way in sorted(trials, key=lambda way: -trials[way].speed):
        fast = requested != "auto" or trials[way].speed > MIN_GAIN
        if ran == PLAIN and fast:
            trials[way] = bench.compare(way, sessions[way], trials[way])
        reasons[way] = _verdict(way, trials[way], f"slower than {_name(ran)}" if ran != PLAIN else "speedup too small")
        ran = way if trials[way].holds else ran
    for text in (*reasons.values(), f"precision {_name(ran)}"):
        say(text)
    record: dict[str, Any] = {
        "asked": requested,
        "ran": ran[0],
        "runtime": ran[1],
        "images": len(panel.judged),
        "tried": {_name(way): asdict(trial) for way, trial in trials.items()},
        "why": list(reasons.values()),
    }
    files = {INT8_NAME: int8()} if ran[0] == "int8" else {}
    if files:
        record["sha256"] = hashlib.sha256(files[INT8_NAME]).hexdigest()
    return encoder.in_precision(record, sessions.get(ran), files)


def _name(way: Way) -> str:
    return f"{way[0]} in {way[1]}"


def _verdict(way: Way, trial: PrecisionTrial, passed_over: str) -> str:
    speed = f"{_name(way)}: {trial.speed:.2f} x as fast as fp32"
    if trial.cosine_bound is None or trial.overlap_bound is None or trial.share is None:
        return f"{speed}, {passed_over}, not compared"
    figures = (
        f"cosine at least {trial.cosine_bound:.5f} for {100 * trial.share:.4g} % of images, "
        f"at least {100 * trial.overlap_bound:.1f} % of neighbors kept"
    )
    refused = "" if trial.holds else f"; rejected: cosine {MIN_COSINE[way[0]]} and {100 * MIN_OVERLAP:.0f} % are required"
    return f"{speed}, {figures}{refused}"


class _Bench:
    """Reference embeddings of the float32 encoder on the held-out images, computed once."""

    def __init__(self, encoder: Encoder, pixels: Pixels) -> None:
        self._encoder = encoder
        self._batches = np.array_split(pixels, -(-len(pixels) // BATCH))
        self._workers = max(1, available_cores() // encoder.threads)
        self._reference = self._embeddings(encoder)

    def time(self, sessions: Mapping[Way, Session]) -> dict[Way, PrecisionTrial]:
        """Measure speeds only. Sessions and float32 take turns, so that all are timed under the same conditions."""
        calls = [functools.partial(runs.run, self._batches[0]) for runs in (self._encoder, *sessions.values())]
        speeds = times_as_fast(calls, LAPS, SECONDS) if sessions else []
        return {way: PrecisionTrial(None, None, round(speed, 2), False) for way, speed in zip(sessions, speeds, strict=True)}

    def compare(self, way: Way, session: Session, trial: PrecisionTrial) -> PrecisionTrial:
        """Return ``trial`` with the figures of its embeddings."""
        found = self._embeddings(session)
        if not np.isfinite(found).all():
            return replace(trial, min_cosine=0.0, neighbor_overlap=0.0, share=0.0, cosine_bound=0.0, overlap_bound=0.0)
        cosine, shared = cosines(self._reference, found), overlaps(self._reference, found, NEIGHBORS)
        bound, kept = least(cosine), shared_at_least(shared)
        return replace(
            trial,
            min_cosine=round(float(cosine.min()), 6),
            neighbor_overlap=round(float(shared.mean()), 4),
            holds=bound.value >= MIN_COSINE[way[0]] and kept >= MIN_OVERLAP,
            share=bound.share,
            cosine_bound=round(bound.value, 6),
            overlap_bound=round(kept, 4),
        )

    def _embeddings(self, runs: Encoder | Session) -> npt.NDArray[np.float32]:
        with ThreadPoolExecutor(self._workers) as pool:
            return np.concatenate(list(pool.map(runs.run, self._batches)))


def _open(way: Way, data: bytes, threads: int) -> Session:
    """Open a session on ``data``, which is already quantized for int8. Raises MissingExtraError without OpenVINO."""
    if way[1] == "openvino":
        return OpenVinoBackend(data, "bf16" if way[0] == "bf16" else "fp32", threads)
    return OnnxRuntimeBackend(data, "cpu", threads)


def _quantized(data: bytes, seen: Pixels) -> bytes:
    from sslfeat.inference.quantization import best_int8  # slow import

    return best_int8(data, seen)


def _kept(file: EncoderFile, encoder: Encoder, requested: str, out: Path) -> Encoder | None:
    """The encoder in the precision of ``out``, if ``out`` was started with this encoder and the same requested precision."""
    if not (out / RUN_NAME).exists():
        return None
    run = read_run(out)
    if run.precision["asked"] != requested or run.encoder.fingerprint != encoder.fingerprint:
        return None
    return as_recorded(file, encoder, run.precision, out)


def as_recorded(file: EncoderFile, encoder: Encoder, record: dict[str, Any], out: Path) -> Encoder:
    """Return the encoder in the precision recorded in ``features.json`` of the features folder ``out``.

    Raises FeaturesError if the stored quantized file is missing or altered.
    """
    way = (record["ran"], record.get("runtime", ""))
    if way[0] == PLAIN[0]:
        return encoder.in_precision(record)
    if way[0] == "bf16":
        return encoder.in_precision(record, _open(way, file.data, encoder.threads))
    path = out / INT8_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FeaturesError(f"{path} cannot be read: {error.strerror}; start over with --overwrite") from error
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise FeaturesError(f"{path} was altered: start over with --overwrite")
    return encoder.in_precision(record, _open(way, data, encoder.threads), {INT8_NAME: data})
