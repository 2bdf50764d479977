"""What a run is set up with, against numbers written here: decay, warm-up, how often colors change, layouts of memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sslfeat.data.synthetic import draw_samples
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.checkpoint import load_checkpoint, save_checkpoint
from sslfeat.models.engine.config import CONFIG_NAME, TrainConfig, load_config, save_config
from sslfeat.models.engine.schedule import learning_rate
from sslfeat.models.engine.setup import make_optimizer
from sslfeat.models.methods.mae import MAE
from sslfeat.models.methods.simclr import SimCLR
from sslfeat.models.ops import augment


@pytest.mark.parametrize("kind", [SimCLR, MAE])
def test_weights_alone_are_decayed(kind: type[SimCLR] | type[MAE]) -> None:
    method = kind(build_backbone("vit_tiny", 32), kind.Config())  # type: ignore[arg-type]
    optimizer = make_optimizer(method, TrainConfig(kind.__name__.lower(), ("x",), lr=0.1, weight_decay=0.25))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    seen = set()
    for owner, module in method.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                multiplies = isinstance(module, nn.Linear | nn.Conv2d | nn.MultiheadAttention) and "weight" in name
                assert decay[id(parameter)] == (0.25 if multiplies else 0.0), f"{owner}.{name}"
                seen.add(multiplies)
    assert seen == {True, False}
    before = [parameter.detach().clone() for parameter in method.parameters()]
    for parameter in method.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    for old, new in zip(before, method.parameters(), strict=True):
        shrunk = (1 - 0.1 * 0.25) if decay.get(id(new)) else 1.0
        torch.testing.assert_close(new, old * shrunk)


def test_the_first_thirtieth_of_a_run_warms_up() -> None:
    """3 % of the budget, in numbers of its own: a test that reads the constant agrees with any."""
    assert learning_rate(1.0, 0.0) == pytest.approx(0.001)
    assert learning_rate(1.0, 0.015) == pytest.approx(0.5)
    assert learning_rate(1.0, 0.03) == pytest.approx(1.0)
    assert learning_rate(1.0, 0.515) == pytest.approx(0.5)
    assert learning_rate(1.0, 1.0) == pytest.approx(0.001)


def test_four_views_of_five_change_color_and_one_of_five_loses_it() -> None:
    """Chen et al. 2020, appendix A: jitter with probability 0.8, gray with 0.2."""
    colors = torch.tensor([0.7, 0.4, 0.2]).view(1, 3, 1, 1).expand(4000, 3, 2, 2).contiguous()
    colors = colors + 0.02 * torch.randn(4000, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    seen = augment.color_jitter(colors, torch.Generator().manual_seed(0))
    gray = (seen.amax(1) - seen.amin(1)).amax((1, 2)) < 1e-5
    changed = (seen - colors).abs().amax((1, 2, 3)) > 1e-4
    assert float(gray.float().mean()) == pytest.approx(0.2, abs=0.02)
    assert float(changed[~gray].float().mean()) == pytest.approx(0.8, abs=0.02)


def test_the_optimizers_state_comes_back_in_its_parameters_layout(tmp_path: Path) -> None:
    """Another layout of the same numbers is added up in another order, to other last bits."""

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
        module(torch.zeros(2, 3, 6, 6))
        module = module.to(memory_format=torch.channels_last)
        return module, torch.optim.AdamW(module.parameters(), lr=0.1)

    module, optimizer = made()
    module(torch.rand(2, 3, 6, 6)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path / "last.ckpt", module, optimizer, {"step": 1})
    other, restored = made()
    assert load_checkpoint(tmp_path / "last.ckpt", other, restored) == {"step": 1}
    for mine, theirs in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
        assert mine.stride() == theirs.stride()
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(restored.state[theirs][name], optimizer.state[mine][name], rtol=0, atol=0)
            assert restored.state[theirs][name].stride() == theirs.stride(), name


def test_excluded_images_are_left_out_of_a_run_and_of_its_export(tmp_path: Path) -> None:
    draw_samples(tmp_path / "images", 16)
    config = TrainConfig("rotation", (str(tmp_path / "images"),), exclude=("circles", "*0001*"))
    left = {item.name for item in config.inputs()}
    assert left and not any("circles" in name or "0001" in name for name in left)
    save_config(config, tmp_path)
    assert load_config(tmp_path / CONFIG_NAME) == config
    assert config.sha256() == TrainConfig("rotation", ()).sha256()  # what they are decides, not how they were named
