"""BYOL (Grill et al. 2020, "Bootstrap Your Own Latent") with the multiple targets of FastSiam (Pototzky et al. 2022).

Task: from one view of an image, predict a momentum encoder's projections of the other views (section 3.1, equation 2). There
are no negatives; that the predictor and the momentum encoder prevent collapse is an empirical result (section 5). With more
than two views, each view predicts the mean of all others (FastSiam, section 3), which stabilizes training with small batches.
Known shortcut: the views share their colors. Color distortion prevents it; ``jitter=0`` with ``gray=0`` allows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sslfeat.models.backbones.base import Backbone
from sslfeat.models.method import About, Figures, Recipe, register
from sslfeat.models.modules.heads import mlp
from sslfeat.models.multi_view import Taught, TaughtConfig, Views, cosine_error
from sslfeat.models.ranges import Count


@register("byol")
class BYOL(Taught):
    """Every view, whole or local, predicts the mean of the other whole views."""

    @dataclass(frozen=True)
    class Config(TaughtConfig):
        """``hidden``, ``projection_dim``: widths of projector and predictor (paper: 4096, 256)."""

        hidden: Count = 1024
        projection_dim: Count = 256

    recipe = Recipe(batch_size=128, lr=2e-3, weight_decay=1e-4)
    about = About(
        "Grill, Strub, Altché et al. 2020",
        "predict a momentum encoder's output for the other views",
        "ImageNet linear (ResNet-50, 1000 epochs) 74.3; CIFAR-10 (ResNet-18, 1000 epochs) 92.6, "
        "FastSiam (200 epochs, nearest neighbors) 90.6",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        self.projector = mlp(encoder.dim, config.hidden, config.projection_dim)
        self.predictor = mlp(config.projection_dim, config.hidden, config.projection_dim)
        self.teach(self.projector)

    def compare(self, features: Tensor, views: Views) -> tuple[Tensor, Figures]:
        """See ``bootstrap``. ``trivial`` is the error of unrelated directions, 2."""
        predictions = self.predictor(self.projector(self.features_of_all(features, views)))
        count = self.config.views
        loss = bootstrap(list(predictions.chunk(count + self.config.local_views)), list(self.teacher(views.whole).chunk(count)))
        return loss, {"error": loss.detach(), "trivial": 2.0}


def bootstrap(predictions: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Mean over views of 2 - 2 cos between a view's prediction (N, P) and the mean of the other views' normalized targets.

    ``targets`` belong to the first ``len(targets)`` views.
    """
    units = [functional.normalize(target.float(), dim=1) for target in targets]
    total = torch.stack(units).sum(0)
    errors = [cosine_error(row, total - units[n] if n < len(units) else total) for n, row in enumerate(predictions)]
    return torch.stack(errors).mean()
