"""Views: their sizes, what is said of their differences, which keep their color; NT-Xent of any number of them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sslfeat.errors import UsageError
from sslfeat.models.methods.barlow import barlow_twins
from sslfeat.models.methods.simclr import SimCLR, nt_xent
from sslfeat.models.multi_view import Views, cosine_error, describe, pairs, view_side
from sslfeat.models.ops.augment import Colors, draw_colors, draw_crops, recolor
from tests.views import batch, generator, made

Rows = list[list[float]]


def plain(n: int, **changed: Tensor) -> Colors:
    """Colors that change nothing, but for what is given."""
    one, yes = torch.ones(n), torch.ones(n, dtype=torch.bool)
    return dataclasses.replace(Colors(one, one, one, torch.zeros(n), yes, ~yes), **changed)


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def naive_nt_xent(rows: Rows, temperature: float, views: int, decoupled: bool) -> tuple[float, float]:
    """Loss and accuracy, pair by pair."""
    n, terms, hits = len(rows) // views, [], 0
    for i in range(len(rows)):
        sims = [cosine(rows[i], row) / temperature for row in rows]
        others = [k for k in range(len(rows)) if k != i]
        hits += max(others, key=sims.__getitem__) % n == i % n
        below = sum(math.exp(sims[k]) for k in others if not decoupled or k % n != i % n)
        terms += [-math.log(math.exp(sims[k]) / below) for k in others if k % n == i % n]
    return sum(terms) / len(terms), hits / len(rows)


@pytest.mark.parametrize(("views", "decoupled"), [(2, False), (3, False), (4, False), (2, True), (3, True)])
def test_nt_xent_pair_by_pair(views: int, decoupled: bool) -> None:
    """Chen et al. 2020, equation 1, and Yeh et al. 2022, equation 6, over all ordered pairs of an image's views."""
    z = torch.randn(5 * views, 7, generator=generator(views))
    z[5:10] += 2 * z[:5]  # so that some are found
    loss, figures = nt_xent(z, 0.3, views, decoupled)
    total, hits = naive_nt_xent(z.tolist(), 0.3, views, decoupled)
    assert float(loss) == pytest.approx(total, rel=1e-5)
    assert float(figures["accuracy"]) == pytest.approx(hits)
    assert 0 < hits < 1
    assert figures["chance"] == pytest.approx((views - 1) / (5 * views - 1))


@pytest.mark.parametrize("loss", ["nt-xent", "dcl"])
def test_color_is_kept_in_a_contrast_of_its_own(loss: str) -> None:
    """Two contrasts, weighed by their images: every other image among its like, by the projector for color."""
    method = made(keep_color=0.25, loss=loss, local_views=1, views=2).eval()
    assert isinstance(method, SimCLR)
    kept = [3, 7]
    views = method.views(batch(8), generator())
    with torch.no_grad():
        found, figures = method.loss(views)
        assert views.local is not None
        features = torch.cat([method.encode(views.whole), method.encode(views.local)])
        rows, color_rows = method.projector(features).tolist(), method.color_projector(features).tolist()
    apart = [row for n, row in enumerate(rows) if n % 8 not in kept]
    color, color_hits = naive_nt_xent([row for n, row in enumerate(color_rows) if n % 8 in kept], 0.2, 3, loss == "dcl")
    other, hits = naive_nt_xent(apart, 0.2, 3, loss == "dcl")
    assert float(found) == pytest.approx(0.75 * other + 0.25 * color, rel=1e-4)
    assert float(figures["accuracy"]) == pytest.approx(hits)
    assert float(figures["color_accuracy"]) == pytest.approx(color_hits)


@pytest.mark.parametrize(("share", "wanted"), [(0.25, [3, 7, 11, 15]), (0.5, [1, 3, 5, 7, 9, 11, 13, 15])])
def test_images_that_keep_their_color_are_spread_over_the_batch(share: float, wanted: list[int]) -> None:
    """Whole crops of one image again and again: those keep their colors, in all views, and the others do not."""
    method = made(keep_color=share, min_area=1.0, jitter=1.0, gray=1.0, views=3, local_views=1)
    same = batch(1).expand(16, -1, -1, -1)
    views = method.views(same, generator())
    assert views.local is not None
    grayness = torch.cat([view.amax(1) - view.amin(1) for view in views.whole.chunk(3)]).amax((1, 2))
    colorful = (grayness > 1e-4).view(3, 16)
    assert all(torch.nonzero(row).flatten().tolist() == wanted for row in colorful)
    assert torch.nonzero((views.local.amax(1) - views.local.amin(1)).amax((1, 2)) > 1e-4).flatten().tolist() == wanted
    assert views.colored.view(3, 16).tolist() == colorful.tolist()
    changed = views.described[:, 4:].abs().amax(1).view(3, 16)
    kept = torch.zeros(16, dtype=torch.bool)
    kept[wanted] = True
    assert float(changed[:, kept].max()) <= 0.08 + 1e-6  # brightness, contrast and saturation of 1 +- 0.8 x 0.1
    assert float(changed[:, ~kept].max()) > 0.4


def test_each_image_may_be_distorted_by_a_strength_of_its_own() -> None:
    strength = torch.tensor([0.0, 1.0]).repeat(100)
    colors = draw_colors(200, generator(), strength, probability=1.0, gray_probability=strength)
    assert colors.gray.tolist() == [False, True] * 100
    gray = torch.full((200, 3, 4, 4), 0.4)
    changed = (recolor(gray, colors) - 0.4).abs().amax((1, 2, 3))
    assert float(changed[::2].max()) < 1e-5
    assert float(changed[1::2].mean()) > 0.1
    for factor in (colors.brightness, colors.contrast, colors.saturation):
        assert torch.equal(factor[::2], torch.ones(100))
        assert 0.2 <= float(factor[1::2].min()) < 0.3
        assert 1.7 < float(factor[1::2].max()) <= 1.8
    assert 0.18 < float(colors.turn[1::2].abs().max()) / (2 * math.pi) <= 0.2


@pytest.mark.parametrize("name", ["simclr", "barlow", "vicreg", "byol"])
def test_local_views_are_half_as_wide_and_of_small_parts(name: str) -> None:
    """Of a horizontal ramp, whose slope tells how wide a part was seen."""
    ramp = torch.arange(64).mul(4).expand(40, 3, 64, 64).to(torch.uint8)
    views = made(name, 64, local_views=3, views=2, jitter=0.0, gray=0.0, min_area=0.4).views(ramp, generator())
    assert views.local is not None
    assert views.whole.shape == (80, 3, 64, 64)
    assert views.local.shape == (120, 3, 32, 32)
    spans = [(view[:, 0, 5, -8] - view[:, 0, 5, 7]).abs() for view in (views.whole, views.local)]
    widths = [spans[0] / (49 / 64) / (252 / 255), spans[1] / (17 / 32) / (252 / 255)]
    assert float(widths[0].min()) > math.sqrt(0.4 * 3 / 4) - 0.03
    assert math.sqrt(0.05 * 3 / 4) - 0.03 < float(widths[1].min()) < 0.3
    assert float(widths[1].max()) < math.sqrt(0.4 * 4 / 3) + 0.03
    assert len(views.described) == len(views.colored) == 80


def test_how_wide_views_are_while_a_run_goes_on() -> None:
    table = {32: (16, 24, 32), 64: (32, 48, 64), 96: (48, 72, 96), 128: (64, 96, 128), 224: (112, 168, 224)}
    for size, sides in table.items():
        for share, side in zip((0.0, 0.34, 0.67), sides, strict=True):
            assert view_side(size, share, True) == side
            assert view_side(size, share, False) == size
        assert view_side(size, 0.33, True) == sides[0]
        assert view_side(size, 0.66, True) == sides[1]
        assert view_side(size, 1.0, True) == size
    assert view_side(16, 0.0, True) == 16


@pytest.mark.parametrize("size", [36, 44, 60, 100])
def test_views_are_whole_at_last_whatever_the_size(size: int) -> None:
    assert view_side(size, 0.9, True) == size
    for share in (0.1, 0.5):
        assert view_side(size, share, True) < size
        assert view_side(size, share, True) % 4 == 0


def test_views_grow_with_the_share_of_the_run_that_is_done() -> None:
    method = made(size=64, grow=True, local_views=1)
    for share, side in ((0.0, 32), (0.5, 48), (0.9, 64)):
        method.share = share
        views = method.views(batch(size=64), generator())
        assert views.local is not None
        assert (views.whole.shape[-1], views.local.shape[-1]) == (side, side // 2)
        loss, _ = method.loss(views)
        assert bool(loss.isfinite())


def test_views_may_be_smaller_than_the_images() -> None:
    """Of a ramp of one level a pixel, the step between a view's pixels is that of its crop, not of an enlargement."""
    method = made("simclr", view_size=16, local_views=1, min_area=1.0, jitter=0.0, gray=0.0)
    ramp = torch.arange(32, dtype=torch.uint8).expand(4, 3, 32, 32)
    views = method.views(ramp, generator())
    assert views.whole.shape == (8, 3, 16, 16) and views.local is not None and views.local.shape[-1] == 8
    step = (views.whole[..., 1:] - views.whole[..., :-1]).abs().median() * 255
    assert float(step) == pytest.approx(2, abs=0.5)  # the whole image, half as wide
    with pytest.raises(UsageError, match="view_size"):
        made("simclr", view_size=4)


def test_what_is_said_of_a_crop_and_its_color() -> None:
    """The left lower quarter, mirrored; then colors."""
    part = torch.tensor([[-0.5, 0.0, -0.5], [0.0, 0.25, 0.75]]).expand(2, 2, 3)
    colors = plain(2, brightness=torch.tensor([1.3, 1.3]), turn=torch.full((2,), math.pi / 10))
    colors = dataclasses.replace(colors, contrast=torch.full((2,), 0.6), saturation=torch.full((2,), 1.2))
    colors = dataclasses.replace(colors, jitter=torch.tensor([True, False]))
    seen, unseen = describe(part, colors)
    torch.testing.assert_close(seen, torch.tensor([-0.5, 0.75, 0.5, 0.25, 0.3, -0.4, 0.2, 0.1]))
    torch.testing.assert_close(unseen, torch.tensor([-0.5, 0.75, 0.5, 0.25, 0, 0, 0, 0]))


def test_views_that_do_not_differ_are_described_alike() -> None:
    method = made(jitter=0.0, gray=0.0, min_area=1.0, aware=1.0)
    whole = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert describe(whole[None], plain(1))[0].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    described = method.views(batch(), generator()).described
    assert not described[:, 4:].any()
    every = describe(draw_crops(50, generator(), (0.1, 1.0)), plain(50))
    assert float((every[:, 0].abs() + every[:, 2]).max()) <= 1 + 1e-6  # parts lie in the image
    assert float((every[:, 1].abs() + every[:, 3]).max()) <= 1 + 1e-6
    assert float((4 * every[:, 2] * every[:, 3]).min()) > 0.39


def naive_difference(described: Rows, colored: list[bool], predicted: Rows, n: int) -> float:
    """Squared errors of what can be seen, by the squares of what is to be predicted."""
    total, trivial, count = 0.0, 0.0, len(described)
    gaps = [[a - b for a, b in zip(described[i], described[(i + n) % count], strict=True)] for i in range(count)]
    for k in range(8):
        scale = math.sqrt(sum(gap[k] ** 2 for gap in gaps) / count)
        for i in range(count):
            if k < 4 or (colored[i] and colored[(i + n) % count]):
                wanted = gaps[i][k] / scale
                total += (predicted[i][k] - wanted) ** 2
                trivial += wanted**2
    return total / trivial


@pytest.mark.parametrize(("name", "views"), [("simclr", 2), ("simclr", 3), ("barlow", 2), ("vicreg", 2)])
def test_awareness_costs_the_error_of_predicting_the_differences(name: str, views: int) -> None:
    plain_method, method = (made(name, views=views, aware=aware, gray=0.3).eval() for aware in (0.0, 0.7))
    plain_method.load_state_dict({key: method.state_dict()[key] for key in plain_method.state_dict()})
    torch.nn.init.normal_(next(reversed(list(method.difference.parameters()))), std=0.5, generator=generator())
    seen = method.views(batch(), generator(3))
    assert 0 < int(seen.colored.sum()) < len(seen.colored)
    with torch.no_grad():
        loss, figures = method.loss(seen)
        without, _ = plain_method.loss(seen)
        features = method.encode(seen.whole)
        couples = torch.stack([torch.cat([features[i], features[(i + 6) % len(features)]]) for i in range(len(features))])
        predicted = method.difference(couples)
    error = naive_difference(seen.described.tolist(), seen.colored.tolist(), predicted.tolist(), 6)
    assert float(figures["error"]) == pytest.approx(error, rel=1e-4)
    assert float(loss) == pytest.approx(float(without) + 0.7 * error, rel=1e-4)
    assert figures["trivial"] == 1.0


def test_no_color_seen_leaves_the_crop_to_predict() -> None:
    method = made(aware=1.0).eval()
    seen = method.views(batch(), generator())
    gray = dataclasses.replace(seen, colored=torch.zeros(12, dtype=torch.bool))
    other = dataclasses.replace(gray, described=torch.cat([seen.described[:, :4], seen.described[:, 4:].roll(1, 0)], 1))
    with torch.no_grad():
        features = method.encode(seen.whole)
        assert torch.equal(method._difference_error(features, gray), method._difference_error(features, other))


def test_barlow_compares_neighboring_views() -> None:
    method = made("barlow", views=3, projection_dim=16).eval()
    views = method.views(batch(8), generator())
    with torch.no_grad():
        loss, _ = method.loss(views)
        rows = method.projector(method.encode(views.whole))
    couples = [torch.cat([rows[8 * n : 8 * n + 8], rows[8 * n + 8 : 8 * n + 16]]) for n in range(2)]
    assert float(loss) == pytest.approx(np.mean([float(barlow_twins(couple, 0.0051)[0]) for couple in couples]))


def test_pairs_and_angles() -> None:
    assert pairs(3) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert pairs(4, 2) == [(0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1)]
    east, north = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.2]])
    found = [float(cosine_error(east, other)) for other in (5 * east, north, -east)]
    assert found == pytest.approx([0, 2, 4], abs=1e-6)


@pytest.mark.parametrize("name", ["simclr", "barlow", "byol", "moco", "vicreg", "lejepa", "swav", "dino"])
def test_one_view_has_nothing_to_be_compared_with(name: str) -> None:
    with pytest.raises(UsageError, match="views=1"):
        made(name, views=1)


def test_wrong_settings_of_simclr_are_named() -> None:
    with pytest.raises(UsageError, match="loss=infonce"):
        made(loss="infonce")
    with pytest.raises(UsageError, match="keep_color"):
        made(keep_color=1.0)
    assert isinstance(made(views=2).views(batch(), generator()), Views)
