"""Tables and scales at their ends: every draw is finite, no row is stuck, predictions are sane."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_pmf import (
    PMF,
    BernoulliLogit,
    Fixed,
    Gibbs,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    Priors,
    Ratings,
    fit,
)
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.inference.mcmc.gibbs import rows
from pyro_pmf.inference.mcmc.gibbs.sampler import Sampler


@pytest.fixture(autouse=True)
def _cholesky_never_fails(monkeypatch):
    """A row whose factor does not exist stays as it is: exact, but stuck."""
    approximate = rows._Part.approximate

    def watched(*args, **options):
        gaussian = approximate(*args, **options)
        assert gaussian.is_sound.all()
        return gaussian

    monkeypatch.setattr(rows._Part, "approximate", watched)


BOTH = {"users": "hierarchical", "items": "hierarchical"}
SITES = "UVWZbc"


def table(users: np.ndarray, items: np.ndarray, rating: np.ndarray) -> pd.DataFrame:
    """Return a table of ratings, one for each pair."""
    frame = pd.DataFrame({"user": users, "item": items, "rating": rating})
    return frame.drop_duplicates(["user", "item"], ignore_index=True)


def some(rating: np.ndarray | None = None) -> pd.DataFrame:
    """Return about 150 ratings of 30 users and 20 items, 0 or 1 by default."""
    rng = np.random.default_rng(0)
    frame = table(rng.integers(0, 30, 170), rng.integers(0, 20, 170), np.zeros(170))
    return frame.assign(rating=rng.integers(0, 2, len(frame)) if rating is None else rating)


def one_each() -> pd.DataFrame:
    """Return 40 users with one rating each, half of them of one item, the others of their own."""
    users = np.arange(40)
    return table(users, np.where(users % 2, 0, users), users % 3 / 2)


def one_rates_all() -> pd.DataFrame:
    """Return a user with 10,000 ratings, and 50 users with one of these items each."""
    rng = np.random.default_rng(1)
    users = np.r_[np.zeros(10_000, int), 1 + np.arange(50)]
    items = np.r_[np.arange(10_000), rng.integers(0, 10_000, 50)]
    return table(users, items, rng.integers(0, 3, len(users)) / 2)


def all_but_one() -> pd.DataFrame:
    """Return ratings of 1, but for a single 0."""
    frame = some(rating=1.0)
    frame.loc[7, "rating"] = 0.0
    return frame


def one_value_each() -> pd.DataFrame:
    """Return users who always give 0, or always 1."""
    frame = some()
    return frame.assign(rating=frame["user"] % 2)


def two() -> pd.DataFrame:
    """Return two ratings."""
    return table(np.array([0, 1]), np.array([0, 1]), np.array([0.0, 1.0]))


TABLES = {f.__name__: f for f in (one_each, one_rates_all, all_but_one, one_value_each, two)}
LIKELIHOODS = {
    "ordered": OrderedLogit(3),
    "sigmoid": NormalSigmoid(0.5),
    "identity": NormalIdentity(0.5),
    "identity, exact": NormalIdentity(0.0),
    "counts": NegativeBinomialLog(),
}


def require_sane(sampler: Sampler, n_sweeps: int = 22) -> None:
    """Take some sweeps, uncorrected ones first; after each of them all is finite."""
    for _ in range(n_sweeps):
        sampler.sweep()
        values = sampler.draw()
        assert all(value.isfinite().all() for value in values.values())
        assert all((x > 0).all() for name, x in values.items() if name.startswith("sigma"))
        assert np.isfinite(sampler.log_likelihood())


def sampler_of(model: PMF, frame: pd.DataFrame, dtype: torch.dtype) -> Sampler:
    """Return a sampler of ratings on [0, 1]; counts are twice these numbers."""
    ratings: Pairs = Ratings.from_frame(frame, scale=(0.0, 1.0), dtype=dtype)
    if isinstance(model.likelihood, NegativeBinomialLog):
        shape = ratings.n_users, ratings.n_items
        ratings = Pairs(ratings.user, ratings.item, *shape, 2 * ratings.value)
    return Sampler(model, ratings, ratings, np.random.default_rng(0))


CASES = [(name, torch.float32) for name in TABLES] + [("two", torch.float64)]


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_odd_tables(name, likelihood, dtype):
    noise = "shared" if likelihood == "identity, exact" else "user_and_item"
    model = PMF(3, likelihood=LIKELIHOODS[likelihood], noise=noise, **BOTH)
    require_sane(sampler_of(model, TABLES[name](), dtype))


def test_binary_ratings_of_users_who_always_say_the_same():
    model = PMF(2, likelihood=BernoulliLogit(), **BOTH)
    require_sane(sampler_of(model, one_value_each(), torch.float32))


@pytest.mark.slow
@pytest.mark.parametrize("value", [1e-6, 1e3])
@pytest.mark.parametrize("likelihood", ["ordered", "sigmoid", "identity"])
@pytest.mark.parametrize("sites", [SITES, "U", "W", "b"])
def test_scales_at_their_ends(sites, likelihood, value):
    priors = Priors(**{f"sigma_{site}": Fixed(value) for site in sites})
    model = PMF(2, likelihood=LIKELIHOODS[likelihood], noise="shared", priors=priors, **BOTH)
    require_sane(sampler_of(model, some(), torch.float32))


@pytest.mark.parametrize("value", [1e-6, 1e3])
@pytest.mark.parametrize("likelihood", ["sigmoid", "identity, exact", "counts"])
def test_noise_at_its_ends(likelihood, value):
    model = PMF(2, likelihood=LIKELIHOODS[likelihood], noise="shared", **BOTH)
    if likelihood == "sigmoid":
        model = replace(model, likelihood=NormalSigmoid(0.0))
    model = replace(model, priors=Priors(sigma=Fixed(value)))
    require_sane(sampler_of(model, some(), torch.float32))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_each", "all_but_one", "one_value_each", "two"])
@pytest.mark.filterwarnings("ignore:The fit predicts")
def test_predictions_of_odd_tables(name):
    """They lie between the lowest and the highest rating, and the spread is at most the range."""
    ratings = Ratings.from_frame(TABLES[name](), scale=(0.0, 1.0))
    method = Gibbs(n_draws=20, n_warmup=20, n_chains=1, thin=1)
    posterior = fit(PMF(3, likelihood="auto", **BOTH), ratings, method, progress=False)
    predicted = posterior.predict(ratings)
    assert predicted["mean"].between(-0.2, 1.2).all()
    assert predicted["sd"].between(1e-3, 1.0).all()
    assert np.corrcoef(predicted["mean"], ratings.rating)[0, 1] > 0 or name == "two"


def test_a_matrix_with_unrated_users_and_items():
    """A history may know of users and items without ratings."""
    rng = np.random.default_rng(3)
    value = torch.from_numpy(rng.integers(0, 3, 12) / 2)
    user, item = torch.arange(12) // 3, torch.arange(12) % 3
    ratings = Pairs(user, item, 9, 7, value)
    history = Pairs(torch.arange(9), torch.arange(9) % 7, 9, 7)
    model = PMF(2, likelihood=OrderedLogit(3), **BOTH)
    require_sane(Sampler(model, ratings, history, np.random.default_rng(0)))
