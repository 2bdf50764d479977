"""Batch augmentations on the device, with independent random parameters per image from one generator.

Images are float (N, 3, H, W) in [0, 1]. All color operations are affine maps of RGB, so brightness, contrast, saturation,
hue and grayscale together cost one small matrix product per image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sslfeat.models.engine.draws import uniform

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601
RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


def to_float(batch: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float in [0, 1]."""
    return batch.float().div_(255)


def draw_crops(
    n: int,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
    shapes: Tensor | None = None,
) -> Tensor:
    """Random crops of n images (``scale``: range of their area, ``ratio``: range of width / height), half of them mirrored if
    ``flip``, as affine maps (n, 2, 3) from positions in the crop to positions in the image, both from -1 to 1.

    ``shapes`` float (n,): width / height of images that were squashed to squares. Their crops are as large as those of the
    largest square in the image, and lie anywhere in the image.
    """
    area = uniform((n,), *scale, generator)
    aspect = uniform((n,), math.log(ratio[0]), math.log(ratio[1]), generator).exp()
    width = (area * aspect).sqrt().clamp_(max=1)
    height = (area / aspect).sqrt().clamp_(max=1)
    if shapes is not None:
        width, height = width * (1 / shapes).clamp(max=1), height * shapes.clamp(max=1)
    theta = torch.zeros(n, 2, 3, device=generator.device)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2] = uniform((n,), -1, 1, generator) * (1 - width)
    theta[:, 1, 2] = uniform((n,), -1, 1, generator) * (1 - height)
    if flip:
        theta[:, 0, 0] *= torch.where(uniform((n,), 0, 1, generator) < 0.5, -1.0, 1.0)
    return theta


def crop(images: Tensor, parts: Tensor, size: int | None = None) -> Tensor:
    """The crops ``parts`` of ``draw_crops``, resized to ``size`` px, by default the size of the images.

    Bilinear; crops larger than twice ``size`` show aliasing.
    """
    side = size or images.shape[-1]
    grid = functional.affine_grid(parts, [len(images), images.shape[1], side, side], align_corners=False)
    cropped: Tensor = functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return cropped


def random_resized_crop(
    images: Tensor,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
) -> Tensor:
    """A random crop of each image, resized to the full size (see ``draw_crops``)."""
    return crop(images, draw_crops(len(images), generator, scale, ratio, flip))


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip each image horizontally with probability 0.5."""
    mirrored = uniform((len(images),), 0, 1, generator) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


@dataclass(frozen=True)
class Colors:
    """Color distortions of n images: factors of ``brightness``, ``contrast`` and ``saturation``, and the hue ``turn`` in
    radians, each float (n,). ``jitter`` bool (n,): where they are applied. ``gray`` bool (n,): grayscale images."""

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    turn: Tensor
    jitter: Tensor
    gray: Tensor


def draw_colors(
    n: int,
    generator: torch.Generator,
    strength: float | Tensor = 0.5,
    probability: float = 0.8,
    gray_probability: float | Tensor = 0.2,
) -> Colors:
    """SimCLR's color distortion (Chen et al. 2020, appendix A), with one strength or one per image (n,).

    Factors of brightness, contrast and saturation lie in 1 +- 0.8 ``strength``; the hue is rotated by up to 0.2 ``strength``
    of the circle (in YIQ, where it is linear); grayscale with ``gray_probability``.
    """
    spread = 0.8 * torch.as_tensor(strength, device=generator.device)
    brightness, contrast, saturation = uniform((3, n), (1 - spread).clamp(min=0), 1 + spread, generator, axis=1)
    turn = uniform((n,), -spread / 4, spread / 4, generator) * 2 * math.pi
    jitter = uniform((n,), 0, 1, generator) < probability
    gray = uniform((n,), 0, 1, generator) < gray_probability
    return Colors(brightness, contrast, saturation, turn, jitter, gray)


def recolor(images: Tensor, colors: Colors) -> Tensor:
    """Apply color distortions and clamp to [0, 1]. Contrast is relative to the image's mean luma."""
    n, device = len(images), images.device
    luma = torch.tensor(LUMA, device=device)
    identity = torch.eye(3, device=device).expand(n, 3, 3)
    to_gray = luma.expand(3, 3)
    matrix = torch.lerp(to_gray, identity, colors.saturation.view(n, 1, 1)) @ _hue_rotation(colors.turn)
    matrix = matrix * (colors.brightness * colors.contrast).view(n, 1, 1)
    matrix = torch.where(colors.jitter.view(n, 1, 1), matrix, identity)
    matrix = torch.where(colors.gray.view(n, 1, 1), to_gray @ matrix, matrix)
    mean_gray = torch.einsum("c,nchw->n", luma, images) / (images.shape[2] * images.shape[3])
    offset = torch.where(colors.jitter, colors.brightness * (1 - colors.contrast) * mean_gray, 0.0)
    recolored: Tensor = torch.baddbmm(offset.view(n, 1, 1), matrix, images.flatten(2)).view(images.shape)
    return recolored.clamp_(0, 1)


def color_jitter(
    images: Tensor, generator: torch.Generator, strength: float = 0.5, probability: float = 0.8, gray_probability: float = 0.2
) -> Tensor:
    """Apply a random color distortion to each image (see ``draw_colors``, ``recolor``)."""
    return recolor(images, draw_colors(len(images), generator, strength, probability, gray_probability))


def rotate_quarter(images: Tensor, quarters: int) -> Tensor:
    """Rotate square images counterclockwise by ``quarters`` times 90 degrees, without resampling."""
    return torch.rot90(images, quarters, (2, 3))


def _hue_rotation(turn: Tensor) -> Tensor:
    """RGB matrices (N, 3, 3) that rotate the hue by angles (N,) in radians and preserve the luma."""
    forward = torch.tensor(RGB_TO_YIQ, device=turn.device)
    rotation = torch.zeros(len(turn), 3, 3, device=turn.device)
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1] = rotation[:, 2, 2] = turn.cos()
    rotation[:, 1, 2], rotation[:, 2, 1] = -turn.sin(), turn.sin()
    matrices: Tensor = torch.linalg.inv(forward) @ rotation @ forward
    return matrices
