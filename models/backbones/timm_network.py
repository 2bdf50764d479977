"""timm networks as backbones: ``timm/vit_small_patch14_dinov2``, ``timm/convnext_atto``, ..."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslfeat.errors import TrainingError, UsageError, needs
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.backbones.weights_file import load_weights

PREFIX = "timm/"
AWAY = "offline, give a file of weights with --weights FILE"
END = "end"  # the network's own features, after everything that follows its last stage


class TimmBackbone(Backbone):
    """``body`` without its classifier, with the input normalization of its weights.

    Layers are its stages or blocks, pooled by their means, and ``end``.
    """

    def __init__(self, body: Any, image_size: int) -> None:
        infos = body.feature_info
        stages = {info["module"]: int(info["num_chs"]) for info in (infos if isinstance(infos, list) else infos.get_dicts())}
        with torch.no_grad():
            dim = body.eval()(torch.zeros(1, 3, image_size, image_size)).shape[1]
        super().__init__(image_size, {**stages, END: dim})
        self.body = body.train()
        self.normalization = (tuple(body.pretrained_cfg["mean"]), tuple(body.pretrained_cfg["std"]))

    def several_maps(self, images: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
        stages = self.layers[:-1]
        indices = sorted({min(self.depth(layer), len(stages)) - 1 for layer in layers})
        if END in layers and self.dims[END] != self.dims[stages[-1]]:
            raise UsageError(f"the features of {END} are not a map: choose the layer {stages[-1]}")
        found = self.body.forward_intermediates(images, indices=indices, output_fmt="NCHW", intermediates_only=True)
        maps = dict(zip(indices, found, strict=True))
        return {layer: maps[min(self.depth(layer), len(stages)) - 1] for layer in layers}

    def forward(self, images: Tensor, layer: str | None = None) -> Tensor:
        if layer is None or layer == END:
            features: Tensor = self.body(images)
            return features
        return self.maps(images, layer).mean((2, 3))


def load_timm_weights(body: Any, path: Path, name: str) -> None:
    """Load a file into timm's network ``name`` without its classifier. Raises InputError for weights that do not fit.

    Weights with the original authors' names, or for another image size, are converted by timm.
    """
    heads = body.pretrained_cfg.get("classifier") or ()
    convert = getattr(sys.modules[type(body).__module__], "checkpoint_filter_fn", None)
    load_weights(body, path, name, (heads,) if isinstance(heads, str) else heads, convert)


def timm_network(name: str, image_size: int, pretrained: bool = False, weights: Path | None = None) -> TimmBackbone:
    """The timm network ``name`` (without prefix), randomly initialized, with timm's pretrained weights, or with those of a file.

    Raises UsageError for an unknown name or an unsupported size, TrainingError for weights that cannot be downloaded,
    InputError for a file with other weights.
    """
    with needs("timm", "timm"):
        import timm
    if not timm.is_model(name.split(".")[0]):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5])
        raise UsageError(f"timm has no network {name!r}" + (f": did you mean one of {near}?" if near else ""))
    reasons: list[Exception] = []
    for extra in ({"img_size": image_size, "dynamic_img_size": True}, {"img_size": image_size}, {}):
        try:
            body = timm.create_model(name, pretrained=pretrained and weights is None, num_classes=0, **extra)
            if weights is not None:
                load_timm_weights(body, weights, f"timm/{name}")
            return TimmBackbone(body, image_size)
        except TypeError as error:  # networks that accept any size do not have this argument
            reasons.append(error)
        except (OSError, RuntimeError) as error:
            if pretrained:
                raise TrainingError(f"timm/{name} cannot be loaded: {str(error).splitlines()[0]}", AWAY) from error
            raise UsageError(f"timm/{name} at {image_size} px: {str(error).splitlines()[0]}") from error
        except (AssertionError, ValueError) as error:
            raise UsageError(f"timm/{name} at {image_size} px: {str(error).splitlines()[0]}") from error
    raise UsageError(f"timm/{name} cannot be built: {reasons[-1]}")
