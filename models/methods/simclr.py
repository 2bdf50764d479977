"""SimCLR (Chen, Kornblith, Norouzi, Hinton 2020, "A Simple Framework for Contrastive Learning of Visual Representations").

Task: among the views of a batch, find the one that comes from the same image. The loss is NT-Xent (section 2.1,
equation 1) on projections of the features; the features in front of the projector are kept (section 4.2). Known shortcut:
crops of one image share their color histogram (section 3.2, figure 6); color distortion closes it, ``jitter=0``
with ``gray=0`` opens it again. For small images the paper uses no blur and half the distortion (appendix B.9).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.distributed import gather_parts
from sslfeat.models.method import About, Figures, Method, Recipe, register
from sslfeat.models.modules.heads import mlp
from sslfeat.models.ops.augment import color_jitter, random_resized_crop, to_float
from sslfeat.models.ops.previews import tile


@register("simclr")
class SimCLR(Method):
    """Views (2N, 3, S, S), view i and view N + i from the same image; NT-Xent over the 2N."""

    @dataclass(frozen=True)
    class Config:
        """``temperature`` of NT-Xent (paper: 0.5 on CIFAR-10, 0.1 on ImageNet).

        ``jitter``: strength of the color distortion (paper: 0.5 on CIFAR-10, 1 on ImageNet). ``gray``: share of views
        without color (paper: 0.2). ``min_area``: of the smallest crop (paper: 0.08). ``projection_dim`` (paper: 128).
        """

        temperature: float = 0.2
        jitter: float = 0.5
        gray: float = 0.2
        min_area: float = 0.2
        projection_dim: int = 128

    recipe = Recipe(batch_size=256, lr=2e-3, weight_decay=1e-4)
    about = About(
        "Chen, Kornblith, Norouzi, Hinton 2020",
        "find the other view of the same image in the batch",
        "ImageNet linear (ResNet-50, 800 epochs) 69.7; CIFAR-10 (ResNet-18, 1000 epochs) 90.7",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        self.projector = mlp(encoder.dim, encoder.dim, config.projection_dim)

    def views(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Images uint8 (N, 3, S, S) to two independent views of each, float (2N, 3, S, S)."""
        twice = to_float(torch.cat([batch, batch]))
        cropped = random_resized_crop(twice, generator, scale=(self.config.min_area, 1.0))
        return color_jitter(cropped, generator, self.config.jitter, gray_probability=self.config.gray)

    def loss(self, views: Tensor) -> tuple[Tensor, Figures]:
        """NT-Xent in nats; ``accuracy`` is how often the true partner is the nearest of the other 2N - 1 views."""
        return nt_xent(self.projector(self.encode(views)), self.config.temperature)

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Top row one view of each image, bottom row the other."""
        return tile(*self.views(batch, generator).chunk(2))


def nt_xent(projections: Tensor, temperature: float) -> tuple[Tensor, Figures]:
    """Normalized temperature-scaled cross-entropy of (2N, P) projections whose rows i and N + i are a pair.

    Where several processes train, among the views of all of them. In float32 whatever the network uses.
    """
    unit = functional.normalize(gather_parts(projections.float(), 2), dim=1)
    with torch.autocast(unit.device.type, enabled=False):
        similarity = unit @ unit.T / temperature
    similarity.fill_diagonal_(float("-inf"))
    n = len(unit) // 2
    partner = torch.arange(2 * n, device=unit.device).roll(n)
    accuracy = (similarity.detach().argmax(1) == partner).float().mean()
    return functional.cross_entropy(similarity, partner), {"accuracy": accuracy, "chance": 1 / (2 * n - 1)}
