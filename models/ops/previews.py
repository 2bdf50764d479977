"""Preview images of a method's inputs and predictions, with a caption above each row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

MARGIN = 2  # px around a caption


def tile(rows: Mapping[str, Tensor]) -> Tensor:
    """Arrange captioned rows of images (N, 3, S, S) as one image (3, H, W) in [0, 1]; W is N x S or the captions' width."""
    return captioned({text: torch.cat(list(row), 2) for text, row in rows.items()})


def captioned(bands: Mapping[str, Tensor]) -> Tensor:
    """Stack images (3, h, w) vertically to one image (3, H, W) in [0, 1], each below its caption."""
    parts = [part.float().cpu() for text, band in bands.items() for part in (_line(text), band)]
    width = max(part.shape[2] for part in parts)
    return torch.cat([functional.pad(part, (0, width - part.shape[2]), value=1) for part in parts], 1).clamp(0, 1)


def _line(text: str) -> Tensor:
    """Render text black on white, (3, h, w), in Pillow's default font."""
    font = ImageFont.load_default()
    _, _, right, bottom = map(round, font.getbbox(text))
    image = Image.new("RGB", (right + 2 * MARGIN, bottom + 2 * MARGIN), "white")
    ImageDraw.Draw(image).text((MARGIN, MARGIN), text, "black", font)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
