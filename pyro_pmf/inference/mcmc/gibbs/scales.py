"""Draws of the standard deviations of factors, effects and biases, given them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_pmf.inference.mcmc.gibbs.slices import draw_scale
from pyro_pmf.inference.mcmc.gibbs.state import Side, State
from pyro_pmf.model.terms import TAU, Bias, Factor, LogNoise, SumOverSeen


def squares(side: Side) -> dict[str, Tensor]:
    """Return the sums of squares of what has each scale: factors about their means, effects.

    The mean of all rows of factors counts as one more row.

    Parameters
    ----------
    side : Side
        Users or items.

    Returns
    -------
    dict of str to Tensor, float64, shape (n_factors,)
        In units of tau.
    """
    sums = {}
    if side.has(Factor):
        deviation = ((side.F - side.M) / side.tau).double()
        sums[side.terms[Factor].scale] = side.rows.sum(deviation.square_().sum(0))
        if side.mean is not None:
            sums[side.terms[Factor].scale] += (side.mean / side.tau).double().square()
    if side.has(SumOverSeen):
        effects = (side.W / side.tau).double()
        sums[side.terms[SumOverSeen].scale] = side.columns.sum(effects.square_().sum(0))
    return sums


def standardized_squares(state: State, side: Side) -> Tensor:
    """Return the sums of squares of a side in units of its variances, shape (n_factors,).

    Parameters
    ----------
    state : State
        The state.
    side : Side
        Users or items.
    """
    sums = [total / state.scales[name] ** 2 for name, total in squares(side).items()]
    return torch.stack(sums).sum(0)


def draw_scales(state: State, side: Side) -> None:
    """Draw the free standard deviations of a side: of factors, effects, biases and log noise.

    Parameters
    ----------
    state : State
        The state.
    side : Side
        Users or items.
    """
    for name, total in squares(side).items():
        is_of_factors = name == side.terms[Factor].scale
        n = side.n_factor_rows if is_of_factors else side.columns.n
        _draw(state, name, float(total.sum()), n * state.n_factors)
    if side.has(Bias):
        of_biases = side.rows.sum(side.b.double().square().sum())
        _draw(state, side.terms[Bias].scale, float(of_biases), side.rows.n)


def draw_noise_scale(state: State, side: Side) -> None:
    """Draw the standard deviation of the log noise of a side.

    Parameters
    ----------
    state : State
        The state.
    side : Side
        Users or items.
    """
    total = side.rows.sum(side.s.double().square().sum())
    _draw(state, side.terms[LogNoise].scale, float(total), side.rows.n)


def draw_factor_scales(state: State) -> None:
    """Draw tau, the scale of each factor, given the factors and the effects of users.

    Parameters
    ----------
    state : State
        The state.
    """
    if not state.is_free(TAU):
        return
    side = state.users
    tau = side.tau.double()
    totals = (standardized_squares(state, side) * tau.square()).tolist()
    drawn = [
        draw_scale(old, total, side.n_latent_rows, state.densities[TAU], state.generator)
        for old, total in zip(tau.tolist(), totals, strict=True)
    ]
    side.tau = side.tau.new_tensor(drawn)


def _draw(state: State, name: str, total: float, count: int) -> None:
    # log noise begins at 0; while no row of it has moved, it would pull its scale towards 0
    moved = total > 0 or count == 0
    if state.is_free(name) and math.isfinite(total) and moved:
        prior, scale = state.densities[name], state.scales[name]
        state.scales[name] = draw_scale(scale, total, count, prior, state.generator)
