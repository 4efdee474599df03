"""Baselines against a formula, a dense ridge regression, and simulated biases."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from posteriors import KINDS, LIKELIHOODS, every_pair, posterior_of

from pyro_pmf import PMF, VI, NormalIdentity, PMFError, Posterior, Ratings, fit
from pyro_pmf.prediction.baselines import biases_predictive, mean_predictive

MU, NOISE, SD_USER, SD_ITEM = 2.0, 0.5, 0.8, 0.6


def of_biases(n_users=200, n_items=150, share=0.2, transform="standardize"):
    """Return the scores mu + b_i + c_j of all pairs, and ratings of some of them."""
    rng = np.random.default_rng(0)
    b, c = SD_USER * rng.normal(size=n_users), SD_ITEM * rng.normal(size=n_items)
    score = MU + b[:, None] + c
    user, item = np.nonzero(rng.random(score.shape) < share)
    rating = score[user, item] + NOISE * rng.normal(size=len(user))
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return score, Ratings.from_frame(frame, transform=transform)


def cells(score):
    user, item = np.indices(score.shape)
    return torch.tensor(user.ravel()), torch.tensor(item.ravel())


def held_out(posterior, seed=1):
    """Return all pairs of a posterior with ratings that its likelihood may have."""
    pairs, rng = every_pair(posterior), np.random.default_rng(seed)
    low, high = posterior.ratings.scale
    return pairs.assign(rating=rng.integers(low, high + 1, len(pairs)).astype(float))


# The biases


def test_biases_are_those_of_ridge_regression():
    """With the true variances, ridge regression on dummies has the same means, within 0.02."""
    score, ratings = of_biases()
    n_users, n_items = score.shape
    X = np.zeros((len(ratings), n_users + n_items))
    X[np.arange(len(ratings)), ratings.user] = 1
    X[np.arange(len(ratings)), n_users + ratings.item.numpy()] = 1
    penalty = np.repeat([NOISE**2 / SD_USER**2, NOISE**2 / SD_ITEM**2], [n_users, n_items])
    ones = np.ones((len(ratings), 1))
    Z = np.hstack([ones, X])
    solution = np.linalg.solve(Z.T @ Z + np.diag([0, *penalty]), Z.T @ ratings.rating)
    expected = solution[0] + solution[1 : n_users + 1, None] + solution[n_users + 1 :]
    found = biases_predictive(ratings, *cells(score)).mean.numpy().reshape(score.shape)
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert np.abs(found - score).mean() < 0.15


def test_the_spread_of_the_biases_is_found():
    """A pair of unknown ids has noise and both priors; three sds are within 15% of the truth."""
    _, ratings = of_biases()
    index = torch.tensor([0, 0, -1, -1]), torch.tensor([0, -1, 0, -1])
    var = biases_predictive(ratings, *index).sd.square()
    assert float(var[3].sqrt()) == pytest.approx(
        np.sqrt(NOISE**2 + SD_USER**2 + SD_ITEM**2), rel=0.15
    )
    assert float(var[0].sqrt()) == pytest.approx(NOISE * np.sqrt(1 + 1 / 30 + 1 / 40), rel=0.05)
    assert float(var[1] - var[0]) == pytest.approx(SD_ITEM**2, rel=0.3)
    assert float(var[2] - var[0]) == pytest.approx(SD_USER**2, rel=0.3)


@pytest.mark.slow
def test_biases_predict_as_a_fit_of_them():
    _, ratings = of_biases(60, 50)
    model = PMF(0, noise="shared", likelihood=NormalIdentity())
    posterior = fit(model, ratings, VI(), progress=False)
    found = biases_predictive(ratings, ratings.user, ratings.item)
    predicted = posterior.predict(ratings)
    np.testing.assert_allclose(found.mean, predicted["mean"], atol=0.05)
    np.testing.assert_allclose(found.sd, predicted["sd"], rtol=0.05)


@pytest.mark.parametrize("share", [0.02, 1.0])
def test_exact_and_rare_ratings_have_finite_predictions(share):
    """With hardly a rating each, or with no noise at all."""
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((20, 20)) < share)
    frame = pd.DataFrame({"user": user, "item": item, "rating": 1.0 + (user + item) % 2})
    if share == 1:
        frame["rating"] = 1.0 + user % 5
    ratings = Ratings.from_frame(frame, scale=(1, 5))
    found = biases_predictive(ratings, ratings.user, ratings.item)
    assert bool(found.mean.isfinite().all())
    assert bool((found.sd > 0).all())
    if share == 1:
        np.testing.assert_allclose(found.mean, frame["rating"], atol=1e-2)


# The mean


@pytest.mark.parametrize("transform", ["unit", "standardize", "log1p", "count"])
def test_the_mean_is_a_normal_in_rating_units(transform):
    frame = pd.DataFrame({"user": range(6), "item": [1, 2] * 3, "rating": [1, 2, 2, 3, 5, 5]})
    found = mean_predictive(Ratings.from_frame(frame, transform=transform), 2)
    np.testing.assert_allclose(found.mean, 3.0)
    np.testing.assert_allclose(found.sd, np.sqrt(14 / 6))
    density = scipy.stats.norm.logpdf([2.0, 4.5], 3, np.sqrt(14 / 6))
    np.testing.assert_allclose(found.log_prob(torch.tensor([2.0, 4.5])), density)


# The table


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_each_predictor_has_a_row_of_the_same_columns(name, kind):
    posterior = posterior_of(name, kind)
    pairs = held_out(posterior)
    table = posterior.evaluate(pairs, baselines=True)
    alone = posterior.evaluate(pairs)
    assert table.index.tolist() == ["model", "biases", "mean"]
    assert table.columns.tolist() == alone.index.tolist()
    np.testing.assert_array_equal(table.loc["model"], alone)
    assert (table["n"] == len(pairs)).all()
    of_kind = ["error_sd_spearman", "error_sd_pearson", "rpi"]
    assert table.loc["mean", of_kind].isna().all()
    assert np.isfinite(table.drop(columns=of_kind)).to_numpy().all()
    error = pairs["rating"] - posterior.ratings.rating.mean()
    assert table.loc["mean", "rmse"] == pytest.approx(np.sqrt((error**2).mean()))


@pytest.mark.parametrize("name", ["OrderedLogit", "NegativeBinomialLog", "BernoulliLogit"])
def test_losses_of_levels_and_counts_are_those_of_probabilities(name):
    """The Normal rounds to a level: its probability, with open ends where there are levels."""
    posterior = posterior_of(name)
    pairs, rating = held_out(posterior), posterior.ratings.rating
    normal = scipy.stats.norm(rating.mean(), rating.std())
    low, high = pairs["rating"].to_numpy() - 0.5, pairs["rating"].to_numpy() + 0.5
    if name != "NegativeBinomialLog":
        first, last = posterior.ratings.scale
        low, high = np.where(low < first, -np.inf, low), np.where(high > last, np.inf, high)
    expected = -np.log(normal.cdf(high) - normal.cdf(low)).mean()
    assert posterior.evaluate(pairs, baselines=True).loc["mean", "nll"] == pytest.approx(expected)


def test_levels_give_a_log_loss_to_each():
    posterior = posterior_of("NormalSigmoid")
    table = posterior.evaluate(held_out(posterior), levels=(1, 2, 3, 4, 5), baselines=True)
    assert table["log_loss"].notna().all()
    assert not np.allclose(table["log_loss"], table["nll"])


@pytest.mark.parametrize("by", ["user", "item"])
def test_by_training_ratings(by):
    posterior = posterior_of()
    pairs = held_out(posterior)
    table = posterior.evaluate(pairs, by=by, baselines=True)
    assert table.index.names == ["predictor", "training_ratings"]
    pd.testing.assert_frame_equal(table.loc["model"], posterior.evaluate(pairs, by=by))
    assert (table.groupby("predictor")["n"].sum() == len(pairs)).all()


@pytest.mark.slow
def test_only_a_model_of_factors_beats_biases_on_factors():
    rng = np.random.default_rng(0)
    score = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 40))
    user, item = np.indices(score.shape)
    rating = np.clip(3 + score + 0.3 * rng.normal(size=score.shape), 1, 5)
    frame = pd.DataFrame({"user": user.ravel(), "item": item.ravel(), "rating": rating.ravel()})
    train, test = Ratings.from_frame(frame, scale=(1, 5)).split(0.3)
    table = fit(PMF(2), train, progress=False).evaluate(test, baselines=True)
    assert table.loc["model", "rmse"] < 0.7 * table.loc["biases", "rmse"]
    assert table.loc["biases", "rmse"] <= 1.02 * table.loc["mean", "rmse"]


def test_without_training_ratings_there_is_no_baseline():
    known = posterior_of()
    bare = Posterior(**vars(known.without_training_ratings()))
    pairs = held_out(known)
    assert bare.evaluate(pairs).equals(known.evaluate(pairs))
    with pytest.raises(PMFError, match=r"evaluate\(baselines=True\) needs the training ratings"):
        bare.evaluate(pairs, baselines=True)
