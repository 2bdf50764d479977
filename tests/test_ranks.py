"""Several processes train as one: gradients, statistics and figures of 2 and of 4 beside those of one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from sslfeat.data.dataset import find_inputs
from sslfeat.models.engine.data import Images, load_images
from sslfeat.models.method import method_names
from tests.on_ranks import BLOCKS, joined, made, outcome, views_of


@pytest.fixture(scope="module")
def drawn(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Images:
    return load_images(find_inputs([image_folder]), 32, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", params=[2, 4])
def ranks(
    request: pytest.FixtureRequest, image_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Tensor]]:
    """What each of the processes kept."""
    out, world = tmp_path_factory.mktemp("ranks") / "kept", int(request.param)
    command = [sys.executable, "-m", "tests.on_ranks"]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(image_folder), str(out)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(world)
    ]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0] * world, said
    return [load_file(f"{out}.{rank}") for rank in range(world)]


@pytest.mark.parametrize("name", method_names())
def test_the_gradient_of_several_processes_is_that_of_one(
    name: str, ranks: list[dict[str, Tensor]], drawn: Images
) -> None:
    method = made(name, drawn)
    views = joined([views_of(method, drawn, rank, len(ranks)) for rank in range(len(ranks))], BLOCKS.get(name, 1))
    whole = outcome(method, views)
    for kept in ranks:
        shared = {key.split("/", 1)[1]: value for key, value in kept.items() if key.startswith(f"{name}/")}
        assert shared.keys() == whole.keys()
        gradient, truth = shared["gradient"].double(), whole["gradient"].double()
        assert float(functional.cosine_similarity(gradient, truth, dim=0)) > 0.99999
        assert float(gradient.norm() / truth.norm()) == pytest.approx(1, abs=1e-3)
        assert torch.allclose(shared["running"], whole["running"], rtol=1e-4, atol=1e-5)
        for key in (key for key in whole if key.startswith("figure")):
            assert float(shared[key]) == pytest.approx(float(whole[key]), rel=1e-3, abs=1e-5), key


def test_what_ranks_compute_apart_is_made_equal(ranks: list[dict[str, Tensor]], drawn: Images) -> None:
    """The parameters and the codebook of the first, whatever the others found."""
    first, unlike = made("patch2vec", drawn, seed=0).state_dict(), made("patch2vec", drawn, seed=1).state_dict()
    assert not all(torch.equal(first[name], unlike[name]) for name in first)
    for kept in ranks:
        equal = {key.removeprefix("equal/"): value for key, value in kept.items() if key.startswith("equal/")}
        assert equal.keys() == first.keys()
        assert all(torch.equal(equal[name], first[name]) for name in first)
