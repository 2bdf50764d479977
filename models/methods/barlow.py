"""Redundancy reduction (Barlow 1989, "Unsupervised Learning"; Zbontar et al. 2021, "Barlow Twins").

Task: a unit should say the same of two views of an image, and different units should say different things. The
cross-correlation matrix C (P, P) of the projections of two views, over the batch, is brought to the identity (2021,
equation 1); the features in front of the projector are kept. That is Barlow's factorial code as far as correlations go;
``sslfeat score`` measures it on any encoder. Known shortcut: crops of one image share their colors; color
distortion closes it, ``jitter=0`` with ``gray=0`` opens it again. Constant units cannot win: each is standardized.
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

EPSILON = 1e-5  # under the variance of a unit
LEAST_AGREEMENT = 0.2


@register("barlow")
class Barlow(MultiView):
    """Views (2N, 3, S, S), view i and view N + i from the same image; their cross-correlation to the identity."""

    @dataclass(frozen=True)
    class Config(ViewConfig):
        """``redundancy_weight``: l, of the off-diagonal terms (paper: 0.0051).

        ``projection_dim``: width of the three layers of the projector (paper: 8192; 1024 costs it 2 points of 73).
        ``jitter``, ``gray``, ``min_area``: strength of the color distortion, share of views without color, area of the
        smallest crop (paper: SimCLR's, 1, 0.2, 0.08, with blur and solarisation, which small images do without).
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
        """See ``barlow_twins``; of more than two views the mean over neighboring pairs."""
        count = self.config.views + self.config.local_views
        rows = self.projector(self.features_of_all(features, views)).chunk(count)
        couples = [(rows[n], rows[n + 1]) for n in range(len(rows) - 1)]
        results = [barlow_twins(torch.cat(couple), self.config.redundancy_weight) for couple in couples]
        return torch.stack([loss for loss, _ in results]).mean(), results[0][1]

    def complaint(self, figures: dict[str, float]) -> str | None:
        """Units that the two views do not share stay at an agreement near 0, whatever the rest of the loss does."""
        if figures["agreement"] < LEAST_AGREEMENT:
            return (
                f"the two views of an image agree little ({figures['agreement']:.2f} of 1): try weaker augmentation "
                "(min_area, jitter), a larger batch, or more steps"
            )
        return None


def barlow_twins(projections: Tensor, weight: float) -> tuple[Tensor, Figures]:
    """sum_i (1 - C_ii)^2 + ``weight`` sum_{i != j} C_ij^2 of (2N, P) projections whose rows i and N + i are a pair.

    ``agreement`` is the mean C_ii, 1 at best; ``redundancy`` the mean |C_ij|; ``accuracy`` how often the true partner is
    the nearest of the N other views, by the cosine of the standardized projections. The batch is that of all processes.
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
    """Zero mean and unit variance of each unit over the batch."""
    centered = z - z.mean(0)
    return centered / (centered.pow(2).mean(0) + EPSILON).sqrt()
