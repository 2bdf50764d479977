"""Losses that hold the embeddings of a batch to a shape: VICReg, LeJEPA and SwAV against loops, and what collapse costs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sslfeat.models.methods.lejepa import sigreg
from sslfeat.models.methods.swav import sinkhorn
from sslfeat.models.methods.vicreg import vicreg_terms
from tests.views import batch, generator, made

Matrix = npt.NDArray[np.float64]


def spread(method: Any, head: Any) -> None:
    """Let batch normalization know a batch: what an untrained network makes of images is nearly one point otherwise."""
    for module in method.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    head(method.encode(method.views(batch(), generator(7)).whole))
    method.eval()


def embeddings(method: Any, head: Any, views: Any) -> list[Matrix]:
    """What ``head`` makes of each whole view, then of each local one."""
    count, local = method.config.views, method.config.local_views
    seen = [*views.whole.chunk(count), *(views.local.chunk(local) if local else ())]
    return [head(method.encode(view)).double().numpy() for view in seen]


def naive_vicreg(parts: list[Matrix], against: int) -> tuple[float, float, float, float]:
    """Bardes et al. 2022, equations 1 to 5, entry by entry."""
    n, width = parts[0].shape
    errors = [
        np.mean([(parts[a][i, k] - parts[b][i, k]) ** 2 for i in range(n) for k in range(width)])
        for a in range(len(parts))
        for b in range(against)
        if a != b
    ]
    hinges, sums, stds = [], [], []
    for part in parts:
        means = [sum(part[:, k]) / n for k in range(width)]
        for k in range(width):
            std = math.sqrt(sum((x - means[k]) ** 2 for x in part[:, k]) / (n - 1) + 1e-4)
            stds.append(std)
            hinges.append(max(0.0, 1 - std))
        total = 0.0
        for j in range(width):
            for k in (k for k in range(width) if k != j):
                total += (sum((part[:, j] - means[j]) * (part[:, k] - means[k])) / (n - 1)) ** 2
        sums.append(total / width)
    return float(np.mean(errors)), float(np.mean(hinges)), float(np.mean(sums)), float(np.mean(stds))


@pytest.mark.parametrize(("views", "against"), [(2, 2), (4, 2), (3, 3)])
def test_vicreg_entry_by_entry(views: int, against: int) -> None:
    rows = torch.randn(7 * views, 5, generator=generator(views)) * torch.tensor([0.2, 0.5, 1, 2, 3])
    found = [float(term) for term in vicreg_terms(rows, views, against)]
    parts = [part.double().numpy() for part in rows.chunk(views)]
    assert found == pytest.approx(naive_vicreg(parts, against), rel=1e-5)


def test_vicreg_weighs_its_terms() -> None:
    method = made("vicreg", invariance=3.0, variance=5.0, covariance=7.0, projection_dim=6, local_views=2).eval()
    views = method.views(batch(), generator())
    with torch.no_grad():
        loss, figures = method.loss(views)
        terms = naive_vicreg(embeddings(method, method.expander, views), 2)
    assert float(loss) == pytest.approx(3 * terms[0] + 5 * terms[1] + 7 * terms[2], rel=1e-4)
    assert [float(figures[key]) for key in ("invariance", "covariance", "std")] == pytest.approx(
        [terms[0], terms[2], terms[3]], rel=1e-3
    )


def test_collapse_is_the_worst_of_variance_and_independence_is_free() -> None:
    constant = [float(term) for term in vicreg_terms(torch.full((20, 6), 3.0), 2, 2)]
    assert constant == pytest.approx([0, 1 - math.sqrt(1e-4), 0, math.sqrt(1e-4)], abs=1e-6)
    units = torch.linalg.qr(torch.randn(64, 5, generator=generator()))[0]
    units = torch.linalg.qr(units - units.mean(0))[0] * math.sqrt(63)
    free = [float(term) for term in vicreg_terms(units.repeat(2, 1), 2, 2)]
    assert free == pytest.approx([0, 0, 0, 1], abs=1e-3)
    copies = torch.randn(64, 1, generator=generator()).expand(64, 5)
    copies = (copies - copies.mean()) / copies.std(0)
    assert float(vicreg_terms(copies.repeat(2, 1), 2, 2)[2]) == pytest.approx(4, rel=1e-4)  # 5 x 4 ones, by 5


def naive_sigreg(rows: Matrix, directions: Matrix) -> float:
    """Trapezoids from -5 to 5 of N |phi(t) - exp(-t^2/2)|^2 exp(-t^2/2), with complex numbers, direction by direction."""
    grid, step, results = np.linspace(-5, 5, 33), 10 / 32, []
    for direction in directions.T:
        x = rows @ direction
        values = [abs(np.mean(np.exp(1j * t * x)) - math.exp(-(t**2) / 2)) ** 2 * math.exp(-(t**2) / 2) for t in grid]
        results.append(len(rows) * step * sum((values[k] + values[k + 1]) / 2 for k in range(32)))
    return float(np.mean(results))


def directions_of(width: int, count: int = 40) -> Tensor:
    return functional.normalize(torch.randn(width, count, generator=generator(5)), dim=0)


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_sigreg_is_epps_and_pulleys_integral(scale: float) -> None:
    rows = scale * torch.randn(30, 4, generator=generator()) + 0.2
    directions = directions_of(4)
    wanted = naive_sigreg(rows.double().numpy(), directions.double().numpy())
    assert float(sigreg(rows, directions)) == pytest.approx(wanted, rel=1e-4)


def test_gaussian_rows_cost_what_chance_makes_of_them_and_others_much_more() -> None:
    """Of N draws |phi - exp(-t^2/2)|^2 is (1 - exp(-t^2)) / N on average: sqrt(2 pi) - sqrt(2 pi / 3) in the integral."""
    chance = math.sqrt(2 * math.pi) - math.sqrt(2 * math.pi / 3)
    directions = directions_of(8, 256)
    seen = [float(sigreg(torch.randn(512, 8, generator=generator(seed)), directions)) for seed in range(20)]
    assert float(np.mean(seen)) == pytest.approx(chance, rel=0.1)
    others = {
        "constant": torch.zeros(512, 8),
        "wide": 2 * torch.randn(512, 8, generator=generator()),
        "shifted": torch.randn(512, 8, generator=generator()) + 1,
        "on a line": torch.randn(512, 1, generator=generator()) * functional.normalize(torch.ones(8), dim=0),
    }
    for name, rows in others.items():
        assert float(sigreg(rows, directions)) > 10 * chance, name
    axis = torch.ones(1, 1)
    uniform = (torch.rand(512, 1, generator=generator()) - 0.5) * math.sqrt(12)
    two = torch.randn(512, 1, generator=generator()).sign() + 0.01 * torch.randn(512, 1, generator=generator(1))
    assert float(sigreg(uniform, axis)) > 3 * chance
    assert float(sigreg(two, axis)) > 20 * chance
    still = torch.zeros(16, 8, requires_grad=True)
    gradient = torch.autograd.grad(sigreg(still, directions), still)[0]
    assert float(gradient.abs().max()) < 1e-6  # a start from collapse stays there


@pytest.mark.parametrize("local_views", [0, 2])
def test_lejepa_weighs_prediction_against_gaussianity(local_views: int) -> None:
    method = made("lejepa", weight=0.3, directions=9, hidden=16, projection_dim=5, local_views=local_views).eval()
    views = method.views(batch(), generator())
    with torch.no_grad():
        torch.manual_seed(4)
        loss, figures = method.loss(views)
        parts = embeddings(method, method.projector, views)
    torch.manual_seed(4)
    directions = torch.randn(5, 9).double().numpy()
    directions /= np.linalg.norm(directions, axis=0)
    mean = (parts[0] + parts[1]) / 2
    prediction = np.mean([(part[i, k] - mean[i, k]) ** 2 for part in parts for i in range(6) for k in range(5)])
    gaussianity = np.mean([naive_sigreg(part, directions) for part in parts])
    assert float(figures["prediction"]) == pytest.approx(prediction, rel=1e-3)
    assert float(figures["gaussianity"]) == pytest.approx(gaussianity, rel=1e-4)
    assert float(loss) == pytest.approx(0.7 * prediction + 0.3 * gaussianity, rel=1e-4)


def naive_sinkhorn(scores: Matrix, epsilon: float, rounds: int) -> Matrix:
    """Caron et al. 2020, appendix A: columns of equal sums, then rows of equal sums, in turn."""
    codes: Matrix = np.exp(scores / epsilon)
    codes /= codes.sum()
    n, k = codes.shape
    for _ in range(rounds):
        codes /= codes.sum(0, keepdims=True) * k
        codes /= codes.sum(1, keepdims=True) * n
    filled: Matrix = codes * n
    return filled


def test_sinkhorn_is_the_papers() -> None:
    scores = functional.normalize(torch.randn(12, 5, generator=generator()), dim=1)
    for rounds in (1, 3):
        wanted = naive_sinkhorn(scores.double().numpy(), 0.05, rounds)
        np.testing.assert_allclose(sinkhorn(scores, 0.05, rounds).numpy(), wanted, atol=1e-5)
    assert torch.allclose(sinkhorn(scores + 100, 0.05, 3), sinkhorn(scores, 0.05, 3), atol=1e-3)  # no overflow


def test_codes_fill_clusters_equally_whatever_the_scores() -> None:
    """All rows prefer the first cluster; those that do so least are moved."""
    scores = 0.2 * torch.rand(40, 4, generator=generator()) + torch.tensor([0.8, 0.0, 0.0, 0.0])
    codes = sinkhorn(scores, 0.05, 100)
    torch.testing.assert_close(codes.sum(1), torch.ones(40))
    torch.testing.assert_close(codes.sum(0), torch.full((4,), 10.0), atol=0.05, rtol=0)
    few = sinkhorn(scores, 0.05, 3)
    torch.testing.assert_close(few.sum(1), torch.ones(40))
    assert float((few.sum(0) - 10).abs().max()) < 3
    assert scores.argmax(1).tolist() == [0] * 40
    flat = sinkhorn(torch.zeros(6, 3), 0.05, 3)
    torch.testing.assert_close(flat, torch.full((6, 3), 1 / 3))


@pytest.mark.parametrize("epsilon", [0.03, 0.05])
def test_a_cluster_that_all_point_away_from_is_filled_like_others(epsilon: float) -> None:
    """What is taken from a whole column makes no difference, over the whole range of cosines."""
    scores = 0.2 * torch.rand(40, 4, generator=generator()) + torch.tensor([0.8, 0.0, 0.0, 0.0])
    away = scores - torch.tensor([0.0, 0.0, 0.0, 1.0])
    for rounds in (1, 3):
        torch.testing.assert_close(sinkhorn(away, epsilon, rounds), sinkhorn(scores, epsilon, rounds), atol=1e-3, rtol=0)
    rows = torch.cat([torch.eye(3), torch.tensor([[-1.0, -0.9, -0.95]])])  # nor does what a row has in common
    torch.testing.assert_close(sinkhorn(rows, epsilon, 1).sum(1), torch.ones(4))


def unit(rows: Matrix) -> Matrix:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def naive_swav(rows: list[Matrix], directions: Matrix, whole: int, queue: Matrix) -> float:
    """Cross-entropy of the codes of whole views under the predictions from all others."""
    scores = [unit(part) @ unit(directions).T for part in rows]
    n, terms = len(scores[0]), []
    for b in range(whole):
        everything = np.concatenate([scores[b], queue @ unit(directions).T])
        code = naive_sinkhorn(everything, 0.02, 3)[:n]
        for a in (a for a in range(len(rows)) if a != b):
            for i in range(n):
                powers = np.exp(scores[a][i] / 0.1)
                terms.append(-sum(code[i] * np.log(powers / powers.sum())))
    return float(np.mean(terms))


@pytest.mark.parametrize("queue", [0, 6, 10, 500])
def test_swav_view_by_view_with_a_queue_that_counts_once_it_is_full(queue: int) -> None:
    method = made("swav", prototypes=7, projection_dim=5, queue=queue)
    with torch.no_grad():
        spread(method, method.projector)
        for seed in range(3):
            views = method.views(batch(), generator(seed))
            rows = embeddings(method, method.projector, views)
            full = queue and 6 * seed >= queue
            assert method.queue is None or method.queue.full == bool(full)
            kept = method.queue.kept.double().numpy() if full else np.zeros((0, 5))
            wanted = naive_swav(rows, method.prototypes.weight.double().numpy(), 2, kept)
            loss, figures = method.loss(views)
            assert float(loss) == pytest.approx(wanted, rel=1e-3)
            if queue == 6:
                np.testing.assert_allclose(method.queue.kept.numpy(), unit(rows[0]), atol=1e-5)
        directions = unit(method.prototypes.weight.numpy())
    nearest = {int(k) for part in rows[:2] for k in (unit(part) @ directions.T).argmax(1)}
    assert figures["used"] == pytest.approx(len(nearest) / 7)
    assert figures["trivial"] == pytest.approx(math.log(7))


def test_what_swav_projects_has_no_direction_in_common() -> None:
    """With one, all rows come to point along it within a few steps, to the few prototypes that lie there."""
    method = made("swav")
    views = method.views(batch(), generator())
    rows = method.projector(method.features_of_all(method.encode(views.whole), views))
    torch.testing.assert_close(rows.mean(0), torch.zeros(rows.shape[1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.var(0, correction=0), torch.ones(rows.shape[1]), atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", ["vicreg", "lejepa", "swav"])
def test_local_views_have_a_say(name: str) -> None:
    """And are no targets: with other local views the loss is another."""
    method = made(name, local_views=1).eval()
    views, other = (method.views(batch(), generator(seed)) for seed in (0, 1))
    losses = []
    for local in (views.local, other.local):
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(float(method.loss(type(views)(views.whole, local, views.described, views.colored))[0]))
    assert losses[0] != losses[1]
