"""What a backbone is: images to features, at the end or at any layer before it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sslfeat.errors import UsageError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL, MEDIUM = 40, 112  # px: up to SMALL a stem that keeps the resolution, up to MEDIUM one that halves it once


class Backbone(nn.Module):
    """Images (N, 3, S, S), normalized, to features (N, dim).

    ``layers`` names the places where features can be taken, first to last, and ``dims`` their channels; the last is
    the default everywhere.
    """

    normalization: tuple[Sequence[float], Sequence[float]] = (IMAGENET_MEAN, IMAGENET_STD)
    """Mean and standard deviation of the channels, of pixels in [0, 1], that it is fed with."""

    def __init__(self, image_size: int, dims: dict[str, int]) -> None:
        super().__init__()
        self.image_size = image_size
        self.dims = dims

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self.dims)

    @property
    def dim(self) -> int:
        return self.dims[self.layers[-1]]

    def depth(self, layer: str | None) -> int:
        """How many layers lead up to and include ``layer``. Raises UsageError for a name that does not exist."""
        if layer is None:
            return len(self.layers)
        if layer not in self.dims:
            raise UsageError(f"there is no layer {layer!r}: it can be {', '.join(self.layers)}")
        return self.layers.index(layer) + 1

    def maps(self, images: Tensor, layer: str | None = None) -> Tensor:
        """Feature maps (N, C, h, w) of a layer, C as in ``dims``."""
        last = self.layers[self.depth(layer) - 1]
        return self.several_maps(images, (last,))[last]

    def stage_of(self, parameter: str) -> int:
        """How many layers lie in front of the one that a parameter belongs to, by its name; behind all of them, their number."""
        inside = [n for n, layer in enumerate(self.layers) if f".{layer}." in f".{parameter}"]
        return inside[0] if inside else 0

    def several_maps(self, images: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
        """Feature maps of each of these layers; a backbone defines this or ``maps``."""
        return {layer: self.maps(images, layer) for layer in layers}

    def forward(self, images: Tensor, layer: str | None = None) -> Tensor:
        """Pooled features (N, C) of a layer."""
        raise NotImplementedError
