"""What a pretext method is, and where methods are found.

A method is one file: a frozen ``Config``, heads, ``views`` and ``loss``, registered under a name. Files in
``models/methods`` are found by their name, ``rotation`` in ``rotation.py``; a file anywhere else by its path.
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
    """For ``sslfeat methods``: the paper, the idea in one line, and the figures it published."""

    paper: str
    idea: str
    published: str


@dataclass(frozen=True)
class Recipe:
    """What suits a method unless the user says otherwise, for AdamW with warm-up and cosine decay.

    ``backbones`` are the defaults on a CPU and on a GPU; ``betas`` are AdamW's; ``clip`` is the gradient's largest norm,
    0 for any.
    """

    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-4
    backbones: tuple[str, str] = ("resnet10", "resnet18")
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 10.0


class Normalize(nn.Module):
    """Pixels (N, 3, H, W) in [0, 1] to zero mean and unit variance, on ImageNet unless said otherwise."""

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
    """A pretext task around an encoder. Subclasses define ``views`` and ``loss``, and heads in ``__init__``.

    The other hooks have defaults that do nothing; the training loop says when each is called.

    Only ``input_transform`` and ``encoder`` are exported. ``input_transform`` brings pixels (N, 3, S, S) in [0, 1]
    to what the encoder was trained on; a method that feeds it anything else (gray only, say) replaces it.
    """

    @dataclass(frozen=True)
    class Config:
        """A method's own options; each field needs a default."""

    recipe: ClassVar[Recipe] = Recipe()
    about: ClassVar[About] = About("not stated", "not stated", "none")
    numbers: Tensor | None = None
    """Which images the batch at hand holds, int64 (N,): for methods that keep something of every image."""
    share: float = 0.0
    """How much of the run is done, from 0 to 1."""

    def __init__(self, encoder: Backbone, config: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = config
        self.input_transform: nn.Module = Normalize(*encoder.normalization)

    @classmethod
    def build_encoder(cls, backbone: str, image_size: int, config: Any) -> Backbone:
        """The encoder that ``__init__`` is given; a method whose encoder is no usual backbone makes its own."""
        return build_backbone(backbone, image_size)

    @classmethod
    def depends_on(cls, options: dict[str, Any]) -> dict[str, Any]:
        """What decides the run besides the options, such as the hash of a file that they name; kept with them."""
        return {}

    @property
    def sees_whole_images(self) -> bool:
        """Whether batches are of whole images squashed to squares, whose ``images.shapes`` are known; else of their centers."""
        return False

    def prepare(self, images: Images) -> None:
        """Called once, before the first step and before a checkpoint is restored, with all the data.

        The place for codebooks, priors and buffers as long as the data. What it computes must follow from the data and
        the config alone, so that a resumed run computes it again; buffers it sets are restored from the checkpoint.
        """

    def cycle_steps(self, steps_per_epoch: int) -> int:
        """How many steps lie between two calls of ``on_cycle``."""
        return steps_per_epoch

    def on_cycle(self, images: Images, generator: torch.Generator) -> Iterable[nn.Parameter]:
        """Called before step 0 and after every cycle. Returns the parameters that start afresh: the optimizer forgets
        what it knew about them."""
        return ()

    def choose(self, indices: Indices, generator: torch.Generator) -> Indices:
        """The image numbers (B,) of the next batch, given those drawn: a method may prefer others."""
        return indices

    def after_step(self) -> None:
        """Called after every step of the optimizer: the place for averages of the weights."""

    @property
    def exported(self) -> Backbone:
        """The encoder that is looked at and kept: ``encoder``, or an average of it."""
        return self.encoder

    def encode(self, pixels: Tensor, encoder: Backbone | None = None) -> Tensor:
        """Pixels (N, 3, S, S) in [0, 1] to features (N, dim), by ``self.encoder`` or another."""
        with torch.autocast(pixels.device.type, enabled=False):  # differences of pixels drown in bfloat16
            seen = self.input_transform(pixels)
        features: Tensor = (self.encoder if encoder is None else encoder)(seen)
        return features

    def views(self, batch: Tensor, generator: torch.Generator) -> Any:
        """What the loss needs of a batch of images, uint8 (N, 3, S, S), drawn on the batch's device."""
        raise TrainingError(f"{type(self).__name__} defines no views, which every method does")

    def loss(self, views: Any) -> tuple[Tensor, Figures]:
        """The scalar to minimize, and figures to log.

        ``accuracy`` and ``chance`` are shown side by side, and so are ``error`` and ``trivial``, the same error of a
        predictor that learned nothing; a run that stays at chance or at the trivial error is warned about.
        """
        raise TrainingError(f"{type(self).__name__} defines no loss, which every method does")

    def forward(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Figures]:
        """One training step's loss: ``loss(views(batch))``; images keep full precision whatever the network uses."""
        with torch.autocast(batch.device.type, enabled=False):
            views = self.views(batch, generator)
        outcome = self.loss(views)
        check_outcome(type(self), outcome)
        return outcome

    def complaint(self, figures: dict[str, float]) -> str | None:
        """What is wrong, judged by the logged figures, in the method's own terms (dead units, empty clusters)."""
        return None

    def preview(self, batch: Tensor, generator: torch.Generator) -> Tensor | None:
        """An image (3, H, W) in [0, 1] of what the method sees and predicts for a few of ``batch``, or nothing.

        Called in evaluation mode and without gradients; batch is uint8 (N, 3, S, S), N at most 8.
        """
        return None


M = TypeVar("M", bound=type[Method])
_registry: dict[str, type[Method]] = {}


def register(name: str) -> Callable[[M], M]:
    """Class decorator: make a method known by ``name``."""

    def add(method: M) -> M:
        if name in method_names() and not method.__module__.startswith(f"{builtin.__name__}."):
            raise TrainingError(
                f"{method.__qualname__} is registered as {name!r}, which comes with sslfeat: give it another name"
            )
        known = _registry.get(name)
        if known is not None and known.__qualname__ != method.__qualname__:
            raise TrainingError(f"two methods are called {name!r}: {known.__qualname__} and {method.__qualname__}")
        _registry[name] = method
        return method

    return add


def method_names() -> list[str]:
    """Names of the methods that come with sslfeat."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(builtin.__path__))


def file_sha256(method: str) -> str | None:
    """sha256 of the Python file that ``method`` names, None for a method that comes with sslfeat. Raises UsageError."""
    if not method.endswith(".py"):
        return None
    try:
        return hashlib.sha256(Path(method).read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{method} cannot be read ({error.strerror}): a method is a name or a Python file") from error


def find_method(name: str) -> type[Method]:
    """The method called ``name``, or the one that the Python file ``name`` registers: that file's code is run.

    Raises UsageError for a name that is not known, TrainingError for a file that registers no method.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    if name not in _registry and name in method_names():
        importlib.import_module(f"{builtin.__name__}.{name.replace('-', '_')}")
    if name not in _registry:
        known = sorted({*method_names(), *_registry})
        cure = did_you_mean(name, known)
        raise UsageError(
            f"unknown method {name!r}: one of {', '.join(known)}, or the path of a .py file that registers one", cure
        )
    return _registry[name]


def make_config(method: type[Method], options: Mapping[str, Any]) -> Any:
    """The method's ``Config`` with ``options`` set; text is converted to the field's type. Raises UsageError."""
    fields = {field.name: field for field in dataclasses.fields(method.Config)}
    unknown = sorted(set(options) - set(fields))
    if unknown:
        near = did_you_mean(unknown[0], fields)
        others = [] if near else [name for name in method_names() if unknown[0] in vars(find_method(name).Config())]
        raise UsageError(
            f"{method.__name__} has no option {', '.join(unknown)}: it has {', '.join(fields) or 'none'}",
            near or (f"{unknown[0]} belongs to {', '.join(others)}" if others else ""),
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
        raise UsageError(f"option {name} is {value!r}: it takes a {kind.__name__}, such as {default!r}") from None


def _from_file(path: Path) -> type[Method]:
    if not path.is_file():
        raise UsageError(f"{path} does not exist: a method is a name or a Python file that registers one")
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
