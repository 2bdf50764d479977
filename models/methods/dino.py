"""DINO (Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers").

Task: from one view of an image, predict the distribution over prototypes that a momentum encoder outputs for another view
(section 3.1, equation 3). To prevent collapse, the teacher's outputs are centered, which prevents a single prototype from
dominating, and sharpened, which prevents the uniform distribution (section 3.1, "Avoiding collapse"). Local views predict
whole views. Works with ResNets and ViTs. The prototypes are frozen at first (appendix C). Known shortcut: the views share
their colors. Color distortion prevents it; ``jitter=0`` with ``gray=0`` allows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.distributed import gather_parts, total_of, world_size
from sslfeat.models.method import About, Figures, Recipe, register
from sslfeat.models.modules.heads import Prototypes, expander
from sslfeat.models.multi_view import Taught, TaughtConfig, Views, pairs, partners
from sslfeat.models.ranges import Count, CountOrZero, Positive, Several, Share

REST = 0.03  # fraction of the run during which the prototypes are frozen


@register("dino")
class DINO(Taught):
    """Cross-entropy between the teacher's distributions for whole views and the student's for all other views."""

    @dataclass(frozen=True)
    class Config(TaughtConfig):
        """``prototypes``: number of prototypes (paper: 65,536). ``temperature``: of the student (paper: 0.1).
        ``teacher_temperature``: of the teacher (paper: 0.04 to 0.07). ``center_momentum``: of the center (paper: 0.9).
        ``hidden``, ``projection_dim``: widths of the head (paper: 2048, 256). The momentum encoder is exported, as it is the
        better one (section 5.2).
        """

        prototypes: Several = 1024
        temperature: Positive = 0.1
        teacher_temperature: Positive = 0.04
        center_momentum: Share = 0.9
        hidden: Count = 1024
        projection_dim: Count = 256
        local_views: CountOrZero = 2
        keep_average: bool = True

    recipe = Recipe(batch_size=128, lr=1e-3, weight_decay=1e-4, clip=3.0)
    about = About(
        "Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin 2021",
        "match a momentum encoder's distribution over prototypes across views",
        "ImageNet linear (ResNet-50, 800 epochs) 75.3, ViT-S/16 77.0; Imagenette (ResNet-18, neighbors) 88.8",
    )
    config: Config
    center: Tensor

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        self.projector = expander(encoder.dim, config.hidden, config.projection_dim)
        self.prototypes = Prototypes(config.projection_dim, config.prototypes)
        self.teach(self.projector, self.prototypes)
        self.register_buffer("center", torch.zeros(config.prototypes))

    def compare(self, features: Tensor, views: Views) -> tuple[Tensor, Figures]:
        """See ``distribution_error``. ``entropy``: of the teacher's distributions in nats; log K if uniform."""
        config, count = self.config, self.config.views
        total = count + config.local_views
        rows = self.projector(self.features_of_all(features, views))
        scores = self.prototypes(rows, frozen=self.share < REST).float()
        with torch.autocast(features.device.type, enabled=False):
            seen = self.teacher(views.whole).float()
            targets = ((seen - self.center) / config.teacher_temperature).softmax(1)
            logs = functional.log_softmax(scores / config.temperature, 1)
        loss = distribution_error(list(targets.chunk(count)), list(logs.chunk(total)))
        with torch.no_grad():
            self.center.lerp_(total_of(seen.mean(0)) / world_size(), 1 - config.center_momentum)
        entropy = -torch.special.xlogy(targets, targets).sum(1).mean()
        mean = targets.mean(0)
        figures = {"entropy": entropy, "entropy_of_mean": -torch.special.xlogy(mean, mean).sum()}
        return loss, {**figures, **partners(*gather_parts(rows, total).chunk(total)[:2])}

    def complaint(self, figures: dict[str, float]) -> str | None:
        """Detect both kinds of collapse from the teacher's distributions."""
        if figures["entropy_of_mean"] < 0.5:
            return "the teacher assigns one prototype to all images: try a lower center_momentum or a lower --lr"
        most = torch.tensor(float(self.config.prototypes)).log().item()
        if figures["entropy"] > 0.98 * most:
            return "the teacher's distributions are nearly uniform: try a lower teacher_temperature"
        return None


def distribution_error(targets: list[Tensor], logs: list[Tensor]) -> Tensor:
    """Mean over pairs of different views of the cross-entropy between a whole view's target (N, K) and the other's output."""
    return torch.stack([-(targets[b] * logs[a]).sum(1).mean() for a, b in pairs(len(logs), len(targets))]).mean()
