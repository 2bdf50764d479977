"""A probe kept in a folder: applied to other features of the same encoder, without what it was trained on."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat.errors import FeaturesError
from sslfeat.evaluation.probing.logistic import Linear
from sslfeat.numerics.arrays import FloatArray
from sslfeat.storage import atomic
from sslfeat.storage.records import parse_record

FORMAT = 1
META, WEIGHTS = "probe.json", "weights.npz"
ARRAYS = ("mean", "weights", "bias")


@dataclass(frozen=True)
class MadeBy:
    """The encoder whose features a probe takes."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class ProbeRecord:
    """``probe.json``; ``sha256`` is of the weights."""

    names: list[str]
    encoder: MadeBy
    several: bool
    figures: dict[str, Any]
    sha256: str
    format: int = FORMAT

    def __post_init__(self) -> None:
        if len(set(self.names)) < max(1, len(self.names)):
            raise ValueError("names are none, or one is there twice")


@dataclass(frozen=True)
class SavedProbe:
    """A linear classifier of the features of ``encoder`` (name and fingerprint) into ``names``.

    ``several``: each name by itself, as labels of images that may carry more than one.
    """

    model: Linear
    names: list[str]
    encoder: dict[str, Any]
    several: bool
    figures: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write the folder's two files, the weights first: without ``probe.json`` they are no probe."""
        buffer = io.BytesIO()
        np.savez(buffer, **{name: getattr(self.model, name) for name in ARRAYS})
        atomic.write_atomic(folder / WEIGHTS, buffer.getvalue())
        meta = {
            "format": FORMAT,
            "names": self.names,
            "encoder": self.encoder,
            "several": self.several,
            "figures": self.figures,
            "sha256": atomic.sha256_file(folder / WEIGHTS),
        }
        atomic.write_atomic(folder / META, atomic.json_bytes(meta))

    @classmethod
    def load(cls, folder: str | Path) -> SavedProbe:
        """Read a folder that ``save`` wrote. Raises FeaturesError, naming what lies, if it is no probe, damaged, or of another
        format."""
        folder = Path(folder)
        try:
            record = parse_record(ProbeRecord, (folder / META).read_bytes(), str(folder / META), FeaturesError)
            if atomic.sha256_file(folder / WEIGHTS) != record.sha256:
                raise FeaturesError(f"{folder / WEIGHTS} is damaged: probe again with --out {folder}")
            model = Linear(*_arrays(folder / WEIGHTS))
        except OSError as error:
            raise FeaturesError(f"{folder} is not a probe ('sslfeat probe --out' writes one): {error.strerror}") from error
        if model.weights.shape != (len(model.mean), len(record.names)) or model.bias.shape != (len(record.names),):
            raise FeaturesError(f"{folder / WEIGHTS} does not fit {META}: probe again with --out {folder}")
        return cls(model, record.names, vars(record.encoder), record.several, record.figures)

    def check(self, encoder: dict[str, Any], what: str) -> None:
        """Raise FeaturesError, naming both, if ``encoder`` (name, fingerprint) is another than the probe's."""
        if encoder["fingerprint"] != self.encoder["fingerprint"]:
            ours, theirs = (f"{e['name']} ({e['fingerprint'][:12]})" for e in (self.encoder, encoder))
            raise FeaturesError(f"the probe is of features of {ours}; {what} is of {theirs}: embed with the probe's encoder")

    def probabilities(self, x: FloatArray) -> FloatArray:
        """Of each name (N, K) float32 for features (N, D); rows sum to 1 unless ``several``. Raises FeaturesError."""
        if x.ndim != 2 or x.shape[1] != len(self.model.mean):
            raise FeaturesError(f"features of shape {x.shape} were given; the probe takes (N, {len(self.model.mean)})")
        scores = self.model.scores(x)
        if self.several:
            return sigmoid(scores)
        scores -= scores.max(1, keepdims=True)
        np.exp(scores, out=scores)
        shares: FloatArray = np.divide(scores, scores.sum(1, keepdims=True), dtype=np.float32)
        return shares


def _arrays(file: Path) -> list[FloatArray]:
    """The arrays of the weights' file, as they are in it: stored, float32, finite. Raises FeaturesError."""
    found = []
    try:
        with zipfile.ZipFile(file) as packed:
            for name in ARRAYS:
                entry = packed.getinfo(f"{name}.npy")
                if entry.compress_type != zipfile.ZIP_STORED:  # what is small here could be large unpacked
                    raise ValueError(f"{name} is compressed")
                with packed.open(entry) as stored:
                    array = np.lib.format.read_array(stored, allow_pickle=False)
                if array.dtype != np.float32 or array.ndim != (2 if name == "weights" else 1) or not np.isfinite(array).all():
                    raise ValueError(f"{name} is no array of finite float32 of {'(D, K)' if name == 'weights' else '(N,)'}")
                found.append(array)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise FeaturesError(f"{file} is not what 'sslfeat probe --out' writes: {error}") from error
    return found


def sigmoid(scores: FloatArray) -> FloatArray:
    """1 / (1 + exp(-z)), without overflow."""
    one = np.float32(1)
    probabilities: npt.NDArray[np.float32] = np.divide(one, one + np.exp(-np.clip(scores, -80, 80)), dtype=np.float32)
    return probabilities
