"""Context, jigsaw and counting: tiles, permutations, filters, losses, and shortcuts that are open or closed."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from sslfeat.errors import UsageError
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.methods.context import NEIGHBORS, Context, keep_one_channel, pixelate
from sslfeat.models.methods.counting import Counting
from sslfeat.models.methods.jigsaw import Jigsaw
from sslfeat.models.ops.tiles import Standardize, cut, far_permutations, halve


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 4, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator(9))


def test_squares_are_cut_where_they_are_asked_for() -> None:
    batch = images().float()
    tops, lefts = torch.tensor([[0, 5], [1, 2], [3, 3], [22, 0]]), torch.tensor([[7, 1], [0, 22], [9, 9], [4, 4]])
    tiles = cut(batch, tops, lefts, 10)
    for i, k in itertools.product(range(4), range(2)):
        y, x = int(tops[i, k]), int(lefts[i, k])
        assert torch.equal(tiles[i, k], batch[i, :, y : y + 10, x : x + 10])


def test_standardized_tiles_have_no_brightness_contrast_or_green_against_magenta() -> None:
    x = torch.rand(5, 3, 9, 9, generator=generator())
    tall = Standardize()(x)
    torch.testing.assert_close(tall.mean((2, 3)), torch.zeros(5, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(tall.std((2, 3), correction=0), torch.ones(5, 3), atol=1e-2, rtol=0)
    torch.testing.assert_close(Standardize()(0.5 * x + 0.1), tall, atol=1e-2, rtol=0)
    greener = x + 0.2 * torch.rand(5, 1, 9, 9) * torch.tensor([-1.0, 2.0, -1.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(Standardize(project=True)(greener), Standardize(project=True)(x), atol=1e-3, rtol=0)
    assert float(Standardize()(torch.full((1, 3, 4, 4), 0.3)).abs().max()) < 1e-3


def test_permutations_are_distinct_and_far_apart() -> None:
    far = far_permutations(9, 100)
    assert far.shape == (100, 9)
    assert all(sorted(row) == list(range(9)) for row in far.tolist())
    distances = [(a != b).sum() for a, b in itertools.combinations(far, 2)]
    assert min(distances) >= 6
    assert np.mean(distances) > 8
    four = far_permutations(4, 100)
    assert len({tuple(row) for row in four.tolist()}) == 24


def test_the_second_permutation_is_the_farthest_by_brute_force() -> None:
    chosen = far_permutations(4, 6).tolist()
    for count in range(1, 6):
        best = max(
            itertools.permutations(range(4)),
            key=lambda p: (
                min(sum(a != b for a, b in zip(p, q, strict=True)) for q in chosen[:count]),
                sum(sum(a != b for a, b in zip(p, q, strict=True)) for q in chosen[:count]),
            ),
        )
        assert tuple(chosen[count]) == best


@pytest.mark.parametrize(
    ("kind", "name"), [(0, "BOX"), (1, "BILINEAR"), (2, "BICUBIC"), (3, "LANCZOS")], ids=lambda value: str(value)
)
def test_halving_is_what_pillow_does(kind: int, name: str) -> None:
    """Away from the border, where Pillow has fewer pixels to weigh."""
    plane = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    wanted = np.asarray(Image.fromarray(plane).resize((16, 16), Image.Resampling[name]))
    halved = halve(torch.from_numpy(plane).expand(2, 3, 32, 32), torch.tensor([kind, kind]))
    np.testing.assert_allclose(halved[1, 2, 3:-3, 3:-3].numpy(), wanted[3:-3, 3:-3], atol=1e-5)


def test_jigsaw_tiles_lie_in_their_cells_and_puzzles_hold_the_permuted_tiles() -> None:
    method = Jigsaw(build_backbone("resnet10_w8", 32), Jigsaw.Config(gap=False, gray=0.0, min_area=1.0)).eval()
    flat = torch.arange(0, 200, 50, dtype=torch.uint8).view(1, 1, 2, 2).repeat_interleave(16, 2).repeat_interleave(16, 3)
    tiles, which = method.views(flat.expand(8, 3, 32, 32), generator())
    gray = tiles.mean((2, 3, 4)) * 255
    for row in gray.tolist():  # crops are mirrored at random
        assert row == pytest.approx([50, 0, 150, 100] if row[0] > row[1] else [0, 50, 100, 150], abs=12)
    assert which.shape == (8, 8)
    with torch.no_grad():
        logits = method.solve(tiles, which).view(8, 8, 24)
        embedded = method.encode(tiles.flatten(0, 1)).view(8, 4, -1)
        one = torch.cat([embedded[3, tile] for tile in far_permutations(4, 100)[int(which[3, 5])]])
        torch.testing.assert_close(logits[3, 5], method.head(one[None])[0], atol=1e-5, rtol=1e-5)


def test_jigsaw_loss_equals_the_mean_negative_log_likelihood() -> None:
    method = Jigsaw(build_backbone("resnet10_w8", 64), Jigsaw.Config(permutations=12, puzzles=2)).eval()
    views = method.views(images(3, 64), generator())
    assert views[0].shape == (3, 9, 3, 16, 16)
    with torch.no_grad():
        loss, figures = method.loss(views)
        rows = method.solve(*views).double().tolist()
    wanted = views[1].flatten().tolist()
    naive = [-math.log(math.exp(row[k]) / sum(map(math.exp, row))) for row, k in zip(rows, wanted, strict=True)]
    assert float(loss) == pytest.approx(sum(naive) / 6, rel=1e-5)
    assert figures["chance"] == pytest.approx(1 / 12)


def test_context_patches_keep_their_gap_and_place() -> None:
    method = Context(build_backbone("resnet10_w8", 96), Context.Config())
    tops, lefts = method.corners(50, 96, generator())
    side, shake = method.patch, method.shake
    assert side == 23
    assert shake == 2
    assert 0 <= int(tops.min()) <= int(tops.max()) <= 96 - side
    gaps = tops.view(50, 3, 3)[:, 1:] - tops.view(50, 3, 3)[:, :-1] - side
    assert side // 2 - 2 * shake <= int(gaps.min()) < int(gaps.max()) <= side // 2 + 1 + 2 * shake
    assert torch.equal(lefts.view(50, 3, 3).argsort(2), torch.arange(3).expand(50, 3, 3))
    assert tuple(k for k in range(9) if k != 4) == NEIGHBORS


def test_context_loss_equals_pair_by_pair_cross_entropy() -> None:
    method = Context(build_backbone("resnet10_w8", 48), Context.Config(pixelate=0.0)).eval()
    views = method.views(images(3, 48), generator())
    total = 0.0
    with torch.no_grad():
        loss, _ = method.loss(views)
        for image in views:
            for place, k in enumerate(NEIGHBORS):
                center, neighbor = (method.encode(image[i][None]) for i in (4, k))
                logits = method.head(torch.cat([center, neighbor], 1))[0].double()
                total -= float(logits.log_softmax(0)[place])
    assert float(loss) == pytest.approx(total / 24, rel=1e-4)


def test_dropped_colors_and_lost_sharpness() -> None:
    patches = torch.rand(6, 9, 3, 12, 12, generator=generator())
    dropped = keep_one_channel(patches, generator())
    kept = (dropped == patches).flatten(3).all(3)
    assert kept.sum(2).eq(1).all()
    assert (kept == kept[:, :1]).all()
    assert float(dropped.flatten(3).std(3)[~kept].max()) < 0.01
    coarse = pixelate(patches, 1 / 3, generator())
    changed = (coarse != patches).flatten(2).any(2)
    assert 8 < int(changed.sum()) < 29
    assert float(coarse[changed].std()) < 0.8 * float(patches[changed].std())
    assert torch.equal(pixelate(patches, 0.0, generator()), patches)


def with_aberration(n: int, size: int, seed: int) -> Tensor:
    """Gray noise whose green plane is magnified about the center, uint8 (N, 3, S, S): only the lens tells places apart."""
    noise = torch.rand(n, 1, size // 2, size // 2, generator=generator(seed))
    plane = functional.interpolate(noise, size=(size, size), mode="bilinear", align_corners=False)
    theta = torch.tensor([[0.88, 0.0, 0.0], [0.0, 0.88, 0.0]]).expand(n, 2, 3)
    grid = functional.affine_grid(theta, [n, 1, size, size], align_corners=False)
    green = functional.grid_sample(plane, grid, align_corners=False)
    return (torch.cat([plane, green, plane], 1) * 255).round().byte()


def learned(color: str) -> float:
    """Accuracy of context on images it has not seen, where nothing but aberration can be learned."""
    torch.manual_seed(0)
    method = Context(build_backbone("resnet10_w8", 48), Context.Config(color=color, min_area=1.0, pixelate=0.0))
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    for step in range(60):
        loss, _ = method(with_aberration(32, 48, step), generator(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float(method(with_aberration(64, 48, 10_000), generator())[1]["accuracy"])


def test_injected_aberration_is_solved_without_the_projection_and_not_with_it() -> None:
    opened, closed = learned("none"), learned("project")
    assert opened > 0.3
    assert closed < 0.5 * opened + 0.0625
    assert learned("drop") < 0.2


def test_counting_loss_equals_the_formula_of_the_paper() -> None:
    method = Counting(build_backbone("resnet10_w8", 32), Counting.Config(units=20, margin=3.0)).eval()
    wholes, quarters, gray = views = method.views(images(6), generator())
    with torch.no_grad():
        loss, figures = method.loss(views)
        phi = [method.count(wholes[i][None])[0].double().numpy() for i in range(6)]
        sums = [method.count(quarters[i]).double().numpy().sum(0) for i in range(6)]
    total, nearer = 0.0, 0
    for i in range(6):
        own = sum((a - b) ** 2 for a, b in zip(phi[i], sums[i], strict=True))
        others = [
            sum((a - b) ** 2 for a, b in zip(phi[j], sums[i], strict=True)) for j in range(6) if j != i and gray[j] == gray[i]
        ]
        total += own + 0.25 * sum(max(0.0, 3.0 - other) for other in others)
        nearer += own < min(others)
    assert float(loss) == pytest.approx(total / 6, rel=1e-4)
    assert float(figures["accuracy"]) == pytest.approx(nearer / 6)
    assert float(figures["chance"]) == pytest.approx(2 / 6)  # four gray ones and two colored: (4/4 + 2/2) / 6


def test_counting_views_are_the_image_halved_and_its_quarters() -> None:
    method = Counting(build_backbone("resnet10_w8", 32), Counting.Config(filters=1, min_area=1.0))
    wholes, quarters, gray = method.views(images(12), generator())
    mosaic = torch.cat([torch.cat(list(quarters[:, i : i + 2].unbind(1)), 3) for i in (0, 2)], 2)
    torch.testing.assert_close(functional.avg_pool2d(mosaic, 2), wholes)
    assert gray.tolist() == [True] * 8 + [False] * 4
    assert [bool((image[0] - image[1]).abs().max() < 1e-6) for image in wholes] == gray.tolist()


def test_counting_without_contrast_collapses() -> None:
    """The mean distance of counts of different images, after as many steps with and without the contrastive term."""
    spread = {}
    for contrast in (True, False):
        torch.manual_seed(0)
        method = Counting(build_backbone("resnet10_w8", 32), Counting.Config(contrast=contrast, units=64))
        optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
        for step in range(60):
            loss, _ = method(images(16), generator(step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            counts = method.count(method.views(images(16), generator())[0])
        spread[contrast] = float(torch.pdist(counts).mean())
    assert spread[False] < 0.05 * spread[True]


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ResNet"):
        Jigsaw(build_backbone("vit_tiny", 32), Jigsaw.Config())
    with pytest.raises(UsageError, match="project, drop or none"):
        Context(build_backbone("resnet10_w8", 32), Context.Config(color="off"))
    with pytest.raises(UsageError, match="even"):
        Counting(build_backbone("resnet10_w8", 33), Counting.Config())
