"""torchvision's vision transformers in several sizes, with access to the tokens between blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.vision_transformer import EncoderBlock, VisionTransformer

from sslfeat.errors import UsageError
from sslfeat.models.backbones.base import Backbone


@dataclass(frozen=True)
class ViTShape:
    """Number of layers and attention heads, width, and patch size in px for images of at least 128 px."""

    layers: int
    heads: int
    width: int
    patch: int


VITS = {
    "vit_tiny": ViTShape(6, 4, 128, 16),
    "vit_s_16": ViTShape(12, 6, 384, 16),
    "vit_b_16": ViTShape(12, 12, 768, 16),
    "vit_b_32": ViTShape(12, 12, 768, 32),
    "vit_l_16": ViTShape(24, 16, 1024, 16),
}


class ViTBackbone(Backbone):
    """torchvision's VisionTransformer, opened up so that methods can drop, mask and order its tokens.

    Features are the class token; methods that do not train the class token call ``pool_patches``.
    """

    def __init__(self, body: VisionTransformer, image_size: int) -> None:
        super().__init__(image_size, {f"block{n + 1}": body.hidden_dim for n in range(len(body.encoder.layers))})
        self.body = body
        self.class_token = True
        self.patch: int = body.patch_size
        self.grid: int = image_size // body.patch_size

    def pool_patches(self) -> None:
        """Use means over the patch tokens as features; the unused class token is not trained."""
        self.class_token = False
        self.body.class_token.requires_grad_(False)

    def stage_of(self, parameter: str) -> int:
        block = re.search(r"encoder_layer_(\d+)\.", parameter)
        return int(block[1]) if block else len(self.layers) * parameter.startswith("body.encoder.ln.")

    @property
    def positions(self) -> Tensor:
        """Position embeddings of the patch tokens, (1, grid x grid, dim)."""
        positions: Tensor = self.body.encoder.pos_embedding[:, 1:]
        return positions

    def embed(self, images: Tensor) -> Tensor:
        """Patch tokens (N, g x g, dim) in raster order with position embeddings; incomplete patches at the edges are dropped.

        For images of another size the position embeddings are interpolated (as in DINO).
        """
        maps: Tensor = self.body.conv_proj(images)
        positions = self.positions
        if maps.shape[-1] != self.grid:
            table = positions.transpose(1, 2).reshape(1, -1, self.grid, self.grid)
            table = functional.interpolate(table, maps.shape[-2:], mode="bicubic", align_corners=False)
            positions = table.flatten(2).transpose(1, 2)
        return maps.flatten(2).transpose(1, 2) + positions

    def transform(self, tokens: Tensor, mask: Tensor | None = None, layer: str | None = None) -> Tensor:
        """Tokens (N, T, dim) through the blocks and the final normalization.

        ``mask``: bool (T, T) or (N x heads, T, T), True where a token must not attend.
        """
        depth = self.depth(layer)
        for block in list(self.body.encoder.layers)[:depth]:
            tokens = _masked_block(block, tokens, mask)
        if depth == len(self.layers):
            tokens = self.body.encoder.ln(tokens)
        return tokens

    def maps(self, images: Tensor, layer: str | None = None) -> Tensor:
        tokens = self._run(images, layer)[:, int(self.class_token) :]
        side = images.shape[-1] // self.patch
        return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, side, side)

    def forward(self, images: Tensor, layer: str | None = None) -> Tensor:
        tokens = self._run(images, layer)
        return tokens[:, 0] if self.class_token else tokens.mean(1)

    def _run(self, images: Tensor, layer: str | None) -> Tensor:
        tokens = self.embed(images)
        if self.class_token:
            first = self.body.class_token + self.body.encoder.pos_embedding[:, :1]
            tokens = torch.cat([first.expand(tokens.shape[0], -1, -1), tokens], 1)
        return self.transform(tokens, layer=layer)


def vit(name: str, shape: ViTShape, image_size: int) -> ViTBackbone:
    """A randomly initialized ViT. Raises UsageError for a size that is not a multiple of the patch size."""
    patch = shape.patch if image_size >= 128 else max(2, image_size // 8)
    if image_size % patch:
        raise UsageError(
            f"{name} uses patches of {patch} px", f"choose an --image-size (image_size= in Python) that is a multiple of {patch}"
        )
    body = VisionTransformer(image_size, patch, shape.layers, shape.heads, shape.width, 4 * shape.width, num_classes=1)
    body.heads = nn.Identity()
    return ViTBackbone(body, image_size)


def _masked_block(block: EncoderBlock, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """torchvision's encoder block with an attention mask, which its forward does not accept."""
    normed = block.ln_1(tokens)
    attended, _ = block.self_attention(normed, normed, normed, need_weights=False, attn_mask=mask)
    tokens = tokens + block.dropout(attended)
    mixed: Tensor = tokens + block.mlp(block.ln_2(tokens))
    return mixed
