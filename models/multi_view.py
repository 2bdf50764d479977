"""Base classes of methods that compare views of an image.

A view is a crop with its own color distortion. Whole views have the size of the images; local views are half as wide and show
smaller parts (multi-crop: Caron et al. 2020, "SwAV", section 3.2). Features become invariant to the distortions; ``aware``
counteracts this by predicting the difference in crop and color from the features of two views (Lee et al. 2021, "Improving
Transferability of Representations via Augmentation-Aware Self-Supervision", section 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.errors import TrainingError, UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.data import Images
from sslfeat.models.method import Figures, Method
from sslfeat.models.modules.heads import mlp
from sslfeat.models.modules.teacher import Teacher, rising
from sslfeat.models.ops.augment import Colors, crop, draw_colors, draw_crops, recolor, to_float
from sslfeat.models.ops.previews import tile
from sslfeat.models.ranges import Area, Count, CountOrZero, NotNegative, Share

SMALLEST_VIEW = 8  # px
DESCRIBED = 8  # values that describe a view: position and size of its crop, and four of its color


@dataclass(frozen=True)
class ViewConfig:
    """Options of the views.

    ``jitter``: strength of the color distortion. ``gray``: fraction of views in grayscale. ``min_area``: minimum area of a
    crop. ``views``: whole views per image. ``local_views``: local views per image. ``aware``: weight of predicting the
    differences between views. ``grow``: views are half as wide in the first third of the run and three quarters as wide in
    the second. ``view_size``: size of whole views in px; 0: that of the images. With smaller views, objects appear at the same
    size in training and in the exported encoder, although crops enlarge them (Touvron et al. 2019, "Fixing the train-test
    resolution discrepancy"). ``margins``: take crops from all of an oblong image, in its aspect ratio, instead of the centered
    square; the size of the crops does not change.
    """

    jitter: NotNegative = 0.5
    gray: Share = 0.2
    min_area: Area = 0.2
    views: Count = 2
    local_views: CountOrZero = 0
    aware: NotNegative = 0.0
    grow: bool = False
    view_size: CountOrZero = 0
    margins: bool = False


@dataclass(frozen=True)
class Views:
    """V whole views (V N, 3, S, S) of N images and L local views (L N, 3, s, s), ordered by view, then image.

    ``described`` (V N, 8): crop and color of the whole views. ``colored`` bool (V N,): whether that color is visible.
    """

    whole: Tensor
    local: Tensor | None
    described: Tensor
    colored: Tensor


class MultiView(Method):
    """Base class of methods that define ``compare``; their ``Config`` extends ViewConfig."""

    least_views = 2
    shapes: Tensor | None = None

    def __init__(self, encoder: Backbone, config: Any) -> None:
        super().__init__(encoder, config)
        if config.views < self.least_views:
            raise UsageError(f"views={config.views}: {type(self).__name__} needs at least {self.least_views}")
        if config.view_size and config.view_size < SMALLEST_VIEW:
            raise UsageError(f"view_size={config.view_size}: must be at least {SMALLEST_VIEW} px, or 0")
        if config.aware:
            if config.views < 2:
                raise UsageError(f"aware={config.aware} needs at least two views, not {config.views}")
            self.difference = mlp(2 * encoder.dim, encoder.dim, DESCRIBED)

    @property
    def sees_whole_images(self) -> bool:
        return bool(self.config.margins)

    def prepare(self, images: Images) -> None:
        self.shapes = None if images.shapes is None else torch.from_numpy(images.shapes)

    def _shapes_of(self, n: int, device: torch.device) -> Tensor | None:
        """Aspect ratios, width / height (N,), of the images in the batch; None for centered squares."""
        if not self.config.margins:
            return None
        if self.shapes is None or self.numbers is None or len(self.numbers) != n:
            raise UsageError("margins=true needs the indices of the images in a batch: call prepare and set the method's numbers")
        return self.shapes[self.numbers.cpu()].to(device)

    def distortion(self, n: int, device: torch.device) -> tuple[float | Tensor, float | Tensor]:
        """Strength of the color distortion and probability of grayscale: for all images, or (n,) per image."""
        return self.config.jitter, self.config.gray

    def views(self, batch: Tensor, generator: torch.Generator) -> Views:
        """Images uint8 (N, 3, S, S) to independent views."""
        config, images = self.config, to_float(batch)
        side = view_side(config.view_size or batch.shape[-1], self.share, config.grow)
        whole, parts, colors = self._draw(images, config.views, side, (config.min_area, 1.0), generator)
        local = None
        if config.local_views:
            scale = (min(0.05, config.min_area), max(config.min_area, 0.1))
            local = self._draw(images, config.local_views, side // 2, scale, generator)[0]
        return Views(whole, local, describe(parts, colors), ~colors.gray)

    def _draw(
        self, images: Tensor, count: int, side: int, scale: tuple[float, float], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Colors]:
        n = count * len(images)
        strength, gray = (
            value.repeat(count) if isinstance(value, Tensor) else value for value in self.distortion(len(images), images.device)
        )
        shapes = self._shapes_of(len(images), images.device)
        parts = draw_crops(n, generator, scale, shapes=None if shapes is None else shapes.repeat(count))
        colors = draw_colors(n, generator, strength, gray_probability=gray)
        return recolor(crop(images.repeat(count, 1, 1, 1), parts, side), colors), parts, colors

    def loss(self, views: Views) -> tuple[Tensor, Figures]:
        """``compare``, plus ``aware`` times the error of predicting the differences."""
        features = self.encode(views.whole)
        loss, figures = self.compare(features, views)
        if self.config.aware:
            error = self._difference_error(features, views)
            loss = loss + self.config.aware * error
            figures = {**figures, "error": error.detach(), "trivial": 1.0}
        return loss, figures

    def compare(self, features: Tensor, views: Views) -> tuple[Tensor, Figures]:
        """Loss and figures from the features (V N, D) of the whole views."""
        raise TrainingError(f"{type(self).__name__} must define compare")

    def features_of_all(self, features: Tensor, views: Views) -> Tensor:
        """Features ((V + L) N, D) of whole and local views, given those of the whole views."""
        return features if views.local is None else torch.cat([features, self.encode(views.local)])

    def _difference_error(self, features: Tensor, views: Views) -> Tensor:
        """Mean squared error of the predicted differences between adjacent views, in units of their variance."""
        n = len(features) // self.config.views
        difference = views.described - views.described.roll(-n, 0)
        seen = torch.ones_like(difference)
        seen[:, DESCRIBED // 2 :] = (views.colored & views.colored.roll(-n, 0))[:, None].float()
        predicted = self.difference(torch.cat([features, features.roll(-n, 0)], 1)).float()
        target = difference / difference.pow(2).mean(0).sqrt().clamp(min=1e-6)
        error: Tensor = ((predicted - target).pow(2) * seen).sum() / (target.pow(2) * seen).sum().clamp(min=1)
        return error

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """One row per view."""
        views = self.views(batch, generator).whole.chunk(self.config.views)
        return tile({f"view {number}": view for number, view in enumerate(views, 1)})


@dataclass(frozen=True)
class TaughtConfig(ViewConfig):
    """``momentum``: initial momentum of the momentum encoder, rising to 1 (papers: 0.996 to 0.999, with 100 times more steps).

    ``keep_average``: export the momentum encoder instead of the trained encoder.
    """

    momentum: Share = 0.99
    keep_average: bool = False


class Taught(MultiView):
    """Compare views with the output of a momentum encoder, ``teacher``, which ``teach`` sets up."""

    teacher: Teacher

    def teach(self, *heads: nn.Module) -> None:
        """Call at the end of ``__init__``: the teacher averages input transform, encoder and these heads, in this order."""
        self._students = (self.input_transform, self.encoder, *heads)
        self.teacher = Teacher(*self._students)

    @property
    def exported(self) -> Backbone:
        average = self.teacher.parts[1]
        return average if self.config.keep_average and isinstance(average, Backbone) else self.encoder

    def after_step(self) -> None:
        self.teacher.follow(self._students, rising(self.config.momentum, self.share))


def view_side(image_size: int, share: float, grow: bool) -> int:
    """Width of whole views in px at progress ``share``: at the end that of the images, before that multiples of 8."""
    third = int(share * 3)
    if not grow or image_size < 32 or third >= 2:
        return image_size
    return max(16, round(image_size * (2 + third) / 4 / 8) * 8)


def describe(parts: Tensor, colors: Colors) -> Tensor:
    """(n, 8): center, width and height of each crop in the image, brightness, contrast, saturation and hue."""
    crops = torch.stack([parts[:, 0, 2], parts[:, 1, 2], parts[:, 0, 0].abs(), parts[:, 1, 1]], 1)
    kept = torch.stack([colors.brightness - 1, colors.contrast - 1, colors.saturation - 1, colors.turn / math.pi], 1)
    return torch.cat([crops, kept * colors.jitter[:, None]], 1)


def pairs(views: int, against: int | None = None) -> list[tuple[int, int]]:
    """(view, other) for each ordered pair of different views, where the other is one of the first ``against``."""
    return [(a, b) for a in range(views) for b in range(views if against is None else against) if a != b]


def partners(first: Tensor, second: Tensor) -> Figures:
    """``accuracy``: how often the nearest of the second rows (N, P), by cosine, is of the same image; and ``chance``."""
    similarity = functional.normalize(first.detach().float(), dim=1) @ functional.normalize(second.detach().float(), dim=1).T
    right = similarity.argmax(1) == torch.arange(len(first), device=first.device)
    return {"accuracy": right.float().mean(), "chance": 1 / len(first)}


def cosine_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean of 2 - 2 cos between the rows of two arrays (N, P), in float32: from 0 to 4."""
    with torch.autocast(predicted.device.type, enabled=False):
        return (2 - 2 * functional.cosine_similarity(predicted.float(), target.float(), dim=1)).mean()
