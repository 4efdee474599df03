"""Draws of the effects W given the factors, whose prior means are sums of them, M = A W.

This is a Gaussian regression with one precision for all columns, sigma_W^2 A A^T + sigma_U^2 I:
a draw from the prior is corrected by one linear system (Matheron's rule; Wilson et al.,
Efficiently sampling functions from Gaussian process posteriors, 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_pmf.inference.mcmc.gibbs.axis import Axis
from pyro_pmf.inference.mcmc.gibbs.block import Grouped, sum_by_row
from pyro_pmf.inference.mcmc.gibbs.state import Side, State
from pyro_pmf.model.terms import Factor, SumOverSeen

_DENSE = 1200  # rows or columns up to which the system is decomposed once
_CHUNK = 256  # columns of a product with the identity
_DEFLATED = 64  # strongest directions, at which conjugate gradients are slow
_POWER_STEPS = 5
_TOLERANCE = 1e-4  # of the residual, relative, in float32; the square of this in float64
_MOST_ITERATIONS = 500


class SumsUpdate:
    """Update of the effects of one side: W given F.

    Parameters
    ----------
    by_rows, by_columns : sequence of Grouped
        The pairs with I_ij = 1, grouped by the rows of the side, and by its columns.
    weights : Tensor, shape (n_rows,)
        The entries of A in each row: 1 / d(n_i).
    rows, columns : Axis, optional
        Rows and columns of A; by default, this process has all of them.
    """

    def __init__(
        self,
        by_rows: Sequence[Grouped],
        by_columns: Sequence[Grouped],
        weights: Tensor,
        rows: Axis | None = None,
        columns: Axis | None = None,
    ) -> None:
        self._pairs_by_rows, self._pairs_by_columns = by_rows, by_columns
        self._weights = weights[:, None]
        self._ones = weights.new_ones(max(len(group.row) for group in by_rows))
        n_rows, n_columns = by_rows[-1].rows.stop, by_columns[-1].rows.stop
        self._n_columns = n_columns
        self._rows, self._columns = rows or Axis(n_rows), columns or Axis(n_columns)
        # each process solves the whole system, so that its rows are in each process
        narrow = n_rows <= n_columns and not self._rows.is_spread
        self._by_rows = narrow or self._columns.is_spread
        size = n_rows if self._by_rows else n_columns
        self._is_dense = size <= _DENSE
        if self._is_dense:
            identity = torch.eye(size, dtype=weights.dtype, device=weights.device)
            gram = torch.cat([self._gram(x) for x in identity.split(_CHUNK, 1)], 1).double()
            values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
            self._values, self._vectors = values.clamp_(min=0).to(weights), vectors.to(weights)
        else:
            axis = self._rows if self._by_rows else self._columns
            basis = axis.normal_like(weights.new_empty(size, min(_DEFLATED, size)))
            for _ in range(_POWER_STEPS):
                basis = torch.linalg.qr(self._gram(basis))[0]
            self._values, rotation = torch.linalg.eigh(basis.T @ self._gram(basis))
            self._vectors = basis @ rotation

    def forward(self, W: Tensor) -> Tensor:
        """Return A W, shape (n_rows, n_columns of W)."""
        return self._columns.sum(self._sum(self._pairs_by_rows, W)) * self._weights

    def backward(self, F: Tensor) -> Tensor:
        """Return A^T F."""
        return self._rows.sum(self._sum(self._pairs_by_columns, F * self._weights))

    def draw(self, factors: Tensor, variance: float, effect_variance: float) -> Tensor:
        """Draw W from its conditional distribution.

        Parameters
        ----------
        factors : Tensor, shape (n_rows, n_factors)
            Normal(A W, variance) in every entry.
        variance, effect_variance : float
            Variances of the factors about A W, and of W.

        Returns
        -------
        Tensor, shape (n_columns, n_factors)
        """
        W = self._columns.normal_like(factors.new_empty(self._n_columns, factors.shape[1]))
        W.mul_(effect_variance**0.5)
        noise = self._rows.normal_like(factors).mul_(variance**0.5)
        return W + self.regress(factors - self.forward(W) - noise, variance, effect_variance)

    def regress(self, factors: Tensor, variance: float, effect_variance: float) -> Tensor:
        """Return the conditional mean of W; parameters and shape are those of `draw`."""
        if self._by_rows:
            solution = self._solve(factors, variance, effect_variance)
            return effect_variance * self.backward(solution)
        right = self.backward(factors)
        return effect_variance * self._solve(right, variance, effect_variance)

    def _sum(self, groups: Sequence[Grouped], x: Tensor) -> Tensor:
        """Return the sum of the columns of each row's pairs."""
        each = [
            group.tiles.weighted_sum(self._ones[: len(group.row)], x[group.columns])
            for group in groups
        ]
        return sum_by_row(groups, each)

    def _gram(self, x: Tensor) -> Tensor:
        if self._by_rows:
            return self.forward(self.backward(x))
        return self.backward(self.forward(x))

    def _solve(self, right: Tensor, variance: float, effect_variance: float) -> Tensor:
        """Solve (effect_variance G + variance I) x = right, for all columns."""
        if self._is_dense:
            spectrum = (effect_variance * self._values + variance)[:, None]
            return self._vectors @ ((self._vectors.T @ right) / spectrum)
        floor = effect_variance * self._values[0] + variance
        gain = (1 / (effect_variance * self._values + variance) - 1 / floor)[:, None]

        def preconditioned(r: Tensor) -> Tensor:
            return r / floor + self._vectors @ (gain * (self._vectors.T @ r))

        x, r = torch.zeros_like(right), right.clone()
        z = preconditioned(r)
        p, rz = z, (r * z).sum(0)
        power = 2 if right.dtype == torch.float32 else 4
        goal = _TOLERANCE**power * r.square().sum(0)
        for _ in range(_MOST_ITERATIONS):
            if bool((r.square().sum(0) <= goal).all()):
                break
            q = effect_variance * self._gram(p) + variance * p
            length = rz / (p * q).sum(0).clamp_(min=torch.finfo(right.dtype).tiny)
            x, r = x + length * p, r - length * q
            z = preconditioned(r)
            new = (r * z).sum(0)
            p, rz = z + (new / rz.clamp_(min=torch.finfo(right.dtype).tiny)) * p, new
        return x


def draw_effects(state: State, side: Side, sums: SumsUpdate) -> None:
    """Draw the effects W of a side, in place.

    Parameters
    ----------
    state : State
        The state.
    side : Side
        The side whose factors sum the effects.
    sums : SumsUpdate
        The sums.
    """
    sd, effect_sd = (state.scales[side.terms[kind].scale] for kind in (Factor, SumOverSeen))
    about = side.F if side.mean is None else side.F - side.mean
    side.W = sums.draw(about / side.tau, sd**2, effect_sd**2) * side.tau
    side.M = sums.forward(side.W)
    if side.mean is not None:
        side.M = side.M + side.mean
