"""Readout of features from an encoder: one or several layers, pooled and optionally whitened.

``layer4`` takes the features of that layer. ``layer2:std+layer3:2x2+layer4`` concatenates parts, each normalized to unit
length: means over the map, standard deviations over it (``std``), or means of its quarters (``2x2``).
``...,whiten=0.25,dim=512`` applies a PCA fitted to training images, divides each axis by its eigenvalue to that power, and keeps
the first ``dim`` axes. Directions shared by many images then count less, which improves nearest-neighbor search (Jégou,
Chum 2012, "Negative Evidences and Co-occurrences in Image Retrieval: the Benefit of PCA and Whitening").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.errors import UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.numerics.arrays import FloatArray

POOLINGS = {"mean": 1, "std": 1, "2x2": 4}  # number of features per channel
EPSILON = 1e-5  # under a square root; prevents amplifying rounding errors on constant maps
LEAST_VARIANCE = 1e-4  # relative to the first axis; smaller directions are noise


@dataclass(frozen=True)
class Readout:
    """``parts``: (layer, pooling). ``whiten``: power of the eigenvalues, or None. ``dim``: number of axes kept."""

    parts: tuple[tuple[str, str], ...]
    whiten: float | None = None
    dim: int | None = None

    @classmethod
    def parse(cls, text: str | None, backbone: Backbone) -> Readout:
        """Raises UsageError for unknown layers or poolings."""
        places, *settings = (text or backbone.layers[-1]).split(",")
        parts: list[tuple[str, str]] = []
        for place in places.split("+"):
            layer, _, pooling = place.partition(":")
            backbone.depth(layer)
            if pooling and pooling not in POOLINGS:
                raise UsageError(f"{place}: the pooling must be one of {', '.join(POOLINGS)}")
            parts.append((layer, pooling or "mean"))
        found = {name: value for name, _, value in (setting.partition("=") for setting in settings)}
        try:
            whiten, dim = (float(found.pop("whiten")) if "whiten" in found else None), found.pop("dim", None)
            readout = cls(tuple(parts), whiten, None if dim is None else int(dim))
        except ValueError as error:
            raise UsageError(f"{text}: whiten must be a power, such as 0.25, and dim an integer: {error}") from None
        if found or (readout.dim is not None and (readout.whiten is None or readout.dim < 1)):
            raise UsageError(f"{text}: only whiten=POWER and, with it, dim=N can follow the layers")
        return readout

    def __str__(self) -> str:
        text = "+".join(layer if pooling == "mean" else f"{layer}:{pooling}" for layer, pooling in self.parts)
        text += "" if self.whiten is None else f",whiten={self.whiten:g}"
        return text if self.dim is None else f"{text},dim={self.dim}"

    def width(self, backbone: Backbone) -> int:
        """Total dimension of the parts."""
        return sum(backbone.dims[layer] * POOLINGS[pooling] for layer, pooling in self.parts)

    def pooled(self, backbone: Backbone, images: Tensor) -> Tensor:
        """Concatenated parts (N, width): the features of one layer, or of several, each of unit length."""
        if len(self.parts) == 1 and self.parts[0][1] == "mean":
            features: Tensor = backbone(images, self.parts[0][0])
            return features
        maps = backbone.several_maps(images, tuple(layer for layer, _ in self.parts))
        return torch.cat([functional.normalize(_pool(maps[layer], kind)) for layer, kind in self.parts], 1)


class Whitening(nn.Module):
    """Subtract ``center`` (D,) from rows (N, D) and multiply by ``axes`` (D, K)."""

    center: Tensor
    axes: Tensor

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("axes", torch.zeros(width, dim))

    def forward(self, rows: Tensor) -> Tensor:
        return (rows - self.center) @ self.axes

    def learn(self, features: FloatArray, power: float) -> None:
        """Fit to rows (N, D) of training images. Raises UsageError if there are fewer rows than axes."""
        rows = features.astype(np.float64)
        width, dim = self.axes.shape
        if len(rows) <= dim:
            raise UsageError(f"{len(rows)} images are too few for {dim} axes: choose a smaller dim")
        center = rows.mean(0)
        values, vectors = np.linalg.eigh(np.cov((rows - center).T).reshape(width, width))
        values, vectors = values[::-1][:dim], vectors[:, ::-1][:, :dim]
        vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(dim)])  # fix the sign
        axes = vectors / np.maximum(values, LEAST_VARIANCE * values[0]) ** power
        self.center.copy_(torch.from_numpy(center))
        self.axes.copy_(torch.from_numpy(axes))


def _pool(maps: Tensor, pooling: str) -> Tensor:
    """Maps (N, C, h, w) to (N, C), or to (N, 4 C) for means of quarters, which overlap if sides are odd."""
    if pooling == "mean":
        return maps.mean((2, 3))
    if pooling == "std":
        mean = maps.mean((2, 3), keepdim=True)
        return ((maps - mean).pow(2).mean((2, 3)) + EPSILON).sqrt()
    step = maps.shape[-1] // 2
    if not step:
        raise UsageError("a map of one pixel cannot be split into quarters: choose an earlier layer, or a larger image size")
    quarters: Tensor = functional.avg_pool2d(maps, maps.shape[-1] - step, step)
    return quarters.flatten(1)
