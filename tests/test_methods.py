"""Pretext methods: losses against naive computations, views that are what they claim to be, augmentations."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from sslfeat.errors import TrainingError, UsageError
from sslfeat.models.backbones.base import Backbone
from sslfeat.models.backbones.registry import NAMES, build_backbone
from sslfeat.models.method import find_method, make_config
from sslfeat.models.methods.rotation import Rotation
from sslfeat.models.methods.simclr import SimCLR, nt_xent
from sslfeat.models.ops import augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 6, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator(9))


def test_nt_xent_equals_the_formula_of_the_paper() -> None:
    """Equation 1 of Chen et al. 2020, term by term in Python floats."""
    z = torch.randn(10, 7, generator=generator()).double()
    temperature, n = 0.3, 5
    total, hits = 0.0, 0
    for i in range(2 * n):
        j = i + n if i < n else i - n
        sims = {k: float(functional.cosine_similarity(z[i], z[k], dim=0)) / temperature for k in range(2 * n) if k != i}
        total += -math.log(math.exp(sims[j]) / sum(math.exp(s) for s in sims.values()))
        hits += max(sims, key=lambda k: sims[k]) == j
    loss, figures = nt_xent(z, temperature)
    assert float(loss) == pytest.approx(total / (2 * n), rel=1e-6)
    assert float(figures["accuracy"]) == pytest.approx(hits / (2 * n))
    assert figures["chance"] == pytest.approx(1 / 9)


def test_nt_xent_of_identical_and_of_perfect_projections() -> None:
    same, _ = nt_xent(torch.ones(8, 4), 0.2)
    assert float(same) == pytest.approx(math.log(7))  # uniform over the 7 others
    perfect, figures = nt_xent(torch.eye(4).repeat(2, 1), 0.1)
    assert float(perfect) == pytest.approx(math.log(1 + 6 * math.exp(-10)), rel=1e-2)
    assert float(figures["accuracy"]) == 1


def test_rotation_views_are_exact_quarter_turns_of_one_image() -> None:
    method = Rotation(build_backbone("resnet10_w8", 32), Rotation.Config())
    views, turns = method.views(images(), generator())
    assert views.shape == (24, 3, 32, 32)
    assert turns.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6
    for turn in range(4):
        size = 32
        for row, column in ((0, 0), (3, 20), (31, 7)):
            r, c = row, column
            for _ in range(turn):  # counter-clockwise: the pixel at (r, c) moves to (size - 1 - c, r)
                r, c = size - 1 - c, r
            assert torch.equal(views[6 * turn : 6 * turn + 6, :, r, c], views[:6, :, row, column])


def test_rotation_loss_equals_mean_negative_log_likelihood() -> None:
    method = Rotation(build_backbone("resnet10_w8", 32), Rotation.Config()).eval()
    views, turns = method.views(images(), generator())
    with torch.no_grad():
        logits = method.head(method.encode(views)).double()
        loss, figures = method.loss((views, turns))
    rows = list(zip(logits.tolist(), turns.tolist(), strict=True))
    naive = [-math.log(math.exp(row[turn]) / sum(map(math.exp, row))) for row, turn in rows]
    assert float(loss) == pytest.approx(sum(naive) / len(naive), rel=1e-5)
    right = [max(range(4), key=row.__getitem__) == turn for row, turn in rows]
    assert float(figures["accuracy"]) == pytest.approx(sum(right) / len(right))


def test_simclr_pairs_the_two_views_of_an_image() -> None:
    """With every augmentation off, view i and view N + i are the same image, and the task is solved at once."""
    config = SimCLR.Config(jitter=0.0, gray=0.0, min_area=1.0)
    method = SimCLR(build_backbone("resnet10_w8", 32), config).eval()
    batch = torch.arange(0, 240, 30).view(8, 1, 1, 1).expand(8, 3, 32, 32).to(torch.uint8)
    views = method.views(batch, generator()).whole
    assert len(views) == 16
    torch.testing.assert_close(views[:8], views[8:], atol=1e-4, rtol=0)
    torch.testing.assert_close(views[:8], batch.float() / 255, atol=1e-4, rtol=0)


def test_every_image_gets_its_own_draw() -> None:
    same = images(1).expand(16, -1, -1, -1)
    for views in (
        augment.random_resized_crop(augment.to_float(same), generator()),
        augment.color_jitter(augment.to_float(same), generator(), gray_probability=0.0, probability=1.0),
    ):
        assert len({float(view.sum()) for view in views}) > 12


def test_crop_of_everything_is_the_image() -> None:
    whole = augment.to_float(images())
    crop = augment.random_resized_crop(whole, generator(), scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False)
    torch.testing.assert_close(crop, whole, atol=1e-5, rtol=0)


def test_flip_mirrors_about_half_of_the_images() -> None:
    batch = augment.to_float(images(200, 8))
    flipped = augment.random_flip(batch, generator())
    mirrored = [torch.equal(out, inp.flip(2)) for out, inp in zip(flipped, batch, strict=True)]
    kept = [torch.equal(out, inp) for out, inp in zip(flipped, batch, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 70 < sum(mirrored) < 130


def test_gray_images_have_equal_channels_and_the_luma_of_the_original() -> None:
    batch = augment.to_float(images())
    gray = augment.color_jitter(batch, generator(), strength=0.0, gray_probability=1.0)
    luma = 0.299 * batch[:, 0] + 0.587 * batch[:, 1] + 0.114 * batch[:, 2]
    for channel in range(3):
        torch.testing.assert_close(gray[:, channel], luma, atol=1e-5, rtol=0)


def test_no_jitter_leaves_colors_alone_and_hue_keeps_luma() -> None:
    batch = augment.to_float(images())
    kept = augment.color_jitter(batch, generator(), strength=0.0, gray_probability=0.0)
    torch.testing.assert_close(kept, batch, atol=1e-5, rtol=0)
    turned = torch.einsum("nij,jk->nik", augment._hue_rotation(torch.tensor([0.3, -2.0])), torch.rand(3, 50))
    again = torch.einsum("nij,njk->nik", augment._hue_rotation(torch.tensor([-0.3, 2.0])), turned)
    assert not torch.allclose(turned[0], again[0])
    luma = torch.tensor(augment.LUMA)
    torch.testing.assert_close(luma @ turned[0], luma @ again[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("name", ["resnet10", "resnet18", "vit_tiny"])
def test_backbones_give_one_feature_vector_an_image(name: str, size: int) -> None:
    backbone = build_backbone(name, size).eval()
    assert isinstance(backbone, Backbone)
    with torch.no_grad():
        assert backbone(torch.rand(2, 3, size, size)).shape == (2, backbone.dim)


def test_the_narrow_resnet_costs_what_it_should() -> None:
    """36 million multiply-adds at 32 px, 384 features."""
    backbone, total = build_backbone("resnet10", 32), 0

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()  # type: ignore[index]

    for module in backbone.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    backbone(torch.rand(2, 3, 32, 32))
    assert backbone.dim == 384
    assert 34e6 < total < 38e6


def test_wrong_names_and_options_are_named() -> None:
    with pytest.raises(UsageError, match="resnet19") as caught:
        build_backbone("resnet19", 32)
    assert all(name in str(caught.value) for name in NAMES)
    with pytest.raises(UsageError, match="multiple of 4"):
        build_backbone("vit_b_16", 33)
    with pytest.raises(UsageError, match="unknown method 'simclp'"):
        find_method("simclp")
    with pytest.raises(UsageError, match="no option temprature"):
        make_config(SimCLR, {"temprature": "0.1"})
    with pytest.raises(UsageError, match="temperature is 'warm'"):
        make_config(SimCLR, {"temperature": "warm"})
    assert make_config(Rotation, {"crop": "false"}).crop is False


OWN_METHOD = """
from __future__ import annotations
from dataclasses import dataclass
from sslfeat.models.method import register
from sslfeat.models.methods.rotation import Rotation

@register("upright")
class Upright(Rotation):
    @dataclass(frozen=True)
    class Config(Rotation.Config):
        tilt: float = 0.5
"""


def test_a_file_of_ones_own_may_extend_a_method(tmp_path: Path) -> None:
    (tmp_path / "upright.py").write_text(OWN_METHOD)
    found = find_method(str(tmp_path / "upright.py"))
    assert issubclass(found, Rotation) and make_config(found, {"tilt": "0.2"}).tilt == 0.2
    (tmp_path / "empty.py").write_text("from sslfeat.models.methods.rotation import Rotation\n")
    with pytest.raises(TrainingError, match="registers 0 methods"):
        find_method(str(tmp_path / "empty.py"))
