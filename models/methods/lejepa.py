"""LeJEPA (Balestriero, LeCun 2025, "Provable and Scalable Self-Supervised Learning Without the Heuristics").

Task: every view predicts the mean embedding of an image's whole views (section 5.1), while the embeddings of a batch are
held to a standard Gaussian by SIGReg (section 4): along random directions their characteristic function is compared with
the Gaussian's, Epps and Pulley's test of normality. No teacher, no predictor, no negatives. Its gradient vanishes where all
embeddings are one point, so a start from collapse stays there. Known shortcut: the views share their colors; color
distortion closes it, ``jitter=0`` with ``gray=0`` opens it again.
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
from sslfeat.models.multi_view import MultiView, ViewConfig, Views, partners
from sslfeat.models.ranges import Count, NotNegative

KNOTS, REACH = 17, 5.0  # points of the integral over the characteristic function, and where it ends


@register("lejepa")
class LeJEPA(MultiView):
    """Embeddings (V N, P): the views of an image at one place, all images a Gaussian."""

    @dataclass(frozen=True)
    class Config(ViewConfig):
        """``weight`` of SIGReg, the rest is prediction's (paper: 0.02 to 0.1). ``directions`` drawn at every step
        (paper: 256 to 1024). ``hidden``, ``projection_dim``: of the projector.
        """

        weight: NotNegative = 0.05
        directions: Count = 256
        hidden: Count = 2048
        projection_dim: Count = 64

    recipe = Recipe(batch_size=256, lr=2e-3, weight_decay=1e-4)
    about = About(
        "Balestriero, LeCun 2025",
        "every view predicts the mean of the views, and all embeddings together are a Gaussian",
        "ImageNet linear (ViT-H/14) 79; CIFAR-10 (ResNet-18, 300 epochs) 91.0",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        self.projector = expander(encoder.dim, config.hidden, config.projection_dim)

    def compare(self, features: Tensor, views: Views) -> tuple[Tensor, Figures]:
        """``prediction`` is the mean squared distance to the mean of the whole views, ``gaussianity`` SIGReg."""
        config = self.config
        count = config.views + config.local_views
        rows = gather_parts(self.projector(self.features_of_all(features, views)).float(), count)
        parts = torch.stack(rows.chunk(count))
        prediction = (parts - parts[: config.views].mean(0)).pow(2).mean()
        directions = torch.randn(rows.shape[1], config.directions, device=rows.device)
        gaussianity = torch.stack([sigreg(part, functional.normalize(directions, dim=0)) for part in parts]).mean()
        loss = (1 - config.weight) * prediction + config.weight * gaussianity
        figures = {"prediction": prediction.detach(), "gaussianity": gaussianity.detach()}
        return loss, {**figures, **partners(parts[0], parts[1])}


def sigreg(rows: Tensor, directions: Tensor) -> Tensor:
    """Epps and Pulley's statistic of rows (N, P) along unit ``directions`` (P, M), their mean.

    N times the integral of |phi(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt by trapezoids, phi(t) the mean of exp(i t x): 0 for a
    Gaussian of infinitely many, about 1 for N draws of one.
    """
    with torch.autocast(rows.device.type, enabled=False):
        t = torch.linspace(0, REACH, KNOTS, device=rows.device)
        weight = torch.full_like(t, 2 * REACH / (KNOTS - 1))  # the integrand is even: twice the half from 0
        weight[0] = weight[-1] = REACH / (KNOTS - 1)
        gauss = (-t.pow(2) / 2).exp()
        angles = (rows.float() @ directions)[..., None] * t  # (N, M, T)
        error = (angles.cos().mean(0) - gauss).pow(2) + angles.sin().mean(0).pow(2)
        statistic: Tensor = (error * gauss * weight).sum(1).mean() * len(rows)
    return statistic
