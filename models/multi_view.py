"""What the methods share that compare views of an image: the views, and what keeps their differences in the features.

A view is a crop with a color distortion of its own. Whole views are as large as the images, local ones half as wide and of
smaller parts (multi-crop: Caron et al. 2020, "SwAV", section 3.2). Distortion destroys what it varies; ``aware`` keeps it:
from the features of two views their difference in crop and color is predicted (Lee et al. 2021, "Improving Transferability
of Representations via Augmentation-Aware Self-Supervision", section 3).
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
DESCRIBED = 8  # numbers that describe a view: place and size of its crop, and four of its color


@dataclass(frozen=True)
class ViewConfig:
    """How views are made.

    ``jitter``: strength of the color distortion, ``gray``: share of views without color, ``min_area``: of the smallest
    crop. ``views``: whole ones of each image; ``local_views``: small ones. ``aware``: weight of predicting how views
    differ. ``grow``: views are half as wide in the first third of the run and three quarters in the second.
    ``view_size``: of whole views, in px, 0 for the images'. Less than the images', crops enlarge less, and the exported encoder
    sees things as large as in training, which crops show larger (Touvron et al. 2019, "Fixing the train-test resolution
    discrepancy"). ``margins``: crops come from the whole of oblong images, in their own proportions, and not from the centered
    square alone; they are as large as ever.
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
    """V whole views (V N, 3, S, S) of N images and L local ones (L N, 3, s, s), image by image within a view.

    ``described`` (V N, 8): crop and color of the whole views; ``colored`` bool (V N,): whether that color can be seen.
    """

    whole: Tensor
    local: Tensor | None
    described: Tensor
    colored: Tensor


class MultiView(Method):
    """Subclasses define ``compare``; their ``Config`` extends ViewConfig."""

    least_views = 2
    shapes: Tensor | None = None

    def __init__(self, encoder: Backbone, config: Any) -> None:
        super().__init__(encoder, config)
        if config.views < self.least_views:
            raise UsageError(f"views={config.views}: {type(self).__name__} needs {self.least_views} or more")
        if config.view_size and config.view_size < SMALLEST_VIEW:
            raise UsageError(f"view_size={config.view_size}: it is at least {SMALLEST_VIEW} px, or 0")
        if config.aware:
            if config.views < 2:
                raise UsageError(f"aware={config.aware}: two views or more differ, not {config.views}")
            self.difference = mlp(2 * encoder.dim, encoder.dim, DESCRIBED)

    @property
    def sees_whole_images(self) -> bool:
        return bool(self.config.margins)

    def prepare(self, images: Images) -> None:
        self.shapes = None if images.shapes is None else torch.from_numpy(images.shapes)

    def _shapes_of(self, n: int, device: torch.device) -> Tensor | None:
        """Width over height (N,) of the images at hand; None for centered squares."""
        if not self.config.margins:
            return None
        if self.shapes is None or self.numbers is None or len(self.numbers) != n:
            raise UsageError("margins=true: it is not known which images a batch holds: prepare the method, and set its numbers")
        return self.shapes[self.numbers.cpu()].to(device)

    def distortion(self, n: int, device: torch.device) -> tuple[float | Tensor, float | Tensor]:
        """Strength of the color distortion and probability of gray: of all, or one for each of n images (n,)."""
        return self.config.jitter, self.config.gray

    def views(self, batch: Tensor, generator: torch.Generator) -> Views:
        """Images uint8 (N, 3, S, S) to independent views of each."""
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
        """``compare``, and ``aware`` times the error of predicting the differences."""
        features = self.encode(views.whole)
        loss, figures = self.compare(features, views)
        if self.config.aware:
            error = self._difference_error(features, views)
            loss = loss + self.config.aware * error
            figures = {**figures, "error": error.detach(), "trivial": 1.0}
        return loss, figures

    def compare(self, features: Tensor, views: Views) -> tuple[Tensor, Figures]:
        """The loss and figures of the features (V N, D) of the whole views."""
        raise TrainingError(f"{type(self).__name__} defines no compare, which every method that compares views does")

    def features_of_all(self, features: Tensor, views: Views) -> Tensor:
        """Features ((V + L) N, D) of whole and local views, given those of the whole ones."""
        return features if views.local is None else torch.cat([features, self.encode(views.local)])

    def _difference_error(self, features: Tensor, views: Views) -> Tensor:
        """Mean squared error of the predicted differences between each view and the next, in units of their variance."""
        n = len(features) // self.config.views
        difference = views.described - views.described.roll(-n, 0)
        seen = torch.ones_like(difference)
        seen[:, DESCRIBED // 2 :] = (views.colored & views.colored.roll(-n, 0))[:, None].float()
        predicted = self.difference(torch.cat([features, features.roll(-n, 0)], 1)).float()
        target = difference / difference.pow(2).mean(0).sqrt().clamp(min=1e-6)
        error: Tensor = ((predicted - target).pow(2) * seen).sum() / (target.pow(2) * seen).sum().clamp(min=1)
        return error

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """A row for each view of the images."""
        views = self.views(batch, generator).whole.chunk(self.config.views)
        return tile({f"view {number}": view for number, view in enumerate(views, 1)})


@dataclass(frozen=True)
class TaughtConfig(ViewConfig):
    """``momentum`` of the average at first, 1 at the end (papers: 0.996 to 0.999, over a hundred times as many steps).

    ``keep_average``: export it instead of the encoder that it follows.
    """

    momentum: Share = 0.99
    keep_average: bool = False


class Taught(MultiView):
    """Views are compared with what a lagging average of the network makes of them: ``teacher``, which ``teach`` sets up."""

    teacher: Teacher

    def teach(self, *heads: nn.Module) -> None:
        """Called at the end of ``__init__``: the teacher follows input transform, encoder and these heads, in that order."""
        self._students = (self.input_transform, self.encoder, *heads)
        self.teacher = Teacher(*self._students)

    @property
    def exported(self) -> Backbone:
        average = self.teacher.parts[1]
        return average if self.config.keep_average and isinstance(average, Backbone) else self.encoder

    def after_step(self) -> None:
        self.teacher.follow(self._students, rising(self.config.momentum, self.share))


def view_side(image_size: int, share: float, grow: bool) -> int:
    """Width of whole views in px when ``share`` of the run is done: at last the images', before it multiples of 8."""
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
    """(view, other) for each ordered pair of different views, the other one among the first ``against`` of them."""
    return [(a, b) for a in range(views) for b in range(views if against is None else against) if a != b]


def partners(first: Tensor, second: Tensor) -> Figures:
    """``accuracy``: how often the nearest of the second rows (N, P), by cosine, is that of the same image; ``chance``."""
    similarity = functional.normalize(first.detach().float(), dim=1) @ functional.normalize(second.detach().float(), dim=1).T
    right = similarity.argmax(1) == torch.arange(len(first), device=first.device)
    return {"accuracy": right.float().mean(), "chance": 1 / len(first)}


def cosine_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean of 2 - 2 cos between the rows of two arrays (N, P), in float32: from 0 to 4."""
    with torch.autocast(predicted.device.type, enabled=False):
        return (2 - 2 * functional.cosine_similarity(predicted.float(), target.float(), dim=1)).mean()
