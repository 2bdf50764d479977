"""Images as sequences of patches, and the small decoder that predicts hidden patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslfeat.models.engine.draws import uniform

EPSILON = 1e-4  # added to a patch's variance (pixels in [0, 1]), so that noise in uniform patches is not amplified


def patchify(images: Tensor, patch: int) -> Tensor:
    """(N, C, S, S) to (N, T, C x patch x patch), T = (S / patch)^2 patches in raster order."""
    n, channels, height, width = images.shape
    grid = images.reshape(n, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(n, -1, channels * patch * patch)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """Inverse of ``patchify`` for square color images."""
    n, count = patches.shape[:2]
    side = round(count**0.5)
    grid = patches.reshape(n, side, side, 3, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(n, 3, side * patch, side * patch)


def normalize_patches(patches: Tensor) -> Tensor:
    """Standardize each patch (..., D) (He et al. 2022, section 4.1)."""
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True, correction=0)
    return (patches - mean) / (variance + EPSILON).sqrt()


def random_order(n: int, count: int, generator: torch.Generator) -> Tensor:
    """A random permutation of ``count`` for each of ``n`` images, (N, count)."""
    return uniform((n, count), 0, 1, generator).argsort(1)


def pick(tokens: Tensor, places: Tensor) -> Tensor:
    """Select tokens (N, T, D) at places (N, K): (N, K, D)."""
    return tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2]))


def mean_patch_error(target: Tensor) -> Tensor:
    """Mean squared error of the best constant prediction for patches (..., D), their mean."""
    flat = target.flatten(0, -2)
    return (flat - flat.mean(0)).square().mean()


class TokenDecoder(nn.Module):
    """Map tokens of visible patches (N, K, dim) and their places (N, K) to predictions (N, T, out) for all places.

    Other places hold a learned mask token; position embeddings are learned; ``layers`` pre-norm blocks.
    """

    def __init__(self, dim: int, count: int, out: int, width: int = 128, layers: int = 2) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, width)
        self.hidden = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, count, width) * 0.02)
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
                for _ in range(layers)
            )
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out))

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        entered = self.enter(tokens)
        spread = self.hidden.to(entered.dtype).expand(len(tokens), self.positions.shape[1], -1)
        filled = spread.scatter(1, places[:, :, None].expand(-1, -1, entered.shape[2]), entered)
        predicted: Tensor = self.leave(self.blocks(filled + self.positions))
        return predicted
