"""What tests of targets export: encoders of two kinds, and images to compare on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sslfeat.data.synthetic import draw_samples
from sslfeat.export.sources import Origin, origin
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.trainer import train

__all__ = ["many", "origins"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "images"
    draw_samples(folder, 80, seed=7)
    return folder


@pytest.fixture(scope="module")
def origins(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Origin]:
    """The shipped ResNet, and a small ViT, trained for a moment and exported once."""
    made: dict[str, Origin] = {}

    def of(kind: str) -> Origin:
        if kind not in made and kind == "resnet":
            made[kind] = origin("sslfeat-small")
        elif kind not in made:
            run = tmp_path_factory.mktemp("runs") / kind
            settings = TrainConfig("mae", (str(many),), "vit_tiny", image_size=32, batch_size=16, steps=20, accelerator="cpu")
            train(settings, run)
            made[kind] = origin(str(run))
        return made[kind]

    return of
