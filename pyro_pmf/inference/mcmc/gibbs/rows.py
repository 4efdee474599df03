"""Draws of the rows (F_i, b_i) of a side, all at once, given everything else.

Given the other side, the rows are independent. With a quadratic approximation of the likelihood
(`working`), a row is Gaussian: its precision is prior + sum_j w_ij x_j x_j^T over its ratings, x_j
= (factors of the column, 1). Where the likelihood is quadratic, the draw is exact. Elsewhere the
row takes a trajectory that turns in the Gaussian exactly and is kicked by the difference, and is
accepted or not by itself (Shahbaba, Lan, Johnson & Neal, Split Hamiltonian Monte Carlo, 2014).
The approximation is expanded at a running mean of the score, never at the state of the row, so
that the proposal is reversible; the mean changes less and less (Roberts & Rosenthal, Coupling and
ergodicity of adaptive MCMC, 2007).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_pmf.inference.mcmc.gibbs.state import Side, State
from pyro_pmf.inference.mcmc.gibbs.working import Working
from pyro_pmf.model.terms import Bias, Factor
from pyro_pmf.moments.bilinear import unpacked

_TURN = 0.75 * math.pi  # of a trajectory; beyond pi / 2, draws are overrelaxed
_KICKS = 2  # of a trajectory
_ACCEPTANCE = 0.8
_GAIN = 0.3  # of the logarithm of a row's step by one trajectory
_SMALLEST_STEP = 0.02
_LARGEST_ERROR = 1e-2  # of a precision by rounding, at worst, relative to the prior's


@dataclass(frozen=True)
class _Gaussian:
    """Gaussian approximation of all rows: x = L^-T (y + standard normal).

    Attributes
    ----------
    root : Tensor, float64, shape (n_rows, D, D)
        Lower Cholesky factor L of the precision.
    y : Tensor, float64, shape (n_rows, D, 1)
        L^T times the mean.
    is_sound : Tensor, bool, shape (n_rows,)
        Whether the factor exists in float64; other rows stay as they are.
    weight, linear : Tensor, shape (n_ratings,)
        w and h of the approximation h s - w s^2 / 2 of each rating.
    """

    root: Tensor
    y: Tensor
    is_sound: Tensor
    weight: Tensor
    linear: Tensor

    def rows(self, y: Tensor, like: Tensor) -> Tensor:
        """Return rows from their coordinates y, in the type of a tensor."""
        x = torch.linalg.solve_triangular(self.root.mT, y, upper=True)
        return x[..., 0].to(like).contiguous()


class RowUpdate:
    """Update of all rows of one side, given the other.

    Parameters
    ----------
    state : State
        The state; the update changes it.
    side, other : Side
        The side to update, and the other one.
    """

    def __init__(self, state: State, side: Side, other: Side) -> None:
        self._state, self._side, self._other = state, side, other
        self._likelihood: Working = state.likelihood.at(side.order)
        self._score, self._noise, self._centre = (
            self._ordered(x) for x in (state.score, state.log_noise, state.centre)
        )
        ones = other.F.new_ones(len(other.F), 1 if side.has(Bias) else 0)
        self._columns = torch.cat([other.F, ones], 1)
        self._old = self._rows()
        self._offset = self._score - side.tiles.dot(self._old, self._columns)

    def __call__(self, safe: bool, adapt: bool) -> float:
        """Draw the rows; return the share that moved.

        Parameters
        ----------
        safe : bool
            Whether to draw from the approximation at the present scores, without correction. This
            comes near the posterior from anywhere, and is for the first sweeps only.
        adapt : bool
            Whether the steps of the rows adapt.
        """
        if not self._old.shape[1]:
            return 1.0
        gaussian = self._approximate(self._score if safe else self._centre, safe)
        exact = self._likelihood.is_quadratic
        if safe or exact:
            rows, score = self._draw(gaussian, independent=safe)
            accepted, log_prob = gaussian.is_sound, None
        else:
            rows, score, log_prob, accepted = self._trajectory(gaussian, adapt)
        self._take(rows, score, log_prob, accepted)
        return float(accepted.double().mean())

    def begin_anew(self, n_updates: int) -> None:
        """Draw the rows from the approximation at the centre, whatever they are, and correct them.

        Parameters
        ----------
        n_updates : int
            Updates after the draw. The approximation serves all of them, since it depends on no
            row, and nothing else changes.
        """
        if not self._old.shape[1]:
            return
        gaussian = self._approximate(self._centre, safe=True)
        exact = self._likelihood.is_quadratic
        self._take(*self._draw(gaussian, independent=True), None, gaussian.is_sound)
        for _ in range(0 if exact else n_updates):
            self._score = self._ordered(self._state.score)
            self._old = self._rows()
            self._take(*self._trajectory(gaussian, adapt=False))

    def _approximate(self, at: Tensor, safe: bool) -> _Gaussian:
        side, columns = self._side, self._columns
        weight = self._likelihood.weight(at, self._noise, safe)
        linear = self._likelihood.slope(at, self._noise).addcmul_(weight, at)
        precision, prior = self._prior()
        exact = torch.float64 if self._needs_double(weight, precision) else columns.dtype
        columns = columns.to(exact)
        full = unpacked(side.columns.sum(side.tiles.gram(weight.to(exact), columns).double()))
        full.diagonal(dim1=1, dim2=2).add_(precision)
        root, fault = torch.linalg.cholesky_ex(full)
        sound = fault == 0
        if not bool(sound.all()):
            root[~sound] = torch.eye(root.shape[1]).to(root)
        about = torch.addcmul(linear, weight, self._offset, value=-1).to(exact)
        right = side.columns.sum(side.tiles.weighted_sum(about, columns).double()) + prior
        y = torch.linalg.solve_triangular(root, right[..., None], upper=False)
        return _Gaussian(root, y, sound, weight, linear)

    def _needs_double(self, weight: Tensor, precision: Tensor) -> bool:
        """Return whether float32 sums of the Gram matrices could be off beside the prior."""
        largest = self._side.counts.max() * weight.max()
        error = torch.finfo(weight.dtype).eps * largest * self._columns.square().sum(1).max()
        return bool(error > _LARGEST_ERROR * precision.min())

    def _prior(self) -> tuple[Tensor, Tensor]:
        """Return the prior precision of each entry, and its product with the prior mean."""
        side, scales = self._side, self._state.scales
        parts = []
        if side.has(Factor):
            sd = scales[side.terms[Factor].scale] * side.tau.double()
            parts.append(sd**-2)
        mean = torch.cat(parts) * side.M if parts else side.M.double()
        if side.has(Bias):
            parts.append(side.tau.new_tensor([scales[side.terms[Bias].scale]]).double() ** -2)
            mean = torch.nn.functional.pad(mean, (0, 1))
        return torch.cat(parts), mean

    def _draw(self, gaussian: _Gaussian, independent: bool) -> tuple[Tensor, Tensor]:
        """Draw from the approximation; turned by more than pi / 2 from the old rows, or not."""
        y, noise = gaussian.y, self._side.rows.normal_like(gaussian.y)
        if not independent:
            turn = self._turn()
            old = gaussian.root.mT @ self._old.double()[..., None] - y
            noise = math.cos(turn) * old + math.sin(turn) * noise
        rows = gaussian.rows(y + noise, self._old)
        return rows, self._score_of(rows)

    def _trajectory(
        self, gaussian: _Gaussian, adapt: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Propose rows by trajectories: rows, scores, log likelihoods, and which are accepted."""
        side, y = self._side, gaussian.y
        angle = (side.step.double() * self._turn() / _KICKS)[:, None, None]
        cos, sin = angle.cos(), angle.sin()
        place = gaussian.root.mT @ self._old.double()[..., None] - y
        speed = side.rows.normal_like(y)
        before = (place.square() + speed.square()).sum((1, 2))
        score = self._score
        kick = self._kick(gaussian, score) * (angle / 2)
        for _ in range(_KICKS):
            speed = speed + kick
            place, speed = cos * place + sin * speed, cos * speed - sin * place
            rows = gaussian.rows(place + y, self._old)
            score = self._score_of(rows)
            kick = self._kick(gaussian, score) * (angle / 2)
            speed = speed + kick
        after = (place.square() + speed.square()).sum((1, 2))
        log_prob = self._likelihood.log_prob(score, self._noise)
        ratio = side.sum(self._residual_gain(gaussian, score, log_prob)) - (after - before) / 2
        accepted = (side.rows.uniform_like(ratio).log() < ratio) & gaussian.is_sound
        if adapt:
            gain = torch.exp((accepted.to(side.step) - _ACCEPTANCE) * _GAIN)
            side.step = (side.step * gain).clamp_(_SMALLEST_STEP, 1.0)
        return rows, score, log_prob, accepted

    def _kick(self, gaussian: _Gaussian, score: Tensor) -> Tensor:
        """Return the force of the log likelihood beyond its approximation, in coordinates y."""
        slope = self._likelihood.slope(score, self._noise)
        slope = slope.sub_(gaussian.linear).addcmul_(gaussian.weight, score)
        force = self._side.tiles.weighted_sum(slope, self._columns)
        force = self._side.columns.sum(force).double()[..., None]
        return torch.linalg.solve_triangular(gaussian.root, force, upper=False)

    def _residual_gain(self, gaussian: _Gaussian, score: Tensor, log_prob: Tensor) -> Tensor:
        """Return the gain of log likelihood beyond its approximation, for each rating."""
        middle = (score + self._score).mul_(-0.5)
        slope = middle.mul_(gaussian.weight).add_(gaussian.linear)
        gain = log_prob - self._ordered(self._state.log_prob)
        return gain.sub_((score - self._score).mul_(slope))

    def _take(
        self, rows: Tensor, score: Tensor, log_prob: Tensor | None, accepted: Tensor
    ) -> None:
        """Take the accepted rows, with their scores and log likelihoods, into the state."""
        side, state = self._side, self._state
        rows = torch.where(accepted[:, None], rows, self._old)
        if side.has(Factor):
            side.F = rows[:, : state.n_factors].contiguous()
        if side.has(Bias):
            side.b = rows[:, -1].contiguous()
        if side.back is not None:
            score = score.index_select(0, side.back)
            log_prob = None if log_prob is None else log_prob.index_select(0, side.back)
        if not bool(accepted.all()):
            at_ratings = side.at_ratings(accepted)
            score = torch.where(at_ratings, score, state.score)
            log_prob = None if log_prob is None else log_prob.where(at_ratings, state.log_prob)
        state.score = score
        if log_prob is None:
            state.compute_log_prob()
        else:
            state.log_prob = log_prob

    def _rows(self) -> Tensor:
        """Return the rows as they are in the state, (F_i, b_i)."""
        side = self._side
        return torch.cat([side.F, side.b[:, None]], 1) if side.has(Bias) else side.F

    def _score_of(self, rows: Tensor) -> Tensor:
        return self._side.tiles.dot(rows, self._columns).add_(self._offset)

    def _turn(self) -> float:
        return _TURN * (0.8 + 0.4 * self._state.generator.random())

    def _ordered(self, values: Tensor) -> Tensor:
        order = self._side.order
        return values if order is None else values.index_select(0, order)
