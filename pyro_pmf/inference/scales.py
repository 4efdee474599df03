"""The standard deviations of a model's factors: where a fit holds them, and how it learns them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.priors import Fixed
from pyro_pmf.model.terms import terms_of

_SHRINKAGE = 5.0  # ratings' worth of zero in a mean
_FACTOR = 1.4  # from one value that is tried to the next
_ERRORS = 2.0  # standard errors: what a step has to gain
_SHARE_HELD_OUT = 0.1  # of the ratings


def factor_scales(model: Callable[..., Any], value: Tensor | None = None) -> dict[str, float]:
    """Return the values at which variational inference holds standard deviations.

    The ELBO of a mean-field guide cannot choose the scales of factors: its distance from the
    evidence grows with every live factor, so it prefers a few strong factors, or none, over the
    many weak ones that predict better.

    Parameters
    ----------
    model : PMF, or any model that states its terms
    value : Tensor, shape (n,), optional
        The training ratings, on the model scale, for a likelihood whose score is on it too.

    Returns
    -------
    dict of str to float
        By site, for the scales that the priors do not fix, on the scale of the score.
    """
    terms = [term for term in terms_of(model) if term.vi_scale is not None]
    if not terms:
        return {}
    model = cast(PMF, model)
    noise_sd = model.likelihood.noise_sd(value)
    return {
        term.scale: term.unit(noise_sd) * cast(float, term.vi_scale)
        for term in terms
        if not isinstance(getattr(model.priors, term.scale), Fixed)
    }


def map_scales(model: Callable[..., Any], ratings: Pairs) -> dict[str, float]:
    """Return the values at which MAP holds standard deviations.

    The joint density of factors and free standard deviations has no useful maximum: it grows
    without bound as sigma_U and U go to zero together, and as sigma goes to zero where the factors
    can interpolate the ratings. So MAP holds all of them. sigma is the standard deviation of the
    ratings about shrunken item and user means, which is a little more than the noise.

    Parameters
    ----------
    model : PMF, or any model that states its terms
    ratings : Pairs
        The training ratings.

    Returns
    -------
    dict of str to float
        By site; sigma on the scale of `Likelihood.linearized`, the others on the score's.
    """
    terms = terms_of(model)
    if not terms:
        return {}
    likelihood = cast(PMF, model).likelihood
    assert ratings.value is not None  # a fit has checked it
    value = likelihood.linearized(ratings.value)
    residual = value - value.mean()
    for index, counts in (
        (ratings.item, ratings.item_counts),
        (ratings.user, ratings.user_counts),
    ):
        sums = torch.zeros(len(counts), dtype=residual.dtype, device=residual.device)
        sums.index_add_(0, index, residual)
        residual = residual - (sums / (counts + _SHRINKAGE))[index]
    noise_sd = likelihood.noise_sd(ratings.value)
    return {"sigma": float(residual.std())} | {
        term.scale: term.unit(noise_sd) * term.map_scale
        for term in terms
        if term.map_scale is not None
    }


def learnt_scales(
    model: PMF,
    ratings: Ratings,
    log_density: Callable[[Ratings, Ratings, Mapping[str, float]], np.ndarray],
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
    log_density : callable
        ``log_density(train, test, scales)`` is the log predictive density of each test rating
        given the training ratings, with these values held, shape (n_test,).
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
    train, test = ratings.split(_SHARE_HELD_OUT, seed)
    with tqdm(desc="scales", unit="fit", disable=not progress) as bar:

        def held_out(scales: Mapping[str, float]) -> tuple[float, np.ndarray]:
            log_prior = sum(_log_prior(model, site, value) for site, value in scales.items())
            log_densities = log_density(train, test, scales)
            bar.update()
            return log_prior, log_densities

        return search(usual, model.terms.scale_groups, held_out, _is_gain)


def search(
    usual: Mapping[str, float],
    groups: Sequence[Sequence[str]],
    judge: Callable[[Mapping[str, float]], Any],
    is_gain: Callable[[Any, Any], bool],
) -> dict[str, float]:
    """Look for the best scales, in steps from the usual ones.

    Parameters
    ----------
    usual : mapping of str to float
        Where to begin, by site.
    groups : sequence of sequence of str
        Sites that move together.
    judge : callable
        What is to be known of scales by site, found once.
    is_gain : callable
        Whether the first of two such judgements is worth a step from the second.

    Returns
    -------
    dict of str to float
        By site.
    """
    moved = [here for group in groups if (here := [site for site in group if site in usual])]

    def at(steps: tuple[int, ...]) -> dict[str, float]:
        return {
            site: usual[site] * _FACTOR**k
            for sites, k in zip(moved, steps, strict=True)
            for site in sites
        }

    judged = cache(lambda steps: judge(at(steps)))
    return at(_climb(lambda new, old: is_gain(judged(new), judged(old)), len(moved)))


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
