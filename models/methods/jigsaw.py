"""Jigsaw (Noroozi, Favaro 2016, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles").

Task: an image is cut into 3 x 3 tiles (2 x 2 below 64 px) and shuffled by one of |P| permutations; predict which one
(section 3). Tiles are encoded once, (N x T, 3, t, t) to (N, T, dim), and several permutations are applied to the
embeddings, so additional puzzles cost little. The permutations are far apart (algorithm 1), so that two tiles are not enough
to identify one. Known shortcuts (section 4.2): lines that continue across the cut, prevented by a random gap
(``gap=false`` allows it); brightness and contrast shared by adjacent tiles, prevented by standardizing each tile
(``standardize=false``); chromatic aberration, reduced by converting some puzzles to grayscale (``gray=0``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslfeat.errors import UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.backbones.registry import need_conv
from sslfeat.models.engine.draws import whole_numbers
from sslfeat.models.method import About, Figures, Method, Recipe, register
from sslfeat.models.modules.heads import mlp
from sslfeat.models.ops.augment import random_resized_crop, to_float
from sslfeat.models.ops.previews import captioned
from sslfeat.models.ops.tiles import Standardize, cut, far_permutations, gray_some
from sslfeat.models.ranges import Area, Count, Several, Share

LARGE = 64  # px; from this size on, 3 x 3 tiles
TILE = 64 / 85  # side of a tile relative to its cell


@register("jigsaw")
class Jigsaw(Method):
    """Views: tiles (N, T, 3, t, t) in their original order, and permutation indices (N, K); cross-entropy over |P|."""

    permutations: Tensor

    @dataclass(frozen=True)
    class Config:
        """``permutations``: number of permutations (paper: 1000, with 100 nearly as good); at most 24 for 2 x 2 tiles.

        ``puzzles``: permutations per image and step (paper: 1). ``gap``: place tiles of 64 px at random in cells of 85 px,
        scaled to the image size (paper: true), instead of using whole cells. ``standardize``: standardize each tile by its own
        mean and standard deviation (paper: true). ``gray``: fraction of puzzles in grayscale (paper: 0.3). ``min_area``: minimum
        area of a crop. ``hidden``: width of the head.
        """

        permutations: Several = 100
        puzzles: Count = 8
        gap: bool = True
        standardize: bool = True
        gray: Share = 0.3
        min_area: Area = 0.6
        hidden: Count = 512

    recipe = Recipe(batch_size=64, lr=1e-3, weight_decay=1e-4)
    about = About(
        "Noroozi, Favaro 2016",
        "predict the permutation by which the tiles of an image were shuffled",
        "ImageNet linear (AlexNet conv3/conv5) 34.0/27.1, VOC07 67.6; ResNet-50 linear 48.6",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(need_conv(encoder, "jigsaw"), config)
        if config.permutations < 2 or config.puzzles < 1:
            raise UsageError("permutations must be at least 2, and puzzles at least 1")
        self.side = 3 if encoder.image_size >= LARGE else 2
        self.register_buffer("permutations", torch.from_numpy(far_permutations(self.side**2, config.permutations)))
        if config.standardize:
            self.input_transform = Standardize()
        self.head: nn.Module = mlp(self.side**2 * encoder.dim, config.hidden, len(self.permutations))

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, S, S) to their tiles, in raster order, and the permutations to apply."""
        n, device = len(batch), batch.device
        crops = random_resized_crop(to_float(batch), generator, scale=(self.config.min_area, 1.0))
        images = gray_some(crops, self.config.gray, generator)
        cell = batch.shape[-1] // self.side
        tile = round(cell * TILE) if self.config.gap else cell
        corner = torch.arange(self.side, device=device) * cell
        tops, lefts = (grid.flatten() for grid in torch.meshgrid(corner, corner, indexing="ij"))
        shift = whole_numbers((2, n, self.side**2), 0, cell - tile, generator, axis=1)
        which = whole_numbers((n, self.config.puzzles), 0, len(self.permutations) - 1, generator)
        return cut(images, tops + shift[0], lefts + shift[1], tile), which

    def solve(self, tiles: Tensor, which: Tensor) -> Tensor:
        """Logits (N x K, |P|) of puzzles: position s of a puzzle with permutation p holds tile p[s]."""
        n, count = tiles.shape[:2]
        embedded = self.encode(tiles.flatten(0, 1)).view(n, count, -1)
        order = self.permutations[which]  # (N, K, T)
        number = torch.arange(n, device=order.device)[:, None, None]
        logits: Tensor = self.head(embedded[number, order].flatten(2).flatten(0, 1))
        return logits.float()

    def loss(self, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """Mean cross-entropy in nats. ``accuracy``: fraction of puzzles solved."""
        tiles, which = views
        logits, targets = self.solve(tiles, which), which.flatten()
        accuracy = (logits.detach().argmax(1) == targets).float().mean()
        return functional.cross_entropy(logits, targets), {"accuracy": accuracy, "chance": 1 / len(self.permutations)}

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Rows: tiles in order, shuffled, and reordered by the prediction."""
        tiles, which = self.views(batch, generator)
        which = which[:, :1]
        guess = self.solve(tiles, which).argmax(1)
        number = torch.arange(len(batch), device=batch.device)[:, None]
        shuffled = tiles[number, self.permutations[which[:, 0]]]
        solved = shuffled[number, self.permutations[guess].argsort(1)]
        rows = {"tiles": tiles, "shuffled, input of the encoder": shuffled, "reordered by the prediction": solved}
        return captioned({text: _assemble(row, self.side) for text, row in rows.items()})


def _assemble(tiles: Tensor, side: int) -> Tensor:
    """Arrange tiles (N, T, 3, t, t) as a row of images (3, H, W), with lines between tiles and wider ones between images."""
    framed = functional.pad(tiles, (0, 1, 0, 1), value=1.0)
    n, _, channels, high, wide = framed.shape
    grid = framed.view(n, side, side, channels, high, wide).permute(0, 3, 1, 4, 2, 5)
    images = functional.pad(grid.reshape(n, channels, side * high, side * wide), (0, 3, 0, 3), value=1.0)
    return torch.cat(list(images), 2)
