"""The check of every fit: nonsense is refused, and a fit that is worse than the mean says so."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit

from pyro_pmf import (
    MAP,
    PMF,
    FitError,
    Fixed,
    Gibbs,
    HalfNormal,
    Likelihood,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    Priors,
    Ratings,
    fit,
)
from pyro_pmf.datasets import simulate
from pyro_pmf.sanity import checked


def top_heavy():
    """900 stars, of which 70% are fives and the others are uniform: the noise may collapse."""
    rng = np.random.default_rng(1)
    cells = rng.choice(18000, 900, replace=False)
    rating = np.where(rng.random(900) < 0.7, 5, rng.integers(1, 5, 900))
    frame = pd.DataFrame({"user": cells // 100, "item": cells % 100, "rating": rating})
    return Ratings.from_frame(frame)


@pytest.fixture(scope="module")
def posterior():
    rng = np.random.default_rng(0)
    user, item = np.divmod(np.arange(600), 20)
    rating = expit(rng.normal(size=30)[user] + 0.5 * rng.normal(size=600))
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return fit(PMF(0), Ratings.from_frame(frame, scale=(0, 1)), progress=False)


def with_latent(posterior, site, log_mean):
    latent = replace(posterior.latents[site], log_mean=torch.tensor(log_mean))
    return replace(posterior, latents=dict(posterior.latents) | {site: latent})


def test_a_sane_fit_is_returned_as_it_is(posterior):
    assert checked(posterior) is posterior


@pytest.mark.parametrize(
    ("log_sigma", "what"),
    [
        (5.0, "standard deviation of .* times the range of the ratings"),
        (float("nan"), "log score of a training rating is not finite"),
        (100.0, "not finite"),
    ],
)
def test_nonsense_is_refused_with_a_remedy(posterior, log_sigma, what):
    with pytest.raises(FitError, match=what) as error:
        checked(with_latent(posterior, "sigma", log_sigma))
    assert 'PMF(noise="shared")' in str(error.value)


def test_nonsense_for_strangers_alone_is_refused(posterior):
    """Training ratings are predicted by learnt rows, unknown users by the prior."""
    assert isinstance(posterior.model.likelihood, NormalSigmoid)
    ratings = posterior.ratings
    narrow = Ratings(
        ratings.user,
        ratings.item,
        ratings.user_ids,
        ratings.item_ids,
        (-1e4, 1e4),
        ratings.rating,
    )
    model = PMF(0, noise="shared", priors=Priors(sigma_b=Fixed(3.0), sigma_c=Fixed(0.1)))
    with pytest.raises(FitError, match="an unknown user or item has a standard deviation"):
        fit(model, narrow, progress=False)
    fit(replace(model, likelihood="auto"), narrow, progress=False)  # the remedy works


def test_a_fit_that_is_worse_than_the_mean_warns_and_has_not_converged(posterior):
    latent = posterior.latents["mu"]
    shifted = replace(latent, mean=latent.mean - 6 * latent.mean.sign())
    worse = replace(posterior, latents=dict(posterior.latents) | {"mu": shifted})
    with pytest.warns(UserWarning, match="times as badly as their mean"):
        found = checked(worse)
    assert not found.converged
    assert not checked(replace(worse, converged=False)).converged  # says it already


def test_counts_are_compared_on_the_scale_of_their_logs():
    """One count of a million would make any model of the others worse than the mean."""
    rng = np.random.default_rng(0)
    user, item = np.divmod(np.arange(400), 20)
    rating = rng.poisson(np.exp(1.0 + 0.8 * rng.normal(size=20)[user]))
    rating[7] = 1_000_000
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    ratings = Ratings.from_frame(frame, transform="count")
    model = PMF(0, noise="shared", likelihood=NegativeBinomialLog())
    assert fit(model, ratings, progress=False).converged


def zero_inflated():
    """Counts of 20 users, of which four in five are 0."""
    user, item = np.divmod(np.arange(60), 3)
    rating = np.where((user + item) % 5 == 0, 20 + user, 0)
    return pd.DataFrame({"user": user, "item": item, "rating": rating})


RUN_AWAY = r'times the range of the ratings\. Give .*"unit"'


def test_a_long_tail_is_told():
    """A count is about exp of its score, and zeros hardly bound a score."""
    ratings = Ratings.from_frame(zero_inflated(), transform="count")
    narrow = HalfNormal(0.3)
    priors = Priors(sigma_U=narrow, sigma_V=narrow, sigma_b=narrow, sigma_c=narrow)
    unbounded = NegativeBinomialLog(ceiling=math.inf)
    model = PMF(1, noise="shared", likelihood=unbounded, priors=priors)
    with pytest.warns(UserWarning, match=RUN_AWAY):
        assert not fit(model, ratings, Gibbs(30, 30, thin=1), progress=False).converged


@pytest.mark.parametrize(
    ("transform", "likelihood", "seed"),
    [("count", NegativeBinomialLog(ceiling=math.inf), 0), ("log1p", NormalIdentity(), 1)],
)
def test_a_tail_without_end_is_refused_and_the_remedy_works(transform, likelihood, seed):
    ratings = Ratings.from_frame(zero_inflated(), transform=transform)
    with pytest.raises(FitError, match=RUN_AWAY):
        fit(
            PMF(1, likelihood=likelihood),
            ratings,
            Gibbs(30, 30, thin=1),
            seed=seed,
            progress=False,
        )
    bounded = Ratings.from_frame(zero_inflated(), transform="unit")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(PMF(1), bounded, Gibbs(30, 30, thin=1), progress=False)
    assert not any("range of the ratings" in str(w.message) for w in said)


def test_the_ceiling_of_counts_bounds_their_tail():
    """What is refused without a ceiling, and names it, is a fit with the one of the table."""
    ratings = Ratings.from_frame(zero_inflated(), transform="count")
    unbounded = PMF(1, likelihood=NegativeBinomialLog(ceiling=math.inf))
    with pytest.raises(FitError, match=r"NegativeBinomialLog\(\)\), whose ceiling"):
        fit(unbounded, ratings, Gibbs(30, 30, thin=1), progress=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The prediction of")
        posterior = fit(PMF(1, likelihood=NegativeBinomialLog()), ratings, Gibbs(30, 30, thin=1))
    stranger = posterior.predict(pd.DataFrame({"user": [-1], "item": [-1]}))
    assert stranger["mean"][0] < 10 * ratings.rating.max()


def test_a_likelihood_of_ones_own_may_have_no_moments():
    class Cauchy(Likelihood):
        def __call__(self, score, sigma, **own):
            import pyro.distributions as dist

            return dist.StudentT(score.new_tensor(1.0), score, sigma)

    ratings, _ = simulate(PMF(0), n_users=10, n_items=10, n_ratings=50)
    model = PMF(0, noise="shared", likelihood=Cauchy())
    fit(model, ratings, MAP(max_steps=5), progress=False)


def test_a_few_draws_of_many_are_looked_at(posterior):
    with torch.random.fork_rng():
        draws = [next(posterior.draws(1)) for _ in range(200)]
    latents = {site: torch.stack([draw[site] for draw in draws]) for site in draws[0]}
    drawn = replace(posterior, latents=latents, n_draws=200)
    assert checked(drawn) is drawn
    latents["sigma"] = torch.full_like(latents["sigma"], 1e9)
    with pytest.raises(FitError, match="nonsense"):
        checked(drawn)


@pytest.mark.parametrize("noise", ["user", "item", "user_and_item"])
def test_noise_on_levels_does_not_collapse(noise):
    """Without the variance of rounding, these fits end at 1e-8 sd of the ratings, converged."""
    ratings = top_heavy()
    posterior = fit(PMF(0, noise=noise), ratings, progress=False)
    assert posterior.converged
    assert posterior.model.likelihood == NormalSigmoid(rounding=0.25)
    stranger = posterior.predict(pd.DataFrame({"user": [-1], "item": [-1]}))
    assert 0.9 < stranger["sd"][0] / ratings.rating.std() < 1.6
    known = posterior.predict(ratings)
    assert known["sd"].min() >= 1 / np.sqrt(12)
    assert known["sd"].max() < 4


def test_without_rounding_the_collapse_is_refused():
    model = PMF(0, likelihood=NormalSigmoid(rounding=0.0))
    with pytest.raises(FitError, match=r"predicts nonsense.*PMF\(likelihood=.auto"):
        fit(model, top_heavy(), progress=False)
    assert fit(replace(model, likelihood="auto"), top_heavy(), progress=False).converged


def test_a_log_scale_where_ratings_have_no_moments_is_refused_and_the_remedy_works():
    """80% ones with transform="log1p": the noise of some users is so wide that means overflow."""
    rng = np.random.default_rng(0)
    cells = rng.choice(6000, 600, replace=False)
    rating = np.where(rng.random(600) < 0.8, 1, rng.geometric(0.05, 600))
    frame = pd.DataFrame({"user": cells // 100, "item": cells % 100, "rating": rating})
    ratings = Ratings.from_frame(frame, transform="log1p")
    model = PMF(0, likelihood=NormalIdentity())
    with pytest.raises(FitError, match=r"nonsense.*noise=.shared"):
        fit(model, ratings, progress=False)
    posterior = fit(replace(model, noise="shared"), ratings, progress=False)
    assert np.isfinite(posterior.evaluate(ratings)[["rmse", "nll", "crps"]].to_numpy(float)).all()
