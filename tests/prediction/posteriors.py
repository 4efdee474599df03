"""Small posteriors whose latents are chosen here, of every kind and likelihood."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from pyro_pmf import (
    PMF,
    BernoulliLogit,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    Posterior,
    Ratings,
)
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, Uncertain

N_USERS, N_ITEMS, K = 9, 31, 2
LIKELIHOODS = {
    "OrderedLogit": OrderedLogit(5),
    "NormalSigmoid": NormalSigmoid(0.25),
    "NormalIdentity": NormalIdentity(0.0),
    "BernoulliLogit": BernoulliLogit(),
    "NegativeBinomialLog": NegativeBinomialLog(),
}
TRANSFORMS = {"NormalIdentity": "standardize", "NegativeBinomialLog": "count"}
KINDS = "closed", "point", "draws"
# 4 otherwise. Nearly every rating of the Normal without bounds is one of 4, which is a tie.
AT_LEAST = {"BernoulliLogit": 1.0, "NormalIdentity": 5.0}


def posterior_of(
    name="NormalSigmoid", kind="closed", seed=0, n_draws=12, n_items=N_ITEMS, **options
):
    """A posterior of random latents; nobody has rated the last item.

    Users are 100, 101, ..., items "film00", "film01", ...
    """
    rng = np.random.default_rng(seed)
    user, item = np.nonzero(rng.random((N_USERS, n_items - 1)) < 0.3)
    high = 1 if name == "BernoulliLogit" else 5
    rating = rng.integers(1 if high == 5 else 0, high + 1, len(user)).astype(float)
    ids = pd.Index(range(100, 100 + N_USERS)), pd.Index([f"film{j:02}" for j in range(n_items)])
    plain = Ratings(
        torch.tensor(user),
        torch.tensor(item),
        *ids,
        (0.0, 1.0) if high == 1 else (1.0, 5.0),
        rating,
        dtype=torch.float64,
    )
    ratings = plain.with_transform(TRANSFORMS.get(name, "unit"))
    likelihood = LIKELIHOODS[name]
    model = PMF(K, likelihood=likelihood, **options)
    latents = {}
    for term in model.terms:
        n = N_USERS if term.plate == "users" else n_items
        shape = (n, K) if term.is_vector else (n,)
        latents[term.site] = Gaussian(
            torch.tensor(rng.normal(size=shape) * 0.5),
            torch.tensor(rng.uniform(0.01, 0.1, shape)),
            frozenset({term.site}),
        )
        latents[term.scale] = _log_gaussian(term.scale, 0.4)
    latents["tau"] = torch.ones(K, dtype=torch.float64)
    for site in model.mean_sites:
        mean, var = rng.normal(size=K) * 0.3, rng.uniform(0.01, 0.1, K)
        latents[site] = Gaussian(torch.tensor(mean), torch.tensor(var), frozenset({site}))
    if likelihood.has_mu:
        latents["mu"] = Gaussian(
            torch.tensor(0.2).double(), torch.tensor(0.01).double(), frozenset({"mu"})
        )
    if likelihood.has_sigma:
        latents["sigma"] = _log_gaussian("sigma", 0.3)
    if name == "OrderedLogit":
        latents["shares"] = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15], dtype=torch.float64)
    steps = pd.DataFrame({"step": [1], "elbo": [0.0], "seconds": [0.0]})
    if kind == "closed":
        return Posterior(model, ratings, latents, None, steps, True)
    if kind == "point":
        point = {site: _without_spread(x) for site, x in latents.items()}
        return Posterior(model, ratings, point, None, steps, True)
    generator = torch.random.get_rng_state()
    torch.manual_seed(seed)
    drawn = {
        site: torch.stack([x.draw() if isinstance(x, Uncertain) else x for _ in range(n_draws)])
        for site, x in latents.items()
    }
    torch.random.set_rng_state(generator)
    return Posterior(model, ratings, drawn, n_draws, steps, True)


def _log_gaussian(site, median):
    log = torch.tensor(np.log(median)), torch.tensor(0.01).double()
    return LogGaussian(*log, frozenset({site}))


def _without_spread(value):
    """The point estimate of a site, in the form that MAP has it."""
    if isinstance(value, Gaussian):
        return Gaussian(value.mean, torch.zeros_like(value.var), value.sites)
    return value.mean if isinstance(value, LogGaussian) else value


def every_pair(posterior, users=None):
    """All pairs of some users with all items, by user."""
    users = posterior.ratings.user_ids if users is None else users
    return pd.MultiIndex.from_product(
        [users, posterior.ratings.item_ids], names=["user", "item"]
    ).to_frame(index=False)
