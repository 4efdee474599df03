"""Standard deviations of a model's factors: the values that fits hold, and their choice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.transforms import Affine, Transform
from pyro_pmf.model.likelihoods import NormalIdentity, NormalSigmoid
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.priors import Fixed
from pyro_pmf.model.terms import TAU, Terms, terms_of

Scales = Mapping[str, float | list[float]]  # values by site; tau has one for each factor

_SHRINKAGE = 5.0  # ratings of value zero added to each user's and item's mean
_AROUND = (0.65, 0.8, 1.0, 1.25, 1.6, 2.0)  # times a typical scale, of each factor of a product
_BELOW = (0.4, 0.25, 0.1)  # of a point estimate, which follows noise with larger factors
_STRONG = 0.7  # times the largest tau: half the variance of the strongest factor
_SURPLUS_TAU = 1e-3
_WIDER = (1.1, 1.2, 1.35, 1.5, 1.7, 2.0, 2.5, 3.0, 4.0)  # times the sigma of a point estimate
_FLAT = 1e-3  # relative; fits without factors differ by less, and larger scales may have some


def factor_scales(model: Callable[..., Any], value: Tensor | None = None) -> Scales:
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


def map_scales(model: Callable[..., Any], ratings: Pairs) -> Scales:
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
    return {"sigma": likelihood.sigma_for(float(residual.std()))} | {
        term.scale: term.unit(noise_sd) * term.map_scale
        for term in terms
        if term.map_scale is not None
    }


def learnt_scales(
    ways: Sequence[Sequence[Scales]],
    loss: Callable[[Scales], float],
    changed: Callable[[Scales], Scales] = lambda scales: scales,
) -> Scales:
    """Return the scales with which held-out ratings are predicted best.

    The evidence p(R | sigma) would choose scales, but variational inference has only a bound of
    it, which is loosest for many weak factors, and a point estimate has none. Held-out ratings say
    how well sigma predicts.

    Parameters
    ----------
    ways : sequence of sequence of dict
        Scales by site, in ways along which the loss falls and then rises: the first that is no
        better than the one before ends a way. A later way ends at once if it begins no better than
        the first one; after that, losses that are equal, nearly, do not end it, as those of scales
        with which all factors shrink to zero.
    loss : callable
        ``loss(scales)`` returns the mean CRPS of held-out ratings, with the scales held at these
        values. It is a proper score, and few ratings that a fit is too sure of cannot decide it,
        as they can decide a mean log density.
    changed : callable, optional
        Returns one more candidate, from the best one of all ways.

    Returns
    -------
    dict
        One of the candidates; the first if no loss is finite.
    """
    if sum(map(len, ways)) == 1:
        return ways[0][0]
    tried: list[Scales] = []
    losses: list[float] = []
    for way in ways:
        least, is_first = losses[0] if losses else math.inf, way is ways[0]
        for k, scales in enumerate(way):
            found = loss(scales)
            tried.append(scales)
            losses.append(found if math.isfinite(found) else math.inf)
            most = least if is_first or k == 0 else (1 + _FLAT) * least
            if losses[-1] >= most < math.inf:
                break
            least = min(least, losses[-1])
    best = tried[losses.index(min(losses))]
    last = changed(best)
    return last if last != best and loss(last) < min(losses) else best


def as_typical(usual: Scales, typical: Scales) -> Scales:
    """Return standard deviations at their typical values where there are any, and tau.

    An approximation that ignores how latents depend on each other makes the standard deviations
    of biases and noise too small, above all of those that few ratings tell of. So a fit holds
    these, too; but for sigma, which all ratings tell of.

    Parameters
    ----------
    usual : dict
        The values of `factor_scales` or `map_scales`.
    typical : dict
        Typical values under the posterior, see `gibbs.typical`.
    """
    held = {name: x for name, x in typical.items() if name in usual or name != "sigma"}
    return {**usual, **held}


def holdable(terms: Terms, transform: Transform, typical: Scales) -> Scales:
    """Return the scales that a fit may hold: those of noise only on a linear scale of ratings.

    The standard deviation of the exponential of a Normal number grows beyond all bounds with the
    spread of the noise. A fit that learns it keeps it small.

    Parameters
    ----------
    terms : Terms
        Terms of the model.
    transform : Transform
        The transform of the ratings.
    typical : dict
        Typical values under the posterior, see `gibbs.typical`.
    """
    if isinstance(transform, Affine):
        return typical
    of_noise = {term.scale for term in terms.noise}
    return {name: x for name, x in typical.items() if name not in of_noise}


def factors_only(usual: Scales, scales: Scales) -> Scales:
    """Return scales without those of biases and noise, which a fit then learns.

    Parameters
    ----------
    usual : dict
        The values of `factor_scales` or `map_scales`.
    scales : dict
        The scales.
    """
    return {name: x for name, x in scales.items() if name in usual or name == TAU}


def candidate_scales(
    terms: Terms, usual: Scales, typical: Scales, is_point_estimate: bool
) -> list[list[Scales]]:
    """Return the scales that a fit chooses from, in ways for `learnt_scales`.

    Typical scales of the posterior are right for its draws. An approximation ignores how latents
    depend on each other. It adds up their errors, and then predicts better with smaller factors;
    where users have few ratings, it shrinks all factors to zero unless they are larger, or unless
    factors that add more uncertainty than signal are left out. A point estimate follows the noise
    of a table with a weak signal, unless it has far smaller factors, or only one.

    Parameters
    ----------
    terms : Terms
        Terms of the model.
    usual : dict
        The values of `factor_scales` or `map_scales`.
    typical : dict
        Typical values under the posterior, see `gibbs.typical`.
    is_point_estimate : bool
        Whether the fit is one by MAP.

    Returns
    -------
    list of list of dict
        Candidates, with the sites of ``usual`` and tau: from the smallest factors to the largest,
        with all factors, and with the strongest alone if these are fewer; for a point estimate,
        then with a single one, and ever smaller factors. One candidate if no scale of factors is
        free.
    """
    whole = as_typical(usual, typical)
    scales_of_factors = {name for side in terms.factor_scales.values() for name in side}
    free = [name for name in usual if name in typical and name in scales_of_factors]
    if not free:
        return [[whole]]
    several, one = _strongest(whole, _STRONG), _strongest(whole, 1.0)
    kinds = [whole, *several]
    if is_point_estimate and one != several:
        kinds += one
    ways = [_multiples(scales, free, _AROUND) for scales in kinds]
    if is_point_estimate:
        ways.append(_multiples(whole, free, _BELOW))
    return ways


def widened(model: PMF, scales: Scales, loss: Callable[[float], float]) -> Scales:
    """Return scales with which a point estimate is the same, and its predictions are sure enough.

    sigma is typical of the posterior, where it is the distance of ratings from draws. From a point
    they are farther, for a point ignores how uncertain latents are. The other scales grow with the
    standard deviation of a rating, so that the joint density keeps its maximum.

    Parameters
    ----------
    model : PMF
        The model.
    scales : dict
        The scales that were chosen.
    loss : callable
        ``loss(factor)`` returns the mean CRPS of held-out ratings, with sigma times a factor.

    Returns
    -------
    dict
        The same scales if the likelihood is not Normal, or the priors fix one of them.
    """
    likelihood, names = model.likelihood, [term.scale for term in model.terms]
    if not isinstance(likelihood, NormalIdentity | NormalSigmoid):
        return scales
    if not {"sigma", *names} <= scales.keys():
        return scales
    factor, least = 1.0, loss(1.0)
    for wider in _WIDER:
        found = loss(wider)
        if not found < least:
            break
        factor, least = wider, found
    variance, rounding = cast(float, scales["sigma"]) ** 2, (likelihood.rounding or 0.0) ** 2 / 12
    growth = math.sqrt((factor**2 * variance + rounding) / (variance + rounding))
    grown = {name: growth * cast(float, scales[name]) for name in names}
    return {**scales, **grown, "sigma": factor * cast(float, scales["sigma"])}


def _multiples(scales: Scales, names: Sequence[str], factors: Sequence[float]) -> list[Scales]:
    return [
        {**scales, **{name: factor * cast(float, scales[name]) for name in names}}
        for factor in factors
    ]


def _strongest(scales: Scales, share: float) -> list[Scales]:
    """Return the scales without factors below a share of the largest tau, if there are any."""
    tau = scales.get(TAU)
    if not isinstance(tau, list):
        return []
    least = share * max(tau)
    strong = [x if x >= least else _SURPLUS_TAU for x in tau]
    return [{**scales, TAU: strong}] if strong != tau else []
