"""Colorization (Zhang, Isola, Efros 2016, "Colorful Image Colorization").

Task: predict the colors of an image from its lightness. The input of the encoder is L of CIE Lab, in training, in evaluation
and in the exported graph; a decoder predicts, on (N, Q, G, G) with G = S/2 (S/4 from 64 px), the probability of each of Q bins
of the ab plane (section 2.1); the targets are the five nearest bins of the true color (section 2.2). Known shortcut: safe
predictions. A squared error is minimized by the mean of all plausible colors, which is gray (``loss=l2``, docs/l2.md), and most
pixels are nearly gray, so rare colors have larger weights (equation 4; ``uniform=1`` turns this off).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sslfeat.errors import UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.data import Images
from sslfeat.models.method import About, Figures, Method, Recipe, register
from sslfeat.models.modules.conv_decoder import ConvDecoder, pool_patches
from sslfeat.models.ops.augment import random_resized_crop, to_float
from sslfeat.models.ops.color import Lightness, ab_bins, annealed_mean, lab_to_rgb, rgb_to_lab, soft_encode
from sslfeat.models.ops.previews import tile
from sslfeat.models.ranges import Area, CountOrZero, Positive, Share
from sslfeat.numerics.sampling import evenly

PRIOR_SAMPLE = 1000  # number of images for computing the prior
AB_SCALE = 50.0  # ab is divided by it for the squared error
LEAST_CHROMA = 2.0  # images with a lower mean chroma are considered gray (1 is invisible)


@register("colorization")
class Colorization(Method):
    """Predict ab from L: rebalanced cross-entropy over bins, or squared error for comparison."""

    prior: Tensor
    bins: Tensor

    @dataclass(frozen=True)
    class Config:
        """``loss``: ``ce`` or ``l2``. ``grid``: side of an ab bin; 0: 20 below 64 px, otherwise 10 as in the paper.
        ``uniform``: weight of the uniform distribution in the rebalancing (paper: 0.5; 1: no rebalancing).
        ``temperature``: of the annealed mean for reading colors (paper: 0.38). ``min_area``: minimum area of a crop.
        """

        loss: str = "ce"
        grid: CountOrZero = 0
        uniform: Share = 0.5
        temperature: Positive = 0.38
        min_area: Area = 0.5

    recipe = Recipe(batch_size=64, lr=1e-3, weight_decay=1e-4)
    about = About(
        "Zhang, Isola, Efros 2016",
        "predict the colors of an image from its lightness",
        "ImageNet linear (AlexNet conv3/conv5) 30.4/30.3, VOC07 65.6",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        if config.loss not in ("ce", "l2"):
            raise UsageError(f"loss is {config.loss!r}: must be ce or l2")
        if config.grid < 0 or config.temperature <= 0 or not 0 < config.uniform <= 1:
            raise UsageError("grid must be at least 1 (0: set by the image size), temperature above 0, and uniform in (0, 1]")
        pool_patches(encoder)
        size = encoder.image_size
        self.input_transform = Lightness()
        self.grid = config.grid or (20 if size < 64 else 10)
        self.side = size // 2 if size < 64 else size // 4
        bins = ab_bins(self.grid)
        self.register_buffer("bins", bins, persistent=False)
        self.register_buffer("prior", torch.full((len(bins),), 1 / len(bins)))
        self.decoder = ConvDecoder(encoder, len(bins) if config.loss == "ce" else 2, self.side)

    def prepare(self, images: Images) -> None:
        """Prior (Q,): frequency of each bin, softly encoded, in an evenly spaced sample of the images."""
        counts, count = torch.zeros(len(self.bins), dtype=torch.float64), len(images.pixels)
        for start in np.array_split(evenly(count, PRIOR_SAMPLE), 10):
            if len(start):
                batch = torch.from_numpy(images.pixels[start]).permute(0, 3, 1, 2)
                nearest, shares = self.encode_colors(self.targets(to_float(batch)))
                counts.index_add_(0, nearest.flatten(), shares.flatten().double())
        self.prior = (counts / counts.sum()).float().to(self.prior.device)

    def targets(self, images: Tensor) -> Tensor:
        """True colors, ab (N, 2, G, G), of images (N, 3, S, S) in [0, 1], averaged over the pixels of each cell."""
        return functional.adaptive_avg_pool2d(rgb_to_lab(images)[:, 1:], self.side)

    def encode_colors(self, ab: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest bins (N x G x G, 5) of every cell and their weights; sigma is 5 at the paper's grid of 10."""
        return soft_encode(ab.permute(0, 2, 3, 1).reshape(-1, 2), self.bins, self.grid / 2)

    def weights(self) -> Tensor:
        """Weight (Q,) of a pixel by its nearest bin: 1 / ((1 - uniform) prior + uniform / Q), with mean 1."""
        weights = 1 / ((1 - self.config.uniform) * self.prior + self.config.uniform / len(self.bins))
        return weights / (self.prior * weights).sum()

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, S, S) to crops float (N, 3, S, S) and their colors (N, 2, G, G)."""
        crops = random_resized_crop(to_float(batch), generator, scale=(self.config.min_area, 1.0))
        return crops, self.targets(crops)

    def loss(self, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """Rebalanced cross-entropy in nats, or the squared error.

        ``error``: the loss. ``trivial``: the loss of the best constant prediction: the reweighted prior, or its mean color.
        ``chroma``: mean distance of predicted colors from gray. ``true_chroma``: that of the true colors.
        """
        images, ab = views
        predicted = self.decoder(self.encoder.maps(self.input_transform(images))).float()
        with torch.autocast(predicted.device.type, enabled=False):
            return self.compare(predicted, ab)

    def compare(self, predicted: Tensor, ab: Tensor) -> tuple[Tensor, Figures]:
        """Loss of the decoder's output against the true colors."""
        if self.config.loss == "l2":
            loss = (predicted - ab / AB_SCALE).square().mean()
            mean = (self.prior @ self.bins).view(1, 2, 1, 1)
            trivial = (ab - mean).div(AB_SCALE).square().mean()
        else:
            nearest, shares = self.encode_colors(ab)
            weights = self.weights()
            # the weighted prior minimizes the weighted cross-entropy among constant predictions
            guess = (self.prior * weights).clamp_min(1e-6).log()
            logs = predicted.log_softmax(1).permute(0, 2, 3, 1).flatten(0, 2)
            weight = weights[nearest[:, 0]]
            loss = -(weight * (shares * logs.gather(1, nearest)).sum(1)).mean()
            trivial = -(weight * (shares * guess[nearest]).sum(1)).mean()
        chroma = self.decode(predicted.detach()).norm(dim=1).mean()
        figures = {"error": loss.detach(), "trivial": trivial, "chroma": chroma, "true_chroma": ab.norm(dim=1).mean()}
        return loss, dict(figures)

    def decode(self, predicted: Tensor) -> Tensor:
        """Convert the decoder's output to ab (N, 2, G, G)."""
        if self.config.loss == "l2":
            return predicted * AB_SCALE
        return annealed_mean(predicted, self.bins, self.config.temperature)

    def complaint(self, figures: dict[str, float]) -> str | None:
        """Detect gray images."""
        if figures["true_chroma"] < LEAST_CHROMA:
            return f"the images are nearly gray (mean chroma {figures['true_chroma']:.1f}): there are no colors to predict"
        return None

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Rows: lightness, predicted colors, true colors."""
        images = to_float(batch)
        light = rgb_to_lab(images)[:, :1]
        ab = self.decode(self.decoder(self.encoder.maps(self.input_transform(images))).float())
        ab = functional.interpolate(ab, size=light.shape[2:], mode="bilinear", align_corners=False)
        gray = lab_to_rgb(torch.cat([light, torch.zeros_like(ab)], 1))
        colored = lab_to_rgb(torch.cat([light, ab], 1))
        return tile({"input of the encoder": gray, "predicted colors": colored, "the image": images})
