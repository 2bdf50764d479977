"""Everything that decides a training run, in one place: kept as config.yaml, enough to repeat the run."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from sslfeat import store
from sslfeat.errors import TrainingError
from sslfeat.models.method import Recipe

CONFIG_NAME = "config.yaml"


@dataclass(frozen=True)
class TrainConfig:
    """A run's settings. ``None`` means: chosen from the data and the machine by ``with_defaults``.

    The run ends at the first of ``steps``, ``epochs`` and ``minutes`` (of training, after loading) that is reached.
    ``inputs_sha256`` is the digest of the list of pictures.
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
    options: dict[str, Any] = field(default_factory=dict)
    inputs_sha256: str | None = None

    def to_yaml(self) -> str:
        """YAML with the fields in the order of this class."""
        values = {**dataclasses.asdict(self), "images": list(self.images)}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    def sha256(self) -> str:
        """Hash of all settings but the pictures' location, so that it says nothing about the machine."""
        return hashlib.sha256(dataclasses.replace(self, images=()).to_yaml().encode()).hexdigest()


def load_config(path: Path) -> TrainConfig:
    """Read a config.yaml. Raises TrainingError naming the file and what is wrong in it."""
    try:
        values = yaml.safe_load(path.read_text())
        return TrainConfig(**{**values, "images": tuple(values["images"])})
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} is not a training config: {error}") from error


def with_defaults(config: TrainConfig, recipe: Recipe, count: int, typical_size: int) -> TrainConfig:
    """Fill what was left open, knowing the number of pictures and their typical size in px.

    Raises TrainingError for values that cannot work.
    """
    gpu = torch.cuda.is_available() and config.accelerator != "cpu"
    image_size = config.image_size or (typical_size if gpu else min(typical_size, 96))
    batch_size = config.batch_size or max(2, min(recipe.batch_size, count // 4))
    budget = {"steps": config.steps, "epochs": config.epochs, "minutes": config.minutes}
    if not any(value is not None for value in budget.values()):
        budget["epochs" if gpu else "minutes"] = 100 if gpu else 30
    filled = dataclasses.replace(
        config,
        backbone=config.backbone or ("resnet18" if gpu else "resnet10"),
        image_size=image_size,
        batch_size=batch_size,
        lr=recipe.lr if config.lr is None else config.lr,
        weight_decay=recipe.weight_decay if config.weight_decay is None else config.weight_decay,
        precision=config.precision or ("bf16-mixed" if gpu and torch.cuda.is_bf16_supported() else "32-true"),
        **budget,
    )
    for name, least in {"image_size": 8, "batch_size": 2, "lr": 0, "weight_decay": 0, "seed": 0, **dict.fromkeys(budget, 0)}.items():
        value = getattr(filled, name)
        if value is not None and value < least:
            raise TrainingError(f"{name} is {value}: it must be at least {least}")
    if batch_size > count:
        raise TrainingError(f"batch_size {batch_size} is more than the {count} pictures: choose a smaller --batch-size")
    return filled


def check_same(asked: TrainConfig, kept: TrainConfig, run: Path) -> None:
    """Raise TrainingError naming the first field in which a resumed run would differ from the one begun."""
    for name in (item.name for item in dataclasses.fields(TrainConfig) if item.name != "images"):
        if getattr(asked, name) != getattr(kept, name):
            raise TrainingError(
                f"{run} was begun with {name} = {getattr(kept, name)!r}, now it is {getattr(asked, name)!r}: "
                "resume with the same settings, or choose another --out"
            )


def save_config(config: TrainConfig, run: Path) -> None:
    """Write ``run/config.yaml``."""
    store.write_atomic(run / CONFIG_NAME, config.to_yaml().encode())
