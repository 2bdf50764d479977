"""SimCLR (Chen, Kornblith, Norouzi, Hinton 2020, "A Simple Framework for Contrastive Learning of Visual Representations").

Task: among the views in a batch, identify those of the same image. The loss is NT-Xent (section 2.1, equation 1) on
projected features; the exported features are taken before the projector (section 4.2). Known shortcut: crops of one image
share their color histogram (section 3.2, figure 6). Color distortion prevents it; ``jitter=0`` with ``gray=0`` allows it.
For small images the paper uses no blur and half the distortion (appendix B.9).

Features that are invariant to color cannot distinguish a red product from a blue one. With ``keep_color``, part of every
batch is distorted only slightly and contrasted by a separate projector, so that the features retain both kinds of
information (Xiao, Wang, Efros, Darrell 2021, "What Should Not Be Contrastive in Contrastive Learning", section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sslfeat.errors import UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.distributed import gather_parts
from sslfeat.models.method import About, Figures, Recipe, register
from sslfeat.models.modules.heads import mlp
from sslfeat.models.multi_view import MultiView, ViewConfig, Views
from sslfeat.models.ranges import Count, Positive, Share

LOSSES = ("nt-xent", "dcl")
WEAK_JITTER = 0.1  # for images that keep their color


@register("simclr")
class SimCLR(MultiView):
    """NT-Xent over all views of a batch."""

    @dataclass(frozen=True)
    class Config(ViewConfig):
        """``temperature``: temperature of NT-Xent (paper: 0.5 on CIFAR-10, 0.1 on ImageNet).

        ``jitter``: strength of the color distortion (paper: 0.5 on CIFAR-10, 1 on ImageNet). ``gray``: fraction of views
        in grayscale (paper: 0.2). ``min_area``: minimum area of a crop (paper: 0.08). ``projection_dim``: output dimension
        of the projector (paper: 128). ``hidden``: width of its hidden layer, as a multiple of the feature dimension
        (paper: 1). ``loss``: ``nt-xent``, or ``dcl``, which omits the positives from the denominator (Yeh et al. 2022), for
        small batches. ``keep_color``: fraction of images whose views keep their color.
        """

        temperature: Positive = 0.2
        projection_dim: Count = 128
        hidden: Count = 1
        loss: str = LOSSES[0]
        keep_color: Share = 0.0

    recipe = Recipe(batch_size=256, lr=2e-3, weight_decay=1e-4)
    about = About(
        "Chen, Kornblith, Norouzi, Hinton 2020",
        "identify the other views of the same image in the batch",
        "ImageNet linear (ResNet-50, 800 epochs) 69.7; CIFAR-10 (ResNet-18, 1000 epochs) 90.7",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        if config.loss not in LOSSES:
            raise UsageError(f"loss={config.loss}: must be one of {', '.join(LOSSES)}")
        if not 0 <= config.keep_color < 1:
            raise UsageError(f"keep_color={config.keep_color}: must be a fraction of the images, at least 0 and less than 1")
        self.projector = mlp(encoder.dim, config.hidden * encoder.dim, config.projection_dim)
        if config.keep_color:
            self.color_projector = mlp(encoder.dim, config.hidden * encoder.dim, config.projection_dim)

    def distortion(self, n: int, device: torch.device) -> tuple[float | Tensor, float | Tensor]:
        if not self.config.keep_color:
            return super().distortion(n, device)
        kept = self._kept(n, device)
        return torch.where(kept, WEAK_JITTER, self.config.jitter), torch.where(kept, 0.0, self.config.gray)

    def compare(self, features: Tensor, views: Views) -> tuple[Tensor, Figures]:
        """NT-Xent in nats. ``accuracy``: how often the nearest other view is of the same image."""
        config, features = self.config, self.features_of_all(features, views)
        count = config.views + config.local_views
        settings = config.temperature, count, config.loss == "dcl"
        if not config.keep_color:
            return nt_xent(self.projector(features), *settings)
        kept = self._kept(len(features) // count, features.device)
        if not 2 <= int(kept.sum()) <= len(kept) - 2:
            raise UsageError(f"keep_color={config.keep_color}: each part of the batch of {len(kept)} needs at least two images")
        rows = kept.repeat(count)
        loss, figures = nt_xent(self.projector(features[~rows]), *settings)
        color_loss, color_figures = nt_xent(self.color_projector(features[rows]), *settings)
        weight = float(kept.float().mean())
        return torch.lerp(loss, color_loss, weight), {**figures, "color_accuracy": color_figures["accuracy"]}

    def _kept(self, n: int, device: torch.device) -> Tensor:
        """Mask bool (n,), evenly spaced, because the images of a batch are sorted by folder."""
        steps = (torch.arange(n + 1, device=device) * self.config.keep_color).floor()
        return steps[1:] > steps[:-1]


def nt_xent(projections: Tensor, temperature: float, views: int = 2, decoupled: bool = False) -> tuple[Tensor, Figures]:
    """Normalized temperature-scaled cross-entropy of projections (V N, P); rows i, N + i, 2 N + i, ... are of one image.

    The mean over all ordered pairs of views of an image. ``decoupled`` omits views of the same image from the denominator.
    In distributed training the views of all processes are compared. Computed in float32.
    """
    unit = functional.normalize(gather_parts(projections.float(), views), dim=1)
    with torch.autocast(unit.device.type, enabled=False):
        similarity = unit @ unit.T / temperature
    total = len(unit)
    image = torch.arange(total, device=unit.device) % (total // views)
    same = image[:, None] == image[None]
    itself = torch.eye(total, dtype=torch.bool, device=unit.device)
    others = similarity.masked_fill(same if decoupled else itself, float("-inf")).logsumexp(1)
    positive = (similarity * (same & ~itself)).sum(1) / (views - 1)
    nearest = similarity.detach().masked_fill(itself, float("-inf")).argmax(1)
    accuracy = (image[nearest] == image).float().mean()
    return (others - positive).mean(), {"accuracy": accuracy, "chance": (views - 1) / (total - 1)}
