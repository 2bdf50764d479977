"""Where in an encoder features are taken: a layer, or several side by side, pooled in some way, whitened or not.

``layer4`` is that layer's own features. ``layer2:std+layer3:2x2+layer4`` puts parts beside each other, each of unit length: means
over the map, deviations over it (``std``), or means of its quarters (``2x2``). ``...,whiten=0.25,dim=512`` turns what is there
by a PCA of training images, each axis divided by its eigenvalue to that power, and keeps the first so many: directions that
many images share count less, which is what nearest neighbors gain by (Jégou, Chum 2012, "Negative Evidences and
Co-occurrences in Image Retrieval: the Benefit of PCA and Whitening").
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

POOLINGS = {"mean": 1, "std": 1, "2x2": 4}  # how many numbers a channel becomes
EPSILON = 1e-5  # under a root: where a map is constant, rounding would be all there is
LEAST_VARIANCE = 1e-4  # of the first axis': below it a direction is noise


@dataclass(frozen=True)
class Readout:
    """``parts`` are (layer, pooling); ``whiten`` is the power of the eigenvalues, None for none; ``dim`` axes are kept."""

    parts: tuple[tuple[str, str], ...]
    whiten: float | None = None
    dim: int | None = None

    @classmethod
    def parse(cls, text: str | None, backbone: Backbone) -> Readout:
        """Raises UsageError for layers or poolings that do not exist."""
        places, *settings = (text or backbone.layers[-1]).split(",")
        parts: list[tuple[str, str]] = []
        for place in places.split("+"):
            layer, _, pooling = place.partition(":")
            backbone.depth(layer)
            if pooling and pooling not in POOLINGS:
                raise UsageError(f"{place}: features are pooled by {', '.join(POOLINGS)}")
            parts.append((layer, pooling or "mean"))
        found = {name: value for name, _, value in (setting.partition("=") for setting in settings)}
        try:
            whiten, dim = (float(found.pop("whiten")) if "whiten" in found else None), found.pop("dim", None)
            readout = cls(tuple(parts), whiten, None if dim is None else int(dim))
        except ValueError as error:
            raise UsageError(f"{text}: whiten is a power, such as 0.25, and dim a number: {error}") from None
        if found or (readout.dim is not None and (readout.whiten is None or readout.dim < 1)):
            raise UsageError(f"{text}: after the layers come whiten=POWER and, with it, dim=N")
        return readout

    def __str__(self) -> str:
        text = "+".join(layer if pooling == "mean" else f"{layer}:{pooling}" for layer, pooling in self.parts)
        text += "" if self.whiten is None else f",whiten={self.whiten:g}"
        return text if self.dim is None else f"{text},dim={self.dim}"

    def width(self, backbone: Backbone) -> int:
        """How many numbers the parts are together."""
        return sum(backbone.dims[layer] * POOLINGS[pooling] for layer, pooling in self.parts)

    def pooled(self, backbone: Backbone, images: Tensor) -> Tensor:
        """The parts side by side, (N, width): one layer's own features, or several of unit length each."""
        if len(self.parts) == 1 and self.parts[0][1] == "mean":
            features: Tensor = backbone(images, self.parts[0][0])
            return features
        maps = backbone.several_maps(images, tuple(layer for layer, _ in self.parts))
        return torch.cat([functional.normalize(_pool(maps[layer], kind)) for layer, kind in self.parts], 1)


class Whitening(nn.Module):
    """Rows (N, D) minus ``center`` (D,), times ``axes`` (D, K)."""

    center: Tensor
    axes: Tensor

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("axes", torch.zeros(width, dim))

    def forward(self, rows: Tensor) -> Tensor:
        return (rows - self.center) @ self.axes

    def learn(self, features: FloatArray, power: float) -> None:
        """From rows (N, D) of training images. Raises UsageError if they are fewer than the axes."""
        rows = features.astype(np.float64)
        width, dim = self.axes.shape
        if len(rows) <= dim:
            raise UsageError(f"{len(rows)} images are too few for {dim} axes: choose a smaller dim")
        center = rows.mean(0)
        values, vectors = np.linalg.eigh(np.cov((rows - center).T).reshape(width, width))
        values, vectors = values[::-1][:dim], vectors[:, ::-1][:, :dim]
        vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(dim)])  # one of the two signs, always the same
        axes = vectors / np.maximum(values, LEAST_VARIANCE * values[0]) ** power
        self.center.copy_(torch.from_numpy(center))
        self.axes.copy_(torch.from_numpy(axes))


def _pool(maps: Tensor, pooling: str) -> Tensor:
    """Maps (N, C, h, w) to (N, C), or to (N, 4 C) for the means of quarters, which overlap where sides are odd."""
    if pooling == "mean":
        return maps.mean((2, 3))
    if pooling == "std":
        mean = maps.mean((2, 3), keepdim=True)
        return ((maps - mean).pow(2).mean((2, 3)) + EPSILON).sqrt()
    step = maps.shape[-1] // 2
    if not step:
        raise UsageError("a map of one pixel has no quarters: take an earlier layer, or a larger image size")
    quarters: Tensor = functional.avg_pool2d(maps, maps.shape[-1] - step, step)
    return quarters.flatten(1)
