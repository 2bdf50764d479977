"""Redundancy reduction (Barlow 1989, "Unsupervised Learning"; Zbontar et al. 2021, "Barlow Twins").

Task: each unit should agree between two views of an image, and different units should be uncorrelated. The
cross-correlation matrix C (P, P) of the projections of two views over the batch is driven toward the identity (2021,
equation 1); the exported features are taken before the projector. This is Barlow's factorial code limited to second-order
statistics; ``sslfeat score`` measures it for any encoder. Known shortcut: crops of one image share their colors. Color
distortion prevents it; ``jitter=0`` with ``gray=0`` allows it. Units are standardized, so constant units gain nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.distributed import gather_parts
from sslfeat.models.method import About, Figures, Recipe, register
from sslfeat.models.modules.heads import expander
from sslfeat.models.multi_view import MultiView, ViewConfig, Views, partners
from sslfeat.models.ranges import Count, NotNegative

EPSILON = 1e-5  # added to the variance of a unit
LEAST_AGREEMENT = 0.2


@register("barlow")
class Barlow(MultiView):
    """Views (2N, 3, S, S), where i and N + i are of the same image; drive their cross-correlation toward the identity."""

    @dataclass(frozen=True)
    class Config(ViewConfig):
        """``redundancy_weight``: weight of the off-diagonal terms (lambda; paper: 0.0051).

        ``projection_dim``: width of the three layers of the projector (paper: 8192; 1024 costs 2 points of 73). ``jitter``:
        strength of the color distortion; ``gray``: fraction of views in grayscale; ``min_area``: minimum area of a crop
        (paper: 1, 0.2 and 0.08 as in SimCLR, with blur and solarization, which are not used for small images).
        """

        redundancy_weight: NotNegative = 0.0051
        projection_dim: Count = 1024

    recipe = Recipe(batch_size=256, lr=2e-3, weight_decay=1e-4)
    about = About(
        "Barlow 1989; Zbontar, Jing, Misra, LeCun, Deny 2021",
        "each unit agrees between two views of an image and is uncorrelated with all others",
        "ImageNet linear (ResNet-50, 1000 epochs) 73.2; CIFAR-10 (ResNet-18, 1000 epochs) 92.1",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        self.projector = expander(encoder.dim, config.projection_dim)

    def compare(self, features: Tensor, views: Views) -> tuple[Tensor, Figures]:
        """See ``barlow_twins``; for more than two views, the mean over adjacent pairs."""
        count = self.config.views + self.config.local_views
        rows = self.projector(self.features_of_all(features, views)).chunk(count)
        couples = [(rows[n], rows[n + 1]) for n in range(len(rows) - 1)]
        results = [barlow_twins(torch.cat(couple), self.config.redundancy_weight) for couple in couples]
        return torch.stack([loss for loss, _ in results]).mean(), results[0][1]

    def complaint(self, figures: dict[str, float]) -> str | None:
        """Units that the two views do not share keep an agreement near 0, whatever the rest of the loss does."""
        if figures["agreement"] < LEAST_AGREEMENT:
            return (
                f"the two views of an image agree little ({figures['agreement']:.2f}; maximum 1): try weaker augmentation "
                "(min_area, jitter), a larger batch, or more steps"
            )
        return None


def barlow_twins(projections: Tensor, weight: float) -> tuple[Tensor, Figures]:
    """sum_i (1 - C_ii)^2 + ``weight`` sum_{i != j} C_ij^2 for projections (2N, P) whose rows i and N + i are a pair.

    ``agreement``: mean C_ii, at most 1. ``redundancy``: mean |C_ij|. ``accuracy``: how often the paired view is the nearest of
    the N other views by cosine of the standardized projections. The batch is that of all processes.
    """
    with torch.autocast(projections.device.type, enabled=False):
        first, second = (_standardize(half) for half in gather_parts(projections.float(), 2).chunk(2))
        n, width = first.shape
        correlation = first.T @ second / n
        found = partners(first, second)
    diagonal = correlation.diagonal()
    off_diagonal = correlation.pow(2).sum() - diagonal.pow(2).sum()
    others = (correlation.detach().abs().sum() - diagonal.detach().abs().sum()) / max(1, width * (width - 1))
    return (1 - diagonal).pow(2).sum() + weight * off_diagonal, {
        "agreement": diagonal.detach().mean(),
        "redundancy": others,
        **found,
    }


def _standardize(z: Tensor) -> Tensor:
    """Standardize each unit over the batch."""
    centered = z - z.mean(0)
    return centered / (centered.pow(2).mean(0) + EPSILON).sqrt()
