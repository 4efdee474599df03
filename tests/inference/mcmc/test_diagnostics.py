"""Whether chains have mixed, judged by chains that are known to have, or not to have."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_pmf.inference.mcmc.diagnostics import have_mixed
from pyro_pmf.model.learned import Converged

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


def table(**kinds: list[torch.Tensor] | torch.Tensor) -> pd.DataFrame:
    """Return draws of quantities by kind, as `identified.quantities` does."""
    columns = {
        (kind, f"{k}"): x.double().numpy()
        for kind, xs in kinds.items()
        for k, x in enumerate([xs] if isinstance(xs, torch.Tensor) else xs)
    }
    return pd.DataFrame(columns)


def independent(n: int, seed: int = 0) -> list[torch.Tensor]:
    generator = np.random.default_rng(seed)
    return list(torch.from_numpy(generator.normal(size=(n, N_CHAINS * N_DRAWS))))


# The limit is 1.05. Ranks of two clusters give a little less than the R-hat of the draws.
MIXED, NOT_MIXED = [1.0, 1.02, 1.04], [1.06, 1.1, 1.2, 1.3, 1.45]


@pytest.mark.parametrize("of_halves", [False, True], ids=["chains", "halves"])
@pytest.mark.parametrize("r_hat", [*MIXED, *NOT_MIXED])
def test_chains_have_mixed_below_an_r_hat_of_1_05(r_hat, of_halves, monkeypatch):
    """Chains apart from each other count, and chains that drift all together."""
    for name in ("_FEWEST", "_FEWEST_OF_SCORES"):
        monkeypatch.setattr(f"pyro_pmf.inference.mcmc.diagnostics.{name}", 1)
    draws = chains(r_hat, of_halves)
    for given, log_likelihood in (
        (table(parameter=draws), steps()),
        (table(parameter=chains()), steps(draws)),
        (table(parameter=1e-3 * draws.float() + 7), steps()),
    ):
        assert have_mixed(given, log_likelihood, N_CHAINS).parameters == (r_hat in MIXED)
    assert have_mixed(table(score=draws), steps(), N_CHAINS).predictions == (r_hat in MIXED)


def sticky(n_effective: float) -> torch.Tensor:
    """Autoregressive chains with about this many effective draws in all."""
    size = N_CHAINS * N_DRAWS
    phi = (size - n_effective) / (size + n_effective)
    noise = np.random.default_rng(3).normal(size=(N_CHAINS, N_DRAWS))
    noise[:, 0] /= math.sqrt(1 - phi**2)
    for t in range(1, N_DRAWS):
        noise[:, t] += phi * noise[:, t - 1]
    return torch.from_numpy(noise.reshape(-1))


@pytest.mark.parametrize(("n", "enough"), [(25, False), (50, False), (200, True), (400, True)])
def test_chains_need_a_hundred_effective_draws(n, enough, monkeypatch):
    monkeypatch.setattr("pyro_pmf.inference.mcmc.diagnostics._LARGEST_R_HAT", 10.0)
    assert have_mixed(table(parameter=sticky(n)), steps(), N_CHAINS).parameters == enough
    assert have_mixed(table(score=sticky(n)), steps(), N_CHAINS).predictions == enough


@pytest.mark.parametrize("r_hat", [1.1, 1.3])
def test_one_parameter_that_has_not_mixed_is_enough(r_hat):
    good = independent(3)
    assert have_mixed(table(parameter=good), steps(), N_CHAINS)
    found = have_mixed(table(parameter=[*good, chains(r_hat)], score=good), steps(), N_CHAINS)
    assert found == Converged(predictions=True, parameters=False)


@pytest.mark.parametrize(("n_bad", "mixed"), [(0, True), (2, True), (4, False)])
@pytest.mark.parametrize("kind", ["score", "effect"])
def test_of_many_scores_and_effects_five_in_a_hundred_may_fail(kind, n_bad, mixed):
    many = [*independent(60 - n_bad), *(chains(1.3) for _ in range(n_bad))]
    found = have_mixed(table(parameter=chains(), **{kind: many}), steps(), N_CHAINS)
    part = {"score": found.predictions, "effect": found.parameters}
    other = {"score": found.parameters, "effect": found.predictions}
    assert part[kind] == mixed
    assert other[kind]


@pytest.mark.parametrize("n_divergent", [1, 100])
def test_one_divergent_draw_is_no_convergence(n_divergent):
    found = have_mixed(table(parameter=chains()), steps(n_divergent=n_divergent), N_CHAINS)
    assert found == Converged(predictions=False, parameters=False)


def test_a_sampler_without_divergences_need_not_say_so():
    silent = steps().drop(columns="divergent")
    assert have_mixed(table(parameter=chains()), silent, N_CHAINS)


def test_a_drift_of_one_chain_alone_is_seen():
    drift = torch.linspace(0, 1, N_DRAWS)
    together = chains()[:N_DRAWS]
    assert have_mixed(table(parameter=together), steps(together), 1)
    assert not have_mixed(table(parameter=together + 3 * drift), steps(together), 1)


@pytest.mark.parametrize("n_draws", [1, 2, 3])
def test_few_draws_tell_nothing(n_draws):
    draws = torch.randn(2 * n_draws)
    assert not have_mixed(table(parameter=draws, score=draws), steps(draws), 2)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_chains_that_stand_still_or_leave_have_not_mixed(value):
    stuck = torch.full((N_CHAINS * N_DRAWS,), value)
    assert not have_mixed(table(parameter=stuck), steps(), N_CHAINS)


def test_chains_with_the_same_mean_and_other_spreads_have_not_mixed():
    """Only the folded ranks see it (Vehtari et al. 2021)."""
    draws = chains().reshape(N_CHAINS, -1)
    draws[0] *= 4
    assert not have_mixed(table(parameter=draws.reshape(-1)), steps(), N_CHAINS)
