"""LeJEPA (Balestriero, LeCun 2025, "Provable and Scalable Self-Supervised Learning Without the Heuristics").

Task: every view predicts the mean embedding of an image's whole views (section 5.1), while SIGReg (section 4) regularizes the
embeddings of a batch toward a standard Gaussian: along random directions their characteristic function is compared with the
Gaussian's, as in the Epps-Pulley test of normality. No teacher, predictor or negatives. The gradient vanishes if all
embeddings are equal, so training cannot leave a collapsed state. Known shortcut: the views share their colors. Color
distortion prevents it; ``jitter=0`` with ``gray=0`` allows it.
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

KNOTS, REACH = 17, 5.0  # points and upper limit of the integral over the characteristic function


@register("lejepa")
class LeJEPA(MultiView):
    """Embeddings (V N, P): equal for the views of an image, Gaussian over all images."""

    @dataclass(frozen=True)
    class Config(ViewConfig):
        """``weight``: weight of SIGReg; the prediction loss has 1 - ``weight`` (paper: 0.02 to 0.1). ``directions``: number of
        random directions per step (paper: 256 to 1024). ``hidden``, ``projection_dim``: widths of the projector.
        """

        weight: NotNegative = 0.05
        directions: Count = 256
        hidden: Count = 2048
        projection_dim: Count = 64

    recipe = Recipe(batch_size=256, lr=2e-3, weight_decay=1e-4)
    about = About(
        "Balestriero, LeCun 2025",
        "every view predicts the mean of the views, and the embeddings follow a Gaussian",
        "ImageNet linear (ViT-H/14) 79; CIFAR-10 (ResNet-18, 300 epochs) 91.0",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        self.projector = expander(encoder.dim, config.hidden, config.projection_dim)

    def compare(self, features: Tensor, views: Views) -> tuple[Tensor, Figures]:
        """``prediction``: mean squared distance to the mean of the whole views. ``gaussianity``: SIGReg."""
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
    """Mean Epps-Pulley statistic of rows (N, P) along unit ``directions`` (P, M).

    N times the integral of |phi(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt by the trapezoidal rule, where phi(t) is the mean of
    exp(i t x): about 1 for N samples of a Gaussian.
    """
    with torch.autocast(rows.device.type, enabled=False):
        t = torch.linspace(0, REACH, KNOTS, device=rows.device)
        weight = torch.full_like(t, 2 * REACH / (KNOTS - 1))  # the integrand is even: integrate from 0 and double
        weight[0] = weight[-1] = REACH / (KNOTS - 1)
        gauss = (-t.pow(2) / 2).exp()
        angles = (rows.float() @ directions)[..., None] * t  # (N, M, T)
        error = (angles.cos().mean(0) - gauss).pow(2) + angles.sin().mean(0).pow(2)
        statistic: Tensor = (error * gauss * weight).sum(1).mean() * len(rows)
    return statistic
