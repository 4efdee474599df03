"""Simple predictors beside a fitted model: the mean of the training ratings, and biases alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_pmf.data.ratings import Ratings, observed
from pyro_pmf.data.transforms import Affine
from pyro_pmf.model.learned import Learned
from pyro_pmf.prediction.discrete import DiscretePredictive
from pyro_pmf.prediction.located import LocatedPairs
from pyro_pmf.prediction.metrics import score_each
from pyro_pmf.prediction.mixture import mixture
from pyro_pmf.prediction.predictive import PosteriorPredictive

_SWEEPS = 100
_TOLERANCE = 1e-5  # of the noise variance, relative: at most one more sweep changes a prediction
_LEAST_NOISE = 1e-6  # as a share of the variance of the ratings


def baseline_scores(
    learned: Learned,
    pairs: Ratings | pd.DataFrame,
    interval: float = 0.9,
    levels: Sequence[float] | None = None,
) -> dict[str, pd.DataFrame]:
    """Return the scores of simple predictors that learn from the same training ratings.

    "biases" is `biases_predictive`, "mean" is one Normal with the mean and the standard deviation
    of the training ratings. Where the model predicts levels or counts, nll is minus the log
    probability that the Normal rounds to the observed one, so that it compares with the model's.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    pairs, interval, levels
        As for `Posterior.scores`.

    Returns
    -------
    dict of str to pandas.DataFrame
        For "biases" and "mean": the columns of `metrics.score_each`, one row per rating.

    Raises
    ------
    RatingsError, PMFError
        As for `Posterior.scores`, or if the posterior was saved without its training ratings.
    """
    learned.require_training_ratings("evaluate(baselines=True)")
    train, rating = learned.ratings.to("cpu"), torch.from_numpy(observed(pairs))
    _, own = next(LocatedPairs(learned, train.user[:1], train.item[:1]).predictives())
    possible = own.levels if levels is None else levels
    user, item = train.locate(pairs)
    predictives = {
        "biases": biases_predictive(train, user, item),
        "mean": mean_predictive(train, len(rating)),
    }
    found = {}
    for name, predictive in predictives.items():
        scores = score_each(predictive, rating, interval, possible, np.random.default_rng(0))
        if isinstance(own, DiscretePredictive):
            chance = predictive.log_mass(rating).numpy()
            scores["nll"] = scores.get("log_loss", -chance)
        found[name] = scores
    return found


def mean_predictive(train: Ratings, n: int) -> PosteriorPredictive:
    """Return one Normal for each of n ratings: mean and standard deviation of training ratings.

    Parameters
    ----------
    train : Ratings
        The training ratings.
    n : int
        Number of ratings to predict.
    """
    assert train.rating is not None  # `baseline_scores` has asked
    moments = train.rating.mean(), train.rating.std()
    mean, sd = (torch.full((n,), x, dtype=torch.float64) for x in moments)
    return mixture([(1.0, Normal(mean, sd))], Affine(0.0, 1.0, train.transform.bounds))


def biases_predictive(train: Ratings, user: Tensor, item: Tensor) -> PosteriorPredictive:
    """Return Normals around mu + b_i + c_j, with biases of users and items that are shrunk.

    On the model scale, a rating is Normal(mu + b_i + c_j, sigma^2), b_i ~ Normal(0, sigma_b^2) and
    c_j ~ Normal(0, sigma_c^2). The posterior of b given c is Normal, and the reverse, so
    mean-field coordinate ascent has a closed form: each sweep is two shrunken averages of
    residuals, and the three variances are the mean squares that maximize the ELBO. `PMF(0)` with
    a Normal likelihood learns the same, in many times the time.

    Parameters
    ----------
    train : Ratings
        The training ratings, on the CPU.
    user, item : Tensor, int64, shape (n,)
        Indices of the pairs to predict; -1 is an unknown id, whose bias comes from its prior.
    """
    assert train.value is not None
    value = train.value.double().numpy()
    users = _Side(train.user.numpy(), train.n_users, value.var() / 3)
    items = _Side(train.item.numpy(), train.n_items, value.var() / 3)
    mu, noise = value.mean(), value.var()
    for _ in range(_SWEEPS):
        before = noise
        users.learn(value - mu - items.here, noise)
        items.learn(value - mu - users.here, noise)
        rest = value - users.here - items.here
        mu = rest.mean()
        spread = (rest - mu) ** 2 + users.var[users.index] + items.var[items.index]
        noise = max(spread.mean(), _LEAST_NOISE * value.var())
        if abs(noise - before) < _TOLERANCE * before:
            break
    of_user, of_item = users.of(user), items.of(item)
    mean, var = mu + of_user[0] + of_item[0], noise + of_user[1] + of_item[1]
    fn = Normal(torch.from_numpy(mean), torch.from_numpy(np.sqrt(var)))
    return mixture([(1.0, fn)], train.transform)


class _Side:
    """Posterior means and variances of the biases of all users, or of all items.

    Parameters
    ----------
    index : ndarray of int, shape (n_ratings,)
        The row of each training rating.
    n : int
        Number of rows.
    prior : float
        Prior variance to begin with.
    """

    def __init__(self, index: np.ndarray, n: int, prior: float) -> None:
        self.index, self.prior = index, prior
        self.count = np.bincount(index, minlength=n)
        self.mean, self.var = np.zeros(n), np.full(n, prior)

    @property
    def here(self) -> np.ndarray:
        """The mean of the bias in each training rating."""
        return self.mean[self.index]

    def learn(self, residual: np.ndarray, noise: float) -> None:
        """Update the biases given what the rest leaves of each rating, then their variance."""
        self.var = 1 / (self.count / noise + 1 / self.prior)
        self.mean = self.var * np.bincount(self.index, residual, len(self.count)) / noise
        self.prior = float(np.mean(self.mean**2 + self.var))

    def of(self, index: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of some rows; -1 is a row of the prior."""
        rows = index.numpy()
        return np.append(self.mean, 0.0)[rows], np.append(self.var, self.prior)[rows]
