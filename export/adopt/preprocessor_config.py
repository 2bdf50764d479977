"""Preprocessing from the files that come with weights: transformers' ``preprocessor_config.json``, timm's ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sslfeat.data.transforms import BORDER, CENTER, CROPS, SQUASH, Preprocess
from sslfeat.errors import InputError

RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's constants
TIMM = "pretrained_cfg"


def read_config(file: Path) -> dict[str, Any]:
    """Fields of an AdoptRequest from either file: ``preprocess``, ``mean``, ``std``, ``scale``. Raises InputError."""
    try:
        config = json.loads(file.read_bytes())
        if TIMM in config or "crop_pct" in config:
            config = config.get(TIMM, config)
            mean, std = (tuple(map(float, config[name])) for name in ("mean", "std"))
            return {"preprocess": timm_preprocess(config), "mean": mean, "std": std, "scale": 1.0}
        return _of_transformers(config)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"{file} is not a supported preprocessor_config.json or timm config.json: {why}") from error


def timm_preprocess(config: Mapping[str, Any], size: int | None = None) -> Preprocess:
    """The preprocessing described by timm's ``pretrained_cfg``, for images of ``size`` px (None: its own size).

    Source: ``transforms_imagenet_eval`` of timm. Raises KeyError, ValueError.
    """
    side = size or _side(dict(zip(("height", "width"), config["input_size"][1:], strict=True)))
    crop = config.get("crop_mode") or CENTER
    if crop not in CROPS:
        raise ValueError(f"crop_mode is {crop!r}, not one of {', '.join(CROPS)}")
    resize = max(side, int(side / float(config.get("crop_pct") or 0.875)))  # timm's default is 0.875
    return Preprocess(resize, side, str(config["interpolation"]), crop=crop, fill=border_color(crop, config["mean"]))


def border_color(crop: str, mean: Sequence[float]) -> str:
    """Fill color of borders for this ``crop``: the mean, values 0 to 1, as in timm."""
    return "#" + "".join(f"{min(255, max(0, round(255 * value))):02x}" for value in mean) if crop == BORDER else ""


def _of_transformers(config: dict[str, Any]) -> dict[str, Any]:
    """Sizes with a ``shortest_edge`` preserve the aspect ratio; ``height`` and ``width`` do not, as for SigLIP and ViT."""
    size, crop = config["size"], config.get("crop_size")
    for name, fine in (("do_resize", True), ("do_pad", False)):
        if config.get(name, fine) is not fine:
            raise ValueError(f"{name} is {config[name]}")
    cropped = bool(crop) and config.get("do_center_crop", True)
    squashed = "shortest_edge" not in size if isinstance(size, dict) else not cropped
    if not cropped and not squashed:
        raise ValueError(
            "it does not crop, so images may have any shape, but squares are needed: give --image-size, --mean and --std"
        )
    resize = _side(size)
    side = _side(crop) if cropped else resize
    if side > resize:
        raise ValueError(f"it crops {side} px out of {resize} px")
    normal = config.get("do_normalize", True)
    return {
        "preprocess": Preprocess(resize, side, RESAMPLE[config.get("resample", 3)], crop=SQUASH if squashed else CENTER),
        "mean": tuple(map(float, config["image_mean"])) if normal else (0.0, 0.0, 0.0),
        "std": tuple(map(float, config["image_std"])) if normal else (1.0, 1.0, 1.0),
        "scale": float(config.get("rescale_factor", 1 / 255)) * 255 if config.get("do_rescale", True) else 255.0,
    }


def _side(size: Any) -> int:
    if isinstance(size, int):
        return size
    sides = {int(value) for key, value in size.items() if key in ("shortest_edge", "height", "width")}
    if len(sides) != 1:
        raise ValueError(f"the size {size} is not one side")
    return sides.pop()
