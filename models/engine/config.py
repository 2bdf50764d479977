"""All settings of a training run, saved as config.yaml, which is sufficient to repeat the run."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from sslfeat.data.dataset import ImageRecord, Note, find_inputs, silent
from sslfeat.errors import TrainingError, UsageError
from sslfeat.models.engine.distributed import process_count
from sslfeat.models.method import Recipe
from sslfeat.storage import atomic
from sslfeat.system.plurals import counted

CONFIG_NAME = "config.yaml"
ZERO_OR_MORE = ("lr", "weight_decay", "seed", "steps", "epochs", "minutes", "clip", "backbone_lr", "layer_decay")
FRACTIONS = ("lr", "weight_decay", "epochs", "minutes", "clip", "backbone_lr", "layer_decay")
INIT_BACKBONE_LR, INIT_LAYER_DECAY = 0.2, 0.7  # defaults with --init
LEAST = {"image_size": 8, "batch_size": 2, "accumulate": 1, **dict.fromkeys(ZERO_OR_MORE, 0)}
ALLOWED = {"accelerator": ("auto", "cpu", "cuda"), "precision": ("32-true", "bf16-mixed"), "keep": ("last", "best")}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run. ``None``: set from the data and the machine by ``with_defaults``.

    The run ends when the first of ``steps``, ``epochs`` and ``minutes`` (of training, after loading) is reached.
    ``accumulate`` splits each batch into pieces; contrastive losses and batch statistics are computed per piece.
    ``clip``: maximum gradient norm, 0 for none. ``compile``: a torch.compile backend. ``probe_data``: a labeled folder for
    evaluation during training. ``inputs_sha256``: hash of the names and contents of the images (``identity``).
    ``method_sha256``: hash of the Python file ``method``, if it is one.

    ``init``: initial weights of the encoder (a run folder, a shipped encoder, ``timm/NAME``, ``torchvision/NAME``);
    ``weights``: file with the weights of the latter two; ``extend``: a run folder to continue; ``init_sha256``: hash of these
    weights. ``backbone_lr``: learning rate of the backbone as a multiple of ``lr``, multiplied by ``layer_decay`` for each
    following layer; ``freeze_norm``: freeze its batch statistics. ``keep``: the ``last`` weights, or the ``best`` by the
    kNN accuracy of the probe. ``exclude``: globs of images to exclude.
    """

    method: str
    images: tuple[str, ...]
    backbone: str | None = None
    image_size: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    seed: int = 0
    accelerator: str = "auto"
    precision: str | None = None
    accumulate: int = 1
    compile: str | None = None
    probe_data: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    inputs_sha256: str | None = None
    method_sha256: str | None = None
    clip: float | None = None
    init: str | None = None
    extend: str | None = None
    init_sha256: str | None = None
    backbone_lr: float | None = None
    layer_decay: float | None = None
    freeze_norm: bool = False
    keep: str = "last"
    exclude: tuple[str, ...] = ()
    weights: str | None = None

    def inputs(self, note: Note = silent) -> list[ImageRecord]:
        """The training images. Raises InputError if there are none."""
        return find_inputs(self.images, "none", self.exclude, note)

    def to_yaml(self) -> str:
        """YAML with the fields in the order of this class."""
        return yaml.safe_dump(self._plain(), sort_keys=False, allow_unicode=True)

    def _plain(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "images": list(self.images), "exclude": list(self.exclude)}

    def sha256(self) -> str:
        """Hash of the settings that determine the weights: names and contents of files, not their location."""
        named = bool(self.init) and self.init_sha256 is None  # pretrained weights are identified by name, others by content
        placeless = dataclasses.replace(
            self, images=(), probe_data=None, method=self.method_name, extend=None, init=self.init if named else None
        )
        values = {name: value for name, value in placeless._plain().items() if name not in ("exclude", "weights")}
        return hashlib.sha256(yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()).hexdigest()

    @property
    def method_name(self) -> str:
        """Name of the method; for a Python file, without its folder."""
        return Path(self.method).name if self.method.endswith(".py") else self.method


def load_config(path: Path) -> TrainConfig:
    """Read a config.yaml. Raises TrainingError naming the file and the error."""
    try:
        values = yaml.safe_load(path.read_text())
        config = TrainConfig(**{**values, **{name: tuple(values.get(name, ())) for name in ("images", "exclude")}})
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, TypeError, KeyError, ValueError, RecursionError) as error:
        raise TrainingError(f"{path} is not a training config: {error}") from error
    for name, value in vars(config).items():
        if not _fits(name, value):
            raise TrainingError(f"{path}: {name} is {value!r}")
    return config


def _fits(name: str, value: Any) -> bool:
    """Whether a value from a file has the type of the field ``name``."""
    if value is None:
        return name not in ("method", "seed", "accelerator", "accumulate", "freeze_norm", "keep")
    if name in ("images", "exclude"):
        return all(isinstance(spec, str) for spec in value)
    if name == "freeze_norm":
        return isinstance(value, bool)
    if name == "options":
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if name in LEAST:
        return isinstance(value, (int, float) if name in FRACTIONS else int) and not isinstance(value, bool)
    return isinstance(value, str)


def with_defaults(config: TrainConfig, recipe: Recipe, count: int, typical_size: int) -> TrainConfig:
    """Fill in the open settings, given the number of images and their typical size in px.

    Raises UsageError for invalid values.
    """
    gpu = uses_gpu(config)
    image_size = config.image_size
    if image_size is None:
        image_size = typical_size if gpu else min(typical_size, 96)
    batch_size = _batch_size(recipe, config.accumulate, count) if config.batch_size is None else config.batch_size
    filled = dataclasses.replace(
        config,
        backbone=config.backbone or recipe.backbones[gpu],
        image_size=image_size,
        batch_size=batch_size,
        lr=recipe.lr if config.lr is None else config.lr,
        weight_decay=recipe.weight_decay if config.weight_decay is None else config.weight_decay,
        clip=recipe.clip if config.clip is None else config.clip,
        backbone_lr=_or(config.backbone_lr, INIT_BACKBONE_LR if config.init else 1.0),
        layer_decay=_or(config.layer_decay, INIT_LAYER_DECAY if config.init else 1.0),
        precision=config.precision or ("bf16-mixed" if multiplies_bf16(gpu) else "32-true"),
    )
    filled = _with_budget(filled, gpu)
    _check_values(filled, count)
    return filled


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _batch_size(recipe: Recipe, accumulate: int, count: int) -> int:
    """The recipe's batch size, reduced for few images; a multiple of the processes, with at least two images per piece."""
    processes = process_count()
    least = 2 * max(1, accumulate) * processes
    return max(least, min(recipe.batch_size, count // 4) // processes * processes)


def uses_gpu(config: TrainConfig) -> bool:
    """Whether to use the GPU: if there is one and ``accelerator`` is not ``cpu``."""
    return torch.cuda.is_available() and config.accelerator != "cpu"


def multiplies_bf16(gpu: bool) -> bool:
    """Whether bfloat16 is faster on the GPU, or on the processor.

    It is on processors with matrix tiles (AMX) or AVX-512 BF16 (benchmarks/precision.py).
    """
    if gpu:
        return bool(torch.cuda.is_bf16_supported())
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not available in torch 2.10
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def _check_values(config: TrainConfig, count: int) -> None:
    for name, least in LEAST.items():
        value = getattr(config, name)
        if value is not None and not least <= value < math.inf:  # also rejects NaN
            raise UsageError(f"{name} is {value}: it must be at least {least}")
    for name, allowed in ALLOWED.items():
        if getattr(config, name) not in allowed:
            raise UsageError(f"{name} is {getattr(config, name)!r}: must be one of {', '.join(allowed)}")
    if config.keep == "best" and not config.probe_data:
        raise UsageError("keep='best' needs labeled images", "give class folders with --probe-data (probe_data= in Python)")
    if config.accelerator == "cuda" and not torch.cuda.is_available():
        raise UsageError("torch finds no GPU", "use --provider cpu (accelerator='cpu' in Python)")
    if count < 2:
        raise UsageError(f"there is {counted(count, 'image')}: training needs at least 2, and thousands for good features")
    batch_size, processes = int(config.batch_size or 0), process_count()
    if batch_size % processes:
        raise UsageError(f"batch_size {batch_size} must be a multiple of the number of processes, {processes}")
    if batch_size < 2 * config.accumulate * processes:
        raise UsageError(f"accumulate {config.accumulate}: each piece of batch_size {batch_size} needs at least 2 images")
    if int(config.batch_size or 0) > count:
        raise UsageError(f"batch_size {config.batch_size} is larger than the number of images, {count}: choose a smaller one")


def _with_budget(config: TrainConfig, gpu: bool) -> TrainConfig:
    if config.steps is not None or config.epochs is not None or config.minutes is not None:
        return config
    return dataclasses.replace(config, epochs=100) if gpu else dataclasses.replace(config, minutes=30)


def check_same(requested: TrainConfig, kept: TrainConfig, run: Path) -> None:
    """Raise TrainingError naming the first setting in which a resumed run would differ from the original one.

    Locations of images, probe set, weights and a method's file may change; their contents are compared by ``identity``.
    """
    if requested.method_name != kept.method_name:
        raise TrainingError(f"{run} was started with {kept.method}, not {requested.method}", "choose another folder")
    may_differ = ("images", "exclude", "probe_data", "inputs_sha256", "method", "method_sha256", "weights")
    for name in (item.name for item in dataclasses.fields(TrainConfig) if item.name not in may_differ):
        if getattr(requested, name) != getattr(kept, name):
            raise TrainingError(
                f"{run} was started with {name} = {getattr(kept, name)!r}, but now it is {getattr(requested, name)!r}: "
                "resume with the same settings, or choose another folder"
            )


def save_config(config: TrainConfig, run: Path) -> None:
    """Write ``run/config.yaml``."""
    atomic.write_atomic(run / CONFIG_NAME, config.to_yaml().encode())
