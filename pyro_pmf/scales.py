"""The standard deviations of a model's factors: where a fit holds them, and how it learns them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_pmf.learned import Learned
from pyro_pmf.likelihoods import Likelihood
from pyro_pmf.models import PMF
from pyro_pmf.pairs import Pairs
from pyro_pmf.prediction import log_prob
from pyro_pmf.priors import Fixed
from pyro_pmf.ratings import Ratings

_SHRINKAGE = 5.0  # ratings' worth of zero in a mean

# Standard deviations that MAP holds fixed, in units of the noise. See `map_scales`.
MAP_SCALES = {
    "sigma_U": 0.25,
    "sigma_V": 0.25,
    "sigma_W": 0.15,
    "sigma_Z": 0.15,
    "sigma_b": 0.5,
    "sigma_c": 0.5,
}

# U_i . V_j is the same for U a and V / a: of sigma_U and sigma_V ratings tell the product alone.
_TOGETHER = ("sigma_U", "sigma_V"), ("sigma_W",), ("sigma_Z",)
_STEP = 1.4  # from one value that is tried to the next
_ERRORS = 2.0  # standard errors: what a step has to gain
_HELD_OUT = 0.1  # of the ratings


def factor_scales(model: PMF, value: Tensor | None = None) -> dict[str, float]:
    """Values at which variational inference holds the standard deviations of factors.

    The ELBO of a mean-field guide is no measure of them: its distance from the evidence grows with
    every factor that is alive, so that it prefers a few strong factors, or none, to many weak
    ones, which predict better.

    Parameters
    ----------
    model : PMF
    value : Tensor, shape (n,), optional
        The training ratings, on the model scale, for a likelihood whose score is on it too.

    Returns
    -------
    dict of str to float
        Of the sites that the model has and its priors do not fix, on the scale of the score.
    """
    unit = model.likelihood.noise_sd(value) ** 0.5  # that of U_i . V_j is the noise's
    scales = {
        "sigma_U": 0.3 if model.users == "independent" else 0.25,
        "sigma_V": 0.3 if model.items == "independent" else 0.25,
    }
    if model.users == "hierarchical":
        scales["sigma_W"] = 0.2
    if model.items == "hierarchical":
        scales["sigma_Z"] = 0.2
    return {
        site: unit * scale
        for site, scale in scales.items()
        if model.n_factors and not isinstance(getattr(model.priors, site), Fixed)
    }


def map_scales(ratings: Pairs, likelihood: Likelihood | None = None) -> dict[str, Tensor]:
    """Values at which MAP holds the standard deviations of a `PMF`.

    The joint density of factors and free standard deviations has no useful maximum: it grows
    without bound as sigma_U and U go to zero together, and as sigma goes to zero where the factors
    can interpolate the ratings. So MAP is given all of them. sigma is the standard deviation of
    the ratings about shrunken item and user means, which is a little more than the noise.

    Parameters
    ----------
    ratings : Pairs
        The training ratings.
    likelihood : Likelihood, optional
        Says on which scale sigma is the spread of the ratings; by default on theirs.

    Returns
    -------
    dict of str to Tensor
        By site; sigma on that scale, the others on the scale of the score.
    """
    value = ratings.value
    assert value is not None  # a fit has checked it
    if likelihood is not None:
        value = likelihood.linearized(value)
    residual = value - value.mean()
    for index, counts in (
        (ratings.item, ratings.item_counts),
        (ratings.user, ratings.user_counts),
    ):
        sums = torch.zeros(len(counts), dtype=residual.dtype, device=residual.device)
        sums.index_add_(0, index, residual)
        residual = residual - (sums / (counts + _SHRINKAGE))[index]
    unit = 1.0 if likelihood is None else likelihood.noise_sd(ratings.value)
    units = {name: unit if name in ("sigma_b", "sigma_c") else unit**0.5 for name in MAP_SCALES}
    return {"sigma": residual.std()} | {
        name: residual.new_tensor(units[name] * value) for name, value in MAP_SCALES.items()
    }


def learnt_scales(
    model: PMF,
    ratings: Ratings,
    fit_with: Callable[[Ratings, Mapping[str, float]], Learned],
    seed: int = 0,
    progress: bool = False,
) -> dict[str, float]:
    """Learn the standard deviations of factors by their prior and the density of held-out ratings.

    p(sigma) p(R | sigma) would need the evidence, of which variational inference has a bound that
    is loosest where there are many weak factors. This maximises p(sigma) times the densities of
    held-out ratings given the others and sigma, which predictions give. That is the part of the
    evidence that says how well sigma predicts (Fong & Holmes, On the marginal likelihood and
    cross-validation, Biometrika 2020; Lotfi et al., Bayesian model selection, the marginal
    likelihood, and generalization, ICML 2022), with each held-out rating by itself.

    The search begins at `factor_scales` and goes up and down by steps of a factor of 1.4, in one
    standard deviation after the other (sigma_U and sigma_V as one), for as long as a step gains
    more than twice the standard error of its gain over the held-out ratings. So it stays where it
    begins if they do not tell; and fits from other starts, which may differ by tens of nats,
    hardly mislead it.

    Parameters
    ----------
    model : PMF
    ratings : Ratings
        The training ratings, a tenth of which is held out here.
    fit_with : callable
        ``fit_with(train, scales)`` is the posterior with these values held.
    seed : int
        Of the split.
    progress : bool
        Whether to show how many fits were made.

    Returns
    -------
    dict of str to float
        Of the sites that `factor_scales` has.

    Raises
    ------
    RatingsError
        If the ratings are too few to hold some out.
    """
    usual = factor_scales(model, ratings.value)
    if not usual:
        return {}
    train, test = ratings.split(_HELD_OUT, seed)
    with tqdm(desc="scales", unit="fit", disable=not progress) as bar:

        def held_out(scales: Mapping[str, float]) -> tuple[float, np.ndarray]:
            log_prior = sum(_log_prior(model, site, value) for site, value in scales.items())
            log_probs = log_prob(fit_with(train, scales), test)
            bar.update()
            return log_prior, log_probs

        return search(usual, held_out, _is_gain)


def search(
    usual: Mapping[str, float],
    judge: Callable[[Mapping[str, float]], Any],
    is_gain: Callable[[Any, Any], bool],
) -> dict[str, float]:
    """Look for the best scales, in steps from the usual ones.

    Parameters
    ----------
    usual : mapping of str to float
        Where to begin, by site.
    judge : callable
        What is to be known of scales by site, found once.
    is_gain : callable
        Whether the first of two such judgements is worth a step from the second.

    Returns
    -------
    dict of str to float
        By site.
    """
    groups = [group for sites in _TOGETHER if (group := [s for s in sites if s in usual])]

    def at(steps: tuple[int, ...]) -> dict[str, float]:
        return {
            site: usual[site] * _STEP**k
            for sites, k in zip(groups, steps, strict=True)
            for site in sites
        }

    judged = cache(lambda steps: judge(at(steps)))
    return at(_climb(lambda new, old: is_gain(judged(new), judged(old)), len(groups)))


def _is_gain(new: tuple[float, np.ndarray], old: tuple[float, np.ndarray]) -> bool:
    """Whether prior times density rises by more than chance would have it."""
    with np.errstate(invalid="ignore"):  # what is no number is no gain
        each = new[1] - old[1]
        error = each.std() * len(each) ** 0.5
        return bool(each.sum() + new[0] - old[0] > _ERRORS * error)


def _log_prior(model: PMF, site: str, value: float) -> float:
    x = torch.tensor(value, dtype=torch.float64)
    return float(getattr(model.priors, site).distribution(x).log_prob(x))


def _climb(
    is_gain: Callable[[tuple[int, ...], tuple[int, ...]], bool], n_places: int
) -> tuple[int, ...]:
    """Go from the origin of a lattice to where no step along an axis is a gain."""
    at = (0,) * n_places
    n_settled = 0  # axes in a row along which there is nothing to gain
    for place in itertools.cycle(range(n_places)):
        before = at
        for direction in (1, -1):
            while is_gain(ahead := _step(at, place, direction), at):
                at = ahead
        n_settled = n_settled + 1 if at == before else 1
        if n_settled == n_places:
            break
    return at


def _step(at: tuple[int, ...], place: int, direction: int) -> tuple[int, ...]:
    return (*at[:place], at[place] + direction, *at[place + 1 :])
