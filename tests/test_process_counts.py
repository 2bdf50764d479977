"""One training, whatever the number of its processes, also of those that go on with it: losses and weights."""

from __future__ import annotations

import csv
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sslfeat.models.engine.data import pieces_of
from sslfeat.models.engine.draws import StepGenerator, uniform, whole_numbers
from sslfeat.models.engine.pixel_cache import PIXELS_NAME
from tests.processes import run_module
from tests.train_on_ranks import HALFWAY, STEPS


@pytest.fixture(scope="module")
def runs(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: by one process, by two, begun by one and ended by the other, and of other views."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLFEAT_CACHE", str(out / "cache"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        run_module("tests.train_on_ranks", image_folder, out, address)
    return out


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, HALFWAY, STEPS]
    return [float(row["loss"]) for row in rows]


def apart(a: Path, b: Path) -> float:
    """The distance between the weights of two runs, as a share of their length."""
    x, y = (load_file(run / "encoder.safetensors") for run in (a, b))
    weights = [name for name in x if name.endswith("weight")]
    between, whole = (sum(float(rows[n].double().square().sum()) for n in weights) for rows in ({n: x[n] - y[n] for n in x}, x))
    return float((between / whole) ** 0.5)


@pytest.mark.parametrize("name", ["two", "two then one", "one then two"])
def test_the_run_of_other_processes_is_that_of_one(name: str, runs: Path) -> None:
    """Adam steps along the sign of a gradient that is zero but for rounding, so weights agree less than losses do."""
    assert losses(runs / name) == pytest.approx(losses(runs / "one"), rel=2e-3)
    assert apart(runs / "one", runs / name) < 0.02


def test_the_losses_of_other_views_would_not_pass(runs: Path) -> None:
    assert losses(runs / "other") != pytest.approx(losses(runs / "one"), rel=2e-3)
    assert apart(runs / "one", runs / "other") > 0.02


def test_processes_share_what_is_decoded(runs: Path) -> None:
    assert len(list((runs / "cache").rglob(PIXELS_NAME))) == 1


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_piece_is_of_the_same_images_whatever_the_number_of_processes(world: int) -> None:
    batch, alone = np.arange(100, 116), pieces_of(np.arange(100, 116), 4, 0, 1)
    shares = [pieces_of(batch, 4, rank, world) for rank in range(world)]
    for number, piece in enumerate(alone):
        np.testing.assert_array_equal(np.sort(np.concatenate([share[number] for share in shares])), piece)
    uneven = [list(map(len, pieces_of(batch[:14], 3, rank, 2))) for rank in range(2)]
    assert uneven[0] == uneven[1] and sum(uneven[0]) == 7


def test_draws_of_several_processes_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of N, one for each view: image i of rank r of 3 is image 3 i + r of one process."""
    alone = StepGenerator("cpu")
    alone.reseed(5, 5)
    crops, shifts = uniform((2 * 6,), 0, 1, alone), whole_numbers((2, 6, 9), 0, 99, alone, axis=1)
    monkeypatch.setattr("sslfeat.models.engine.draws.world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr("sslfeat.models.engine.draws.rank", lambda rank=rank: rank)
        generator = StepGenerator("cpu")
        generator.reseed(100 + rank, 5)
        assert torch.equal(uniform((2 * 2,), 0, 1, generator), crops.view(2, 6)[:, rank::3].flatten())
        assert torch.equal(whole_numbers((2, 2, 9), 0, 99, generator, axis=1), shifts[:, rank::3])
