"""A probe kept in a folder: applied to other features of the same encoder, without what it was trained on."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sslfeat import store
from sslfeat.errors import FeaturesError
from sslfeat.evaluation.logistic import FloatArray, Linear

FORMAT = 1
META, WEIGHTS = "probe.json", "weights.npz"
ARRAYS = ("mean", "weights", "bias")


@dataclass(frozen=True)
class SavedProbe:
    """A linear classifier of the features of ``encoder`` (name and fingerprint) into ``names``.

    ``several``: each name by itself, as labels of pictures that may carry more than one.
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
        store.write_atomic(folder / WEIGHTS, buffer.getvalue())
        meta = {
            "format": FORMAT,
            "names": self.names,
            "encoder": self.encoder,
            "several": self.several,
            "figures": self.figures,
            "sha256": store.sha256_file(folder / WEIGHTS),
        }
        store.write_atomic(folder / META, store.json_bytes(meta))

    @classmethod
    def load(cls, folder: str | Path) -> SavedProbe:
        """Read a folder that ``save`` wrote. Raises FeaturesError if it is no probe, damaged, or of another format."""
        folder = Path(folder)
        try:
            meta = json.loads((folder / META).read_bytes())
            if meta["format"] != FORMAT:
                raise FeaturesError(f"{folder} has format {meta['format']!r}; this sslfeat reads {FORMAT}: probe again")
            if store.sha256_file(folder / WEIGHTS) != meta["sha256"]:
                raise FeaturesError(f"{folder / WEIGHTS} is damaged: probe again with --out {folder}")
            with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
                model = Linear(*(arrays[name].astype(np.float32) for name in ARRAYS))
            probe = cls(model, list(meta["names"]), dict(meta["encoder"]), bool(meta["several"]), dict(meta["figures"]))
            fits = model.weights.shape == (len(model.mean), len(probe.names)) and model.bias.shape == (
                len(probe.names),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FeaturesError(f"{folder} is not a probe ('sslfeat probe --out' writes one): {error}") from error
        if not fits:
            raise FeaturesError(f"{folder / WEIGHTS} does not fit {META}: probe again with --out {folder}")
        return probe

    def check(self, encoder: dict[str, Any], what: str) -> None:
        """Raise FeaturesError, naming both, if ``encoder`` (name, fingerprint) is another than the probe's."""
        if encoder["fingerprint"] != self.encoder["fingerprint"]:
            ours, theirs = (f"{e['name']} ({e['fingerprint'][:12]})" for e in (self.encoder, encoder))
            raise FeaturesError(
                f"the probe is of features of {ours}; {what} is of {theirs}: embed with the probe's encoder"
            )

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


def sigmoid(scores: FloatArray) -> FloatArray:
    """1 / (1 + exp(-z)), without overflow."""
    one = np.float32(1)
    probabilities: npt.NDArray[np.float32] = np.divide(one, one + np.exp(-np.clip(scores, -80, 80)), dtype=np.float32)
    return probabilities
