"""CIE Lab (D65, sRGB) for batches of images, the quantized ab plane for predicting colors, and edge filters.

Images are float (N, 3, H, W) in [0, 1]. L lies in [0, 100]; a and b, for sRGB colors, within about +-110. These functions
are applied to inputs and targets only and need no gradients.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.models.ops.augment import LUMA

# linear sRGB to XYZ (IEC 61966-2-1), each row divided by the white point D65: white becomes (1, 1, 1)
RGB_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
WHITE = tuple(sum(row) for row in RGB_TO_XYZ)
CUBE, SLOPE = (6 / 29) ** 3, (29 / 6) ** 2 / 3  # where Lab changes from a cube root to a linear function, and its slope
NEIGHBORS = 5  # bins that encode one color


def linear_rgb(pixels: Tensor) -> Tensor:
    """sRGB values to linear light (transfer function of IEC 61966-2-1)."""
    return torch.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)


def rgb_to_lab(pixels: Tensor) -> Tensor:
    """sRGB (N, 3, H, W) in [0, 1] to Lab (N, 3, H, W)."""
    matrix = pixels.new_tensor(RGB_TO_XYZ) / pixels.new_tensor(WHITE).view(3, 1)
    x, y, z = _compress(torch.einsum("dc,nchw->ndhw", matrix, linear_rgb(pixels))).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Lab (N, 3, H, W) to sRGB in [0, 1]; colors outside the gamut are clamped per channel."""
    light, a, b = lab.unbind(1)
    y = (light + 16) / 116
    curved = torch.stack([y + a / 500, y, y - b / 200], 1)
    xyz = torch.where(curved > 6 / 29, curved**3, (curved - 4 / 29) / SLOPE) * lab.new_tensor(WHITE).view(1, 3, 1, 1)
    linear = torch.einsum("dc,nchw->ndhw", torch.linalg.inv(lab.new_tensor(RGB_TO_XYZ)), xyz).clamp(0, 1)
    curve: Tensor = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return curve.clamp(0, 1)


class Lightness(nn.Module):
    """Map pixels (N, 3, H, W) in [0, 1] to (L - 50) / 25 in all three channels: about zero mean and unit variance."""

    luma: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("luma", torch.tensor(RGB_TO_XYZ[1]).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        light = 116 * _compress((linear_rgb(pixels) * self.luma).sum(1, keepdim=True)) - 16
        scaled: Tensor = (light - 50) / 25
        return scaled.expand(-1, 3, -1, -1)


class Sobel(nn.Module):
    """Map pixels (N, 3, H, W) in [0, 1] to the gradients of luma in x and y and their magnitude, about unit variance."""

    luma: Tensor
    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        self.register_buffer("luma", torch.tensor(LUMA).view(1, 3, 1, 1))
        self.register_buffer("kernels", torch.stack([across, across.T])[:, None])

    def forward(self, pixels: Tensor) -> Tensor:
        gray = functional.pad((pixels * self.luma).sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        gradients = functional.conv2d(gray, self.kernels) * 2
        length = (gradients.pow(2).sum(1, keepdim=True) + 1e-6).sqrt()
        return torch.cat([gradients, length - 1], 1)


@functools.lru_cache
def ab_bins(grid: int) -> Tensor:
    """Sorted centers (Q, 2), multiples of ``grid``, of the squares of the ab plane that contain an 8-bit sRGB color.

    The lightest color for any point of the ab plane lies on the surface of the gamut, so the six faces of the RGB cube,
    6 x 256 x 256 colors, reach the same squares as the whole cube: 261 bins at grid 10. The 313 bins of Zhang et al. 2016
    include squares near the gamut that contain no 8-bit color under D65.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    u, v = (plane.flatten() for plane in torch.meshgrid(levels, levels, indexing="ij"))
    faces = [torch.stack([torch.full_like(u, end), u, v]).roll(axis, 0) for axis in range(3) for end in (0.0, 1.0)]
    ab = rgb_to_lab(torch.cat(faces, 1).view(1, 3, 1, -1))[0, 1:, 0].T
    squares: Tensor = torch.unique((ab / grid).round().long(), dim=0)
    return (squares * grid).float()


def soft_encode(ab: Tensor, bins: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Nearest NEIGHBORS bins (P, 5) of colors (P, 2), nearest first, and Gaussian weights (P, 5) that sum to 1."""
    squared, nearest = torch.cdist(ab, bins).pow(2).topk(min(NEIGHBORS, len(bins)), dim=1, largest=False)
    return nearest, (-squared / (2 * sigma**2)).softmax(1)


def annealed_mean(logits: Tensor, bins: Tensor, temperature: float) -> Tensor:
    """Logits (N, Q, H, W) to ab (N, 2, H, W): the annealed mean; ``temperature`` 1 gives the mean, 0 the mode.

    Equation 5 of Zhang, Isola, Efros 2016.
    """
    return torch.einsum("nqhw,qc->nchw", (logits / temperature).softmax(1), bins)


def _compress(ratio: Tensor) -> Tensor:
    return torch.where(ratio > CUBE, ratio.clamp_min(CUBE) ** (1 / 3), SLOPE * ratio + 4 / 29)
