"""Each modality labels the other (de Sa 1993, "Learning Classification with Unlabeled Data"), for networks.

Task: two towers see the two halves of one event and classify it; each is taught the other's winner w, so that they come
to agree: CE(p1, w2) + CE(p2, w1) - b H(mean p1) - b H(mean p2). The paper's codebooks and LVQ2.1 rule are in ``tests/lvq.py``.
Modalities by default are lightness, which the encoder sees, and the colors ab of the same image, for a small tower
that is thrown away. These are less independent than sound and vision: an edge in one is an edge in the other.
``second=.npy`` takes a second modality from an array beside each image instead.

Known shortcuts: one class for all images is perfect agreement, and so is being equally undecided about all, which the
entropies reward. Winners are therefore shared out evenly over the batch, which does what the paper's initial naming of
codewords did; ``balanced=false`` opens the second way out, and with ``beta=0`` the first.
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

LEAST_ENTROPY = 0.5  # of log K: below it few classes are in use
COLOR_RANGE = 25.0  # ab in these units has about unit variance
HIDDEN = 256
MIDDLE_LIGHTNESS = 65.0  # at which colors alone are shown
SHARPNESS, ROUNDS = 0.3, 5  # of the sharing out: deviations, and passes over rows and columns


@register("desa")
class DeSa(Method):
    """Views: images (N, 3, S, S) and their second modality (N, 2, S, S) or (N, D); agreement of two classifiers."""

    @dataclass(frozen=True)
    class Config:
        """``classes``: K (paper: as many as there are). ``beta``: b, weight of the entropies.

        ``balanced``: winners are shared out evenly over the classes (``balance``). ``same_crop``: both modalities of one
        crop; ``min_area``: of the smallest crop (1: mirrors only). ``second``: ending of a NumPy file beside each
        image, such as ``.npy``, float arrays of one shape.
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
        "two modalities of an image each learn to give the class that the other gives",
        "Peterson-Barney vowels, two at a time: 79 +- 3 against 83 supervised",
    )
    config: Config
    arrays: Tensor

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        if config.classes < 2:
            raise UsageError(f"classes is {config.classes}: desa takes 2 or more")
        self.head = nn.Linear(encoder.dim, config.classes)
        self.register_buffer("arrays", torch.empty(0), persistent=False)
        if not config.second:
            self.input_transform = Lightness()
        self.tower: nn.Module = nn.Identity() if config.second else small_tower(2, config.classes)

    def prepare(self, images: Images) -> None:
        """Reads the second modality, and gives it a tower of its width."""
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
                raise TrainingError("desa needs the numbers of its images to find their arrays")
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
                "try a larger beta, or fewer classes"
            )
        return None

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor | None:
        """Rows: the images, the lightness that the encoder sees, and the colors that the tower sees."""
        rows = {"the image": to_float(batch)}
        if not self.config.second:
            lab = rgb_to_lab(rows["the image"])
            alone = torch.cat([torch.full_like(lab[:, :1], MIDDLE_LIGHTNESS), lab[:, 1:]], 1)
            rows["lightness, for the encoder"] = lab[:, :1].expand_as(lab) / 100
            rows["colors, for the tower"] = lab_to_rgb(alone)
        return tile(rows)


def teach_each_other(first: Tensor, second: Tensor, beta: float, balanced: bool) -> tuple[Tensor, Figures]:
    """The loss on logits (N, K) of the two modalities, in nats; means and shares are those of all processes' batches.

    ``accuracy`` is how often both give the same class, ``chance`` how often they would if they knew nothing of each
    other; ``entropy`` that of the mean answer, in units of log K, the lower of the two.
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
    """Logits (N, K) to shares (N, K) that sum to 1 over classes and nearly to N / K over the batch (Sinkhorn's rounds).

    Each class's logits are first brought to mean 0 and deviation 1: what it says of every image alike tells nothing.
    """
    even = (logits - logits.mean(0)) / (logits.std(0, correction=0) + 1e-6)
    shares = (even / SHARPNESS).softmax(1)
    for _ in range(ROUNDS):
        shares = functional.normalize(shares, 1, 0)
        shares = functional.normalize(shares, 1, 1)
    return shares
