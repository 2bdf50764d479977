"""Synthetic sample images: shapes of several kinds, one folder per kind, deterministic."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sslfeat.errors import InputError

KINDS = ("circles", "squares", "stripes", "triangles")


def draw_samples(folder: Path, count: int = 40, seed: int = 0) -> int:
    """Draw ``count`` JPEGs of 120 to 260 px into ``folder/KIND/``; return ``count``. Raises InputError."""
    if count < 1:
        raise InputError(f"cannot draw {count} images: at least 1 is required")
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        path = folder / kind / f"{kind}-{index // len(KINDS):04d}.jpg"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(kind, np.random.default_rng([seed, index])).save(path, quality=90)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
    return count


def draw(kind: str, rng: np.random.Generator) -> Image.Image:
    """Draw an RGB image of a kind in KINDS: shapes of random sizes and colors on a textured background."""
    width, height = (int(side) for side in rng.integers(120, 261, 2))
    ground, ink = rng.integers(0, 256, (2, 3))
    noise = rng.normal(0, 12, (height, width, 1))
    image = Image.fromarray(np.clip(ground + noise, 0, 255).astype(np.uint8))
    canvas = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 6))):
        radius = float(rng.uniform(0.08, 0.3)) * min(width, height)
        x, y, turn = float(rng.uniform(0, width)), float(rng.uniform(0, height)), float(rng.uniform(0, math.pi))
        color = tuple(int(value) for value in np.clip(ink + rng.normal(0, 30, 3), 0, 255))
        _shape(canvas, kind, x, y, radius, turn, color)
    return image.filter(ImageFilter.GaussianBlur(0.7))


def _shape(
    canvas: ImageDraw.ImageDraw, kind: str, x: float, y: float, radius: float, turn: float, color: tuple[int, ...]
) -> None:
    if kind == "circles":
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    elif kind == "stripes":
        dx, dy = 3 * radius * math.cos(turn), 3 * radius * math.sin(turn)
        canvas.line((x - dx, y - dy, x + dx, y + dy), fill=color, width=max(2, int(radius / 3)))
    else:
        sides = 4 if kind == "squares" else 3
        canvas.regular_polygon((x, y, radius), sides, rotation=math.degrees(turn), fill=color)
