"""DeepCluster (Caron, Bojanowski, Joulin, Douze 2018, "Deep Clustering for Unsupervised Learning of Visual Features").

Task: say which cluster of pictures a crop comes from, the clusters being those of the encoder's own features. Once a
cycle the features are PCA-whitened, brought to length 1 and clustered by k-means (section 3). Clusters take the names of
those before them that they share most pictures with, and the classifier on top goes on; in the paper it starts afresh
(``forget=true``), for which short schedules have no time. Two trivial solutions are closed as in section 3.4: no cluster is
left empty (``clustering.fill_empty``), and batches are uniform over clusters. Known shortcut: clusters of colour, closed
by distorting the colours of what is recognised, as the authors' later versions do (``jitter=0`` opens it). The paper
closes it with a Sobel filter in front of the encoder (section 3.3), ``sobel=true``: it is then part of what is exported,
and the encoder sees no colours at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.errors import TrainingError, UsageError
from sslfeat.models.augment import color_jitter, random_resized_crop, to_float
from sslfeat.models.backbones import Backbone
from sslfeat.models.clustering import half_anew, kmeans, nmi, renamed, uniform_over_clusters, whiten
from sslfeat.models.color import Sobel
from sslfeat.models.data import Pictures
from sslfeat.models.method import About, Figures, Indices, Method, Recipe, register
from sslfeat.models.previews import tile
from sslfeat.models.watch import features_of

CLUSTERS, LONGEST_CYCLE = 100, 200
LARGEST_SHARE, EMPTY_SHARE = 0.5, 0.2  # beyond which the clustering has degenerated


@register("deepcluster")
class DeepCluster(Method):
    """Views (N, 3, S, S) with the clusters (N,) of their pictures; cross-entropy over the clusters."""

    @dataclass(frozen=True)
    class Config:
        """``clusters``: k (paper: 10,000 for ImageNet's 1,000 classes); 0 for a hundred, or a tenth of the pictures.

        ``cluster_pictures``: how many are clustered and trained on in a cycle (paper: all); from cycle to cycle half of
        them are drawn anew. ``cycle``: steps between two clusterings (paper: an epoch); 0 for an epoch, at most 200 steps.
        ``pca``: dimensions kept (paper: 256). ``forget``: see above (paper: true). ``jitter``: strength of SimCLR's colour
        distortion (paper: 0). ``sobel``: see above (paper: true). ``min_area``: of the smallest crop (paper: 0.08).
        """

        clusters: int = 0
        cluster_pictures: int = 10_000
        cycle: int = 0
        pca: int = 256
        forget: bool = False
        jitter: float = 0.5
        sobel: bool = False
        min_area: float = 0.3

    recipe = Recipe(batch_size=128, lr=1e-3, weight_decay=1e-4)
    about = About(
        "Caron, Bojanowski, Joulin, Douze 2018",
        "say which cluster of the encoder's own features a picture is in, and cluster again",
        "ImageNet linear (AlexNet conv3/conv5) 41.0/38.2, VOC07 73.7",
    )
    config: Config
    assignments: Tensor
    health: Tensor

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        self.clusters = config.clusters or CLUSTERS
        if self.clusters < 2:
            raise UsageError(f"clusters={config.clusters}: it takes 2 or more, or 0 for a number that suits the data")
        if config.sobel:
            self.input_transform = Sobel()
        self.head = nn.Linear(encoder.dim, self.clusters)
        self.register_buffer("assignments", torch.empty(0, dtype=torch.int64))  # cluster of each picture
        self.register_buffer("health", torch.zeros(3))  # NMI with the clustering before, largest share, empty clusters

    def prepare(self, pictures: Pictures) -> None:
        count = len(pictures.pixels)
        self.clusters = self.config.clusters or max(2, min(CLUSTERS, count // 10))
        members = min(count, self.config.cluster_pictures)
        if self.clusters > members:
            raise TrainingError(f"{members} pictures cannot fill {self.clusters} clusters: choose fewer, clusters=N")
        self.head = nn.Linear(self.encoder.dim, self.clusters)
        self.assignments = torch.full((count,), -1)  # -1: not in the present cycle

    def cycle_steps(self, steps_per_epoch: int) -> int:
        return self.config.cycle or min(steps_per_epoch, LONGEST_CYCLE)

    def on_cycle(self, pictures: Pictures, generator: torch.Generator) -> Iterable[nn.Parameter]:
        """Cluster anew."""
        device = self.assignments.device
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        before = self.assignments.cpu().numpy()
        members = half_anew(before >= 0, self.config.cluster_pictures, np.random.default_rng(seed))
        features = features_of(self, pictures.pixels[members], device)
        clusters, empty = kmeans(whiten(features, self.config.pca), self.clusters, seed)
        common = before[members] >= 0
        agreement = nmi(before[members][common], clusters[common]) if common.any() else 0.0
        largest = np.bincount(clusters).max() / len(clusters)
        if not self.config.forget:
            clusters = renamed(clusters, before[members], self.clusters)
        after = np.full_like(before, -1)
        after[members] = clusters
        self.assignments.copy_(torch.from_numpy(after))
        self.health.copy_(torch.tensor([agreement, largest, empty]))
        if not self.config.forget:
            return ()
        self.head.reset_parameters()
        return self.head.parameters()

    def choose(self, indices: Indices, generator: torch.Generator) -> Indices:
        """As many pictures, uniform over the clusters and then over the pictures of one."""
        return uniform_over_clusters(self.assignments.cpu().numpy(), len(indices), generator)

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures uint8 (N, 3, S, S) to crops float (N, 3, S, S), and their clusters int64 (N,)."""
        if self.numbers is None:
            raise TrainingError("deepcluster needs the numbers of its pictures: set the method's numbers")
        pictures = random_resized_crop(to_float(batch), generator, scale=(self.config.min_area, 1.0))
        if self.config.jitter:
            pictures = color_jitter(pictures, generator, self.config.jitter)
        return pictures, self.assignments[self.numbers]

    def loss(self, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """Mean cross-entropy in nats; ``accuracy`` is the share of clusters recognised."""
        pictures, clusters = views
        logits = self.head(self.encode(pictures)).float()
        nmi_before, largest, empty = self.health
        return functional.cross_entropy(logits, clusters), {
            "accuracy": (logits.detach().argmax(1) == clusters).float().mean(),
            "chance": 1 / self.clusters,
            "nmi": nmi_before,
            "largest": largest,
            "empty": empty,
        }

    def complaint(self, figures: dict[str, float]) -> str | None:
        if figures["largest"] > LARGEST_SHARE or figures["empty"] > EMPTY_SHARE * self.clusters:
            return (
                f"the clusters degenerate: {figures['largest']:.0%} of the pictures in one, {figures['empty']:.0f} of "
                f"{self.clusters} empty before they were filled; try fewer clusters or a lower --lr"
            )
        return None

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Top row the pictures, bottom row what the encoder sees of them, each channel stretched to [0, 1]."""
        pictures = to_float(batch)
        seen = self.input_transform(pictures)
        low, high = seen.amin((0, 2, 3), keepdim=True), seen.amax((0, 2, 3), keepdim=True)
        seen = (seen - low) / (high - low).clamp_min(1e-6)
        return tile(pictures, seen)
