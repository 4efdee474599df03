"""Standard deviations of a model's factors: the values that fits hold, and their search."""

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

_SHRINKAGE = 5.0  # ratings of value zero added to each user's and item's mean
_FACTOR = 1.4  # ratio of neighbouring values in the search
_ERRORS = 2.0  # a step must gain this many standard errors of its gain
_SHARE_HELD_OUT = 0.1  # of the ratings


def factor_scales(model: Callable[..., Any], value: Tensor | None = None) -> dict[str, float]:
    """Return the values at which variational inference holds standard deviations.

    The ELBO of a mean-field guide cannot choose the scales of factors. Its distance from the
    evidence grows with every live factor, so it prefers a few strong factors, or none, to the many
    weak ones that predict better.

    Parameters
    ----------
    model : callable
        A `PMF`, or any Pyro model; the result is empty if it states no terms.
    value : Tensor, shape (n,), optional
        The training ratings on the model scale, for a likelihood whose score is on this scale too.

    Returns
    -------
    dict of str to float
        Values on the scale of the score, by site, for the scales that the priors do not fix.
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

    The joint density of factors and free standard deviations has no useful maximum. It grows
    without bound as sigma_U and U go to zero together, and as sigma goes to zero if the factors
    can interpolate the ratings. MAP therefore holds all of them. sigma is the standard deviation
    of the ratings about shrunken item and user means, which is slightly more than the noise.

    Parameters
    ----------
    model : callable
        A `PMF`, or any Pyro model; the result is empty if it states no terms.
    ratings : Pairs
        The training ratings.

    Returns
    -------
    dict of str to float
        Values by site: sigma on the scale of `Likelihood.linearized`, the others on the scale of
        the score.
    """
    terms = terms_of(model)
    if not terms:
        return {}
    likelihood = cast(PMF, model).likelihood
    assert ratings.value is not None  # `fit` has checked it
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
    """Learn the standard deviations of factors from prior and held-out predictive density.

    p(sigma) p(R | sigma) would need the evidence. Variational inference only has a bound of it,
    which is loosest for many weak factors. This search instead maximizes p(sigma) times the
    densities of held-out ratings given the others and sigma. These densities are the part of the
    evidence that says how well sigma predicts (Fong & Holmes, On the marginal likelihood and
    cross-validation, Biometrika 2020; Lotfi et al., Bayesian model selection, the marginal
    likelihood, and generalization, ICML 2022), with each held-out rating by itself.

    The search begins at `factor_scales` and moves by factors of 1.4 up and down, in one standard
    deviation after the other (sigma_U and sigma_V together). A step is taken if it gains more than
    twice the standard error of its gain over the held-out ratings. Without a clear held-out gain,
    the defaults stay. Fits from different starts may differ by tens of nats; this hardly misleads
    the search.

    Parameters
    ----------
    model : PMF
        The model.
    ratings : Ratings
        The training ratings; a tenth of them is held out here.
    log_density : callable
        ``log_density(train, test, scales)`` returns the log predictive density of each test rating
        given the training ratings, with the scales held at these values: shape (n_test,), nats.
    seed : int
        Seed of the split.
    progress : bool
        Whether to show the number of fits.

    Returns
    -------
    dict of str to float
        Values on the scale of the score, for the sites of `factor_scales`.

    Raises
    ------
    RatingsError
        If there are too few ratings to hold some out.
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
    """Search for the best scales on a grid around the usual ones.

    Parameters
    ----------
    usual : mapping of str to float
        Initial values by site.
    groups : sequence of sequence of str
        Sites that move together.
    judge : callable
        ``judge(scales)`` returns a judgement of scales by site. It is called once for each point
        of the grid.
    is_gain : callable
        ``is_gain(new, old)`` says whether the judgement ``new`` is worth a step from ``old``.

    Returns
    -------
    dict of str to float
        The best values found, by site.
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
    """Return whether prior times density rises by more than chance explains."""
    with np.errstate(invalid="ignore"):  # NaN counts as no gain
        each = new[1] - old[1]
        error = each.std() * len(each) ** 0.5
        return bool(each.sum() + new[0] - old[0] > _ERRORS * error)


def _log_prior(model: PMF, site: str, value: float) -> float:
    x = torch.tensor(value, dtype=torch.float64)
    return float(getattr(model.priors, site).distribution(x).log_prob(x))


def _climb(
    is_gain: Callable[[tuple[int, ...], tuple[int, ...]], bool], n_places: int
) -> tuple[int, ...]:
    """Move from the origin of a lattice to a point where no step along an axis is a gain."""
    at = (0,) * n_places
    n_settled = 0  # consecutive axes without a gain
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
