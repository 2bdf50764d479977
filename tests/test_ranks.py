"""Several processes train as one: gradients, statistics and figures of 2 and of 4 beside those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from sslfeat.data.dataset import find_inputs
from sslfeat.models.engine.data import Images, load_images
from tests.on_ranks import CASES, encoded, made, outcome, views_of_all
from tests.processes import run_module


@pytest.fixture(scope="module")
def drawn(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Images:
    return load_images(find_inputs([image_folder]), 32, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def found(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_module("tests.on_ranks", image_folder, folder)
    return folder


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest, found: Path) -> list[dict[str, Tensor]]:
    """What each of the processes kept."""
    return [load_file(found / f"{request.param}.{rank}") for rank in range(request.param)]


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_several_processes_is_that_of_one(name: str, ranks: list[dict[str, Tensor]], drawn: Images) -> None:
    method = made(name, drawn)
    whole = outcome(method, views_of_all(method, name, drawn, len(ranks)))
    for kept in ranks:
        shared = {key.split("/", 1)[1]: value for key, value in kept.items() if key.startswith(f"{name}/")}
        assert shared.keys() == whole.keys()
        gradient, truth = shared["gradient"].double(), whole["gradient"].double()
        assert float(functional.cosine_similarity(gradient, truth, dim=0)) > 0.99999
        assert float(gradient.norm() / truth.norm()) == pytest.approx(1, abs=1e-3)
        assert torch.allclose(shared["running"], whole["running"], rtol=1e-4, atol=1e-5)
        for key in (key for key in whole if key.startswith("figure")):
            assert float(shared[key]) == pytest.approx(float(whole[key]), rel=1e-3, abs=1e-5), key


def test_ranks_that_draw_apart_train_the_mean_of_their_losses(ranks: list[dict[str, Tensor]], drawn: Images) -> None:
    """In training every rank draws directions of its own: over the same embeddings, so that they are more directions."""
    gradients = []
    for seed in range(len(ranks)):
        method = made("lejepa", drawn)
        gradients.append(outcome(method, views_of_all(method, "lejepa", drawn, len(ranks)), seed)["gradient"].double())
    truth = torch.stack(gradients).mean(0)
    assert float(functional.cosine_similarity(gradients[0], truth, dim=0)) < 0.99999  # the directions matter
    for kept in ranks:
        gradient = kept["lejepa apart/gradient"].double()
        assert float(functional.cosine_similarity(gradient, truth, dim=0)) > 0.99999
        assert float(gradient.norm() / truth.norm()) == pytest.approx(1, abs=1e-3)


def test_what_ranks_compute_apart_is_made_equal(ranks: list[dict[str, Tensor]], drawn: Images) -> None:
    """The parameters and the codebook of the first, whatever the others found."""
    first, unlike = made("patch2vec", drawn, seed=0).state_dict(), made("patch2vec", drawn, seed=1).state_dict()
    assert not all(torch.equal(first[name], unlike[name]) for name in first)
    for kept in ranks:
        equal = {key.removeprefix("equal/"): value for key, value in kept.items() if key.startswith("equal/")}
        assert equal.keys() == first.keys()
        assert all(torch.equal(equal[name], first[name]) for name in first)


def test_each_process_computes_its_share_of_the_features_and_all_have_all(ranks: list[dict[str, Tensor]], drawn: Images) -> None:
    rows, count = encoded(drawn)
    assert len(rows) == count
    for kept in ranks:
        assert torch.equal(kept["features/rows"], rows)
    shares = [int(kept["features/own"]) for kept in ranks]
    assert sum(shares) == count and max(shares) < 0.7 * count


def test_the_others_wait_for_the_first_longer_than_torch_does(tmp_path: Path) -> None:
    """And learn that it failed."""
    run_module("tests.wait_on_ranks", tmp_path)
    assert (tmp_path / "error-0").read_text() == "InputError: no such encoder"
    assert (tmp_path / "error-1").read_text() == "TrainingError: the first process failed: see its error message"
