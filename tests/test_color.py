"""Colors and colorisation: Lab, bins, soft encoding, rebalancing, losses, and what is wrong with L2."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslfeat.errors import UsageError
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.engine.data import Images
from sslfeat.models.methods.colorization import AB_SCALE, Colorization
from sslfeat.models.ops.color import Lightness, ab_bins, annealed_mean, lab_to_rgb, rgb_to_lab, soft_encode


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 6, size: int = 32) -> Tensor:
    coarse = torch.randint(0, 256, (n, 3, size // 8, size // 8), dtype=torch.uint8, generator=generator(9))
    return coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)


def prepared(**options: Any) -> Colorization:
    torch.manual_seed(0)
    method = Colorization(build_backbone("resnet10_w8", 32), Colorization.Config(**options))
    method.prepare(Images(images(20).permute(0, 2, 3, 1).contiguous().numpy(), (), ()))
    return method


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((0.5, 0.5, 0.5), (53.39, 0, 0)),
    ],
)
def test_lab_of_known_colors(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    found = rgb_to_lab(torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1)).flatten()
    assert found.tolist() == pytest.approx(lab, abs=0.02)


def test_lab_and_back_is_the_image_and_lightness_is_its_first_channel() -> None:
    x = torch.rand(2, 3, 16, 16, generator=generator())
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(x)), x, atol=1e-4, rtol=0)
    light = Lightness()(x)
    torch.testing.assert_close(light[:, 1] * 25 + 50, rgb_to_lab(x)[:, 0], atol=1e-3, rtol=0)
    assert torch.equal(light[:, 0], light[:, 2])


@pytest.mark.parametrize("grid", [10, 20])
def test_every_8_bit_color_has_its_bin_and_no_bin_is_without_color(grid: int) -> None:
    bins = {tuple(row) for row in ab_bins(grid).tolist()}
    levels = torch.arange(0, 256, 5) / 255
    cube = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 1, -1).double()
    ab = rgb_to_lab(cube)[0, 1:, 0].T
    met = {tuple(row) for row in ((ab / grid).round() * grid + 0.0).tolist()}
    assert met <= bins
    assert len(bins - met) <= 0.06 * len(bins)  # a coarse grid of colors misses some corners
    assert len(bins) == len(ab_bins(grid))


def test_soft_encoding_is_a_gaussian_over_the_five_nearest_bins() -> None:
    bins, ab = ab_bins(10), torch.tensor([[3.0, -12.0], [41.0, 7.5]])
    nearest, weights = soft_encode(ab, bins, 5.0)
    for color, chosen, given in zip(ab.tolist(), nearest.tolist(), weights.tolist(), strict=True):
        distances = sorted((math.dist(color, center), k) for k, center in enumerate(bins.tolist()))[:5]
        assert {k for _, k in distances} == set(chosen)
        raw = {k: math.exp(-(distance**2) / 50) for distance, k in distances}
        for k, weight in zip(chosen, given, strict=True):
            assert weight == pytest.approx(raw[k] / sum(raw.values()), rel=1e-4)


def test_annealed_mean_goes_from_mean_to_mode() -> None:
    bins, logits = torch.tensor([[0.0, 0.0], [10.0, 20.0]]), torch.tensor([0.2, 0.8]).log().view(1, 2, 1, 1)
    assert annealed_mean(logits, bins, 1.0).flatten().tolist() == pytest.approx([8.0, 16.0])
    assert annealed_mean(logits, bins, 0.01).flatten().tolist() == pytest.approx([10.0, 20.0])


def test_weights_have_mean_one_and_follow_equation_4() -> None:
    method = prepared(uniform=0.5)
    prior, count = method.prior.double().tolist(), len(method.bins)
    raw = [1 / (0.5 * p + 0.5 / count) for p in prior]
    scale = sum(p * w for p, w in zip(prior, raw, strict=True))
    assert method.weights().tolist() == pytest.approx([w / scale for w in raw], rel=1e-4)
    assert sum(prior) == pytest.approx(1, abs=1e-5)
    assert prepared(uniform=1.0).weights().tolist() == pytest.approx([1.0] * count, rel=1e-5)


@pytest.mark.parametrize("loss", ["ce", "l2"])
def test_the_loss_pixel_by_pixel(loss: str) -> None:
    method = prepared(loss=loss).eval()
    crops, ab = method.views(images(2), generator())
    with torch.no_grad():
        value, _ = method.loss((crops, ab))
        out = method.decoder(method.encoder.maps(method.input_transform(crops))).double().numpy()
    total, weights, bins = 0.0, method.weights().tolist(), method.bins
    for n, y, x in np.ndindex(2, 16, 16):
        color = ab[n, :, y, x]
        if loss == "l2":
            total += sum((out[n, c, y, x] - float(color[c]) / AB_SCALE) ** 2 for c in range(2)) / 2
            continue
        nearest, share = soft_encode(color[None], bins, method.grid / 2)
        logs = out[n, :, y, x] - np.log(np.exp(out[n, :, y, x]).sum())
        total -= weights[int(nearest[0, 0])] * float((share[0].numpy() * logs[nearest[0].numpy()]).sum())
    assert float(value) == pytest.approx(total / 512, rel=1e-4)


def test_the_encoder_sees_no_color() -> None:
    method = prepared().eval()
    x = images().float() / 255
    gray = lab_to_rgb(torch.cat([rgb_to_lab(x)[:, :1], torch.zeros(6, 2, 32, 32)], 1))
    with torch.no_grad():
        torch.testing.assert_close(method.encode(x), method.encode(gray), atol=2e-3, rtol=1e-3)


def test_gray_data_is_complained_about() -> None:
    method = prepared()
    gray = images()[:, :1].expand(-1, 3, -1, -1)
    _, figures = method(gray, generator())
    assert "gray" in str(method.complaint({name: float(value) for name, value in figures.items()}))
    with pytest.raises(UsageError, match="ce or l2"):
        Colorization(build_backbone("resnet10_w8", 32), Colorization.Config(loss="l1"))


def test_what_is_wrong_with_l2() -> None:
    """Discs that are red, green or blue by chance: squared error makes them gray, cross-entropy keeps all three."""
    path = Path(__file__).parent.parent / "benchmarks" / "l2_colors.py"
    spec = importlib.util.spec_from_file_location("l2_colors", path)
    assert spec is not None
    assert spec.loader is not None
    toy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(toy)
    l2, ce = toy.train("l2", 60, "resnet10_w8"), toy.train("ce", 60, "resnet10_w8")
    guess = l2.decode(toy.at_center(l2).view(1, -1, 1, 1))
    assert float(guess.norm()) < 0.4 * toy.CHROMA
    shares = toy.shares(toy.sampled(ce, 2000, generator()))
    assert all(shares[hue] > 0.15 for hue in toy.HUES)
    assert shares["gray"] < 0.1
