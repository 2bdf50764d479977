"""Everything that decides a training run, in one place: kept as config.yaml, enough to repeat the run."""

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
INIT_BACKBONE_LR, INIT_LAYER_DECAY = 0.2, 0.7  # of weights that exist
LEAST = {"image_size": 8, "batch_size": 2, "accumulate": 1, **dict.fromkeys(ZERO_OR_MORE, 0)}
ALLOWED = {"accelerator": ("auto", "cpu", "cuda"), "precision": ("32-true", "bf16-mixed"), "keep": ("last", "best")}


@dataclass(frozen=True)
class TrainConfig:
    """A run's settings. ``None`` means: chosen from the data and the machine by ``with_defaults``.

    The run ends at the first of ``steps``, ``epochs`` and ``minutes`` (of training, after loading) that is reached.
    ``accumulate`` splits each batch into so many pieces, which are batches of their own to contrast and batch statistics.
    ``clip``: largest norm of the gradient, 0 for any. ``compile`` names a torch.compile backend, ``probe_data`` a
    labeled folder to judge by while training. ``inputs_sha256`` is of the names and contents of the images (``identity``),
    ``method_sha256`` of the Python file that ``method`` names, if it names one.

    ``init`` names the weights that the encoder begins from (a run folder, an encoder in the box, ``timm/NAME``,
    ``torchvision/NAME``; ``weights``: the file that the latter's are in), ``extend`` a run folder that is gone on with;
    ``init_sha256`` is of them. ``backbone_lr``: the backbone's learning rate in units of ``lr``, multiplied by ``layer_decay``
    for each layer behind; ``freeze_norm``: its batch statistics stay. ``keep``: the ``last`` weights, or the ``best`` by the
    probe's nearest neighbors. ``exclude`` are globs of images to leave out.
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
        """The images to train on. Raises InputError if there are none."""
        return find_inputs(self.images, "none", self.exclude, note)

    def to_yaml(self) -> str:
        """YAML with the fields in the order of this class."""
        return yaml.safe_dump(self._plain(), sort_keys=False, allow_unicode=True)

    def _plain(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "images": list(self.images), "exclude": list(self.exclude)}

    def sha256(self) -> str:
        """Hash of what decides the weights: of files the names and contents, not where they lie."""
        named = bool(self.init) and self.init_sha256 is None  # published weights have a name, others contents
        placeless = dataclasses.replace(
            self, images=(), probe_data=None, method=self.method_name, extend=None, init=self.init if named else None
        )
        values = {name: value for name, value in placeless._plain().items() if name not in ("exclude", "weights")}
        return hashlib.sha256(yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()).hexdigest()

    @property
    def method_name(self) -> str:
        """The method's name, for a Python file without its folder."""
        return Path(self.method).name if self.method.endswith(".py") else self.method


def load_config(path: Path) -> TrainConfig:
    """Read a config.yaml. Raises TrainingError naming the file and what is wrong in it."""
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
    """Whether a file's value has the type of the field ``name``."""
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
    """Fill what was left open, knowing the number of images and their typical size in px.

    Raises UsageError for values that cannot work.
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
    """The recipe's, less for few images; as many for each process, and two for each of its pieces."""
    processes = process_count()
    least = 2 * max(1, accumulate) * processes
    return max(least, min(recipe.batch_size, count // 4) // processes * processes)


def uses_gpu(config: TrainConfig) -> bool:
    """Whether the run takes the GPU: if there is one and ``accelerator`` is not ``cpu``."""
    return torch.cuda.is_available() and config.accelerator != "cpu"


def multiplies_bf16(gpu: bool) -> bool:
    """Whether the GPU, or the processor, gains by bfloat16.

    A processor does with matrix tiles (AMX) or AVX-512's bfloat16 (benchmarks/precision.py).
    """
    if gpu:
        return bool(torch.cuda.is_bf16_supported())
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 cannot tell
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def _check_values(config: TrainConfig, count: int) -> None:
    for name, least in LEAST.items():
        value = getattr(config, name)
        if value is not None and not least <= value < math.inf:  # NaN is neither
            raise UsageError(f"{name} is {value}: it must be at least {least}")
    for name, allowed in ALLOWED.items():
        if getattr(config, name) not in allowed:
            raise UsageError(f"{name} is {getattr(config, name)!r}: it can be {', '.join(allowed)}")
    if config.keep == "best" and not config.probe_data:
        raise UsageError("keep='best' judges by labeled images", "give class folders with --probe-data (probe_data= in Python)")
    if config.accelerator == "cuda" and not torch.cuda.is_available():
        raise UsageError("torch sees no GPU here", "use --provider cpu (accelerator='cpu' in Python)")
    if count < 2:
        raise UsageError(f"there is {counted(count, 'image')}: training needs at least 2, and some thousands to learn much")
    batch_size, processes = int(config.batch_size or 0), process_count()
    if batch_size % processes:
        raise UsageError(f"batch_size {batch_size}: {processes} processes take equal parts, choose a multiple of them")
    if batch_size < 2 * config.accumulate * processes:
        raise UsageError(f"accumulate {config.accumulate}: pieces of batch_size {batch_size} need 2 images each")
    if int(config.batch_size or 0) > count:
        raise UsageError(f"batch_size {config.batch_size} is more than the {count} images: choose a smaller one")


def _with_budget(config: TrainConfig, gpu: bool) -> TrainConfig:
    if config.steps is not None or config.epochs is not None or config.minutes is not None:
        return config
    return dataclasses.replace(config, epochs=100) if gpu else dataclasses.replace(config, minutes=30)


def check_same(requested: TrainConfig, kept: TrainConfig, run: Path) -> None:
    """Raise TrainingError naming the first setting in which a resumed run would differ from the one begun.

    Where images, probe set, weights and a method's file lie may change; what is in them is compared by ``identity``.
    """
    if requested.method_name != kept.method_name:
        raise TrainingError(f"{run} was begun with {kept.method}, not {requested.method}", "choose another folder")
    may_differ = ("images", "exclude", "probe_data", "inputs_sha256", "method", "method_sha256", "weights")
    for name in (item.name for item in dataclasses.fields(TrainConfig) if item.name not in may_differ):
        if getattr(requested, name) != getattr(kept, name):
            raise TrainingError(
                f"{run} was begun with {name} = {getattr(kept, name)!r}, now it is {getattr(requested, name)!r}: "
                "resume with the same settings, or choose another folder"
            )


def save_config(config: TrainConfig, run: Path) -> None:
    """Write ``run/config.yaml``."""
    atomic.write_atomic(run / CONFIG_NAME, config.to_yaml().encode())
