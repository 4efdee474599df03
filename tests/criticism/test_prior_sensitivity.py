"""Power-scaling sensitivity beside conjugate posteriors, whose scaled versions are known."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch

from pyro_pmf import MAP, PMF, VI, Gibbs, NormalIdentity, PMFError, Posterior, Ratings, fit
from pyro_pmf.criticism import prior_sensitivity
from pyro_pmf.datasets import simulate

SD = 0.25
N = 1000
FRAME = pd.DataFrame(
    {
        "user": np.repeat(["ann", "bob", "cyd", "dan"], 5),
        "item": np.tile([3, 1, 4, 15, 9], 4),
        "rating": np.random.default_rng(0).integers(1, 6, 20).astype(float),
    }
)


def about_theta(loc: float, sd: float):
    """Return the model y_n ~ Normal(theta, SD^2), theta ~ Normal(loc, sd^2)."""

    def model(ratings):
        theta = pyro.sample("theta", dist.Normal(torch.tensor(loc).double(), sd))
        with pyro.plate("ratings", len(ratings)):
            fn = dist.Normal(theta.expand(len(ratings)), SD)
            return pyro.sample("rating", fn, obs=ratings.value)

    return model


def exact(y: np.ndarray, loc: float, sd: float, prior: float = 1.0, likelihood: float = 1.0):
    """Return the posterior of theta with prior and likelihood raised to these powers."""
    precision = prior / sd**2 + likelihood * len(y) / SD**2
    mean = (prior * loc / sd**2 + likelihood * y.sum() / SD**2) / precision
    return scipy.stats.norm(mean, precision**-0.5)


def distance(p, q) -> float:
    """Return the cumulative Jensen-Shannon distance, the larger of both tails, by quadrature.

    It is normalized by the integrals of both distributions, so it depends on the range of x: that
    of the draws.
    """
    x = np.linspace(*p.ppf([0.5 / N, 1 - 0.5 / N]), 20_001)
    found = []
    for tail in ("cdf", "sf"):
        P, Q = getattr(p, tail)(x), getattr(q, tail)(x)
        js = scipy.special.rel_entr(P, (P + Q) / 2) + scipy.special.rel_entr(Q, (P + Q) / 2)
        found.append(np.sqrt(np.trapezoid(js, x) / np.log(2) / np.trapezoid(P + Q, x)))
    return max(found)


def sensitivity(y, loc, sd, component: str, power: float) -> float:
    base = exact(y, loc, sd)
    ends = [exact(y, loc, sd, **{component: p}) for p in (power, 1 / power)]
    return sum(distance(base, end) for end in ends) / (2 * np.log2(power))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loc", "sd", "diagnosis"),
    [
        (0.5, 5.0, "-"),
        (3.0, 0.3, "prior-data conflict"),
        (0.5, 0.01, "strong prior / weak likelihood"),
    ],
    ids=["vague", "conflict", "strong"],
)
def test_a_conjugate_posterior_has_the_sensitivity_of_the_scaled_ones(loc, sd, diagnosis):
    """The distances of exact posteriors, over the range of the draws; no refit is needed.

    Draws are quantiles of equal parts, so that only the smoothing of the weights and the steps of
    the distribution functions are left: within 0.01 or 5%.
    """
    ratings = Ratings.from_frame(FRAME)
    y = ratings.value.double().numpy()
    posterior = exact(y, loc, sd)
    theta = np.random.default_rng(0).permutation(posterior.ppf((np.arange(N) + 0.5) / N))
    logs = scipy.stats.norm.logpdf(y, theta[:, None], SD).sum(1)
    steps = pd.DataFrame({"log_likelihood": logs, "divergent": False})
    draws = {"theta": torch.from_numpy(theta)}
    learned = Posterior(about_theta(loc, sd), ratings, draws, N, steps, True, n_chains=2)
    table = prior_sensitivity(learned, n_pairs=2)
    row = table.set_index("quantity").loc["theta"]
    for component in ("prior", "likelihood"):
        power = table.attrs["powers"][component]
        truth = sensitivity(y, loc, sd, component, power)
        assert row[component] == pytest.approx(truth, rel=0.05, abs=0.01)
    assert row["diagnosis"] == diagnosis
    means = table[table["quantity"].str.startswith("mean rating of")]
    assert len(means)  # a mean rating is an affine function of theta, and so is as sensitive
    np.testing.assert_allclose(means["prior"], row["prior"], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_only_the_named_priors_are_scaled():
    """Without factors and with vague data, the prior of one scale moves that scale most."""
    model = PMF(0, noise="shared", likelihood=NormalIdentity())
    ratings, _ = simulate(model, n_users=12, n_items=10, n_ratings=80, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = fit(model, ratings, VI(max_steps=60, learn_scales=None), progress=False)
    tables = {
        site: prior_sensitivity(posterior, n_pairs=2, priors=[site], n_draws=400).set_index(
            "quantity"
        )["prior"]
        for site in ("sigma_b", "sigma_c")
    }
    for site, found in tables.items():
        other = {"sigma_b": "sigma_c", "sigma_c": "sigma_b"}[site]
        assert found[site] > 2 * found[other]
    with pytest.raises(PMFError, match=r"sigma_x.*give some of"):
        prior_sensitivity(posterior, priors=["sigma_x"], n_draws=20)


@pytest.mark.slow
def test_means_of_factors_are_no_parameters():
    """Their priors have the scales of the rows; scaled, they would say of these what they do."""
    model = PMF(1, noise="shared", likelihood=NormalIdentity())
    ratings, _ = simulate(model, n_users=12, n_items=10, n_ratings=80, seed=1)
    posterior = fit(model, ratings, Gibbs(n_draws=40), progress=False)
    with pytest.raises(PMFError, match=r"mu_U.*give some of \['mu', 'sigma', [^\]]*'tau'\]"):
        prior_sensitivity(posterior, priors=["mu_U"])
    steps = posterior.steps.assign(log_likelihood=0.0)  # as of another table
    pd.testing.assert_frame_equal(
        prior_sensitivity(replace(posterior, steps=steps), n_pairs=2),
        prior_sensitivity(posterior, n_pairs=2),
    )


def test_a_point_estimate_is_refused():
    model = PMF(0, noise="shared", likelihood=NormalIdentity())
    ratings, _ = simulate(model, n_users=12, n_items=10, n_ratings=80, seed=1)
    posterior = fit(model, ratings, MAP(max_steps=20, learn_scales=None), progress=False)
    with pytest.raises(PMFError, match="point estimate"):
        prior_sensitivity(posterior, n_draws=20)


def test_weights_beyond_repair_are_told():
    ratings = Ratings.from_frame(FRAME)
    theta = np.linspace(0, 100, 100)  # log likelihoods of 0 to -2e6
    steps = pd.DataFrame({"divergent": [False] * 100})
    draws = {"theta": torch.from_numpy(theta)}
    learned = Posterior(about_theta(0.5, 1e4), ratings, draws, 100, steps, True, n_chains=1)
    with pytest.warns(UserWarning, match="weights of the likelihood are unreliable"):
        prior_sensitivity(learned, n_pairs=2)
