"""Fits that collapse: a point estimate is refused, variational inference says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta

from pyro_pmf import MAP, PMF, VI, FitError, Fixed, Priors, Ratings, fit
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.variational.collapse import has_no_factors
from pyro_pmf.model.likelihoods import Likelihood


class Tanh(Likelihood):
    """A likelihood that needs tensors."""

    def __call__(self, score, sigma, **own):
        return dist.Normal(0.5 + 0.5 * score.tanh(), sigma)


def with_delta(model, **options):
    return VI(guide=AutoDelta(model), **options)


@pytest.fixture(scope="module")
def noise() -> Ratings:
    user, item = np.divmod(np.arange(15 * 12), 12)
    rating = np.random.default_rng(0).uniform(size=15 * 12)
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return Ratings.from_frame(frame, scale=(0.0, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, pytest.param({"users": "hierarchical"}, marks=pytest.mark.long)]
)
def test_a_point_estimate_whose_scales_are_zero_is_refused(noise, options):
    model = PMF(2, **options)
    with pytest.raises(FitError, match="collapsed: sigma"):
        fit(model, noise, with_delta(model, max_steps=1500), progress=False)


@pytest.mark.slow
def test_a_point_estimate_without_factors_says_so(noise):
    with pytest.warns(UserWarning, match="factors have shrunk to zero"):
        posterior = fit(PMF(2), noise, MAP(max_steps=1500, learn_scales=None), progress=False)
    predicted = posterior.predict(noise)
    assert predicted["sd"].between(0.2, 0.4).all()  # of a uniform rating: 0.289


@pytest.mark.slow
def test_a_point_estimate_that_interpolates_is_refused():
    """One rating a user, and a bias for each: sigma has no reason to stop above zero."""
    rating = np.linspace(0.2, 0.8, 10)
    ratings = Ratings.from_frame(
        pd.DataFrame({"user": range(10), "item": 0, "rating": rating}), scale=(0.0, 1.0)
    )
    priors = Priors(sigma_b=Fixed(3.0), sigma_c=Fixed(3.0))
    model = PMF(0, noise="shared", priors=priors)
    method = with_delta(model, max_steps=3000, tolerance=1e-9)
    with pytest.raises(FitError, match=r"collapsed: sigma is"):
        fit(model, ratings, method, progress=False)


@pytest.mark.slow
def test_variational_inference_says_that_noise_is_noise(noise):
    with pytest.warns(UserWarning, match="shrunk to zero") as caught:
        posterior = fit(PMF(2), noise, VI(max_steps=1000, learn_scales=None), progress=False)
    assert caught[0].filename == __file__
    assert posterior.converged
    assert posterior.predict(noise)["mean"].between(0.2, 0.8).all()


@pytest.mark.long
def test_a_collapsed_point_estimate_is_refused_whatever_the_model():
    """A model of one's own, and a likelihood that needs tensors, whose posterior is draws."""
    frame = simulate(PMF(2), 30, 25, 300, seed=2)[0].to_frame()
    rating = np.random.default_rng(0).uniform(1, 5, len(frame))
    noise = Ratings.from_frame(frame.assign(rating=rating))

    def own(ratings, history=None):
        return PMF(2, noise="shared")(ratings, history)

    model = PMF(2, noise="shared", likelihood=Tanh())
    with pytest.raises(FitError, match="collapsed"):
        fit(own, noise, "map", progress=False)
    with pytest.raises(FitError, match="collapsed"):
        fit(model, noise, with_delta(model), progress=False)


@pytest.mark.slow
def test_factors_are_told_from_none():
    """By what they change in the scores: of few steps, of draws, and of a model without any."""
    ratings = simulate(PMF(2, noise="shared"), 12, 10, 100)[0]
    few = VI(max_steps=5, learn_scales=None)
    live = fit(PMF(2, noise="shared"), ratings, few, progress=False)
    assert not has_no_factors(live)
    for rest in (0.0, 1e-3):  # a trace drowns in its uncertainty
        dead = live.latents | {"U": replace(live.latents["U"], mean=torch.full((12, 2), rest))}
        assert has_no_factors(replace(live, latents=dead))
    assert not has_no_factors(fit(PMF(0), ratings, few, progress=False))
    drawn = {name: torch.stack([draw[name] for draw in live.draws(3)]) for name in live.latents}
    assert not has_no_factors(replace(live, latents=drawn, n_draws=3))
    drawn["U"] = torch.zeros(3, 12, 2)
    assert has_no_factors(replace(live, latents=drawn, n_draws=3))
