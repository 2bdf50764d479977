"""Jigsaw (Noroozi, Favaro 2016, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles").

Task: an image is cut into 3 x 3 tiles (2 x 2 below 64 px) and shuffled by one of |P| permutations; say which one
(section 3). Tiles are encoded once, (N x T, 3, t, t) to (N, T, dim), and several permutations are applied to the
embeddings, which gives many puzzles for the price of one. The permutations are far apart (algorithm 1), so that no two
tiles settle the answer. Known shortcuts (section 4.2): lines that continue across the cut, closed by a random gap
(``gap=false`` opens it); brightness and contrast that neighbors share, closed by standardizing each tile
(``standardize=false``); chromatic aberration, weakened by showing some puzzles gray (``gray=0``).
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

LARGE = 64  # px: 3 x 3 tiles from here
TILE = 64 / 85  # of a cell's side


@register("jigsaw")
class Jigsaw(Method):
    """Views: tiles (N, T, 3, t, t) in their right order, and permutations' numbers (N, K); cross-entropy over |P|."""

    permutations: Tensor

    @dataclass(frozen=True)
    class Config:
        """``permutations``: size of the set P (paper: 1000, 100 do as well), at most the 24 there are of 2 x 2 tiles.

        ``puzzles`` of each image's tiles (paper: 1). ``gap``: tiles of 64 px at random in cells of 85 px, scaled
        (paper), or whole cells. ``standardize``: each tile by its own mean and deviation (paper). ``gray``: share of
        puzzles without color (paper: .3). ``min_area``: of the smallest crop. ``hidden``: width of the head.
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
        "say in which order the tiles of an image were shuffled",
        "ImageNet linear (AlexNet conv3/conv5) 34.0/27.1, VOC07 67.6; ResNet-50 linear 48.6",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(need_conv(encoder, "jigsaw"), config)
        if config.permutations < 2 or config.puzzles < 1:
            raise UsageError("permutations is at least 2, puzzles at least 1")
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
        """Logits (N x K, |P|) of puzzles: slot s of a puzzle with permutation p holds tile p[s]."""
        n, count = tiles.shape[:2]
        embedded = self.encode(tiles.flatten(0, 1)).view(n, count, -1)
        order = self.permutations[which]  # (N, K, T)
        number = torch.arange(n, device=order.device)[:, None, None]
        logits: Tensor = self.head(embedded[number, order].flatten(2).flatten(0, 1))
        return logits.float()

    def loss(self, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """Mean cross-entropy in nats; ``accuracy`` is the share of puzzles solved."""
        tiles, which = views
        logits, targets = self.solve(tiles, which), which.flatten()
        accuracy = (logits.detach().argmax(1) == targets).float().mean()
        return functional.cross_entropy(logits, targets), {"accuracy": accuracy, "chance": 1 / len(self.permutations)}

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Rows: tiles in order, shuffled, put back as the encoder believes they belong."""
        tiles, which = self.views(batch, generator)
        which = which[:, :1]
        guess = self.solve(tiles, which).argmax(1)
        number = torch.arange(len(batch), device=batch.device)[:, None]
        shuffled = tiles[number, self.permutations[which[:, 0]]]
        solved = shuffled[number, self.permutations[guess].argsort(1)]
        rows = {"tiles": tiles, "shuffled, as the encoder gets them": shuffled, "put back by the encoder": solved}
        return captioned({text: _assemble(row, self.side) for text, row in rows.items()})


def _assemble(tiles: Tensor, side: int) -> Tensor:
    """Tiles (N, T, 3, t, t) to a row of images (3, H, W), a line between tiles and a wider one between images."""
    framed = functional.pad(tiles, (0, 1, 0, 1), value=1.0)
    n, _, channels, high, wide = framed.shape
    grid = framed.view(n, side, side, channels, high, wide).permute(0, 3, 1, 4, 2, 5)
    images = functional.pad(grid.reshape(n, channels, side * high, side * wide), (0, 3, 0, 3), value=1.0)
    return torch.cat(list(images), 2)
