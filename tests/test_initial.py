"""Beginning from weights: what is loaded, how fast each part learns, what is kept, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from sslfeat.errors import TrainingError, UsageError
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.config import TrainConfig, load_config, with_defaults
from sslfeat.models.engine.frozen import build_method, load_run
from sslfeat.models.engine.initial import HEADS_ALONE, Pace, beside, extended, initial_encoder, scale_of, with_source
from sslfeat.models.engine.setup import make_optimizer
from sslfeat.models.engine.trainer import train
from sslfeat.models.method import Recipe

SMALL: dict[str, Any] = {"image_size": 32, "batch_size": 8, "steps": 4, "precision": "32-true"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """A finished run of four steps."""
    out = tmp_path_factory.mktemp("runs") / "first"
    train(TrainConfig("simclr", (str(image_folder),), "resnet10_w8", options={"jitter": "0.4"}, **SMALL), out)
    return out


def encoder_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_run(folder)[0].encoder.state_dict()


def test_init_begins_with_the_weights_of_the_run(run: Path, image_folder: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "steps": 0, "image_size": None}
    train(TrainConfig("rotation", (str(image_folder),), init=str(run), **settings), tmp_path / "second")
    kept = load_config(tmp_path / "second" / "config.yaml")
    assert (kept.backbone, kept.image_size, kept.backbone_lr, kept.layer_decay) == ("resnet10_w8", 32, 0.2, 0.7)
    for name, value in encoder_of(run).items():
        torch.testing.assert_close(encoder_of(tmp_path / "second")[name], value, rtol=0, atol=0)


def test_what_the_weights_are_is_in_the_config_and_in_its_hash(run: Path, tmp_path: Path) -> None:
    config = with_source(TrainConfig("byol", ("x",), init=str(run)))
    assert config.init_sha256 is not None and len(config.init_sha256) == 64
    moved = with_source(TrainConfig("byol", ("x",), init=str(run.parent / "." / run.name)))
    other = with_source(TrainConfig("byol", ("x",)))
    assert config.sha256() == moved.sha256() != other.sha256()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "no-such-run"}, "not a run folder"),
        ({"init": "timm/resnet18", "backbone": "resnet18"}, "does not match --backbone"),
    ],
)
def test_weights_that_cannot_be_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_source(TrainConfig("simclr", ("x",), **settings))  # type: ignore[arg-type]


def test_another_backbone_or_size_is_refused(run: Path) -> None:
    with pytest.raises(UsageError, match="omit --backbone"):
        with_source(TrainConfig("simclr", ("x",), "resnet18", init=str(run)))
    config = with_source(TrainConfig("simclr", ("x",), image_size=224, init=str(run)))
    with pytest.raises(TrainingError, match="does not fit"):
        initial_encoder(config, build_backbone("resnet10_w8", 224))


def filled(**settings: Any) -> TrainConfig:
    config = TrainConfig("simclr", ("x",), "resnet10_w8", image_size=32, init="simclr-like", **settings)
    return with_defaults(config, Recipe(lr=1.0), 100, 32)


def test_heads_learn_alone_and_then_layers_at_their_own_rates() -> None:
    config = filled()
    method = build_method(config)
    optimizer = make_optimizer(method, config)
    rates = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    named = dict(method.named_parameters())
    pace, norm = Pace(config, method), method.get_submodule("encoder.body.bn1")
    wanted = {
        "projector.0.weight": 1.0,
        "encoder.body.layer4.conv1.weight": 0.2,
        "encoder.body.layer3.conv1.weight": 0.2 * 0.7,
        "encoder.body.layer1.conv1.weight": 0.2 * 0.7**3,
        "encoder.body.conv1.weight": 0.2 * 0.7**3,
    }
    pace.apply(optimizer, 0.5, HEADS_ALONE / 2)
    for name in wanted:
        assert rates[id(named[name])]["lr"] == (0.5 if name.startswith("projector") else 0.0)
    assert not norm.training
    pace.apply(optimizer, 0.5, 0.5)
    for name, scale in wanted.items():
        assert rates[id(named[name])]["lr"] == pytest.approx(0.5 * scale), name
    assert norm.training


def test_frozen_statistics_stay_frozen() -> None:
    config = filled(freeze_norm=True)
    method = build_method(config)
    Pace(config, method).apply(make_optimizer(method, config), 0.5, 0.9)
    norms = [part for part in method.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    assert method.get_submodule("projector.1").training


def test_a_transformer_decays_block_by_block() -> None:
    config = with_defaults(TrainConfig("dino", ("x",), "vit_tiny", image_size=32, init="x"), Recipe(lr=1.0), 100, 32)
    method = build_method(config)
    names = ("conv_proj.weight", "encoder.layers.encoder_layer_0.ln_1.weight", "encoder.layers.encoder_layer_5.ln_1.weight")
    scales = [scale_of(config, method, f"encoder.body.{name}")[1] for name in names]
    assert scales == pytest.approx([0.2 * 0.7**5, 0.2 * 0.7**5, 0.2])
    assert scale_of(config, method, "encoder.body.encoder.ln.weight")[1] == pytest.approx(0.2)
    assert scale_of(config, method, "projector.0.weight") == (False, 1.0)


def test_a_run_is_gone_on_with_heads_and_all(run: Path, image_folder: Path, tmp_path: Path) -> None:
    config = extended(run, TrainConfig("", (), epochs=0))
    assert (config.method, config.backbone, config.steps, config.epochs) == ("simclr", "resnet10_w8", None, 0)
    train(config, tmp_path / "longer")
    before, after = encoder_of(run), encoder_of(tmp_path / "longer")
    assert all(torch.equal(before[name], after[name]) for name in before)
    from sslfeat.models.engine.checkpoint import read_tensors

    heads = [read_tensors(folder / "last.ckpt")[0]["module.projector.0.weight"] for folder in (run, tmp_path / "longer")]
    assert torch.equal(heads[0], heads[1])
    more = extended(run, TrainConfig("simclr", (), options={"temperature": "0.5"}))
    assert extended(tmp_path / "longer", TrainConfig("", ())).images == (str(image_folder),)
    assert more.options == {"jitter": "0.4", "temperature": "0.5"}
    with pytest.raises(UsageError, match="--init"):
        extended(run, TrainConfig("byol", ()))
    with pytest.raises(UsageError, match="is a folder; the method comes before the images"):
        extended(run, TrainConfig(str(image_folder), ()))


def test_an_extended_run_goes_beside_the_one_it_extends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    assert beside(Path("runs/first")) == Path("runs/first-extended")
    assert beside(Path()) == tmp_path / "run-extended"


@pytest.mark.usefixtures("image_folder")
def test_the_best_weights_are_kept(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are made up: the second look is the best."""
    from sslfeat.models.engine import online_eval

    figures = iter([0.3, 0.8, *[0.5] * 20])
    monkeypatch.setattr(online_eval, "probe_figures", lambda *_: {"linear": 0.5, "knn": next(figures)})
    config = TrainConfig("simclr", (str(image_folder),), "resnet10_w8", probe_data=str(image_folder), keep="best", **SMALL)
    result = train(config, tmp_path / "run")
    with (tmp_path / "run" / "watch.csv").open() as file:
        best = max(csv.DictReader(file), key=lambda row: float(row["knn"]))
    assert (result.first["knn"], result.last["knn"], result.last["step"]) == (0.3, 0.8, float(best["step"]))
    assert load_run(tmp_path / "run")[2].steps == int(best["step"]) < result.steps
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_the_best_needs_labels(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--probe-data"):
        train(TrainConfig("simclr", (str(image_folder),), "resnet10_w8", keep="best", **SMALL), tmp_path / "run")


@pytest.mark.parametrize("name", ["timm/convnext_atto", "timm/vit_tiny_patch16_224", "torchvision/mobilenet_v3_small"])
def test_networks_of_others_are_backbones(name: str) -> None:
    """Layers, their maps and pooled features fit what the backbone says of itself."""
    backbone = build_backbone(name, 64).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert backbone(images).shape == (2, backbone.dim)
        for layer in backbone.layers:
            maps = backbone.maps(images, layer)
            assert maps.shape[:2] == (2, backbone.dims[layer])
            if layer != "end":
                torch.testing.assert_close(backbone(images, layer), maps.mean((2, 3)))
    assert backbone.stage_of(next(name for name, _ in backbone.named_parameters())) == 0


def test_unknown_networks_are_refused_by_name() -> None:
    refused = {"timm/resnet1": "timm has no", "torchvision/nothing": "torchvision has no", "torchvision/vgg11": "not supported"}
    for name, message in refused.items():
        with pytest.raises(UsageError, match=message):
            build_backbone(name, 64)
