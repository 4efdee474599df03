"""On small tables, the Gibbs sampler and Pyro's No-U-Turn sampler draw from one posterior.

Means and spreads of scores of all pairs, the log likelihood and the identified parameters are
compared in Monte Carlo standard errors, by effective sample sizes. They are compared as ranks
among the draws of both: squares of a few hundred draws with a long tail are far from Normal. All
of one test together raise one false alarm in 1,000 random seeds. With 400 effective draws of the
No-U-Turn sampler, a score off by 0.32 of its standard deviation is found with probability 0.9. A
chain of 300 draws is too short: one of six missed a tail, and did not know it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm, rankdata

from benchmarks.sbc import known_within, scores_of
from pyro_pmf import NUTS, PMF, Gibbs, NormalIdentity, OrderedLogit, Ratings, fit
from pyro_pmf.datasets import simulate
from pyro_pmf.moments.chains import ess_mean, mcse_mean
from pyro_pmf.posterior import Posterior

SHARED = {
    "sigma_U": 0.9,
    "sigma_V": 0.9,
    "sigma_W": 0.5,
    "sigma_b": 0.6,
    "sigma_c": 0.6,
    "sigma_s": 0.3,
}
MODELS = {
    (likelihood, n_factors): PMF(
        n_factors,
        users="hierarchical",
        likelihood=NormalIdentity(rounding=0.0) if likelihood == "identity" else OrderedLogit(4),
        noise="user",
        priors=known_within(sigma=0.4, **SHARED),
    )
    for likelihood in ("identity", "ordered")
    for n_factors in (1, 2)
}


def quantities(posterior: Posterior, ratings: Ratings) -> dict[str, np.ndarray]:
    """Return draws of what ratings identify."""
    sites = {name: x.double() for name, x in posterior.latents.items()}
    cells = torch.cartesian_prod(torch.arange(ratings.n_users), torch.arange(ratings.n_items))
    score = scores_of(sites, *cells.T)
    level = 0.0
    if "shares" in sites:
        cutpoints = torch.logit(sites["shares"].cumsum(-1)[:, :-1])
        score, level = score - cutpoints[:, 1:2], cutpoints[:, 1]
    found = {f"score {k}": x for k, x in enumerate(score.T)}
    strength = sites["tau"].square().sum(-1).sqrt()
    for side in ("U", "W"):
        product = strength * sites[f"sigma_{side}"] * sites["sigma_V"]
        found[f"log sigma_{side} sigma_V tau"] = product.log()
    for name in ("sigma", "sigma_b", "sigma_c", "sigma_s"):
        if name in sites:
            found[f"log {name}"] = sites[name].log()
    mean_score = sites.get("mu", torch.zeros(len(strength))) + sites["b"].mean(1)
    found["mean score"] = mean_score + sites["c"].mean(1) - level
    steps = posterior.steps["log_likelihood"].to_numpy()
    return {name: x.numpy() for name, x in found.items()} | {"log likelihood": steps}


def z_scores(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Compare means, and means of squares, of rank-normalised draws, in standard errors."""
    found = {}
    for name in ours:
        n, both = len(ours[name]), np.concatenate([ours[name], theirs[name]])
        normal = norm.ppf((rankdata(both) - 0.5) / len(both))
        for moment in (1, 2):
            a, b = (z**moment for z in (normal[:n], normal[n:]))
            error = np.hypot(*(mcse_mean(z[None, :, None])[0] for z in (a, b)))
            found[f"{name}, {moment}"] = float((a.mean() - b.mean()) / error)
    return found


@pytest.mark.long
@pytest.mark.statistical
@pytest.mark.parametrize(("likelihood", "n_factors"), MODELS)
def test_both_samplers_draw_from_one_posterior(likelihood, n_factors):
    model = MODELS[likelihood, n_factors]
    ratings = simulate(model, 15, 12, 110, seed=1)[0].to("cpu", torch.float64)
    size = {"n_chains": 1}
    gibbs = fit(model, ratings, Gibbs(n_draws=2000, n_warmup=100, **size), progress=False)
    nuts = fit(model, ratings, NUTS(n_draws=800, n_warmup=400, **size), seed=1, progress=False)
    ours, theirs = (quantities(x, ratings) for x in (gibbs, nuts))
    effective = [float(ess_mean(x[None, :, None])[0]) for x in theirs.values()]
    assert np.median(effective) > 200
    z = z_scores(ours, theirs)
    limit = norm.isf(5e-4 / len(z))
    assert not {name: round(x, 1) for name, x in z.items() if not abs(x) < limit}
