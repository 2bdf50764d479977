"""Networks with random weights that embed_peers.py gives to other libraries, and their preprocessing in torchvision."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

SIZE = {"resnet18": 224, "vit_s_16": 224, "shipped": 64}
DIM = {"resnet18": 512, "vit_s_16": 384, "shipped": 320}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def build(model: str) -> nn.Module:
    """Network with embeddings (N, DIM)."""
    import torch
    from torch import nn
    from torchvision.models import resnet18
    from torchvision.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    network: nn.Module
    if model == "shipped":
        from sslfeat.models.backbones.registry import build_backbone

        network = build_backbone("resnet10_w40", SIZE[model])
    elif model == "resnet18":
        network = resnet18()
        network.fc = nn.Identity()
    else:
        network = VisionTransformer(SIZE[model], 16, 12, 6, 384, 1536)
        network.heads = nn.Identity()
    return network.eval()


def transform(model: str) -> Callable[[Any], Any]:
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize(SIZE[model], transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIZE[model]),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
