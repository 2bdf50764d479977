"""MoCo (He et al. 2020, "Momentum Contrast"; Chen et al. 2020, "Improved Baselines"; Chen, Xie, He 2021, v3).

Task: among many keys, identify the key that a momentum encoder computed from another view of the same image. With ``queue``
the negatives are the keys of previous batches (2020, section 3.2); with ``queue=0`` they are those of the batch, and a
predictor is added (v3, section 3). Known shortcuts: batch normalization leaks information between the views of a batch (2020,
section 3.3), which the keys in the queue prevent, as they come from other batches; and the views share their colors, which
color distortion prevents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.data import Images
from sslfeat.models.engine.distributed import gather, rank
from sslfeat.models.method import About, Figures, Recipe, register
from sslfeat.models.modules.heads import mlp
from sslfeat.models.modules.queue import Queue
from sslfeat.models.multi_view import Taught, TaughtConfig, Views, pairs
from sslfeat.models.ranges import Count, CountOrZero, Positive


@register("moco")
class MoCo(Taught):
    """Compare queries from all views with keys from the other whole views."""

    @dataclass(frozen=True)
    class Config(TaughtConfig):
        """``queue``: number of keys kept (paper: 65,536), at most a quarter of the number of images, so that an image rarely
        meets its own key; 0: use the keys of the batch. ``temperature``: of the softmax (paper: 0.2).

        ``hidden``, ``projection_dim``: widths of the projector (v2: 2048, 128).
        """

        queue: CountOrZero = 4096
        temperature: Positive = 0.2
        hidden: Count = 1024
        projection_dim: Count = 128

    recipe = Recipe(batch_size=128, lr=2e-3, weight_decay=1e-4)
    about = About(
        "He, Fan, Wu, Xie, Girshick 2020; Chen, Xie, He 2021",
        "identify the momentum encoder's view of the same image among thousands of keys",
        "ImageNet linear (ResNet-50, v2, 800 epochs) 71.1; CIFAR-10 (ResNet-18, 1000 epochs) 92.9",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        width = config.projection_dim
        self.projector = mlp(encoder.dim, config.hidden, width)
        self.predictor: nn.Module = nn.Identity() if config.queue else mlp(width, config.hidden, width)
        self.queue = Queue(config.queue, width) if config.queue else None
        self.teach(self.projector)

    def prepare(self, images: Images) -> None:
        super().prepare(images)
        if self.queue is not None:
            size = min(self.config.queue, max(1, len(images.pixels) // 4))
            self.queue = Queue(size, self.config.projection_dim)

    def compare(self, features: Tensor, views: Views) -> tuple[Tensor, Figures]:
        """InfoNCE in nats, averaged over pairs of views. ``accuracy``: how often the positive key is the nearest."""
        count, total = self.config.views, self.config.views + self.config.local_views
        queries = self.predictor(self.projector(self.features_of_all(features, views))).chunk(total)
        keys = self.teacher(views.whole).chunk(count)
        negatives = self.queue.rows.clone() if self.queue is not None else None
        results = [info_nce(queries[a], keys[b], negatives, self.config.temperature) for a, b in pairs(total, count)]
        if self.queue is not None:
            self.queue.push(functional.normalize(keys[0].float(), dim=1))
        return torch.stack([loss for loss, _ in results]).mean(), results[0][1]


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor | None, temperature: float) -> tuple[Tensor, Figures]:
    """InfoNCE of queries (N, P) and keys (N, P), where row i of both is of the same image: cross-entropy over cosines.

    The negatives are the unit vectors ``negatives`` (Q, P) or, if None, the keys of the other images on all processes.
    """
    with torch.autocast(queries.device.type, enabled=False):
        query, key = functional.normalize(queries.float(), dim=1), functional.normalize(keys.float(), dim=1)
        if negatives is None:
            logits = query @ gather(key).T / temperature
            right = torch.arange(len(query), device=query.device) + rank() * len(query)
        else:
            logits = torch.cat([(query * key).sum(1, keepdim=True), query @ negatives.T], 1) / temperature
            right = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    accuracy = (logits.detach().argmax(1) == right).float().mean()
    return functional.cross_entropy(logits, right), {"accuracy": accuracy, "chance": 1 / logits.shape[1]}
