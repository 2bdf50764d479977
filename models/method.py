"""The interface of pretext methods, and their registry.

A method is one file: a frozen ``Config``, heads, ``views`` and ``loss``, registered under a name. Files in
``models/methods`` are found by name (``rotation`` in ``rotation.py``), files elsewhere by path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sslfeat.errors import TrainingError, UsageError, did_you_mean
from sslfeat.models import methods as builtin
from sslfeat.models.backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.data import Images
from sslfeat.models.own_file import check_outcome, named_faults
from sslfeat.models.ranges import check_ranges

Figures = dict[str, Tensor | float]


@dataclass(frozen=True)
class About:
    """Shown by ``sslfeat methods``: the paper, the idea in one line, and the published results."""

    paper: str
    idea: str
    published: str


@dataclass(frozen=True)
class Recipe:
    """Default hyperparameters of a method, for AdamW with warm-up and cosine decay.

    ``backbones``: defaults on a CPU and on a GPU. ``betas``: of AdamW. ``clip``: maximum gradient norm; 0: no clipping.
    """

    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-4
    backbones: tuple[str, str] = ("resnet10", "resnet18")
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 10.0


class Normalize(nn.Module):
    """Normalize pixels (N, 3, H, W) in [0, 1], by default with the mean and standard deviation of ImageNet."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.std


VIT_BACKBONES = ("vit_tiny", "vit_s_16")
Indices = npt.NDArray[np.int64]


class Method(nn.Module):
    """A pretext task for an encoder. Subclasses define ``views`` and ``loss``, and heads in ``__init__``.

    The other hooks do nothing by default; they are called by the training loop.

    Only ``input_transform`` and ``encoder`` are exported. ``input_transform`` maps pixels (N, 3, S, S) in [0, 1] to the
    input of the encoder; a method with another input (such as grayscale only) replaces it.
    """

    @dataclass(frozen=True)
    class Config:
        """Options of the method; every field needs a default."""

    recipe: ClassVar[Recipe] = Recipe()
    about: ClassVar[About] = About("not stated", "not stated", "none")
    numbers: Tensor | None = None
    """Indices of the images in the current batch, int64 (N,), for methods that store something per image."""
    share: float = 0.0
    """Completed fraction of the run, from 0 to 1."""

    def __init__(self, encoder: Backbone, config: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = config
        self.input_transform: nn.Module = Normalize(*encoder.normalization)

    @classmethod
    def build_encoder(cls, backbone: str, image_size: int, config: Any) -> Backbone:
        """Build the encoder passed to ``__init__``; override it to use an encoder that is not a backbone."""
        return build_backbone(backbone, image_size)

    @classmethod
    def depends_on(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Settings derived from the options, such as the hash of a file they name; stored with the options."""
        return {}

    @property
    def sees_whole_images(self) -> bool:
        """Whether batches contain whole images squashed to squares, with known ``images.shapes``, instead of center crops."""
        return False

    def prepare(self, images: Images) -> None:
        """Called once with all the data, before the first step and before a checkpoint is restored.

        Set up codebooks, priors and per-image buffers here. Results may depend only on the data and the config, so that a
        resumed run recomputes them; buffers set here are restored from the checkpoint.
        """

    def cycle_steps(self, steps_per_epoch: int) -> int:
        """Number of steps between two calls of ``on_cycle``."""
        return steps_per_epoch

    def on_cycle(self, images: Images, generator: torch.Generator) -> Iterable[nn.Parameter]:
        """Called before step 0 and after every cycle. Returns the parameters that were reinitialized; their optimizer
        state is reset."""
        return ()

    def choose(self, indices: Indices, generator: torch.Generator) -> Indices:
        """Image indices (B,) of the next batch, given the sampled ones. Override to sample differently."""
        return indices

    def after_step(self) -> None:
        """Called after every optimizer step, for example to update averaged weights."""

    @property
    def exported(self) -> Backbone:
        """The encoder that is evaluated and exported: ``encoder``, or an average of it."""
        return self.encoder

    def encode(self, pixels: Tensor, encoder: Backbone | None = None) -> Tensor:
        """Map pixels (N, 3, S, S) in [0, 1] to features (N, dim), with ``self.encoder`` or the given encoder."""
        with torch.autocast(pixels.device.type, enabled=False):  # bfloat16 cannot represent small differences of pixels
            seen = self.input_transform(pixels)
        features: Tensor = (self.encoder if encoder is None else encoder)(seen)
        return features

    def views(self, batch: Tensor, generator: torch.Generator) -> Any:
        """Inputs of the loss for a batch of images, uint8 (N, 3, S, S), on the batch's device."""
        raise TrainingError(f"{type(self).__name__} must define views")

    def loss(self, views: Any) -> tuple[Tensor, Figures]:
        """The scalar loss to minimize, and figures to log.

        ``accuracy`` is shown with ``chance``, and ``error`` with ``trivial``, the error of a predictor that has learned
        nothing; a run that stays at chance or at the trivial error prints a warning.
        """
        raise TrainingError(f"{type(self).__name__} must define loss")

    def forward(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Figures]:
        """Loss of one training step: ``loss(views(batch))``; views are computed in full precision."""
        with torch.autocast(batch.device.type, enabled=False):
            views = self.views(batch, generator)
        outcome = self.loss(views)
        check_outcome(type(self), outcome)
        return outcome

    def complaint(self, figures: dict[str, float]) -> str | None:
        """Describe a problem visible in the logged figures that is specific to the method (dead units, empty clusters)."""
        return None

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor | None:
        """An image (3, H, W) in [0, 1] that shows inputs and predictions for a few images of ``batch``, or None.

        Called in evaluation mode and without gradients; batch is uint8 (N, 3, S, S), N at most 8.
        """
        return None


M = TypeVar("M", bound=type[Method])
_registry: dict[str, type[Method]] = {}


def register(name: str) -> Callable[[M], M]:
    """Class decorator that registers a method under ``name``."""

    def add(method: M) -> M:
        if name in method_names() and not method.__module__.startswith(f"{builtin.__name__}."):
            raise TrainingError(
                f"{method.__qualname__} is registered as {name!r}, the name of a built-in method: choose another name"
            )
        known = _registry.get(name)
        if known is not None and known.__qualname__ != method.__qualname__:
            raise TrainingError(f"two methods are named {name!r}: {known.__qualname__} and {method.__qualname__}")
        _registry[name] = method
        return method

    return add


def method_names() -> list[str]:
    """Names of the built-in methods."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(builtin.__path__))


def file_sha256(method: str) -> str | None:
    """sha256 of the Python file ``method``; None for a built-in method. Raises UsageError."""
    if not method.endswith(".py"):
        return None
    try:
        return hashlib.sha256(Path(method).read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{method} cannot be read ({error.strerror}): give the name of a method or a Python file") from error


def find_method(name: str) -> type[Method]:
    """The method named ``name``, or the one registered by the Python file ``name``, whose code is executed.

    Raises UsageError for an unknown name, TrainingError for a file that does not register exactly one method.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    if name not in _registry and name in method_names():
        importlib.import_module(f"{builtin.__name__}.{name.replace('-', '_')}")
    if name not in _registry:
        known = sorted({*method_names(), *_registry})
        cure = did_you_mean(name, known)
        raise UsageError(
            f"unknown method {name!r}: choose one of {', '.join(known)}, or give a .py file that registers a method", cure
        )
    return _registry[name]


def make_config(method: type[Method], options: Mapping[str, Any]) -> Any:
    """The method's ``Config`` with ``options`` set; text is converted to the type of the field. Raises UsageError."""
    fields = {field.name: field for field in dataclasses.fields(method.Config)}
    unknown = sorted(set(options) - set(fields))
    if unknown:
        near = did_you_mean(unknown[0], fields)
        others = [] if near else [name for name in method_names() if unknown[0] in vars(find_method(name).Config())]
        raise UsageError(
            f"{method.__name__} has no option {', '.join(unknown)}; its options are: {', '.join(fields) or 'none'}",
            near or (f"{unknown[0]} is an option of {', '.join(others)}" if others else ""),
        )
    config = method.Config(**{name: _convert(name, value, fields[name].default) for name, value in options.items()})
    check_ranges(config)
    return config


def _convert(name: str, value: Any, default: Any) -> Any:
    kind = type(default)
    try:
        if kind is bool and isinstance(value, str):
            return {"true": True, "false": False}[value.lower()]
        return kind(value)
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"option {name} is {value!r}: must be of type {kind.__name__}, such as {default!r}") from None


def _from_file(path: Path) -> type[Method]:
    if not path.is_file():
        raise UsageError(f"{path} does not exist: give the name of a method or a Python file that registers one")
    spec = importlib.util.spec_from_file_location(f"sslfeat method {path.resolve()}", path)
    if spec is None or spec.loader is None:
        raise TrainingError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look up their annotations there
    with named_faults(str(path)):
        spec.loader.exec_module(module)
    added = [method for method in _registry.values() if method.__module__ == module.__name__]
    if len(added) != 1:
        raise TrainingError(f"{path} registers {len(added)} methods: decorate exactly one class with @register(name)")
    return added[0]
