"""Convergence of chains beside ArviZ, which computes the same for one quantity at a time."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from pyro_pmf.moments import chains
from pyro_pmf.prediction.arviz_versions import arviz


def autoregressive(n_chains: int, n_draws: int, n: int) -> np.ndarray:
    """Draws from independent to sticky and to alternating, with chains that lie apart in some."""
    draws = np.random.default_rng(0).normal(size=(n_chains, n_draws, n))
    coefficient = np.linspace(-0.95, 0.99, n)
    for t in range(1, n_draws):
        draws[:, t] += coefficient * draws[:, t - 1]
    draws[0] += np.linspace(0, 1, n)
    draws[..., n // 3] = np.round(draws[..., n // 3])  # ties
    return draws


FUNCTIONS = {
    "r_hat": (chains.r_hat, lambda az, x: az.rhat(x)),
    "ess_bulk": (chains.ess_bulk, lambda az, x: az.ess(x, method="bulk")),
    "ess_tail": (chains.ess_tail, lambda az, x: az.ess(x, method="tail", prob=(0.05, 0.95))),
    "ess_mean": (chains.ess_mean, lambda az, x: az.ess(x, method="mean")),
    "mcse_mean": (chains.mcse_mean, lambda az, x: az.mcse(x, method="mean")),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(2, 150), (4, 7), (2, 4), (3, 201), (2, 8), (2, 11)])
def test_the_numbers_are_those_of_arviz(name, shape):
    draws = autoregressive(*shape, 12)
    ours, theirs = FUNCTIONS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ArviZ about few draws
        expected = [float(theirs(arviz(), x)) for x in np.moveaxis(draws, -1, 0)]
    np.testing.assert_allclose(ours(draws), expected, rtol=1e-10)


def test_one_chain_is_compared_with_itself():
    generator = np.random.default_rng(0)
    still = generator.normal(size=(1, 400, 1))
    drift = still + np.linspace(0, 3, 400)[:, None]
    assert chains.r_hat(still)[0] < 1.02
    assert chains.r_hat(drift)[0] > 1.3


@pytest.mark.statistical
def test_the_monte_carlo_error_is_that_of_repeated_chains():
    """Of an autoregressive process whose mean is known: 2,000 repetitions, within 6%.

    The relative error of a standard deviation from 2,000 means is 1.6%. The effective size is
    estimated from 1,000 draws, with a bias of some percent. The seed is fixed.
    """
    n, phi = 500, 0.8
    generator = np.random.default_rng(0)
    draws = generator.normal(size=(2, n, 2000))
    draws[:, 0] /= np.sqrt(1 - phi**2)
    for t in range(1, n):
        draws[:, t] += phi * draws[:, t - 1]
    means = draws.mean((0, 1))
    assert np.sqrt((chains.mcse_mean(draws) ** 2).mean()) == pytest.approx(means.std(), rel=0.06)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_draws_that_are_not_finite_have_no_diagnostics(value):
    draws = autoregressive(2, 50, 3)
    draws[0, 3, 1] = value
    for name in ("r_hat", "ess_bulk", "ess_tail"):
        found = FUNCTIONS[name][0](draws)
        assert np.isnan(found[1])
        assert np.isfinite(found[[0, 2]]).all()


def test_a_quantity_that_never_changes_has_no_r_hat_and_no_error():
    draws = np.full((2, 50, 1), 3.0)
    assert np.isnan(chains.r_hat(draws)[0])
    assert chains.mcse_mean(draws)[0] == 0


def test_three_draws_tell_nothing():
    draws = autoregressive(2, 3, 4)
    assert np.isnan(chains.r_hat(draws)).all()
    assert np.isnan(chains.mcse_mean(draws)).all()
