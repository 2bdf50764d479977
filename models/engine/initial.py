"""Initialization from existing weights (a run, a shipped encoder, timm or torchvision), and extension of a run.

Naive fine-tuning destroys good weights in the first steps, while the heads are random. Therefore only the heads are trained at
first, and the backbone has a lower learning rate, lowest in its early layers (Howard, Ruder 2018, "ULMFiT", section 3.2).
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import torch
from torch import nn

from sslfeat.errors import TrainingError, UsageError
from sslfeat.inference.registry import ZOO
from sslfeat.inference.registry import names as shipped
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.engine.checkpoint import ENCODER_NAME, LAST_NAME, read_tensors
from sslfeat.models.engine.config import CONFIG_NAME, TrainConfig, load_config
from sslfeat.models.engine.frozen import load_run, refuse_code
from sslfeat.models.method import Method, find_method
from sslfeat.models.own_file import named_faults
from sslfeat.storage import atomic

HEADS_ALONE = 0.05  # fraction of the run during which only the heads are trained
PUBLISHED = ("timm/", "torchvision/")


def folder_of(init: str) -> Path | None:
    """Folder of the weights that ``init`` names, a run or a shipped encoder; None for pretrained weights of timm or torchvision.

    Raises UsageError for an unknown name.
    """
    if init.startswith(PUBLISHED):
        return None
    if init.endswith(".onnx"):
        raise UsageError(
            f"--init {init} is an exported file, which cannot be trained: give the run folder that it was exported from; "
            "the --teacher of distill may be an .onnx file"
        )
    folder = ZOO / init if init in shipped() else Path(init)
    if not (folder / CONFIG_NAME).is_file() or not (folder / ENCODER_NAME).is_file():
        raise UsageError(
            f"--init {init} is not a run folder with an encoder, a shipped encoder ({', '.join(shipped())}), "
            "timm/NAME or torchvision/NAME"
        )
    return folder


def with_source(config: TrainConfig) -> TrainConfig:
    """Complete ``config`` with hashes of the files named by the method's options and of the weights of ``init``, and with the
    backbone and image size of ``init`` unless given."""
    kind = find_method(config.method)
    with named_faults(config.method):
        depends = kind.depends_on(config.options)
    config = dataclasses.replace(config, options={**config.options, **depends})
    if config.weights and not (config.init and config.init.startswith(PUBLISHED)):
        raise UsageError(f"--weights {config.weights}: name the network with --init timm/NAME or torchvision/NAME")
    if config.init is None:
        return config
    folder = folder_of(config.init)
    if folder is None:
        if config.backbone not in (None, config.init):
            raise UsageError(f"--init {config.init} does not match --backbone {config.backbone}: omit --backbone")
        config = dataclasses.replace(config, backbone=config.init)
        return config if config.weights is None else _with_weights(config, Path(config.weights))
    kept = load_config(folder / CONFIG_NAME)
    if config.backbone not in (None, kept.backbone):
        raise UsageError(f"--init {config.init} is a {kept.backbone}, not a {config.backbone}: omit --backbone")
    return dataclasses.replace(
        config,
        backbone=kept.backbone,
        image_size=config.image_size or kept.image_size,
        init_sha256=atomic.sha256_file(folder / ENCODER_NAME),
    )


def _with_weights(config: TrainConfig, file: Path) -> TrainConfig:
    try:
        return dataclasses.replace(config, weights=os.path.abspath(file), init_sha256=atomic.sha256_file(file))
    except OSError as error:
        raise UsageError(f"--weights {file} cannot be read: {error.strerror}") from error


def extended(source: Path, given: TrainConfig) -> TrainConfig:
    """Settings of the run ``source``, updated with those of ``given`` that differ from the defaults."""
    kept, plain = load_config(source / CONFIG_NAME), TrainConfig("", ())
    if not (source / LAST_NAME).is_file():
        raise TrainingError(f"{source} contains no {LAST_NAME} to continue from")
    if given.method and Path(given.method).is_dir():
        line = f"sslfeat train {kept.method} {given.method} --extend {source}"
        raise UsageError(f"{given.method} is a folder; the method comes before the images", line)
    if given.method and given.method != kept.method:
        raise UsageError(f"{source} is a run of {kept.method}, not {given.method}: to start another method from it, use --init")
    named = {item.name for item in dataclasses.fields(TrainConfig) if getattr(given, item.name) != getattr(plain, item.name)}
    if named & {"steps", "epochs", "minutes"}:
        kept = dataclasses.replace(kept, steps=None, epochs=None, minutes=None)
    changes = {name: getattr(given, name) for name in named}
    changes["options"] = {**kept.options, **given.options}
    changes |= {"extend": str(source), "init": None, "weights": None, "init_sha256": atomic.sha256_file(source / LAST_NAME)}
    return dataclasses.replace(kept, **changes)


def beside(source: Path) -> Path:
    """Default folder for a run that extends the run ``source``."""
    folder = source if source.name not in ("", "..") else source.resolve()
    return folder.with_name(f"{folder.name}-extended")


def extended_run(source: Path, given: TrainConfig, trust_code: bool = False) -> TrainConfig:
    """``extended``, after checking that the code of the run is trusted. Raises UsageError, TrainingError."""
    if given.init:
        raise UsageError("--extend and --init exclude each other: --extend continues a run, --init uses its encoder in a new run")
    settings = extended(source.absolute(), given)
    refuse_code(settings, source / CONFIG_NAME, trust_code)
    return settings


def initial_encoder(config: TrainConfig, random: Backbone) -> Backbone:
    """The initial encoder: that of ``config.init``, or ``random``."""
    if config.init is None:
        return random
    folder = folder_of(config.init)
    if folder is None:
        from sslfeat.models.backbones.registry import build_backbone

        return build_backbone(config.init, int(config.image_size or 0), True, Path(config.weights) if config.weights else None)
    trained = load_run(folder)[0].encoder
    try:
        random.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        raise TrainingError(f"--init {config.init} does not fit {config.backbone} at {config.image_size} px: {error}") from error
    return random


def restore_method(config: TrainConfig, method: Method) -> None:
    """Load the weights of the extended run, including heads; buffers that depend on its images only if they fit."""
    if config.extend is None:
        return
    path = Path(config.extend) / LAST_NAME
    tensors, _ = read_tensors(path)
    weights = {name.removeprefix("module."): value for name, value in tensors.items() if name.startswith("module.")}
    known, parameters = method.state_dict(), dict(method.named_parameters())
    fitting = {name: value for name, value in weights.items() if name in parameters or known[name].shape == value.shape}
    try:
        method.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        raise TrainingError(f"{path} does not fit this run: {error}") from error


class Pace:
    """Learning rates of each part, and whether batch normalization in the backbone is frozen."""

    def __init__(self, config: TrainConfig, method: Method) -> None:
        self._alone = HEADS_ALONE if config.init else 0.0
        self._freeze, self.highest = config.freeze_norm, 0.0
        self._norms = [part for part in method.encoder.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]

    def apply(self, optimizer: torch.optim.Optimizer, rate: float, share: float) -> None:
        """Set the learning rates of this step, and the mode of the backbone's batch normalization."""
        alone, self.highest = share < self._alone, rate
        for group in optimizer.param_groups:
            group["lr"] = rate * (0.0 if alone and group.get("backbone") else group.get("scale", 1.0))
        if self._freeze or self._alone:
            for norm in self._norms:
                norm.train(not (alone or self._freeze))


def scale_of(config: TrainConfig, method: Method, name: str) -> tuple[bool, float]:
    """Whether a parameter belongs to the backbone, and its learning rate as a multiple of the run's."""
    inside = re.fullmatch(r"encoder\.(.+)", name)
    if not inside:
        return False, 1.0
    behind = len(method.encoder.layers) - 1 - method.encoder.stage_of(inside[1])
    return True, float(config.backbone_lr or 1.0) * float(config.layer_decay or 1.0) ** max(0, behind)
