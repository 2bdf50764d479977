"""Saved probes: applied to other features of the same encoder, without the training data."""

from __future__ import annotations

import io
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.errors import FeaturesError
from sslfeat.evaluation.probing.logistic import Linear
from sslfeat.inference.model_card import Identity
from sslfeat.numerics.arrays import FloatArray
from sslfeat.storage import atomic
from sslfeat.storage.records import parse_record

FORMAT = 1
META, WEIGHTS = "probe.json", "weights.npz"
ARRAYS = ("mean", "weights", "bias")


@dataclass(frozen=True)
class ProbeRecord:
    """Contents of ``probe.json``; ``sha256`` is that of the weights file."""

    names: list[str]
    encoder: Identity
    several: bool
    figures: dict[str, Any]
    sha256: str
    format: int = FORMAT

    def __post_init__(self) -> None:
        if len(set(self.names)) < max(1, len(self.names)):
            raise ValueError("names are empty, or contain duplicates")


@dataclass(frozen=True)
class SavedProbe:
    """Linear classifier of features of ``encoder`` into the classes ``names``.

    ``several``: multi-label, with an independent probability for each name.
    """

    model: Linear
    names: list[str]
    encoder: Identity
    several: bool
    figures: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write the two files of the folder, weights first, so that an incomplete folder has no ``probe.json``."""
        buffer = io.BytesIO()
        np.savez(buffer, **{name: getattr(self.model, name) for name in ARRAYS})
        atomic.write_atomic(folder / WEIGHTS, buffer.getvalue())
        sha256 = atomic.sha256_file(folder / WEIGHTS)
        record = ProbeRecord(self.names, self.encoder, self.several, self.figures, sha256)
        atomic.write_atomic(folder / META, atomic.json_bytes(asdict(record)))

    @classmethod
    def load(cls, folder: str | Path) -> SavedProbe:
        """Read a folder written by ``save``. Raises FeaturesError, with the reason, if it is not a probe, damaged, or of another
        format."""
        folder = Path(folder)
        try:
            record = parse_record(ProbeRecord, (folder / META).read_bytes(), str(folder / META), FeaturesError)
            if atomic.sha256_file(folder / WEIGHTS) != record.sha256:
                raise FeaturesError(f"{folder / WEIGHTS} is damaged: run sslfeat probe again with --out {folder}")
            model = Linear(*_arrays(folder / WEIGHTS))
        except OSError as error:
            raise FeaturesError(f"{folder} is not a probe made by 'sslfeat probe --out': {error.strerror}") from error
        if model.weights.shape != (len(model.mean), len(record.names)) or model.bias.shape != (len(record.names),):
            raise FeaturesError(f"{folder / WEIGHTS} does not match {META}: run sslfeat probe again with --out {folder}")
        return cls(model, record.names, record.encoder, record.several, record.figures)

    def check(self, encoder: Identity, what: str) -> None:
        """Raise FeaturesError, naming both, if ``encoder`` differs from that of the probe."""
        if encoder.fingerprint != self.encoder.fingerprint:
            ours, theirs = (f"{e.name} ({e.fingerprint[:12]})" for e in (self.encoder, encoder))
            raise FeaturesError(f"the probe needs features of {ours}, but {what} is of {theirs}: embed with the probe's encoder")

    def probabilities(self, x: FloatArray) -> FloatArray:
        """Probabilities (N, K) float32 for features (N, D); rows sum to 1 unless ``several``. Raises FeaturesError."""
        if x.ndim != 2 or x.shape[1] != len(self.model.mean):
            raise FeaturesError(f"features of shape {x.shape}: the probe needs (N, {len(self.model.mean)})")
        scores = self.model.scores(x)
        if self.several:
            return sigmoid(scores)
        scores -= scores.max(1, keepdims=True)
        np.exp(scores, out=scores)
        shares: FloatArray = np.divide(scores, scores.sum(1, keepdims=True), dtype=np.float32)
        return shares


def _arrays(file: Path) -> list[FloatArray]:
    """Read the arrays of the weights file: uncompressed, float32, finite. Raises FeaturesError."""
    found = []
    try:
        with zipfile.ZipFile(file) as packed:
            for name in ARRAYS:
                entry = packed.getinfo(f"{name}.npy")
                if entry.compress_type != zipfile.ZIP_STORED:  # protection against decompression bombs
                    raise ValueError(f"{name} is compressed")
                with packed.open(entry) as stored:
                    array = np.lib.format.read_array(stored, allow_pickle=False)
                if array.dtype != np.float32 or array.ndim != (2 if name == "weights" else 1) or not np.isfinite(array).all():
                    raise ValueError(f"{name} is not a finite float32 array {'(D, K)' if name == 'weights' else '(N,)'}")
                found.append(array)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise FeaturesError(f"{file} was not made by 'sslfeat probe --out': {error}") from error
    return found


def sigmoid(scores: FloatArray) -> FloatArray:
    """1 / (1 + exp(-z)), without overflow."""
    one = np.float32(1)
    probabilities: npt.NDArray[np.float32] = np.divide(one, one + np.exp(-np.clip(scores, -80, 80)), dtype=np.float32)
    return probabilities
