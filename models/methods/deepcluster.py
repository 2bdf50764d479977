"""DeepCluster (Caron, Bojanowski, Joulin, Douze 2018, "Deep Clustering for Unsupervised Learning of Visual Features").

Task: predict the cluster of the image that a crop comes from, where the clusters are those of the encoder's own features. Once
per cycle the features are PCA-whitened, L2-normalized and clustered by k-means (section 3). New clusters are matched to the
previous ones by overlap, and the classifier is kept; the paper reinitializes it (``forget=true``), too slow for short runs.
Trivial solutions are prevented as in section 3.4: no cluster is empty (``clustering.fill_empty``), and batches are uniform
over clusters. Known shortcut: clusters of color, prevented by color distortion of the crops, as in the authors' later
versions (``jitter=0`` allows it), or, as in section 3.3, by an exported Sobel filter before the encoder (``sobel=true``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.errors import TrainingError, UsageError
from sslfeat.evaluation.clustering.metrics import contingency, nmi
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.data import Images
from sslfeat.models.engine.features import features_together
from sslfeat.models.method import About, Figures, Indices, Method, Recipe, register
from sslfeat.models.ops.augment import color_jitter, random_resized_crop, to_float
from sslfeat.models.ops.clustering import balanced_kmeans, half_anew, renamed, uniform_over_clusters
from sslfeat.models.ops.color import Sobel
from sslfeat.models.ops.previews import tile
from sslfeat.models.ranges import Area, Count, CountOrZero, NotNegative
from sslfeat.numerics.pca import whiten
from sslfeat.numerics.similarity import unit

CLUSTERS, LONGEST_CYCLE = 100, 200
LARGEST_SHARE, EMPTY_SHARE = 0.5, 0.2  # above these the clustering is degenerate


@register("deepcluster")
class DeepCluster(Method):
    """Views (N, 3, S, S) with the clusters (N,) of their images; cross-entropy over the clusters."""

    @dataclass(frozen=True)
    class Config:
        """``clusters``: number of clusters k (paper: 10,000 for the 1,000 classes of ImageNet); 0: 100, or a tenth of the images.

        ``cluster_images``: number of images clustered and used in a cycle (paper: all); half of them are replaced in each
        cycle. ``cycle``: steps between clusterings (paper: an epoch); 0: an epoch, at most 200 steps. ``pca``: number of
        dimensions kept (paper: 256). ``forget``: reinitialize the classifier (paper: true). ``jitter``: strength of SimCLR's
        color distortion (paper: 0). ``sobel``: apply a Sobel filter (paper: true). ``min_area``: minimum area of a crop
        (paper: 0.08).
        """

        clusters: CountOrZero = 0
        cluster_images: Count = 10_000
        cycle: CountOrZero = 0
        pca: CountOrZero = 256
        forget: bool = False
        jitter: NotNegative = 0.5
        sobel: bool = False
        min_area: Area = 0.3

    recipe = Recipe(batch_size=128, lr=1e-3, weight_decay=1e-4)
    about = About(
        "Caron, Bojanowski, Joulin, Douze 2018",
        "predict the cluster of an image, where the clusters are recomputed from the encoder's features",
        "ImageNet linear (AlexNet conv3/conv5) 41.0/38.2, VOC07 73.7",
    )
    config: Config
    assignments: Tensor
    health: Tensor

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        self.clusters = config.clusters or CLUSTERS
        if self.clusters < 2:
            raise UsageError(f"clusters={config.clusters}: must be at least 2, or 0 to choose it from the number of images")
        if config.sobel:
            self.input_transform = Sobel()
        self.head = nn.Linear(encoder.dim, self.clusters)
        self.register_buffer("assignments", torch.empty(0, dtype=torch.int64))  # cluster of each image
        self.register_buffer("health", torch.zeros(3))  # NMI with the previous clustering, largest share, empty clusters

    def prepare(self, images: Images) -> None:
        count = len(images.pixels)
        self.clusters = self.config.clusters or max(2, min(CLUSTERS, count // 10))
        members = min(count, self.config.cluster_images)
        if self.clusters > members:
            raise TrainingError(f"{members} images cannot fill {self.clusters} clusters: set a smaller number with clusters=N")
        self.head = nn.Linear(self.encoder.dim, self.clusters)
        self.assignments = torch.full((count,), -1)  # -1: not in the current cycle

    def cycle_steps(self, steps_per_epoch: int) -> int:
        return self.config.cycle or min(steps_per_epoch, LONGEST_CYCLE)

    def on_cycle(self, images: Images, generator: torch.Generator) -> Iterable[nn.Parameter]:
        """Recompute the clusters; in distributed training each process computes its part of the features."""
        device = self.assignments.device
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        before = self.assignments.cpu().numpy()
        members = half_anew(before >= 0, self.config.cluster_images, np.random.default_rng(seed))
        features = features_together(self, images.pixels, members, device)
        clusters, empty = balanced_kmeans(unit(whiten(features, self.config.pca)), self.clusters, seed)
        common = before[members] >= 0
        agreement = 0.0
        if common.any():
            agreement = nmi(contingency(before[members][common], clusters[common]), "geometric")
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
        """Sample the same number of images, uniformly over clusters and then over the images of each cluster."""
        return uniform_over_clusters(self.assignments.cpu().numpy(), len(indices), generator)

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, S, S) to crops float (N, 3, S, S), and their clusters int64 (N,)."""
        if self.numbers is None:
            raise TrainingError("deepcluster needs the indices of the images in a batch: set the method's numbers")
        images = random_resized_crop(to_float(batch), generator, scale=(self.config.min_area, 1.0))
        if self.config.jitter:
            images = color_jitter(images, generator, self.config.jitter)
        return images, self.assignments[self.numbers]

    def loss(self, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """Mean cross-entropy in nats. ``accuracy``: fraction of clusters predicted correctly."""
        images, clusters = views
        logits = self.head(self.encode(images)).float()
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
                f"the clustering is degenerate: {figures['largest']:.0%} of the images are in one cluster, and "
                f"{figures['empty']:.0f} of {self.clusters} were empty before being filled; try fewer clusters or a lower --lr"
            )
        return None

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Top row: the images; bottom row: the input of the encoder, each channel stretched to [0, 1]."""
        images = to_float(batch)
        seen = self.input_transform(images)
        low, high = seen.amin((0, 2, 3), keepdim=True), seen.amax((0, 2, 3), keepdim=True)
        seen = (seen - low) / (high - low).clamp_min(1e-6)
        return tile({"the image": images, "input of the encoder, stretched": seen})
