"""Limitation of the L2 loss: shapes that are randomly red, green or blue, colorized with squared error and with cross-entropy.

    python benchmarks/l2_colors.py WORK [--steps 300]

The input of the encoder is always a gray disc; the target is red, green or blue, with equal lightness and frequency.
Writes WORK/l2_colors.json and WORK/l2_colors.png: the output of each model, and samples from the second.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.data import Images
from sslfeat.models.methods.colorization import Colorization
from sslfeat.models.ops.color import lab_to_rgb
from sslfeat.system.machine import save_measured

SIZE, LIGHTNESS, CHROMA = 32, 60.0, 40.0
HUES = {"red": 30, "green": 150, "blue": 270}  # degrees in the ab plane; their mean is gray


def colors() -> Tensor:
    """The three colors, ab (3, 2)."""
    angles = torch.tensor([math.radians(hue) for hue in HUES.values()])
    return CHROMA * torch.stack([angles.cos(), angles.sin()], 1)


def discs(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Discs on white, uint8 (N, 3, S, S), and their color numbers (N,)."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    place = torch.rand(n, 2, 1, 1, generator=generator) * 8 + 12
    disc = ((x - place[:, 0]) ** 2 + (y - place[:, 1]) ** 2 < 64)[:, None]
    which = torch.randint(0, 3, (n,), generator=generator)
    ab = colors()[which].view(n, 2, 1, 1).expand(-1, -1, SIZE, SIZE)
    white = torch.tensor([100.0, 0, 0]).view(1, 3, 1, 1)
    lab = torch.where(disc, torch.cat([torch.full_like(ab[:, :1], LIGHTNESS), ab], 1), white)
    return (lab_to_rgb(lab) * 255).round().byte(), which


def train(loss: str, steps: int, backbone: str = "resnet10_w16") -> Colorization:
    """Train a colorization model on discs."""
    torch.manual_seed(0)
    method = Colorization(build_backbone(backbone, SIZE), Colorization.Config(loss=loss, min_area=1.0))
    generator = torch.Generator().manual_seed(0)
    sample = discs(512, generator)[0].permute(0, 2, 3, 1).contiguous().numpy()
    method.prepare(Images(sample, (), ()))
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        value, _ = method(discs(32, generator)[0], generator)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return method.eval()


def at_center(method: Colorization) -> Tensor:
    """Output (C,) of the decoder at the center of a centered disc."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    disc = ((x - 16) ** 2 + (y - 16) ** 2 < 64)[None]
    lab = torch.cat([torch.where(disc, LIGHTNESS, 100.0), torch.zeros(2, SIZE, SIZE)])[None]
    with torch.no_grad():
        predicted = method.decoder(method.encoder.maps(method.input_transform(lab_to_rgb(lab)))).float()
    return predicted[0, :, method.side // 2, method.side // 2]


def sampled(method: Colorization, count: int, generator: torch.Generator) -> Tensor:
    """Colors sampled from the distribution of the cross-entropy model, ab (count, 2)."""
    chances = at_center(method).softmax(0)
    # undo the class weights of the loss to get the frequencies of the images
    chances = chances / method.weights()
    return method.bins[torch.multinomial(chances, count, replacement=True, generator=generator)]


def shares(ab: Tensor) -> dict[str, float]:
    """Shares of the colors (N, 2) nearest to red, green, blue and gray."""
    nearest = torch.cdist(ab, torch.cat([colors(), torch.zeros(1, 2)])).argmin(1)
    return {name: float((nearest == k).float().mean()) for k, name in enumerate([*HUES, "gray"])}


def swatch(ab: Tensor) -> Tensor:
    """A row of squares (3, 32, 34 N) with colors ab (N, 2)."""
    lab = torch.cat([torch.full((len(ab), 1), LIGHTNESS), ab], 1)[..., None, None].expand(-1, -1, 32, 32)
    padded = torch.nn.functional.pad(lab_to_rgb(lab), (1, 1, 0, 0), value=1.0)
    return torch.cat(list(padded), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    l2, ce = train("l2", options.steps), train("ce", options.steps)
    guess = l2.decode(at_center(l2).view(1, -1, 1, 1))[0, :, 0, 0]
    drawn = sampled(ce, 3000, torch.Generator().manual_seed(1))
    result = {
        "steps": options.steps,
        "l2": {"ab": guess.tolist(), "chroma": float(guess.norm()), "chroma_of_the_data": CHROMA},
        "cross_entropy": {"samples": 3000, "shares": shares(drawn), "mean_chroma": float(drawn.norm(dim=1).mean())},
    }
    rows = [swatch(colors().repeat(3, 1)), swatch(guess.expand(9, 2)), swatch(drawn[:9])]
    image = torch.cat([torch.nn.functional.pad(row, (0, 0, 1, 1), value=1.0) for row in rows], 1)
    pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(options.work / "l2_colors.png")
    save_measured(options.work / "l2_colors.json", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
