"""What holds for every method: determinism, resume, export, figures, a word of its own."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sslfeat.cli.methods import method_help
from sslfeat.data.dataset import find_inputs
from sslfeat.export.from_run import Labels, export_run
from sslfeat.models.engine.checkpoint import read_tensors
from sslfeat.models.engine.config import TrainConfig, load_config
from sslfeat.models.engine.data import Images, load_images, to_batch
from sslfeat.models.engine.draws import StepGenerator
from sslfeat.models.engine.frozen import build_method, load_run
from sslfeat.models.engine.setup import seed_step
from sslfeat.models.engine.trainer import train
from sslfeat.models.method import VIT_BACKBONES, Method, Recipe, find_method, method_names

REMEMBER = ("dino", "moco")  # what earlier batches were like, from step to step
OPTIONS = {
    "deepcluster": {"sobel": "true"},  # the filter is to be in the graph
    "distill": {"teacher": "sslfeat-small"},
}
EVERY = pytest.mark.parametrize("name", method_names())


@pytest.fixture(scope="module")
def drawn(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Images:
    return load_images(find_inputs([image_folder]), 32, tmp_path_factory.mktemp("cache"))


def settings(name: str, image_folder: Path) -> TrainConfig:
    usual = find_method(name).recipe.backbones
    backbone = {VIT_BACKBONES: "vit_tiny", Recipe().backbones: "resnet10_w8"}.get(usual, usual[0])
    config = TrainConfig(name, (str(image_folder),), backbone, 32, 8, steps=12, accelerator="cpu")
    return dataclasses.replace(config, options=OPTIONS.get(name, {}))


def made(name: str, image_folder: Path, drawn: Images) -> Method:
    method = build_method(settings(name, image_folder))
    method.prepare(drawn)
    list(method.on_cycle(drawn, torch.Generator().manual_seed(0)))
    return method


def batch_of(method: Method, drawn: Images) -> torch.Tensor:
    numbers = np.arange(0, 40, 5)
    method.numbers = torch.from_numpy(numbers)
    return to_batch(drawn.pixels, numbers, torch.device("cpu"))


@EVERY
def test_views_follow_from_the_seed_and_gradients_reach_the_encoder(name: str, image_folder: Path, drawn: Images) -> None:
    method = made(name, image_folder, drawn)
    batch = batch_of(method, drawn)
    losses = []
    if name in REMEMBER:
        method(batch, torch.Generator().manual_seed(0))  # a queue is empty at first
    memory = [buffer for key, buffer in method.named_buffers() if key == "center" or key.startswith("queue.")]
    before = [buffer.clone() for buffer in memory]
    for seed in (1, 1, 2):
        if name in REMEMBER:
            assert memory
            for buffer, value in zip(memory, before, strict=True):
                buffer.copy_(value)
        torch.manual_seed(seed)
        losses.append(method(batch, torch.Generator().manual_seed(seed))[0])
    first, again, other = losses
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    method.zero_grad()
    first.backward()
    gradients = [parameter.grad for parameter in method.encoder.parameters() if parameter.requires_grad]
    # without exception: several processes wait for each parameter that is trained
    assert all(gradient is not None for gradient in gradients)
    if name != "patch2vec":  # whose second half begins at zero, as in word2vec
        assert all(bool(gradient.any()) for gradient in gradients if gradient is not None)


@EVERY
def test_figures_stand_beside_what_learning_nothing_gives(name: str, image_folder: Path, drawn: Images) -> None:
    method = made(name, image_folder, drawn)
    loss, figures = method(batch_of(method, drawn), torch.Generator().manual_seed(0))
    assert loss.dtype == torch.float32
    assert {"accuracy", "chance"} <= figures.keys() or {"error", "trivial"} <= figures.keys()
    values = {key: float(value) for key, value in figures.items()}
    assert all(np.isfinite(list(values.values())))
    method.complaint(values)


@EVERY
def test_half_precision_and_batches_in_pieces(name: str, image_folder: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(settings(name, image_folder), precision="bf16-mixed", accumulate=2, steps=3)
    train(config, tmp_path / "run")
    kept = load_file(tmp_path / "run" / "encoder.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())


@EVERY
def test_a_method_explains_itself_and_is_short(name: str) -> None:
    kind = find_method(name)
    module = inspect.getmodule(kind)
    assert module is not None
    words = inspect.getdoc(module) or ""
    assert "shortcut" in words
    options = method_help(name)
    for field in dataclasses.fields(kind.Config):
        assert f"``{field.name}``" in options, field.name
    assert kind.about.paper != "not stated"
    assert len(inspect.getsource(module).splitlines()) <= 160


@EVERY
def test_previews_are_images_and_draw_nothing_from_the_training(name: str, image_folder: Path, drawn: Images) -> None:
    method = made(name, image_folder, drawn).eval()
    state = torch.get_rng_state()
    with torch.no_grad():
        preview = method.preview(batch_of(method, drawn), torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    if preview is not None:
        assert preview.shape[0] == 3
        assert preview.shape[1] >= 32
        assert float(preview.min()) >= 0
        assert float(preview.max()) <= 1


class StopAt(Exception):
    pass


@EVERY
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    name: str, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(name, image_folder)
    train(config, tmp_path / "whole")

    def dies(seed: int, step: int, rank: int, generator: StepGenerator) -> None:
        if step == 7:
            raise StopAt
        seed_step(seed, step, rank, generator)

    monkeypatch.setattr("sslfeat.models.engine.trainer.seed_step", dies)
    with pytest.raises(StopAt):
        train(config, tmp_path / "broken", checkpoint_steps=3)
    monkeypatch.undo()
    assert read_tensors(tmp_path / "broken" / "last.ckpt")[1]["progress"]["step"] == 6
    train(config, tmp_path / "broken", resume=True)
    whole, broken = (load_file(tmp_path / run / "encoder.safetensors") for run in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[key], broken[key]) for key in whole)
    train(dataclasses.replace(config, seed=1, steps=2), tmp_path / "other")
    other = load_file(tmp_path / "other" / "encoder.safetensors")
    assert not all(torch.equal(whole[key], other[key]) for key in whole)


@EVERY
def test_the_exported_file_gives_the_features_of_the_torch_encoder(name: str, image_folder: Path, tmp_path: Path) -> None:
    """``export_run`` refuses a file that differs; an earlier layer goes the same way."""
    config = settings(name, image_folder)
    train(dataclasses.replace(config, steps=2), tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.yaml").method == name
    encoder = load_run(tmp_path / "run")[0]
    layers = encoder.encoder.layers
    for layer in dict.fromkeys((layers[-1], layers[len(layers) // 2])):
        card = export_run(tmp_path / "run", tmp_path / f"{layer}.onnx", Labels(), layer=layer).card
        assert card.parity.min_cosine > 0.9999
        assert card.dim == encoder.encoder.dims[layer]


@EVERY
def test_seven_gray_images_and_a_broken_one_are_enough_to_begin(name: str, tmp_path: Path) -> None:
    """Of odd shapes, in modes that are not RGB; only figures may be poor."""
    folder = tmp_path / "a few images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(7):
        plane = rng.integers(0, 256, (20 + 9 * k, 90 - 8 * k), dtype=np.uint8)
        Image.fromarray(plane).convert("LA" if k % 2 else "L").save(folder / f"{k}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    config = dataclasses.replace(settings(name, folder), batch_size=None, steps=2)
    result = train(config, tmp_path / "run")
    assert result.steps == 2
    assert [Path(path).name for path, _ in result.failures] == ["broken.jpg"]
