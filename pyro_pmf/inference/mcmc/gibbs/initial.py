"""Where a chain of the blocked sampler begins."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_pmf.data.blocks import blocks_of, number_of_blocks
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.inference.mcmc.gibbs.axis import Axes, Axis
from pyro_pmf.inference.mcmc.gibbs.block import Block, Grouped
from pyro_pmf.inference.mcmc.gibbs.slices import Density, log_prior
from pyro_pmf.inference.mcmc.gibbs.state import Side, State
from pyro_pmf.inference.mcmc.gibbs.working import working_likelihood
from pyro_pmf.model.likelihoods import NegativeBinomialLog, NormalIdentity, OrderedLogit
from pyro_pmf.model.pmf import PMF
from pyro_pmf.model.priors import Fixed
from pyro_pmf.model.terms import TAU, Bias, Factor, LogNoise, SumOverSeen

_SPREAD = 0.1  # standard deviation of the initial factors
_AT_ONCE = 1 << 20  # ratings that are looked at together
_DISPERSION = 0.25  # standard deviation of the logarithms of the initial scales
# In units of the noise. Factors with larger scales than they need find a signal in a few sweeps,
# and shrink in a few; with smaller ones, a weak signal takes a hundred sweeps to grow.
_INITIAL_SCALES = {Factor: 1.0, SumOverSeen: 0.2, Bias: 0.5, LogNoise: 0.2}


class _Level(NamedTuple):
    """What ratings tell before the first sweep: mu, log sigma, noise, and cut points."""

    mu: float
    log_sigma: float
    noise_sd: float
    cutpoints: Tensor | None


def knows_terms(model: PMF) -> bool:
    """Return whether the sampler knows all terms of a model.

    Parameters
    ----------
    model : PMF
        The model.
    """
    return all(type(term) in _INITIAL_SCALES for term in model.terms)


def initial_state(
    model: PMF, ratings: Pairs, generator: np.random.Generator, axes: Axes | None = None
) -> State:
    """Return a random initial state, from torch's random state and the generator.

    The standard deviations are dispersed by a factor of 1.3 or so, so that chains start apart.

    Parameters
    ----------
    model : PMF
        The model.
    ratings : Pairs
        The training ratings, with values; at least one.
    generator : numpy.random.Generator
        Source of randomness of single numbers.
    axes : (Axis, Axis), optional
        The users, of whom ``ratings`` may have some only, and the items; by default, it has all.
    """
    value = ratings.value
    assert value is not None  # `fit` has checked it
    users, items = axes or (Axis(ratings.n_users), Axis(ratings.n_items))
    level = users.reducer.first(lambda: _level(model, value))  # in all processes the same
    cutpoints = None if level.cutpoints is None else level.cutpoints.to(value)
    scales, densities = _scales(model, level.noise_sd, generator)
    cut = blocks_of(ratings, number_of_blocks(ratings))
    state = State(
        _side(model, ratings, users, items, [Grouped.by_users(each) for each in cut]),
        _side(model, ratings, items, users, [Grouped.by_items(each) for each in cut]),
        scales,
        densities,
        level.mu,
        level.log_sigma,
        [_block(model, each.pairs, cutpoints) for each in cut],
        generator=generator,
        n_ratings=int(users.sum(torch.tensor(len(value), device=value.device))),
    )
    state.compute_log_noise()
    state.compute_scores()
    state.move_centre(1.0)
    return state


def _block(model: PMF, pairs: Pairs, cutpoints: Tensor | None) -> Block:
    assert pairs.value is not None
    likelihood = working_likelihood(model.likelihood, pairs.value, cutpoints)
    return Block.blank(likelihood, len(pairs), pairs.value, pairs.scratch)


def _side(model: PMF, like: Pairs, rows: Axis, columns: Axis, groups: list[Grouped]) -> Side:
    is_users = groups[0].order is None
    n_rows, n_columns = (like.n_users, like.n_items)[:: 1 if is_users else -1]
    n_factors = model.n_factors
    zeros = partial(torch.zeros, dtype=like.dtype, device=like.device)
    tau = zeros(n_factors) + 1
    prior = model.priors.of(TAU, n_factors)
    if is_users and isinstance(prior, Fixed):
        tau = tau * prior.value
    plate = "users" if is_users else "items"
    return Side(
        rows,
        columns,
        like.user_counts if is_users else like.item_counts,  # of a shard, in all processes
        groups,
        {type(t): t for t in model.terms if (t.plate == plate) != isinstance(t, SumOverSeen)},
        F=rows.normal_like(zeros(n_rows, n_factors)).mul_(_SPREAD),
        b=zeros(n_rows),
        s=zeros(n_rows),
        W=zeros(n_columns, n_factors),
        M=zeros(n_rows, n_factors),
        mean=zeros(n_factors) if n_factors and model.means else None,
        tau=tau,
        step=zeros(n_rows) + 1,
    )


def _scales(
    model: PMF, noise_sd: float, generator: np.random.Generator
) -> tuple[dict[str, float], dict[str, Density]]:
    """Return initial standard deviations, and the log prior densities of all free numbers."""
    scales, densities = {}, {}
    for term in model.terms:
        prior = model.priors.of(term.scale, model.n_factors)
        if isinstance(prior, Fixed):
            scales[term.scale] = prior.value
            continue
        unit = 1.0 if isinstance(term, LogNoise) else term.unit(noise_sd)
        dispersed = math.exp(_DISPERSION * generator.standard_normal())
        if isinstance(term, Factor):  # so that U_i . V_j, a sum, has the spread of the noise
            unit = unit / model.n_factors**0.25
        scales[term.scale] = unit * _INITIAL_SCALES[type(term)] * dispersed
        densities[term.scale] = log_prior(prior)
    others = {
        "mu": model.likelihood.has_mu,
        "sigma": model.likelihood.has_sigma,
        TAU: model.n_factors > 0,
    }
    for name, is_there in others.items():
        prior = model.priors.of(name, model.n_factors)
        if is_there and not isinstance(prior, Fixed):
            densities[name] = log_prior(prior)
    return scales, densities


def _level(model: PMF, value: Tensor) -> _Level:
    """Return the fixed values of mu and log sigma, or the level of the ratings, and its unit."""
    likelihood, priors = model.likelihood, model.priors
    mean = sum(float(some.double().sum()) for some in value.split(_AT_ONCE)) / len(value)
    squares = (float((some.double() - mean).square().sum()) for some in value.split(_AT_ONCE))
    sd = math.sqrt(sum(squares) / len(value))
    mu = log_sigma = 0.0
    if likelihood.has_mu:
        inside = min(max(mean, 0.01), 0.99)
        mu = math.log(inside / (1 - inside))
        if isinstance(likelihood, NormalIdentity):
            mu = mean
        elif isinstance(likelihood, NegativeBinomialLog):
            mu = math.log(max(mean, 0.01))
        if isinstance(priors.mu, Fixed):
            mu = priors.mu.value
    if likelihood.has_sigma:
        is_unit = isinstance(likelihood, NegativeBinomialLog) or sd == 0
        log_sigma = 0.0 if is_unit else math.log(sd)
        if isinstance(priors.sigma, Fixed):
            log_sigma = math.log(priors.sigma.value)
    cutpoints = None
    if isinstance(likelihood, OrderedLogit):
        cutpoints = _initial_cutpoints(likelihood.n_levels, value).cpu()
    return _Level(mu, log_sigma, likelihood.noise_sd(value), cutpoints)


def _initial_cutpoints(n_levels: int, value: Tensor) -> Tensor:
    """Return cut points at the frequencies of the levels, each counted once more."""
    counts = torch.ones(n_levels, dtype=torch.float64, device=value.device)
    for some in value.split(_AT_ONCE):
        level = (some * (n_levels - 1)).round().long()
        counts += torch.bincount(level, minlength=n_levels)
    below = counts.cumsum(0)[:-1] / counts.sum()
    return torch.logit(below).to(value)
