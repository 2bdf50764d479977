"""VICReg (Bardes, Ponce, LeCun 2022, "Variance-Invariance-Covariance Regularization").

Task: two views of an image get the same embedding, while each component keeps a standard deviation of 1 over the batch
and different components stay uncorrelated (section 4.1, equations 1 to 6). The variance term prevents collapse.
Known shortcut: the views share their colors. Color distortion prevents it; ``jitter=0`` with ``gray=0`` allows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.distributed import gather_parts
from sslfeat.models.method import About, Figures, Recipe, register
from sslfeat.models.modules.heads import expander
from sslfeat.models.multi_view import MultiView, ViewConfig, Views, pairs, partners
from sslfeat.models.ranges import Count, NotNegative

EPSILON = 1e-4  # added to the variance


@register("vicreg")
class VICReg(MultiView):
    """Embeddings (V N, P): invariant within an image, with variance and decorrelated over the batch."""

    @dataclass(frozen=True)
    class Config(ViewConfig):
        """``invariance``, ``variance``, ``covariance``: weights of the three terms (paper: 25, 25, 1).

        ``projection_dim``: width of the three layers of the expander (paper: 8192).
        """

        invariance: NotNegative = 25.0
        variance: NotNegative = 25.0
        covariance: NotNegative = 1.0
        projection_dim: Count = 1024

    recipe = Recipe(batch_size=256, lr=2e-3, weight_decay=1e-4)
    about = About(
        "Bardes, Ponce, LeCun 2022",
        "views of an image agree, each component varies, and components are uncorrelated",
        "ImageNet linear (ResNet-50, 1000 epochs) 73.2; CIFAR-10 (ResNet-18, 300 epochs) 90.1",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        self.expander = expander(encoder.dim, config.projection_dim)

    def compare(self, features: Tensor, views: Views) -> tuple[Tensor, Figures]:
        """See ``vicreg_terms``. ``std``: mean standard deviation of a component; 1 when the variance term is satisfied."""
        config = self.config
        count = config.views + config.local_views
        rows = self.expander(self.features_of_all(features, views))
        invariance, variance, covariance, std = vicreg_terms(rows, count, config.views)
        loss = config.invariance * invariance + config.variance * variance + config.covariance * covariance
        figures = {"invariance": invariance.detach(), "covariance": covariance.detach(), "std": std}
        return loss, {**figures, **partners(*gather_parts(rows, count).chunk(count)[:2])}


def vicreg_terms(rows: Tensor, views: int, against: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Invariance, variance and covariance terms of embeddings (V N, P), ordered by view, and their mean standard deviation.

    Invariance: mean squared difference over pairs of views whose second is one of the first ``against``. Variance: mean of
    max(0, 1 - std). Covariance: sum of its squared off-diagonal entries divided by P. In float32, over the batches of all
    processes.
    """
    with torch.autocast(rows.device.type, enabled=False):
        parts = gather_parts(rows.float(), views).chunk(views)
        invariance = torch.stack([functional.mse_loss(parts[a], parts[b]) for a, b in pairs(views, against)]).mean()
        stds = [(part.var(0) + EPSILON).sqrt() for part in parts]
        variance = torch.stack([functional.relu(1 - std).mean() for std in stds]).mean()
        covariance = torch.stack([_off_diagonal(part) for part in parts]).mean()
    return invariance, variance, covariance, torch.stack(stds).detach().mean()


def _off_diagonal(part: Tensor) -> Tensor:
    centered = part - part.mean(0)
    covariance = centered.T @ centered / (len(part) - 1)
    return (covariance.pow(2).sum() - covariance.diagonal().pow(2).sum()) / part.shape[1]
