"""`likelihood="auto"`: a likelihood, and a model scale, that suit a table of ratings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import scipy  # scipy.stats is loaded where it is used: it takes 60 MB and a third of a second
import torch

from pyro_pmf.data.levels import n_levels
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.data.transforms import COUNT
from pyro_pmf.errors import warn
from pyro_pmf.model.likelihoods import (
    BernoulliLogit,
    Likelihood,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    fault_of,
)
from pyro_pmf.model.priors import Normal, Priors

if TYPE_CHECKING:
    from pyro_pmf.model.pmf import PMF

_MOST_LEVELS = 20  # more levels have too few ratings each to learn their cut points
_SKEWED = 1.0  # skewness: 0 of a symmetric distribution, 2 of an exponential one
_LARGEST_COUNT = 2.0**24  # a float32 holds every whole number up to this one
_LEAST_SHARE = 0.03  # sd of ratings that fill their scale; priors of scores expect more than this
_SD_OF_MU = 2.0  # of the log of a mean count
_FAR = 8.0  # standard deviations of the prior of mu


def choose(ratings: Ratings) -> tuple[Likelihood, Ratings]:
    """Choose a likelihood by the ratings, and put them on the scale that it needs.

    The first line that applies decides:

    - a transform other than "unit" stays: "count" is for `NegativeBinomialLog`, others for
      `NormalIdentity`
    - two possible ratings: `BernoulliLogit`
    - up to 20 evenly spaced levels from the lowest to the highest rating: `OrderedLogit`
    - a scale that the caller gave, of which the ratings fill more than a corner: `NormalSigmoid`
    - whole numbers from 0 on with a long upper tail: `NegativeBinomialLog`, transform "count"
    - other numbers: `NormalIdentity`, transform "standardize"

    Parameters
    ----------
    ratings : Ratings
        The training ratings, not all equal.

    Returns
    -------
    likelihood : Likelihood
        The choice.
    ratings : Ratings
        The same ratings, on the model scale of the likelihood.

    Examples
    --------
    >>> import pandas as pd
    >>> table = {"user": [1, 1, 2, 2], "item": [1, 2, 1, 2], "rating": [1.0, 2.0, 5.0, 4.0]}
    >>> choose(Ratings.from_frame(pd.DataFrame(table)))[0]
    OrderedLogit(n_levels=5)
    >>> table["rating"] = [0, 1, 1, 0]
    >>> choose(Ratings.from_frame(pd.DataFrame(table)))[0]
    BernoulliLogit()
    """
    rating = ratings.rating
    assert rating is not None  # `fit` has checked it
    transform = ratings.transform
    if not transform.bounds:
        return (NegativeBinomialLog() if transform == COUNT else NormalIdentity()), ratings
    levels = n_levels(ratings.recorded.gap, rating, ratings.scale)
    if levels is not None and levels <= _MOST_LEVELS:
        return (BernoulliLogit() if levels == 2 else OrderedLogit(levels)), ratings
    assert ratings.value is not None
    if ratings.recorded.scale_given and float(ratings.value.std()) > _LEAST_SHARE:
        return NormalSigmoid(), ratings
    whole = bool((rating >= 0).all() and (rating % 1 == 0).all())
    if whole and rating.max() <= _LARGEST_COUNT and scipy.stats.skew(rating) > _SKEWED:
        return NegativeBinomialLog(), ratings.with_transform("count")
    return NormalIdentity(), ratings.with_transform("standardize")


def prior_of_mean(likelihood: Likelihood, ratings: Ratings, priors: Priors) -> Priors:
    """Return priors whose mu covers the log of a mean count, if mu has its default prior.

    Parameters
    ----------
    likelihood : Likelihood
        The likelihood that `choose` returned.
    ratings : Ratings
        The training ratings.
    priors : Priors
        The caller's priors.
    """
    if not isinstance(likelihood, NegativeBinomialLog) or priors.mu != Priors().mu:
        return priors
    assert ratings.rating is not None
    log_mean = math.log(float(ratings.rating.mean()))
    return replace(priors, mu=Normal(round(log_mean, 2), _SD_OF_MU))


def warn_of_far_prior(model: PMF, ratings: Ratings) -> None:
    """Warn if the mean of the ratings is out of reach for the prior of mu.

    Parameters
    ----------
    model : PMF
        The model that is fitted.
    ratings : Ratings
        The training ratings.

    Warns
    -----
    UserWarning
        If the score of the mean rating is more than 8 standard deviations of the prior away from
        its mean. Chains and optimizers then start far from the posterior, and unknown users and
        items get predictions of the prior's size.
    """
    prior = model.priors.mu
    if not (model.likelihood.has_mu and isinstance(prior, Normal)) or ratings.value is None:
        return
    if fault_of(model.likelihood, ratings.value):
        return  # the fit refuses them
    mean = float(ratings.value.mean(dtype=torch.float64))
    if isinstance(model.likelihood, NegativeBinomialLog):
        what, score = "log of the mean rating", math.log(mean) if mean > 0 else -math.inf
    elif isinstance(model.likelihood, NormalIdentity):
        what, score = "mean rating on the model scale", mean
    else:
        return  # the mean of bounded ratings is never far
    away = abs(score - prior.loc) / prior.scale
    if _FAR < away < math.inf:
        warn(
            f"The {what}, {score:.3g}, is {away:.2g} standard deviations away from the mean of "
            f"the prior of mu, {prior}: give Priors(mu=Normal({score:.2g}, {_SD_OF_MU}))."
        )
