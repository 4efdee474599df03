"""Draws of the mean of all rows of factors of a side."""

from __future__ import annotations

import torch

from pyro_pmf.inference.mcmc.gibbs.state import Side, State
from pyro_pmf.inference.mcmc.gibbs.sums import SumsUpdate
from pyro_pmf.model.terms import Factor, SumOverSeen


class Compensation:
    """Effects W that nearly make up for a number that is taken from all prior means of factors.

    Parameters
    ----------
    side : Side
        The side of the factors.
    sums : SumsUpdate or None
        The sums of its prior means.
    variance, effect_variance : float
        Typical variances of factors and of effects, from which ``effects`` are computed once; any
        values are exact.

    Attributes
    ----------
    effects : Tensor, float64, shape (n_columns, 1)
        Effects for each unit of the number; 0 without sums.
    sums : Tensor, float64, shape (n_rows, 1)
        Their sums, which are nearly 1 where there are sums.
    """

    def __init__(
        self, side: Side, sums: SumsUpdate | None, variance: float, effect_variance: float
    ) -> None:
        rows, effects = side.F.new_ones(len(side.F), 1), side.W.new_zeros(len(side.W), 1)
        if sums is not None:
            effects = sums.regress(rows, variance, effect_variance)
        self.effects = effects.double()
        self.sums = (torch.zeros_like(rows) if sums is None else sums.forward(effects)).double()


def draw_mean(state: State, side: Side, compensation: Compensation) -> None:
    """Add a number to the mean of all rows of factors, and take it from the effects.

    Without effects, this is a draw of the mean given the factors. With effects, a draw of the mean
    given them would move slowly, since their sums are a mean, too.

    Parameters
    ----------
    state : State
        The state.
    side : Side
        The side of the factors.
    compensation : Compensation
        How the effects take part.
    """
    if side.mean is None:
        return
    effects, rest = compensation.effects, 1 - compensation.sums
    variance = state.scales[side.terms[Factor].scale] ** 2
    precision = (1 + side.rows.sum(rest.square().sum())) / variance
    deviation = (side.F - side.M).double()
    linear = (side.rows.sum(rest.T @ deviation)[0] - side.mean.double()) / variance
    if side.has(SumOverSeen):
        variance = state.scales[side.terms[SumOverSeen].scale] ** 2
        precision = precision + side.columns.sum(effects.square().sum()) / variance
        linear = linear + side.columns.sum(effects.T @ side.W.double())[0] / variance
    noise = state.items.rows.normal_like(linear)  # all processes draw the same
    h = linear / precision + noise * side.tau.double() / precision**0.5
    side.mean = (side.mean + h).to(side.F)
    side.W = (side.W - effects * h).to(side.F)
    side.M = (side.M + rest * h).to(side.F)
