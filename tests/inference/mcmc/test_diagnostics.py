"""Whether chains have mixed, judged by chains that are known to have, or not to have."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_pmf import PMF
from pyro_pmf.inference.mcmc.diagnostics import have_mixed, identified
from pyro_pmf.model.terms import Terms, terms_of

# --- what ratings identify ---


def test_factors_are_known_up_to_a_scale_and_so_are_their_standard_deviations():
    a = torch.rand(50) + 0.5
    terms = terms_of(PMF(2, users="hierarchical"))
    latents = {"sigma_U": a, "sigma_W": 2 * a, "sigma_V": 1 / a, "sigma_b": a}
    found = identified(terms, latents)
    assert found.keys() == {"sigma_U sigma_V", "sigma_W sigma_V", "sigma_b"}
    torch.testing.assert_close(found["sigma_U sigma_V"], torch.ones(50))
    torch.testing.assert_close(found["sigma_W sigma_V"], 2 * torch.ones(50))


def test_no_scale_of_one_side_is_identified_by_itself():
    """Multiplying those of users and dividing those of items by any numbers changes nothing."""
    terms = terms_of(PMF(2, users="hierarchical", items="hierarchical"))
    sides = ("sigma_U", "sigma_W"), ("sigma_V", "sigma_Z")
    latents = {name: torch.rand(50) + 0.5 for side in sides for name in side}
    found = identified(terms, latents)
    assert found.keys() == {f"{ours} {theirs}" for ours in sides[0] for theirs in sides[1]}
    by = torch.rand(50) + 0.5
    scaled = {name: x * (by if name in sides[0] else 1 / by) for name, x in latents.items()}
    for name, x in identified(terms, scaled).items():
        torch.testing.assert_close(x, found[name])


@pytest.mark.parametrize("fixed", ["sigma_U", "sigma_V", "sigma_W"])
def test_a_known_standard_deviation_sets_the_unit_of_the_others(fixed):
    latents = {name: torch.rand(50) for name in ("sigma_U", "sigma_W", "sigma_V") if name != fixed}
    found = identified(terms_of(PMF(2, users="hierarchical")), latents)
    assert found.keys() == latents.keys()


@pytest.mark.parametrize("terms", [terms_of(PMF(0)), Terms()], ids=["biases", "none"])
def test_without_factors_all_latents_are_identified(terms):
    latents = {name: torch.rand(50) for name in ("sigma_U", "sigma_V", "sigma_b")}
    found = identified(terms, latents)
    assert found.keys() == latents.keys()
    assert all(torch.equal(found[name], x) for name, x in latents.items())


# --- whether chains have mixed ---

N_CHAINS, N_DRAWS = 4, 200


def chains(r_hat: float = 1.0, of_halves: bool = False) -> torch.Tensor:
    """Draws of chains whose split R-hat is known, chain by chain.

    Each half of a chain has the mean of its own that it is given here and, exactly, variance one.
    So the variance between the halves is that of these means, and R-hat^2 = 1 - 1/n + var(means).

    Parameters
    ----------
    r_hat : float
    of_halves : bool
        Whether the halves of each chain lie apart, and not one chain from another.
    """
    n = N_DRAWS // 2
    noise = np.random.default_rng(0).normal(size=(N_CHAINS, 2, n))
    noise -= noise.mean(-1, keepdims=True)
    noise /= noise.std(-1, ddof=1, keepdims=True)
    offset = np.zeros((N_CHAINS, 2))
    offset[(slice(None), 0) if of_halves else slice(0, 2)] = 1.0
    offset *= math.sqrt(r_hat**2 - 1 + 1 / n) / offset.std(ddof=1)
    draws = noise + offset[..., None]
    within = draws.var(-1, ddof=1).mean()
    between = draws.mean(-1).var(ddof=1)
    found = math.sqrt((within * (n - 1) / n + between) / within)
    assert found == pytest.approx(r_hat)
    return torch.from_numpy(draws.reshape(-1))


def steps(log_likelihood: torch.Tensor | None = None, n_divergent: int = 0) -> pd.DataFrame:
    good = chains() if log_likelihood is None else log_likelihood
    divergent = np.arange(len(good)) < n_divergent
    return pd.DataFrame({"log_likelihood": good.numpy(), "divergent": divergent})


# The limit is 1.05.
MIXED, NOT_MIXED = [1.0, 1.02, 1.045], [1.055, 1.1, 1.2, 1.3, 1.45]


@pytest.mark.parametrize("of_halves", [False, True], ids=["chains", "halves"])
@pytest.mark.parametrize("r_hat", [*MIXED, *NOT_MIXED])
def test_chains_have_mixed_below_an_r_hat_of_1_05(r_hat, of_halves):
    """Chains apart from each other count, and chains that drift all together."""
    draws = chains(r_hat, of_halves)
    assert have_mixed({"mu": draws}, steps(), N_CHAINS) == (r_hat in MIXED)
    assert have_mixed({"mu": chains()}, steps(draws), N_CHAINS) == (r_hat in MIXED)
    assert have_mixed({"mu": 1e-3 * draws.float() + 7}, steps(), N_CHAINS) == (r_hat in MIXED)


@pytest.mark.parametrize("r_hat", [1.1, 1.3])
def test_one_quantity_that_has_not_mixed_is_enough(r_hat):
    quantities = {"mu": chains(), "sigma": chains(r_hat), "sigma_b": chains()}
    assert not have_mixed(quantities, steps(), N_CHAINS)
    del quantities["sigma"]
    assert have_mixed(quantities, steps(), N_CHAINS)


def test_quantities_of_many_numbers_are_not_judged():
    """A user's bias may have no rating that tells of it."""
    rows = torch.stack([chains(1.3), chains()], -1)
    assert have_mixed({"b": rows, "mu": chains()}, steps(), N_CHAINS)
    assert have_mixed({}, steps(), N_CHAINS)


@pytest.mark.parametrize("n_divergent", [1, 100])
def test_one_divergent_draw_is_no_convergence(n_divergent):
    assert not have_mixed({"mu": chains()}, steps(n_divergent=n_divergent), N_CHAINS)


def test_a_drift_of_one_chain_alone_is_seen():
    drift = torch.linspace(0, 1, N_DRAWS)
    together = chains()[:N_DRAWS]
    table = steps(together)
    assert have_mixed({"mu": together}, table, 1)
    assert not have_mixed({"mu": together + 3 * drift}, table, 1)


@pytest.mark.parametrize("n_draws", [1, 2, 3])
def test_few_draws_tell_nothing(n_draws):
    draws = torch.randn(2 * n_draws)
    assert not have_mixed({"mu": draws}, steps(draws), 2)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_chains_that_stand_still_or_leave_have_not_mixed(value):
    stuck = torch.full((N_CHAINS * N_DRAWS,), value)
    assert not have_mixed({"mu": stuck}, steps(), N_CHAINS)


def test_chains_apart_are_not_convergence():
    log_likelihood = torch.from_numpy(np.random.default_rng(0).normal(size=100))
    table = steps(log_likelihood)
    together = torch.randn(100)
    apart = together + torch.arange(100).ge(50) * 3.0
    assert have_mixed({"mu": together}, table, 2)
    assert not have_mixed({"mu": apart}, table, 2)
    assert not have_mixed({"mu": together}, table.assign(divergent=[True] + [False] * 99), 2)
