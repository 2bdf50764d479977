"""Faster arithmetic, where it proves on the pictures at hand that it keeps their features and neighbours.

Tried are ``int8`` in onnxruntime and in OpenVINO, and ``bf16`` in OpenVINO, the fastest first; the first that holds is taken, so
that the figures stated are not the best of several. What is judged are bounds that hold for images like those judged
(``bounds.py``): one that moves features or swaps neighbours by more is refused, and the reason is kept in ``run.json``.
"""

from __future__ import annotations

import functools
import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.bounds import least, shared_at_least
from sslfeat.cores import available_cores
from sslfeat.encoder import Encoder
from sslfeat.encoder_file import EncoderFile
from sslfeat.errors import FeaturesError, InputError, MissingExtraError, UsageError
from sslfeat.features import RUN_NAME, read_run
from sslfeat.images import Pixels
from sslfeat.judges import FEWEST_FOR_NEIGHBOURS, Panel, draw_panel
from sslfeat.likeness import NEIGHBOURS, cosines, overlaps
from sslfeat.preprocess import Decoding
from sslfeat.sessions import OnnxSession, OpenVinoSession, Session

PRECISIONS = ("fp32", "auto", "bf16", "int8")
WAYS = (("int8", "onnxruntime"), ("int8", "openvino"), ("bf16", "openvino"))
PLAIN = ("fp32", "onnxruntime")
Way = tuple[str, str]  # precision and runtime
INT8_NAME = "encoder-int8.onnx"
MIN_COSINE = {"int8": 0.999, "bf16": 0.9995}
MIN_OVERLAP = 0.95
MIN_GAIN = 1.05  # times as fast, or it is not worth it
BATCH, LAPS = 8, 5


@dataclass(frozen=True)
class Trial:
    """A lower precision beside float32 on the same images: worst cosine, shared neighbours, times as fast.

    With 95 % confidence ``share`` of unseen images have at least ``cosine_bound``, and neighbours among as many are kept by
    ``overlap_bound`` or more on average. One that is no faster, or slower than one that holds, is not compared (None).
    """

    min_cosine: float | None
    neighbour_overlap: float | None
    speed: float
    holds: bool
    share: float | None = None
    cosine_bound: float | None = None
    overlap_bound: float | None = None


def settle(
    file: EncoderFile, encoder: Encoder, sources: Sequence[bytes], asked: str, decoding: Decoding, out: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Encoder:  # fmt: skip
    """The encoder in the precision ``asked`` for, if it holds on ``sources``, else as it is; says which and why.

    What the features folder ``out`` was begun with is kept. Raises InputError for an unknown precision or one that the
    provider lacks, MissingExtraError for ``bf16`` without OpenVINO.
    """
    if asked not in PRECISIONS:
        raise UsageError(f"precision {asked!r} is unknown: {', '.join(PRECISIONS)}")
    if asked == "fp32":
        return encoder
    if file.fingerprint != encoder.fingerprint:
        raise InputError(f"the encoder {encoder.card.name!r} was changed in the meantime: run it again")
    if encoder.provider != "cpu":
        raise InputError(f"precision {asked} is for the CPU, but the provider is {encoder.provider}: leave it out")
    kept = _kept(file, encoder, asked, out) if out else None
    if kept is not None:
        return kept
    panel = draw_panel(sources, encoder.card.preprocess, decoding)
    if len(panel.judged) < FEWEST_FOR_NEIGHBOURS:
        count = len(panel.judged) + len(panel.seen)
        least_count = FEWEST_FOR_NEIGHBOURS * 5 // 4 + 1
        why = f"{count} readable pictures are too few to judge by, {least_count} are needed"
        say(f"precision fp32: {why}")
        return encoder.in_precision({"asked": asked, "ran": "fp32", "why": why})
    return _choose(file, encoder, panel, asked, say)


def _choose(file: EncoderFile, encoder: Encoder, panel: Panel, asked: str, say: Callable[[str], None]) -> Encoder:
    bench = _Bench(encoder, panel.judged)
    trials: dict[Way, Trial] = {}
    reasons: dict[Way, str] = {}
    sessions: dict[Way, Session] = {}
    int8 = functools.cache(lambda: _quantized(file.data, panel.seen))
    for way in WAYS:
        if asked not in ("auto", way[0]):
            continue
        try:
            sessions[way] = _open(way, int8() if way[0] == "int8" else file.data, encoder.threads)
        except MissingExtraError as error:
            if asked == "bf16":
                raise
            reasons[way] = f"{_name(way)}: {error}"
            continue
        trials[way] = bench.time(sessions[way])
    ran = PLAIN
    for way in sorted(trials, key=lambda way: -trials[way].speed):
        fast = asked != "auto" or trials[way].speed > MIN_GAIN
        if ran == PLAIN and fast:
            trials[way] = bench.compare(way, sessions[way], trials[way])
        reasons[way] = _verdict(way, trials[way], f"slower than {_name(ran)}" if ran != PLAIN else "too little")
        ran = way if trials[way].holds else ran
    for text in (*reasons.values(), f"precision {_name(ran)}"):
        say(text)
    record: dict[str, Any] = {
        "asked": asked,
        "ran": ran[0],
        "runtime": ran[1],
        "pictures": len(panel.judged),
        "tried": {_name(way): asdict(trial) for way, trial in trials.items()},
        "why": list(reasons.values()),
    }
    files = {INT8_NAME: int8()} if ran[0] == "int8" else {}
    if files:
        record["sha256"] = hashlib.sha256(files[INT8_NAME]).hexdigest()
    return encoder.in_precision(record, sessions.get(ran), files)


def _name(way: Way) -> str:
    return f"{way[0]} in {way[1]}"


def _verdict(way: Way, trial: Trial, passed_over: str) -> str:
    speed = f"{_name(way)}: {trial.speed:.2f} x as fast as fp32"
    if trial.cosine_bound is None or trial.overlap_bound is None or trial.share is None:
        return f"{speed}, {passed_over}, so it was not looked into"
    figures = (
        f"cosine at least {trial.cosine_bound:.5f} for {100 * trial.share:.4g} % of pictures, "
        f"at least {100 * trial.overlap_bound:.1f} % of neighbours kept"
    )
    refused = "" if trial.holds else f"; refused: cosine {MIN_COSINE[way[0]]} and {100 * MIN_OVERLAP:.0f} % are asked"
    return f"{speed}, {figures}{refused}"


class _Bench:
    """The encoder in float32 on the pictures that judge, worked out once."""

    def __init__(self, encoder: Encoder, pixels: Pixels) -> None:
        self._encoder = encoder
        self._batches = np.array_split(pixels, -(-len(pixels) // BATCH))
        self._workers = max(1, available_cores() // encoder.threads)
        self._wanted = self._embeddings(encoder)

    def time(self, session: Session) -> Trial:
        """A trial that knows the speed alone."""
        return Trial(None, None, round(self._speed(session), 2), False)

    def compare(self, way: Way, session: Session, trial: Trial) -> Trial:
        """The same with figures of its embeddings."""
        found = self._embeddings(session)
        if not np.isfinite(found).all():
            return replace(trial, min_cosine=0.0, neighbour_overlap=0.0, share=0.0, cosine_bound=0.0, overlap_bound=0.0)
        cosine, shared = cosines(self._wanted, found), overlaps(self._wanted, found, NEIGHBOURS)
        bound, kept = least(cosine), shared_at_least(shared)
        return replace(
            trial,
            min_cosine=round(float(cosine.min()), 6),
            neighbour_overlap=round(float(shared.mean()), 4),
            holds=bound.value >= MIN_COSINE[way[0]] and kept >= MIN_OVERLAP,
            share=bound.share,
            cosine_bound=round(bound.value, 6),
            overlap_bound=round(kept, 4),
        )

    def _speed(self, session: Session) -> float:
        laps: list[list[float]] = [[], []]
        for _ in range(LAPS):
            for lap, runs in zip(laps, (self._encoder, session), strict=True):
                began = time.perf_counter()
                runs.run(self._batches[0])
                lap.append(time.perf_counter() - began)
        return statistics.median(laps[0]) / statistics.median(laps[1])

    def _embeddings(self, runs: Encoder | Session) -> npt.NDArray[np.float32]:
        with ThreadPoolExecutor(self._workers) as pool:
            return np.concatenate(list(pool.map(runs.run, self._batches)))


def _open(way: Way, data: bytes, threads: int) -> Session:
    """``data`` is the encoder, for int8 already quantised. Raises MissingExtraError without OpenVINO."""
    if way[1] == "openvino":
        return OpenVinoSession(data, "bf16" if way[0] == "bf16" else "fp32", threads)
    return OnnxSession(data, "cpu", threads)


def _quantized(data: bytes, seen: Pixels) -> bytes:
    from sslfeat.quantize import quantize  # onnxruntime's tools take a while to load

    return quantize(data, seen)


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
    way = (record["ran"], record.get("runtime", ""))
    if way[0] == PLAIN[0]:
        return encoder.in_precision(record)
    if way[0] == "bf16":
        return encoder.in_precision(record, _open(way, file.data, encoder.threads))
    path = out / INT8_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FeaturesError(f"{path} cannot be read: {error.strerror}; start afresh with --overwrite") from error
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise FeaturesError(f"{path} was altered: start afresh with --overwrite")
    return encoder.in_precision(record, _open(way, data, encoder.threads), {INT8_NAME: data})
