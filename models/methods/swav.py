"""SwAV (Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments").

Task: from one view of an image, predict the cluster assignment of another view, where the assignments of a batch are balanced
by the Sinkhorn algorithm (section 3.1, equations 2 to 5). This resembles DeepCluster without a pass over the data; equal
cluster sizes exclude the trivial solution of a single cluster. Local views predict but give no targets (section 3.2). For
small batches a queue helps to fill the clusters (section 5.3); the prototypes are frozen at first (appendix A). Known
shortcut: the views share their colors. Color distortion prevents it; ``jitter=0`` with ``gray=0`` allows it.

The defaults differ from the paper in three ways for short runs. The projection ends in batch normalization; without it, all
rows converge to one direction, few prototypes are used, and nothing is learned. Codes are sharper and prototypes fewer,
because batches are small. There is no queue, because outdated rows of a quickly changing network degrade the codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.distributed import rank, total_of, world_size
from sslfeat.models.method import About, Figures, Recipe, register
from sslfeat.models.modules.heads import Prototypes, mlp
from sslfeat.models.modules.queue import Queue
from sslfeat.models.multi_view import MultiView, ViewConfig, Views, pairs
from sslfeat.models.ranges import Count, CountOrZero, Positive, Several

REST = 0.03  # fraction of the run during which the prototypes are frozen


@register("swav")
class SwAV(MultiView):
    """Prototype scores (V N, K); the codes of each whole view are predicted from all other views."""

    @dataclass(frozen=True)
    class Config(ViewConfig):
        """``prototypes``: number of clusters (paper: 3000 for 1000 classes). ``temperature``: of the softmax (paper: 0.1).
        ``epsilon``, ``rounds``: regularization and iterations of the Sinkhorn algorithm (paper: 0.05, 3). ``queue``: number
        of earlier rows included in the balancing once it is full (paper: 3840 at batch size 256); 0: none.
        ``projection_dim``: output dimension of the projector (paper: 128).
        """

        prototypes: Several = 128
        temperature: Positive = 0.1
        epsilon: Positive = 0.02
        rounds: CountOrZero = 3
        queue: CountOrZero = 0
        projection_dim: Count = 128
        local_views: CountOrZero = 2

    recipe = Recipe(batch_size=128, lr=2e-3, weight_decay=1e-4)
    about = About(
        "Caron, Misra, Mairal, Goyal, Bojanowski, Joulin 2020",
        "predict the cluster of one view from another, with balanced clusters",
        "ImageNet linear (ResNet-50, 800 epochs, multi-crop) 75.3; ImageNet-100 (ResNet-18, 200 epochs, neighbors) 67.8",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        centered = nn.BatchNorm1d(config.projection_dim, affine=False)
        self.projector = mlp(encoder.dim, 4 * encoder.dim, config.projection_dim).append(centered)
        self.prototypes = Prototypes(config.projection_dim, config.prototypes)
        self.queue = Queue(config.queue, config.projection_dim) if config.queue else None

    def compare(self, features: Tensor, views: Views) -> tuple[Tensor, Figures]:
        """Cross-entropy in nats. ``used``: fraction of prototypes that are the nearest of some view."""
        config, count = self.config, self.config.views
        total = count + config.local_views
        rows = functional.normalize(self.projector(self.features_of_all(features, views)).float(), dim=1)
        with torch.autocast(rows.device.type, enabled=False):
            scores = self.prototypes(rows, frozen=self.share < REST).chunk(total)
            codes = [self._codes(score.detach(), n) for n, score in enumerate(scores[:count])]
            logs = [functional.log_softmax(score / config.temperature, 1) for score in scores]
            loss = torch.stack([-(codes[b] * logs[a]).sum(1).mean() for a, b in pairs(total, count)]).mean()
        if self.queue is not None:
            self.queue.push(rows[: len(rows) // total])
        used = len(set(torch.cat(scores[:count]).argmax(1).tolist())) / config.prototypes
        return loss, {"error": loss.detach(), "trivial": float(torch.tensor(config.prototypes).log()), "used": used}

    @torch.no_grad()
    def _codes(self, scores: Tensor, view: int) -> Tensor:
        """Codes (N, K) of a view's ``scores``, balanced together with those of the queue."""
        earlier = scores[:0]
        if self.queue is not None and self.queue.full:
            earlier = self.prototypes(self.queue.rows[rank() :: world_size()])
        return sinkhorn(torch.cat([scores, earlier]), self.config.epsilon, self.config.rounds)[: len(scores)]


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, rounds: int) -> Tensor:
    """exp(``scores`` / ``epsilon``) (N, K), normalized so that rows sum to 1 and columns are nearly equal, over all processes."""
    logs = scores.double() / epsilon  # in log space: a cluster far from all rows would give 0 / 0
    for _ in range(rounds):
        largest = total_of(logs.max(0).values, "max")
        logs = logs - largest - total_of((logs - largest).exp().sum(0)).log()
        logs = logs.log_softmax(1)
    return logs.softmax(1).to(scores.dtype)
