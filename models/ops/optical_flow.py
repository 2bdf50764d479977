"""Optical flow as training signal: synthetic sprites with exact flow, and flow between frames of real video.

Flow (N, 2, H, W) is in pixels, x before y: a point at (x, y) in a frame is at (x, y) + flow in the next.
"""

from __future__ import annotations

import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from sslfeat.errors import TrainingError, needs
from sslfeat.models.engine.data import Images
from sslfeat.models.engine.draws import normal, uniform
from sslfeat.system.cores import available_cores

LEAST_SIDE = 128  # px; smaller frames are enlarged before computing the flow


@dataclass(frozen=True)
class Scene:
    """Two ``frames`` (N, 3, S, S), the exact ``flow`` (N, 2, S, S) of the first, and its visible ``layer`` (N, S, S).

    Layer 0 is the background, k the k-th sprite.
    """

    frames: tuple[Tensor, Tensor]
    flow: Tensor
    layer: Tensor


def blob_fields(n: int, size: int, generator: torch.Generator, cells: int = 5) -> Tensor:
    """Smooth random fields (N, 1, S, S): noise on ``cells`` x ``cells`` points, upsampled bicubically."""
    noise = normal((n, 1, cells, cells), generator)
    return functional.interpolate(noise, size=(size, size), mode="bicubic", align_corners=False)


def highest(fields: Tensor, shares: Tensor) -> Tensor:
    """Threshold (N, 1, 1, 1) of each field that is exceeded by the fraction ``share`` (N,) of its pixels."""
    ordered = fields.flatten(1).sort(1, descending=True).values
    place = (shares * ordered.shape[1]).round().long().clamp(1, ordered.shape[1] - 1)
    return (ordered.gather(1, place[:, None] - 1) + ordered.gather(1, place[:, None])).view(-1, 1, 1, 1) / 2


def blob_masks(n: int, size: int, share: float, generator: torch.Generator) -> Tensor:
    """Random blobs, bool (N, 1, S, S), that cover exactly the fraction ``share`` of each image's pixels."""
    fields = blob_fields(n, size, generator)
    return fields > highest(fields, torch.full((n,), share, device=fields.device))


def sprite_scene(images: Tensor, generator: torch.Generator, sprites: int = 2, speed: float = 0.1, soft: bool = True) -> Scene:
    """Move blobs cut from other images of the batch (N, 3, S, S) over each image, which moves as well.

    Every layer has a random affine motion: a shift of up to ``speed`` of the side, a rotation of up to 8 degrees, and a zoom
    of up to 8%, both about its own center. The first frame is not resampled, so it contains no trace of the motion; ``soft``
    blends the outlines over about two pixels, so that hard edges do not reveal the sprites.
    """
    n, size = len(images), images.shape[-1]
    y, x = torch.meshgrid(*2 * [torch.arange(size, device=images.device, dtype=torch.float32)], indexing="ij")
    center = torch.full((n, 2), (size - 1) / 2, device=images.device)
    motion = _motion(center, speed * size, generator)
    flow, layer = _flow(motion, x, y), torch.zeros(n, size, size, dtype=torch.long, device=images.device)
    now, then = images, _warp(images, motion, "reflection")
    for k in range(1, sprites + 1):
        center = uniform((n, 2), 0.2, 0.8, generator) * size
        radius = uniform((n,), 0.15, 0.3, generator) * size
        distance = torch.hypot(x - center[:, :1, None], y - center[:, 1:, None]) / radius.view(-1, 1, 1)
        field = blob_fields(n, size, generator) - 2 * distance[:, None] ** 2  # a blob around the center
        field = field - highest(field, math.pi * (radius / size) ** 2)
        alpha = _outline(field) if soft else (field > 0).float()
        texture = images.roll(k, 0)
        motion = _motion(center, speed * size, generator)
        moved = _warp(torch.cat([texture * alpha, alpha], 1), motion, "zeros")  # premultiplied: no dark seams
        now, then = torch.lerp(now, texture, alpha), moved[:, :3] + (1 - moved[:, 3:]) * then
        mine = alpha > 0.5
        flow = torch.where(mine, _flow(motion, x, y), flow)
        layer = torch.where(mine[:, 0], k, layer)
    return Scene((now, then), flow, layer)


def frame_flow(images: Images) -> Tensor:
    """Flow, float16 (N, 2, S, S), from every frame to the next of its folder; from the last frame to the previous one.

    Frames of a folder are ordered by name, with numbers compared by value. Dense inverse search (Kroeger et al. 2016) of
    OpenCV, with one thread per pair, because its result depends on the number of threads. Raises TrainingError for a folder
    with one image, MissingExtraError without OpenCV.
    """
    with needs("flow", "cv2"):
        import cv2
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    flows = np.empty((len(images.pixels), 2, *images.pixels.shape[1:3]), np.float16)

    def compute(pair: tuple[int, int]) -> None:
        flows[pair[0]] = _dense_flow(cv2, *images.pixels[np.array(pair)])

    try:
        with ThreadPoolExecutor(available_cores()) as pool:
            list(pool.map(compute, successors([item.path for item in images.inputs])))
    finally:
        cv2.setNumThreads(threads)
    return torch.from_numpy(flows)


def successors(paths: list[bytes]) -> list[tuple[int, int]]:
    """For each path its index and that of the next in its folder (for the last, the previous one)."""
    order = sorted(range(len(paths)), key=lambda i: (os.path.dirname(paths[i]), _natural(os.path.basename(paths[i]))))
    pairs = []
    for folder, group in groupby(order, key=lambda i: os.path.dirname(paths[i])):
        frames = list(group)
        if len(frames) < 2:
            raise TrainingError(
                f"{folder.decode('utf-8', 'backslashreplace')} contains one readable image, but motion needs two: "
                "give folders of consecutive video frames, or use source=sprites"
            )
        pairs += [*pairwise(frames), (frames[-1], frames[-2])]
    return pairs


def rbf(vectors: Tensor, bandwidth: float) -> Tensor:
    """Logarithm of the Gaussian kernel of vectors (N, P, D), (N, P, P)."""
    return -(vectors[:, :, None] - vectors[:, None]).square().sum(3) / (2 * bandwidth**2)


def cosines(unit: Tensor) -> Tensor:
    """Inner products (N, P, P) of unit vectors (N, P, D), in float32."""
    with torch.autocast(unit.device.type, enabled=False):
        return unit.float() @ unit.float().transpose(1, 2)


def cross_entropy(target: Tensor, given: Tensor) -> Tensor:
    """Mean over columns of the cross-entropy of two kernels, given as logarithms (N, P, P) with columns that sum to 1."""
    return -(target.softmax(1) * given.log_softmax(1)).sum(1).mean()


def flow_colors(flow: Tensor) -> Tensor:
    """Flow (N, 2, H, W) to colors (N, 3, H, W): hue by direction, brightness by speed."""
    speed = flow.norm(dim=1, keepdim=True)
    third = flow.new_tensor([0, 2, 4]).view(1, 3, 1, 1) * (math.pi / 3)
    hue = 0.5 + 0.5 * torch.cos(torch.atan2(flow[:, 1:], flow[:, :1]) - third)
    colors: Tensor = hue * speed / speed.amax((2, 3), keepdim=True).clamp_min(1e-6)
    return colors


def _natural(name: bytes) -> list[tuple[int, int, bytes]]:
    """Sort key that places frame9 before frame10."""
    return [(0, int(part), b"") if part.isdigit() else (1, 0, part) for part in re.split(rb"(\d+)", name) if part]


def _dense_flow(cv2: Any, now: npt.NDArray[np.uint8], then: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    side = now.shape[0]
    scale = max(1, math.ceil(LEAST_SIDE / side))
    shape = (scale * side, scale * side)
    pair = [cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), shape, interpolation=cv2.INTER_CUBIC) for frame in (now, then)]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*pair, None)
    flow = cv2.resize(flow, (side, side), interpolation=cv2.INTER_AREA)
    scaled: npt.NDArray[np.float32] = flow.transpose(2, 0, 1) / scale
    return scaled


def _motion(center: Tensor, reach: float, generator: torch.Generator) -> Tensor:
    """Affine maps (N, 2, 3) of pixel coordinates."""
    n = len(center)
    turn, zoom = uniform((2, n), -1, 1, generator, axis=1) * torch.tensor([[math.radians(8)], [0.08]], device=center.device)
    cos, sin = (1 + zoom) * turn.cos(), (1 + zoom) * turn.sin()
    matrix = torch.stack([cos, -sin, sin, cos], 1).view(n, 2, 2)
    shift = uniform((n, 2), -reach, reach, generator) + center - (matrix @ center[:, :, None])[:, :, 0]
    return torch.cat([matrix, shift[:, :, None]], 2)


def _flow(motion: Tensor, x: Tensor, y: Tensor) -> Tensor:
    here = torch.stack([x, y])
    return torch.einsum("nij,jhw->nihw", motion[:, :, :2], here) + motion[:, :, 2, None, None] - here


def _warp(layer: Tensor, motion: Tensor, padding: str) -> Tensor:
    """The layer (N, C, S, S) after its motion, by backward warping."""
    size = layer.shape[-1]
    back = torch.linalg.inv(motion[:, :, :2])
    shift = -(back @ motion[:, :, 2:])
    # from pixels p to the coordinates of grid_sample, g = (2p + 1) / S - 1; image borders are at -1 and 1
    middle = (size - 1) / 2
    offset = (back.sum(2, keepdim=True) * middle + shift - middle) * 2 / size
    grid = functional.affine_grid(torch.cat([back, offset], 2), list(layer.shape), align_corners=False)
    warped: Tensor = functional.grid_sample(layer, grid, padding_mode=padding, align_corners=False)
    return warped


def _outline(field: Tensor) -> Tensor:
    """Opacity in [0, 1]: the field's zero level set, blended over about two pixels for any slope of the field."""
    dy, dx = torch.gradient(field, dim=(2, 3))
    return (0.5 + field / (2 * torch.hypot(dx, dy).clamp_min(1e-4))).clamp(0, 1)
