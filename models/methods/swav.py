"""SwAV (Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments").

Task: predict from one view of an image the cluster that another view is given, where the clusters of a batch are made
equally full by Sinkhorn's iteration (section 3.1, equations 2 to 5). That is DeepCluster without a pass over the data, and
equal sizes forbid the trivial answer of one cluster for all. Local views predict, too, but give no targets (section 3.2).
At small batches a queue helps to fill the clusters (section 5.3), and the prototypes rest at first (appendix A). Known
shortcut: the views share their colors; color distortion closes it, ``jitter=0`` with ``gray=0`` opens it again.

For runs of minutes three things differ from the paper. The projection ends in batch normalization: without it all rows come
to point one way, few of the prototypes are used, and nothing is learned. Codes are sharper and prototypes fewer, as a
batch is small. There is no queue: rows of a network that changes quickly spoil the codes.
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

REST = 0.03  # share of the run in which the prototypes stay where they are


@register("swav")
class SwAV(MultiView):
    """Scores (V N, K) of prototypes; the codes of each whole view are predicted from all other views."""

    @dataclass(frozen=True)
    class Config(ViewConfig):
        """``prototypes``: clusters (paper: 3000 for 1000 classes). ``temperature`` (paper: 0.1). ``epsilon``,
        ``rounds`` of Sinkhorn's iteration (paper: 0.05, 3). ``queue``: earlier rows that fill the clusters, too, once it
        is full (paper: 3840 at batch 256), 0 for none. ``projection_dim`` (paper: 128).
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
        "predict from one view the cluster of another, the clusters kept equally full",
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
        """Cross-entropy in nats; ``used`` is the share of prototypes that are the nearest of some view."""
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
        """The codes (N, K) of a view's ``scores``, balanced together with the queue's."""
        earlier = scores[:0]
        if self.queue is not None and self.queue.full:
            earlier = self.prototypes(self.queue.rows[rank() :: world_size()])
        return sinkhorn(torch.cat([scores, earlier]), self.config.epsilon, self.config.rounds)[: len(scores)]


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, rounds: int) -> Tensor:
    """exp(``scores`` / ``epsilon``) (N, K) with rows of sum 1 and columns of nearly equal sums, over all processes."""
    logs = scores.double() / epsilon  # in logarithms: a cluster that all point away from would be 0 / 0
    for _ in range(rounds):
        largest = total_of(logs.max(0).values, "max")
        logs = logs - largest - total_of((logs - largest).exp().sum(0)).log()
        logs = logs.log_softmax(1)
    return logs.softmax(1).to(scores.dtype)
