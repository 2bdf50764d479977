"""Mutual supervision of two modalities (de Sa 1993, "Learning Classification with Unlabeled Data"), with neural networks.

Task: two networks classify two modalities of the same event; each is trained on the other's predicted class w, so that they
come to agree: CE(p1, w2) + CE(p2, w1) - b H(mean p1) - b H(mean p2). The paper's codebooks and LVQ2.1 rule are in
``tests/lvq.py``. The default modalities are lightness, the input of the encoder, and the ab colors of the same image, the input
of a small network that is discarded. They are less independent than sound and vision: an edge in one is an edge in the other.
``second=.npy`` reads the second modality from an array next to each image instead.

Known shortcuts: assigning one class to all images gives perfect agreement, and so does being equally uncertain about all,
which the entropy terms reward. Predicted classes are therefore balanced over the batch, in place of the paper's initial
labeling of codewords; ``balanced=false`` allows the second shortcut, and with ``beta=0`` also the first.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.errors import TrainingError, UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.data import Images, load_arrays
from sslfeat.models.engine.distributed import gather
from sslfeat.models.method import About, Figures, Method, Recipe, register
from sslfeat.models.modules.heads import mlp, small_tower
from sslfeat.models.ops.augment import random_resized_crop, to_float
from sslfeat.models.ops.color import Lightness, lab_to_rgb, rgb_to_lab
from sslfeat.models.ops.previews import tile
from sslfeat.models.ranges import Area, NotNegative, Several

LEAST_ENTROPY = 0.5  # in units of log K; below it few classes are in use
COLOR_RANGE = 25.0  # ab divided by it has about unit variance
HIDDEN = 256
MIDDLE_LIGHTNESS = 65.0  # for showing colors alone
SHARPNESS, ROUNDS = 0.3, 5  # of the balancing: temperature in standard deviations, and Sinkhorn iterations


@register("desa")
class DeSa(Method):
    """Views: images (N, 3, S, S) and their second modality (N, 2, S, S) or (N, D); agreement of two classifiers."""

    @dataclass(frozen=True)
    class Config:
        """``classes``: number of classes K (paper: the true number). ``beta``: weight of the entropy terms.

        ``balanced``: balance the predicted classes over the batch (see ``balance``). ``same_crop``: use the same crop for both
        modalities. ``min_area``: minimum area of a crop (1: flips only). ``second``: suffix of a NumPy file next to each
        image, such as ``.npy``, that holds a float array; all arrays have the same shape.
        """

        classes: Several = 32
        beta: NotNegative = 1.0
        balanced: bool = True
        same_crop: bool = True
        min_area: Area = 0.3
        second: str = ""

    recipe = Recipe(batch_size=256, lr=2e-3, weight_decay=1e-4)
    about = About(
        "de Sa 1993",
        "two modalities of an image learn to predict each other's class",
        "Peterson-Barney vowels, two at a time: 79 +- 3 against 83 supervised",
    )
    config: Config
    arrays: Tensor

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        if config.classes < 2:
            raise UsageError(f"classes is {config.classes}: desa needs at least 2")
        self.head = nn.Linear(encoder.dim, config.classes)
        self.register_buffer("arrays", torch.empty(0), persistent=False)
        if not config.second:
            self.input_transform = Lightness()
        self.tower: nn.Module = nn.Identity() if config.second else small_tower(2, config.classes)

    def prepare(self, images: Images) -> None:
        """Read the second modality and build a network of its width."""
        if self.config.second:
            paths = [os.path.splitext(item.path)[0] + os.fsencode(self.config.second) for item in images.inputs]
            self.arrays = torch.from_numpy(load_arrays(paths))
            self.tower = mlp(self.arrays.shape[1], HIDDEN, self.config.classes)

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, S, S) to crops float (N, 3, S, S) and ab (N, 2, S, S), or to crops and arrays (N, D)."""
        images, scale = to_float(batch), (self.config.min_area, 1.0)
        cropped = random_resized_crop(images, generator, scale)
        if self.config.second:
            if self.numbers is None:
                raise TrainingError("desa needs the indices of the images in a batch to look up their arrays: set numbers")
            return cropped, self.arrays[self.numbers]
        other = cropped if self.config.same_crop else random_resized_crop(images, generator, scale)
        return cropped, rgb_to_lab(other)[:, 1:] / COLOR_RANGE

    def loss(self, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """See ``teach_each_other``."""
        images, second = views
        answers = self.head(self.encode(images)).float(), self.tower(second).float()
        return teach_each_other(*answers, self.config.beta, self.config.balanced)

    def complaint(self, figures: dict[str, float]) -> str | None:
        if figures["entropy"] < LEAST_ENTROPY:
            return (
                f"few classes are in use (entropy {figures['entropy']:.2f} of log {self.config.classes}): "
                "try a larger beta or fewer classes"
            )
        return None

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor | None:
        """Rows: the images, the lightness (encoder input), and the colors (input of the second network)."""
        rows = {"the image": to_float(batch)}
        if not self.config.second:
            lab = rgb_to_lab(rows["the image"])
            alone = torch.cat([torch.full_like(lab[:, :1], MIDDLE_LIGHTNESS), lab[:, 1:]], 1)
            rows["lightness, input of the encoder"] = lab[:, :1].expand_as(lab) / 100
            rows["colors, input of the second network"] = lab_to_rgb(alone)
        return tile(rows)


def teach_each_other(first: Tensor, second: Tensor, beta: float, balanced: bool) -> tuple[Tensor, Figures]:
    """Loss in nats on logits (N, K) of the two modalities; means and shares are taken over the batches of all processes.

    ``accuracy``: how often both predict the same class. ``chance``: how often independent predictions would agree.
    ``entropy``: of the mean prediction, in units of log K; the lower of the two.
    """
    first, second = gather(first), gather(second)
    both, k = (first, second), first.shape[1]
    means = [logits.softmax(1).mean(0) for logits in both]
    entropies = [-(mean * mean.clamp_min(1e-12).log()).sum() for mean in means]
    winners = [logits.detach().argmax(1) for logits in both]
    lessons = [balance(logits.detach()).argmax(1) for logits in both] if balanced else winners
    taught = functional.cross_entropy(first, lessons[1]) + functional.cross_entropy(second, lessons[0])
    shares = [functional.one_hot(winner, k).float().mean(0) for winner in winners]
    return taught - beta * (entropies[0] + entropies[1]), {
        "accuracy": (winners[0] == winners[1]).float().mean(),
        "chance": (shares[0] * shares[1]).sum(),
        "entropy": torch.minimum(*entropies).detach() / math.log(k),
    }


def balance(logits: Tensor) -> Tensor:
    """Balance logits (N, K) to shares (N, K) that sum to 1 over classes and nearly to N / K over the batch (Sinkhorn).

    Each class's logits are first standardized, which removes what is common to all images.
    """
    even = (logits - logits.mean(0)) / (logits.std(0, correction=0) + 1e-6)
    shares = (even / SHARPNESS).softmax(1)
    for _ in range(ROUNDS):
        shares = functional.normalize(shares, 1, 0)
        shares = functional.normalize(shares, 1, 1)
    return shares
