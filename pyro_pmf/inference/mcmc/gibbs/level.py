"""Draws of what sets the level of all ratings: cut points, or mu of a model without biases."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_pmf.inference.mcmc.gibbs.block import Block
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
_STRETCH, _WIDTH = "stretch", "width of mu"  # names of steps


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
        _draw_mu(state, adapt)


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
        state.set_cutpoints(torch.where(_at(index, between, old), new, old))
        by_level = torch.zeros(n_levels, dtype=torch.float64, device=old.device)
        proposed = []
        for block in state.blocks:
            log_prob = block.likelihood.log_prob(block.score, block.log_noise)
            proposed.append(block.scratch.keep(log_prob))
            by_level.index_add_(0, _level_of(block), (log_prob - block.log_prob).double())
        prior = _prior_of_each(new)[index] - _prior_of_each(old)[index]
        by_level = state.users.rows.sum(by_level)
        gain = by_level[index] + by_level[index + 1] + prior
        accepted = between & (stream.uniform_like(gain).log() < gain)
        state.set_cutpoints(torch.where(_at(index, accepted, old), new, old))
        moved_levels = torch.zeros(n_levels, dtype=torch.bool, device=old.device)
        moved_levels[index] = moved_levels[index + 1] = accepted
        for block, log_prob in zip(state.blocks, proposed, strict=True):
            keep = moved_levels.index_select(0, _level_of(block))
            block.put(log_prob=torch.where(keep, log_prob, block.log_prob))
        if adapt:
            for k, ok in zip(moved, accepted.tolist(), strict=True):
                _adapt(state, f"cut {k}", ok, _FIRST_STEP)


def _level_of(block: Block) -> Tensor:
    assert isinstance(block.likelihood, LogisticWorking)
    return block.likelihood.level


def _between(new: Tensor, old: Tensor, index: Tensor) -> Tensor:
    """Return whether each moved cut point stays between its neighbours, which do not move."""
    ends = torch.nn.functional.pad(old, (1, 1), value=math.inf)
    ends[0] = -math.inf
    return (new[index] > ends[index]) & (new[index] < ends[index + 2])


def _at(index: Tensor, values: Tensor, like: Tensor) -> Tensor:
    full = torch.zeros_like(like, dtype=torch.bool)
    full[index] = values
    return full


def _prior_of_each(cutpoints: Tensor) -> Tensor:
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
        curvature = state.total(lambda block: _weight(block) * block.score.square())
        state.steps[_STRETCH] = 2.4 / math.sqrt(2 + curvature)
    y = state.steps[_STRETCH] * float(state.generator.standard_normal())
    old = likelihood.cutpoints
    state.set_cutpoints(old * math.exp(y))
    proposed = []

    def gain(block: Block) -> Tensor:
        log_prob = block.likelihood.log_prob(block.score * math.exp(y), block.log_noise)
        proposed.append(block.scratch.keep(log_prob))
        return log_prob - block.log_prob

    ratio = state.total(gain) + len(old) * y
    ratio += log_prior_of_cutpoints(likelihood.cutpoints) - log_prior_of_cutpoints(old)
    ratio += log_prior_of_scales(state, powers, y) - log_prior_of_scales(state, powers, 0.0)
    accepted = math.log(state.generator.random()) < ratio
    if adapt:
        _adapt(state, _STRETCH, accepted, state.steps[_STRETCH])
    if not accepted:
        state.set_cutpoints(old)
        return
    stretch_scores(state, powers, y)
    for block, log_prob in zip(state.blocks, proposed, strict=True):
        block.put(log_prob=log_prob)


def _draw_mu(state: State, adapt: bool) -> None:
    """Draw mu by a slice of the likelihood of all ratings."""
    prior, mu = state.densities["mu"], state.mu

    def log_density(d: float) -> float:
        def gain(block: Block) -> Tensor:
            return block.likelihood.log_prob(block.score + d, block.log_noise) - block.log_prob

        return state.total(gain) + prior(mu + d)

    if adapt or _WIDTH not in state.steps:  # a width that depends on mu would not be exact
        state.steps[_WIDTH] = 2 / math.sqrt(1 + state.total(_weight))
    width = state.steps[_WIDTH]
    d = slice_sample(0.0, log_density, width, state.generator)
    state.mu += d
    state.shift_scores(d)
    state.compute_log_prob()


def _weight(block: Block) -> Tensor:
    return block.likelihood.weight(block.score, block.log_noise, safe=False)


def _adapt(state: State, name: str, accepted: bool, first: float) -> None:
    """Move the logarithm of a step towards the acceptance wanted, less from move to move."""
    n = state.steps.get(f"{name} moves", 0.0)
    gain = (float(accepted) - _ACCEPTANCE) / (1 + n / 10) ** 0.6
    state.steps[name] = state.steps.get(name, first) * math.exp(gain)
    state.steps[f"{name} moves"] = n + 1
