"""Draws of the noise: log noise of users and items, their scales, and sigma."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_pmf.inference.mcmc.gibbs.block import Block
from pyro_pmf.inference.mcmc.gibbs.scales import draw_noise_scale
from pyro_pmf.inference.mcmc.gibbs.slices import slice_sample
from pyro_pmf.inference.mcmc.gibbs.state import Side, State
from pyro_pmf.model.terms import LogNoise

_STEP = 2.0  # of a row's random walk, in standard deviations


def draw_noise(state: State) -> None:
    """Draw s, t, their scales and sigma.

    Parameters
    ----------
    state : State
        The state.
    """
    for side, _ in state.sides:
        if side.has(LogNoise):
            draw_log_noise(state, side)
            draw_noise_scale(state, side)
    if state.is_free("sigma"):
        _draw_sigma(state)
        for side, _ in state.sides:
            if side.has(LogNoise):
                _shift(state, side)
        state.compute_log_noise()
        state.compute_log_prob()


def draw_log_noise(state: State, side: Side) -> None:
    """Move the log noise of each row by a random walk of its own.

    Parameters
    ----------
    state : State
        The state.
    side : Side
        The side, whose terms have log noise.
    """
    sd = state.scales[side.terms[LogNoise].scale]
    counts = side.counts.to(side.s)
    spread = _STEP * (state.likelihood.information * counts + sd**-2).rsqrt()
    new = side.s + spread * side.rows.normal_like(side.s)
    proposed: list[tuple[Tensor, Tensor]] = []  # log noise and log likelihood, by block

    def gains() -> Iterator[Tensor]:
        for block, group in zip(state.blocks, side.groups, strict=True):
            log_noise = block.log_noise + group.at_pairs(new - side.s)
            log_prob = block.likelihood.log_prob(block.score, log_noise)
            proposed.append((block.scratch.keep(log_noise), block.scratch.keep(log_prob)))
            yield group.ordered(log_prob - block.log_prob)

    ratio = side.sum(gains()) - (new.double().square() - side.s.double().square()) / (2 * sd * sd)
    accepted = side.rows.uniform_like(ratio).log() < ratio
    side.s = torch.where(accepted, new, side.s)
    for block, group, (log_noise, log_prob) in zip(
        state.blocks, side.groups, proposed, strict=True
    ):
        keep = group.at_pairs(accepted)
        block.put(
            log_noise=torch.where(keep, log_noise, block.log_noise),
            log_prob=torch.where(keep, log_prob, block.log_prob),
        )


def _draw_sigma(state: State) -> None:
    """Draw log sigma by a slice of the likelihood of all ratings."""
    prior, at = state.densities["sigma"], state.log_sigma

    def log_density(y: float) -> float:
        if abs(at + y) > _LARGEST_LOG:
            return -math.inf

        def gain(block: Block) -> Tensor:
            return block.likelihood.log_prob(block.score, block.log_noise + y) - block.log_prob

        return state.total(gain) + y + prior(math.exp(at + y))

    width = 2 / math.sqrt(state.likelihood.information * state.n_ratings)
    y = slice_sample(0.0, log_density, width, state.generator)
    state.log_sigma += y
    state.shift_log_noise(y)


def _shift(state: State, side: Side) -> None:
    """Add a number to log sigma and take it from the log noise of all rows of a side."""
    prior, at = state.densities["sigma"], state.log_sigma
    variance = state.scales[side.terms[LogNoise].scale] ** 2
    n, total = side.rows.n, float(side.rows.sum(side.s.double().sum()))

    def log_density(y: float) -> float:
        if abs(at + y) > _LARGEST_LOG:
            return -math.inf
        rest = (total * y - n * y * y / 2) / variance
        return rest + y + prior(math.exp(at + y))

    y = slice_sample(0.0, log_density, 2 * math.sqrt(variance / n), state.generator)
    state.log_sigma += y
    side.s = side.s - y


_LARGEST_LOG = 100.0
