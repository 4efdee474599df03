"""Draws of what sets the level of all ratings: cut points, or mu of a model without biases."""

from __future__ import annotations

import math

import torch

from pyro_pmf.inference.mcmc.gibbs.invariances import (
    log_prior_of_cutpoints,
    log_prior_of_scales,
    score_powers,
    stretch_scores,
)
from pyro_pmf.inference.mcmc.gibbs.slices import slice_sample
from pyro_pmf.inference.mcmc.gibbs.state import State
from pyro_pmf.inference.mcmc.gibbs.working import LogisticWorking
from pyro_pmf.model.terms import Bias

_ACCEPTANCE = 0.44  # of a random walk in one dimension (Roberts & Rosenthal 2001)
_FIRST_STEP = 0.05  # of a cut point
_STRETCH = "stretch"


def draw_level(state: State, adapt: bool) -> None:
    """Draw the cut points, or mu if no bias takes part in its moves.

    Parameters
    ----------
    state : State
        The state.
    adapt : bool
        Whether the steps of random walks adapt.
    """
    if isinstance(state.likelihood, LogisticWorking) and state.likelihood.is_ordered:
        _draw_cutpoints(state, state.likelihood, adapt)
        _stretch(state, state.likelihood, adapt)
    elif state.is_free("mu") and not any(side.has(Bias) for side, _ in state.sides):
        _draw_mu(state)


def _draw_cutpoints(state: State, likelihood: LogisticWorking, adapt: bool) -> None:
    """Move every second cut point by a random walk of its own; no level has two of them."""
    n_levels, stream = likelihood.n_levels, state.items.rows  # which all processes have
    for first in (0, 1):
        moved = range(first, n_levels - 1, 2)
        if not moved:
            continue
        old = likelihood.cutpoints
        index = torch.tensor(moved, device=old.device)
        steps = torch.tensor(
            [state.steps.get(f"cut {k}", _FIRST_STEP) for k in moved], device=old.device
        )
        new = old.clone()
        new[index] += steps.to(old) * stream.normal_like(old[index])
        between = _between(new, old, index)
        likelihood.set_cutpoints(torch.where(_at(index, between, old), new, old))
        log_prob = likelihood.log_prob(state.score, state.log_noise)
        by_level = torch.zeros(n_levels, dtype=torch.float64, device=old.device)
        by_level.index_add_(0, likelihood.level, (log_prob - state.log_prob).double())
        prior = _prior_of_each(new)[index] - _prior_of_each(old)[index]
        by_level = state.users.rows.sum(by_level)
        gain = by_level[index] + by_level[index + 1] + prior
        accepted = between & (stream.uniform_like(gain).log() < gain)
        likelihood.set_cutpoints(torch.where(_at(index, accepted, old), new, old))
        moved_levels = torch.zeros(n_levels, dtype=torch.bool, device=old.device)
        moved_levels[index] = moved_levels[index + 1] = accepted
        keep = moved_levels.index_select(0, likelihood.level)
        state.log_prob = torch.where(keep, log_prob, state.log_prob)
        if adapt:
            for k, ok in zip(moved, accepted.tolist(), strict=True):
                _adapt(state, f"cut {k}", ok, _FIRST_STEP)


def _between(new: torch.Tensor, old: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return whether each moved cut point stays between its neighbours, which do not move."""
    ends = torch.nn.functional.pad(old, (1, 1), value=math.inf)
    ends[0] = -math.inf
    return (new[index] > ends[index]) & (new[index] < ends[index + 2])


def _at(index: torch.Tensor, values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    full = torch.zeros_like(like, dtype=torch.bool)
    full[index] = values
    return full


def _prior_of_each(cutpoints: torch.Tensor) -> torch.Tensor:
    cuts = cutpoints.double()
    return torch.nn.functional.logsigmoid(cuts) + torch.nn.functional.logsigmoid(-cuts)


def _stretch(state: State, likelihood: LogisticWorking, adapt: bool) -> None:
    """Multiply the cut points, all terms of the score and their scales by one number.

    Only the prior and the noise, which stays, say how long they all are.
    """
    powers = score_powers(state)
    if not powers:
        return
    if _STRETCH not in state.steps:  # a first step from the curvature
        weight = likelihood.weight(state.score, state.log_noise, safe=False)
        curvature = state.total(weight * state.score.square())
        state.steps[_STRETCH] = 2.4 / math.sqrt(2 + curvature)
    y = state.steps[_STRETCH] * float(state.generator.standard_normal())
    old = likelihood.cutpoints
    score = state.score * math.exp(y)
    likelihood.set_cutpoints(old * math.exp(y))
    log_prob = likelihood.log_prob(score, state.log_noise)
    ratio = state.total(log_prob - state.log_prob) + len(old) * y
    ratio += log_prior_of_cutpoints(likelihood.cutpoints) - log_prior_of_cutpoints(old)
    ratio += log_prior_of_scales(state, powers, y) - log_prior_of_scales(state, powers, 0.0)
    accepted = math.log(state.generator.random()) < ratio
    if adapt:
        _adapt(state, _STRETCH, accepted, state.steps[_STRETCH])
    if not accepted:
        likelihood.set_cutpoints(old)
        return
    stretch_scores(state, powers, y)
    state.log_prob = log_prob


def _draw_mu(state: State) -> None:
    """Draw mu by a slice of the likelihood of all ratings."""
    prior, mu, base = state.densities["mu"], state.mu, state.log_prob
    weight = state.likelihood.weight(state.score, state.log_noise, safe=False)

    def log_density(d: float) -> float:
        log_prob = state.likelihood.log_prob(state.score + d, state.log_noise)
        return state.total(log_prob - base) + prior(mu + d)

    width = 2 / math.sqrt(1 + state.total(weight))
    d = slice_sample(0.0, log_density, width, state.generator)
    state.mu += d
    state.score, state.centre = state.score + d, state.centre + d
    state.compute_log_prob()


def _adapt(state: State, name: str, accepted: bool, first: float) -> None:
    """Move the logarithm of a step towards the acceptance wanted, less from move to move."""
    n = state.steps.get(f"{name} moves", 0.0)
    gain = (float(accepted) - _ACCEPTANCE) / (1 + n / 10) ** 0.6
    state.steps[name] = state.steps.get(name, first) * math.exp(gain)
    state.steps[f"{name} moves"] = n + 1
