"""A check of every fit: whether its predictions are sane, of training ratings and of strangers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_pmf.data.transforms import Affine
from pyro_pmf.errors import FitError, warn
from pyro_pmf.model.learned import Converged, Learned
from pyro_pmf.model.likelihoods import OURS, Likelihood, NegativeBinomialLog, likelihood_of
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.terms import terms_of
from pyro_pmf.prediction.discrete import DiscretePredictive
from pyro_pmf.prediction.located import LocatedPairs

_N_RATINGS = 20_000  # training ratings that are looked at
_N_UNKNOWN = 20  # users, items and pairs that the fit has not seen
_N_DRAWS = 20, 200  # of a posterior that consists of draws: at least, and at most
_N_VALUES = 100_000  # draws times ratings, if there are more draws than the least number
# The sd of a prediction is measured by the ratings. Below the least, a density has collapsed on
# single numbers: a float32 does not hold finer differences of ratings. Above the most, a
# prediction says far less than the range of the ratings does: it has run away.
_LEAST_SD = 1e-6  # of the sd of the ratings; levels and counts may be as good as certain
_MOST_SD = 10.0  # of the range of the ratings
_ABSURD_SD = 1e4  # of the range, for counts and logs: exp of a Normal has a long tail
_SLACK = 0.05  # by which a fit may be worse than the mean: draws are few, priors pull


@dataclass(frozen=True)
class _Predicted:
    """Predictions: mean on the model scale, sd (see `_spread`), log scores in rating units."""

    mean: np.ndarray
    sd: np.ndarray
    log_score: np.ndarray
    is_discrete: bool


AnyLearned = TypeVar("AnyLearned", bound=Learned)


def checked(learned: AnyLearned) -> AnyLearned:
    """Return a fit whose predictions are sane.

    Parameters
    ----------
    learned : Learned
        Result of a fit.

    Returns
    -------
    Learned
        The same; ``converged`` is False if it predicts its ratings worse than their mean does.

    Raises
    ------
    FitError
        If a mean, a standard deviation or a log score is not finite; if a standard deviation is
        above 10 times the range of the ratings (10,000 times for counts and logs), or, of
        continuous ratings, below a millionth of their standard deviation.

    Warns
    -----
    UserWarning
        If the fit has converged, and predicts its ratings worse than their mean does; if the
        standard deviation of a count, or with logs, is above 10 times the range of the ratings.
    """
    # What is not a number is reported here; parameters of the model are neither read nor left.
    with torch.no_grad(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        return _checked(learned)


def _checked(learned: AnyLearned) -> AnyLearned:
    train, few = learned.ratings, _with_few_draws(learned)
    assert train.value is not None  # `fit` has checked it
    assert train.rating is not None
    likelihood = likelihood_of(learned.model)
    rows = _some(len(train), _N_RATINGS)
    seen = _predict(few, train.user[rows], train.item[rows], train.rating[rows])
    if not np.isfinite(seen.log_score).all():
        raise _nonsense(learned, "the log score of a training rating is not finite")
    if not isinstance(likelihood, OURS):
        return learned  # the ratings of a model of one's own may have no moments
    strangers = _predict(few, *_strangers(learned))
    predicted = {"a training rating": seen, "an unknown user or item": strangers}
    for whose, them in predicted.items():
        _require_sane(learned, them, whose)
    learned = _compared_with_the_mean(learned, likelihood, seen.mean, train.value[rows])
    return _with_known_tails(learned, predicted)


def _predict(
    learned: Learned, user: Tensor, item: Tensor, rating: np.ndarray | None = None
) -> _Predicted:
    """Predict pairs in training indices; without ratings, the log scores are 0."""
    where = LocatedPairs(learned, user, item)
    mean, sd, log_score = (np.zeros(len(where)) for _ in range(3))
    is_discrete = False
    for rows, predictive in where.predictives():
        is_discrete = isinstance(predictive, DiscretePredictive)
        if isinstance(likelihood_of(learned.model), OURS):
            weights, parts = predictive.weights, predictive.parts
            means, variances = parts.mean.double(), parts.variance.double()
            average = weights @ means
            spread = weights @ (variances + (means - average) ** 2)
            # On a scale of logs, finite moments may be those of ratings that have none.
            told = predictive.mean.isfinite() & predictive.sd.isfinite()
            mean[rows] = torch.where(told, average, torch.nan).numpy()
            sd[rows] = (predictive.sd if _is_log(learned) else spread.sqrt()).numpy()
        if rating is not None:
            log_score[rows] = predictive.log_prob(torch.from_numpy(rating[rows])).numpy()
    return _Predicted(mean, sd, log_score, is_discrete)


def _strangers(learned: Learned) -> tuple[Tensor, Tensor]:
    """Return pairs of a known user and an unknown item, the reverse, and two unknown ones."""
    train = learned.ratings
    users, items = _some(train.n_users, _N_UNKNOWN), _some(train.n_items, _N_UNKNOWN)
    nobody, nothing = torch.tensor([train.n_users]), torch.tensor([train.n_items])
    return (
        torch.cat([users, nobody.expand(len(items)), nobody]),
        torch.cat([nothing.expand(len(users)), items, nothing]),
    )


def _some(n: int, at_most: int) -> Tensor:
    """Return some of the numbers below n, ascending, the same in every call."""
    if n <= at_most:
        return torch.arange(n)
    chosen = np.random.default_rng(0).choice(n, at_most, replace=False)
    return torch.from_numpy(np.sort(chosen))


def _with_few_draws(learned: Learned) -> Learned:
    if learned.n_draws is None:
        return learned
    least, most = _N_DRAWS
    n_draws = min(max(least, _N_VALUES // len(learned.ratings)), most)
    if learned.n_draws <= n_draws:
        return learned
    latents = {
        site: torch.stack(draws) for site, draws in _by_site(list(learned.draws(n_draws))).items()
    }
    return Learned(**vars(learned) | {"latents": latents, "n_draws": n_draws})


def _by_site(draws: list[dict[str, Tensor]]) -> dict[str, list[Tensor]]:
    return {site: [draw[site] for draw in draws] for site in draws[0]}


def _require_sane(learned: Learned, predicted: _Predicted, whose: str) -> None:
    """Raise `FitError` if a mean or a standard deviation is none of a prediction."""
    sd, width = _spread(learned)
    most = _ABSURD_SD if _has_long_tail(learned) else _MOST_SD
    if not (np.isfinite(predicted.mean).all() and np.isfinite(predicted.sd).all()):
        raise _nonsense(learned, f"the prediction of {whose} is not finite")
    if (largest := float(predicted.sd.max())) > most * width:
        raise _nonsense(
            learned,
            f"the prediction of {whose} has a standard deviation of {largest / width:.2g} times "
            "the range of the ratings",
        )
    if not predicted.is_discrete and (least := float(predicted.sd.min())) < _LEAST_SD * sd:
        raise _nonsense(
            learned,
            f"the prediction of {whose} has a standard deviation of {least / sd:.1g} times the "
            "standard deviation of the ratings",
        )


def _is_log(learned: Learned) -> bool:
    return not isinstance(learned.ratings.transform, Affine)


def _has_long_tail(learned: Learned) -> bool:
    """Whether ratings are about exp of a Normal score: an average may follow a few draws."""
    return _is_log(learned) or isinstance(likelihood_of(learned.model), NegativeBinomialLog)


def _spread(learned: Learned) -> tuple[float, float]:
    """Return sd and range of the training ratings: on the model scale, but not of logs.

    The sd of the log of a rating says little of the sd of a rating.
    """
    value = learned.ratings.value
    assert value is not None
    if _is_log(learned):
        assert learned.ratings.rating is not None
        value = torch.from_numpy(learned.ratings.rating)
    return float(value.std(correction=0)), float(value.max() - value.min())


def _with_known_tails(learned: AnyLearned, predicted: dict[str, _Predicted]) -> AnyLearned:
    """Warn of ratings that may be far above all others; such a fit has not converged."""
    largest = {whose: float(them.sd.max()) for whose, them in predicted.items()}
    whose = max(largest, key=largest.__getitem__)
    ratio = largest[whose] / _spread(learned)[1]
    if ratio <= _MOST_SD:
        return learned
    warn(
        f"The prediction of {whose} has a standard deviation of {ratio:.2g} times the range of "
        f"the ratings. {_remedy(learned)}"
    )
    return replace(learned, converged=Converged(False, False))


def _nonsense(learned: Learned, what: str) -> FitError:
    return FitError(f"This fit predicts nonsense: {what}. {_remedy(learned)}")


def _compared_with_the_mean(
    learned: AnyLearned, likelihood: Likelihood, mean: np.ndarray, value: Tensor
) -> AnyLearned:
    """Warn of a fit that is worse than the mean, and say that it has not converged."""
    observed = likelihood.linearized(value.double())
    predicted = likelihood.linearized(torch.from_numpy(mean))
    constant = likelihood.linearized(value.double().mean())
    error, error_of_mean = (
        float((observed - x).square().mean().sqrt()) for x in (predicted, constant)
    )
    # A fit that was stopped has not converged, and says so. A few ratings hardly move priors.
    if not learned.converged or error <= error_of_mean * (1 + _SLACK + len(value) ** -0.5):
        return learned
    warn(
        f"This fit predicts its own ratings {error / error_of_mean:.2f} times as badly as their "
        f"mean does (root mean square error). {_remedy(learned)}"
    )
    return replace(learned, converged=Converged(False, False))


def _remedy(learned: Learned) -> str:
    """Say what to try: what the model has not got already."""
    model = learned.model
    if not isinstance(model, PMF):
        return "Check the priors of the model, and the scale of the ratings."
    auto, ratings = replace(model, likelihood="auto").for_ratings(learned.ratings)
    same = isinstance(model.likelihood, type(auto.likelihood))
    remedies = []
    if model.likelihood == NegativeBinomialLog(math.inf):
        remedies.append("PMF(likelihood=NegativeBinomialLog()), whose ceiling bounds the mean")
    if _has_long_tail(learned):
        remedies.append('Ratings with transform="unit" and PMF(), which stays in their range')
    elif not same or ratings.transform != learned.ratings.transform:
        remedies.append('PMF(likelihood="auto"), which chooses by the ratings')
    if terms_of(model).noise:
        remedies.append('PMF(noise="shared"), which has no noise of users and items')
    if not remedies:
        remedies.append("priors that suit the scale of the ratings, fewer n_factors, or NUTS()")
    return f"Give {', or '.join(remedies)}."
