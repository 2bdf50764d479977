"""The interface of backbones: images to features, at the end or at an earlier layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sslfeat.errors import UsageError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL, MEDIUM = 40, 112  # px; stem at full resolution up to SMALL, at half resolution up to MEDIUM


class Backbone(nn.Module):
    """Map normalized images (N, 3, S, S) to features (N, dim).

    ``layers``: names of the layers with features, first to last; ``dims``: their channels. The default is the last layer.
    """

    normalization: tuple[Sequence[float], Sequence[float]] = (IMAGENET_MEAN, IMAGENET_STD)
    """Mean and standard deviation of the channels for normalizing pixels in [0, 1]."""

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
        """Number of layers up to and including ``layer``. Raises UsageError for an unknown name."""
        if layer is None:
            return len(self.layers)
        if layer not in self.dims:
            raise UsageError(f"there is no layer {layer!r}: choose one of {', '.join(self.layers)}")
        return self.layers.index(layer) + 1

    def maps(self, images: Tensor, layer: str | None = None) -> Tensor:
        """Feature maps (N, C, h, w) of a layer, C as in ``dims``."""
        last = self.layers[self.depth(layer) - 1]
        return self.several_maps(images, (last,))[last]

    def stage_of(self, parameter: str) -> int:
        """Number of layers before that of the parameter with this name; the number of layers if it follows all of them."""
        inside = [n for n, layer in enumerate(self.layers) if f".{layer}." in f".{parameter}"]
        return inside[0] if inside else 0

    def several_maps(self, images: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
        """Feature maps of several layers; a backbone defines this or ``maps``."""
        return {layer: self.maps(images, layer) for layer in layers}

    def forward(self, images: Tensor, layer: str | None = None) -> Tensor:
        """Pooled features (N, C) of a layer."""
        raise NotImplementedError
