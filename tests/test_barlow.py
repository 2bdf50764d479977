"""Barlow twins against the formula, and the measures of redundancy against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sslfeat.evaluation.redundancy import effective_rank, redundancy
from sslfeat.models.backbones.registry import build_backbone
from sslfeat.models.methods.barlow import Barlow, barlow_twins


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_loss_is_equation_1_entry_by_entry() -> None:
    z = torch.randn(12, 4, generator=generator()).double()
    first, second = ((half - half.mean(0)) / half.std(0, correction=0) for half in z.chunk(2))
    total, off_diagonal = 0.0, 0.0
    for i in range(4):
        for j in range(4):
            c = float((first[:, i] * second[:, j]).sum()) / 6
            total += (1 - c) ** 2 if i == j else 0.01 * c**2
            off_diagonal += abs(c) if i != j else 0
    loss, figures = barlow_twins(z, 0.01)
    assert float(loss) == pytest.approx(total, rel=1e-3)
    assert float(figures["redundancy"]) == pytest.approx(off_diagonal / 12, rel=1e-3)


def test_views_that_agree_in_units_that_differ_cost_nothing() -> None:
    units = torch.linalg.qr(torch.randn(64, 5, generator=generator()) - 0.0)[0]
    units = torch.linalg.qr(units - units.mean(0))[0]
    loss, figures = barlow_twins(units.repeat(2, 1) * 8, 0.0051)
    assert float(loss) < 1e-3
    assert float(figures["agreement"]) == pytest.approx(1, abs=1e-3)
    assert float(figures["accuracy"]) == 1
    copies, figures = barlow_twins(torch.randn(64, 1, generator=generator()).expand(64, 5).repeat(2, 1), 1.0)
    assert float(copies) == pytest.approx(20, rel=1e-3)  # five copies of one unit: each off-diagonal entry is 1
    constant, _ = barlow_twins(torch.ones(16, 5), 1.0)
    assert float(constant) == pytest.approx(5)  # a collapse is no solution


def test_weak_agreement_is_complained_about() -> None:
    method = Barlow(build_backbone("resnet10_w8", 32), Barlow.Config(projection_dim=16))
    assert "agree little" in str(method.complaint({"agreement": 0.1}))
    assert method.complaint({"agreement": 0.8}) is None


@pytest.mark.parametrize("rho", [0.0, 0.5, -0.9])
def test_two_gaussian_units(rho: float) -> None:
    """Total correlation -1/2 log(1 - rho^2), and each is predicted from the other with R^2 = rho^2."""
    x = np.random.default_rng(0).normal(size=(200_000, 2))
    x[:, 1] = rho * x[:, 0] + np.sqrt(1 - rho**2) * x[:, 1]
    found = redundancy(3 * x + 7, shrinkage=0.0)
    assert found.correlation == pytest.approx(abs(rho), abs=0.01)
    assert found.total_correlation == pytest.approx(-0.5 * np.log(1 - rho**2), abs=0.01)
    assert found.predictability == pytest.approx(rho**2, abs=0.01)


def test_predictability_is_the_r_squared_of_least_squares() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6))
    explained = []
    for i in range(6):
        others = np.column_stack([np.delete(x, i, 1), np.ones(500)])
        residual = x[:, i] - others @ np.linalg.lstsq(others, x[:, i], rcond=None)[0]
        explained.append(1 - residual.var() / x[:, i].var())
    assert redundancy(x, shrinkage=0.0).predictability == pytest.approx(float(np.mean(explained)), rel=1e-6)


def test_dead_units_are_left_out_and_copies_have_no_finite_figure() -> None:
    x = np.random.default_rng(2).normal(size=(300, 3))
    with_dead = np.column_stack([x, np.full(300, 5.0)])
    found = redundancy(with_dead)
    assert (found.live, found.dead) == (3, 1)
    assert found.total_correlation == pytest.approx(redundancy(x).total_correlation)
    assert redundancy(np.column_stack([x, x[:, 0]])).total_correlation > 2
    assert effective_rank(np.outer(np.arange(9), [1.0, 2.0])) == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="more inputs N than units D"):
        redundancy(x[:2])
    with pytest.raises(ValueError, match="not finite"):
        redundancy(np.where(x > 2, np.nan, x))
