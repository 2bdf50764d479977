"""Common fate (Mahendran, Thewlis, Vedaldi 2018, "Cross Pixel Optical-Flow Similarity for Self-Supervised Learning").

Task: from a single frame, predict which pixels move together. Pixel embeddings come from a sparse hypercolumn (the maps of two
layers, read at P sampled pixels); the similarities of the embeddings should match those of the optical flow: a scaled cosine
kernel and an RBF kernel, each column of (N, P, P) normalized to a distribution, compared by cross-entropy (section 3). Flow
comes from sprites cut out of the images (synthetic and exact) or from folders of video frames. Known shortcuts: the hard
outline of a sprite reveals it, so outlines are blended (``soft=false`` allows it). Nearby pixels move alike regardless of
content, and zero padding reveals positions; compare with ``trivial_near``, the error of a kernel of pixel distances.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sslfeat.errors import TrainingError, UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.data import Images
from sslfeat.models.engine.draws import uniform
from sslfeat.models.method import About, Figures, Method, Recipe, register
from sslfeat.models.modules.conv_decoder import pool_patches, pyramid
from sslfeat.models.modules.heads import mlp
from sslfeat.models.ops.augment import random_resized_crop, to_float
from sslfeat.models.ops.optical_flow import cosines, cross_entropy, flow_colors, frame_flow, rbf, sprite_scene
from sslfeat.models.ops.previews import tile
from sslfeat.models.ranges import Count, NotNegative, Positive, Several

NEAR = 0.15  # bandwidth of the kernel of pixel distances, relative to the side
STILL = 0.05  # px; less variation of the flow is noise
PREVIEW_SIDE = 64


@register("common-fate")
class CommonFate(Method):
    """Views: images (N, 3, S, S), flow (N, 2, S, S), sampled pixels (N, P); cross-entropy of similarity kernels."""

    @dataclass(frozen=True)
    class Config:
        """``source``: ``sprites`` (synthetic, from any images) or ``frames`` (folders of consecutive video frames, as in the
        paper). ``points``: number of sampled pixels (paper: 512). ``dim``: dimension of the pixel embeddings (paper: 16).
        ``bandwidth``: of the RBF kernel, in standard deviations of an image's flow. ``temperature``: divisor of the cosine.
        ``layer``: first layer of the hypercolumn; empty: the second layer of the backbone. The other is the last layer.
        ``sprites``, ``speed``: number of sprites and their maximum speed relative to the side. ``soft``: blend their outlines.
        """

        source: str = "sprites"
        points: Several = 256
        dim: Count = 16
        bandwidth: Positive = 0.5
        temperature: Positive = 0.1
        layer: str = ""
        sprites: Count = 2
        speed: NotNegative = 0.1
        soft: bool = True

    recipe = Recipe(batch_size=32, lr=1e-3, weight_decay=1e-4)
    about = About(
        "Mahendran, Thewlis, Vedaldi 2018",
        "predict from a still image which pixels move together",
        "not comparable with the others: AlexNet on YFCC100m video, VOC07 classification and segmentation",
    )
    config: Config

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__(encoder, config)
        if config.source not in ("sprites", "frames"):
            raise UsageError(f"source is {config.source!r}: must be sprites or frames")
        pool_patches(encoder)
        self.layer, self.last = config.layer or encoder.layers[1], encoder.layers[-1]
        encoder.depth(self.layer)  # raises for an unknown layer
        self.head = mlp(encoder.dims[self.layer] + encoder.dim, 128, config.dim)
        self.flow = torch.empty(0)

    def prepare(self, images: Images) -> None:
        """Flow of all frames, float16 (images, 2, S, S)."""
        if self.config.source == "frames":
            self.flow = frame_flow(images)

    def views(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Images uint8 (N, 3, S, S) to scenes with their flow in pixels, and P sampled pixels of each."""
        n, size = len(batch), batch.shape[-1]
        if self.config.source == "sprites":
            crops = random_resized_crop(to_float(batch), generator, scale=(0.5, 1.0))
            scene = sprite_scene(crops, generator, self.config.sprites, self.config.speed, self.config.soft)
            images, flow = scene.frames[0], scene.flow
        else:
            mirrored = (uniform((n,), 0, 1, generator) < 0.5).view(-1, 1, 1, 1)
            images, flow = to_float(batch), self.flow_of(batch.device)
            images = torch.where(mirrored, images.flip(3), images)
            flow = torch.where(mirrored, flow.flip(3) * flow.new_tensor([-1, 1]).view(2, 1, 1), flow)
        chosen = uniform((n, size * size), 0, 1, generator)
        return images, flow, chosen.topk(min(self.config.points, size * size), dim=1).indices

    def flow_of(self, device: torch.device) -> Tensor:
        """Flow (N, 2, S, S) of the current batch."""
        if self.numbers is None:
            raise TrainingError("source=frames needs the indices of the frames in a batch: train it with sslfeat")
        return self.flow[self.numbers.cpu()].to(device).float()

    def embed(self, images: Tensor, points: Tensor) -> Tensor:
        """Unit vectors (N, P, dim) of pixels, given by raster index (N, P)."""
        n, size = images.shape[0], images.shape[-1]
        where = torch.stack([points % size, points // size], 2)[:, None] * (2 / size) + (1 / size - 1)
        columns = [
            functional.grid_sample(maps.float(), where, padding_mode="border", align_corners=False)[:, :, 0]
            for maps in pyramid(self.encoder, self.input_transform(images), self.layer, self.last)
        ]
        embeddings = self.head(torch.cat(columns, 1).transpose(1, 2).flatten(0, 1)).float()
        return functional.normalize(embeddings.view(n, -1, self.config.dim), dim=2)

    def loss(self, views: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Figures]:
        """Cross-entropy in nats. ``error``: its excess over the minimum, the entropy of the flow's kernel.

        ``trivial``: error of a uniform kernel. ``trivial_near``: error of an RBF kernel of pixel distances. ``motion``:
        standard deviation of the flow within an image, in pixels.
        """
        images, flow, points = views
        size = images.shape[-1]
        flow = flow.flatten(2).gather(2, points[:, None].expand(-1, 2, -1)).transpose(1, 2)
        spread = (flow - flow.mean(1, keepdim=True)).square().sum(2).mean(1).sqrt().view(-1, 1, 1)
        target = rbf(flow / spread.clamp_min(STILL), self.config.bandwidth)
        embeddings = self.embed(images, points)
        loss = cross_entropy(target, cosines(embeddings) / self.config.temperature)
        least = cross_entropy(target, target)
        near = rbf(torch.stack([points % size, points // size], 2) / size, NEAR)
        return loss, {
            "error": loss.detach() - least,
            "trivial": math.log(points.shape[1]) - least,
            "trivial_near": cross_entropy(target, near) - least,
            "motion": spread.mean(),
        }

    def complaint(self, figures: dict[str, float]) -> str | None:
        """Detect images without motion, or with uniform motion."""
        if figures["motion"] < STILL:
            return f"the flow varies by {figures['motion']:.3f} px within an image: these frames show no motion"
        return None

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Rows: image, flow as colors (hue: direction), similarity to the white pixel, which moves the most."""
        images, flow, _ = self.views(batch, generator)
        n, size = len(batch), batch.shape[-1]
        flow = flow - flow.mean((2, 3), keepdim=True)
        step = math.ceil(size / PREVIEW_SIDE)
        grid = torch.arange(size * size, device=batch.device).view(size, size)[::step, ::step]
        embeddings = self.embed(images, grid.flatten().expand(n, -1))
        most = flow.square().sum(1)[:, ::step, ::step].flatten(1).argmax(1)
        rows = torch.arange(n, device=batch.device)
        similarity = torch.einsum("npd,nd->np", embeddings, embeddings[rows, most]).view(n, 1, *grid.shape)
        similarity = (similarity.repeat_interleave(step, 2).repeat_interleave(step, 3)[..., :size, :size] + 1) / 2
        warm = torch.cat([similarity, 0.6 * similarity, 1 - similarity], 1) * 0.9
        pixel = grid.flatten()[most]
        warm[rows, :, pixel // size, pixel % size] = 1
        return tile({"the image": images, "flow; hue: direction": flow_colors(flow), "similarity to the white pixel": warm})
