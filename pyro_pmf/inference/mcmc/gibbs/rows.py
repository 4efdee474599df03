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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_pmf.inference.mcmc.gibbs.block import Block, Grouped
from pyro_pmf.inference.mcmc.gibbs.state import Side, State
from pyro_pmf.model.terms import Bias, Factor
from pyro_pmf.moments.bilinear import unpacked

_TURN = 0.75 * math.pi  # of a trajectory; beyond pi / 2, draws are overrelaxed
_KICKS = 2  # of a trajectory
_ACCEPTANCE = 0.8
_GAIN = 0.3  # of the logarithm of a row's step by one trajectory
_SMALLEST_STEP = 0.02
_LARGEST_ERROR = 1e-2  # of a precision by rounding, at worst, relative to the prior's


class RowUpdate:
    """Update of all rows of one side, given the other.

    Users are updated block by block, each from its own ratings; items from the ratings of all
    blocks.

    Parameters
    ----------
    state : State
        The state; the update changes it.
    side, other : Side
        The side to update, and the other one.
    """

    def __init__(self, state: State, side: Side, other: Side) -> None:
        self._state, self._side = state, side
        ones = other.F.new_ones(len(other.F), 1 if side.has(Bias) else 0)
        self._columns = torch.cat([other.F, ones], 1)
        self._old = torch.cat([side.F, side.b[:, None]], 1) if side.has(Bias) else side.F

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
        exact = self._state.likelihood.is_quadratic
        chance = self._chance(independent=safe, corrected=not (safe or exact))
        parts = []
        for part in self._parts():
            gaussian = part.approximate(safe, at_scores=safe)
            if safe or exact:
                part.draw(gaussian, chance, independent=safe)
            else:
                part.correct(gaussian, chance, adapt)
            parts.append(part.result())
        self._take(parts)
        return sum(float(moved.double().sum()) for *_, moved in parts) / len(self._old)

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
        n_updates = 0 if self._state.likelihood.is_quadratic else n_updates
        first = self._chance(independent=True, corrected=False)
        others = [self._chance(independent=False, corrected=True) for _ in range(n_updates)]
        parts = []
        for part in self._parts():
            gaussian = part.approximate(safe=True, at_scores=False)
            part.draw(gaussian, first, independent=True)
            for chance in others:
                part.correct(gaussian, chance, adapt=False)
            parts.append(part.result())
        self._take(parts)

    def _chance(self, independent: bool, corrected: bool) -> _Chance:
        """Draw the random numbers of an update, for all rows, so that blocks do not matter."""
        axis, like = self._side.rows, self._old.new_empty(*self._old.shape, 1, dtype=torch.float64)
        turn = 0.0 if independent else self._turn()
        normal = axis.normal_like(like)
        return _Chance(turn, normal, axis.uniform_like(like[:, 0, 0]) if corrected else None)

    def _turn(self) -> float:
        return _TURN * (0.8 + 0.4 * self._state.generator.random())

    def _parts(self) -> Iterator[_Part]:
        """Go through rows that are updated together, with all of their ratings."""
        state, side = self._state, self._side
        pairs = list(zip(state.blocks, side.groups, strict=True))
        for some in [[pair] for pair in pairs] if side is state.users else [pairs]:
            ratings = [_Ratings(*pair, self._old, self._columns) for pair in some]
            yield _Part(state, side, self._old, self._columns, ratings)

    def _take(self, parts: list[_Result]) -> None:
        """Take the rows, and the steps of their trajectories, into the state."""
        side = self._side
        rows, side.step = (torch.cat([part[k] for part in parts]) for k in (0, 1))
        if side.has(Factor):
            side.F = rows[:, : self._state.n_factors].contiguous()
        if side.has(Bias):
            side.b = rows[:, -1].contiguous()


class _Chance(NamedTuple):
    """Random numbers of one update.

    Attributes
    ----------
    turn : float
        Angle of the trajectories.
    normal : Tensor, float64, shape (n_rows, D, 1)
    uniform : Tensor, float64, shape (n_rows,), or None
        Of what is accepted or not.
    """

    turn: float
    normal: Tensor
    uniform: Tensor | None


class _Result(NamedTuple):
    rows: Tensor
    step: Tensor
    moved: Tensor  # whether the last update moved each row


@dataclass(frozen=True)
class _Gaussian:
    """Gaussian approximation of rows: x = L^-T (y + standard normal).

    Attributes
    ----------
    root : Tensor, float64, shape (n_rows, D, D)
        Lower Cholesky factor L of the precision.
    y : Tensor, float64, shape (n_rows, D, 1)
        L^T times the mean.
    is_sound : Tensor, bool, shape (n_rows,)
        Whether the factor exists in float64; other rows stay as they are.
    """

    root: Tensor
    y: Tensor
    is_sound: Tensor

    def rows(self, y: Tensor, like: Tensor) -> Tensor:
        """Return rows from their coordinates y, in the type of a tensor."""
        x = torch.linalg.solve_triangular(self.root.mT, y, upper=True)
        return x[..., 0].to(like).contiguous()


class _Ratings:
    """The ratings of a block in the order of a side, for an update of its rows.

    Attributes
    ----------
    weight, linear : Tensor, shape (n_ratings,)
        w and h of the approximation h s - w s^2 / 2 of each rating; see `approximate`.
    """

    weight: Tensor
    linear: Tensor

    def __init__(self, block: Block, group: Grouped, old: Tensor, columns: Tensor) -> None:
        self.tiles, self.group, self._block = group.tiles, group, block
        self.likelihood = block.likelihood.changed(self._ordered)
        self.noise, self.score = self._ordered(block.log_noise), self._ordered(block.score)
        self.columns = columns[group.columns]
        self._offset = self._kept(self.score - self.tiles.dot(old[group.rows], self.columns))

    def approximate(self, safe: bool, at_scores: bool) -> None:
        """Approximate the log likelihoods, at the scores or at the centres."""
        at = self.score if at_scores else self._ordered(self._block.centre)
        weight = self.likelihood.weight(at, self.noise, safe)
        self.linear = self._kept(self.likelihood.slope(at, self.noise).addcmul_(weight, at))
        self.weight = self._kept(weight)

    def gram(self, exact: torch.dtype) -> Tensor:
        """Return the precision of each row from these ratings, as a lower triangle."""
        return self.tiles.gram(self.weight.to(exact), self.columns.to(exact)).double()

    def pull(self, exact: torch.dtype) -> Tensor:
        """Return the precision times the mean of each row from these ratings."""
        about = torch.addcmul(self.linear, self.weight, self._offset, value=-1).to(exact)
        return self.tiles.weighted_sum(about, self.columns.to(exact)).double()

    def score_of(self, rows: Tensor) -> Tensor:
        """Return the scores with other rows."""
        return self._kept(self.tiles.dot(rows, self.columns).add_(self._offset))

    def force(self, score: Tensor) -> Tensor:
        """Return the slope of the log likelihood beyond its approximation, for each row."""
        slope = self.likelihood.slope(score, self.noise)
        slope = slope.sub_(self.linear).addcmul_(self.weight, score)
        return self.tiles.weighted_sum(slope, self.columns).double()

    def log_prob(self, score: Tensor) -> Tensor:
        """Return the log likelihoods at other scores."""
        return self._kept(self.likelihood.log_prob(score, self.noise))

    def residual_gain(self, score: Tensor, log_prob: Tensor) -> Tensor:
        """Return the gain of log likelihood beyond its approximation, for each row."""
        middle = (score + self.score).mul_(-0.5)
        slope = middle.mul_(self.weight).add_(self.linear)
        gain = log_prob - self.group.ordered(self._block.log_prob)
        return self.tiles.sum(gain.sub_((score - self.score).mul_(slope)))

    def take(self, score: Tensor, log_prob: Tensor | None, accepted: Tensor) -> None:
        """Take the scores and log likelihoods of the accepted rows into the state."""
        group, block = self.group, self._block
        numbers = {"score": group.in_user_order(score)}
        if log_prob is not None:
            numbers["log_prob"] = group.in_user_order(log_prob)
        if bool(accepted.all()):
            self.score = score
        else:
            at_pairs = accepted.index_select(0, group.row)
            numbers = {
                name: torch.where(at_pairs, new, getattr(block, name))
                for name, new in numbers.items()
            }
            self.score = self._kept(group.ordered(numbers["score"]))
        block.put(**numbers)
        if log_prob is None:
            block.compute_log_prob()

    def _ordered(self, values: Tensor) -> Tensor:
        order = self.group.order
        return values if order is None else self._kept(values.index_select(0, order))

    def _kept(self, values: Tensor) -> Tensor:
        return self._block.scratch.keep(values)


class _Part:
    """Some rows of a side, with all of their ratings.

    Parameters
    ----------
    state : State
        The state.
    side : Side
        The side.
    old : Tensor, shape (n_rows, D)
        All rows of the side.
    columns : Tensor, shape (n_columns, D)
        All rows of the other side.
    ratings : list of _Ratings
        The ratings: of one block of users, or of all.
    """

    def __init__(
        self, state: State, side: Side, old: Tensor, columns: Tensor, ratings: Sequence[_Ratings]
    ) -> None:
        self._state, self._side, self._columns, self._ratings = state, side, columns, ratings
        self._range = ratings[0].group.rows
        self._old, self._step = old[self._range], side.step[self._range]
        self._moved = torch.ones_like(self._step, dtype=torch.bool)

    def result(self) -> _Result:
        """Return the rows as they are now."""
        return _Result(self._old, self._step, self._moved)

    def approximate(self, safe: bool, at_scores: bool) -> _Gaussian:
        """Return the Gaussian approximation of the rows.

        Parameters
        ----------
        safe : bool
            Whether draws from it must not overshoot, see `Working.weight`.
        at_scores : bool
            Whether it is expanded at the scores, in the place of the centres.
        """
        for each in self._ratings:
            each.approximate(safe, at_scores)
        precision, prior = self._prior()
        exact = torch.float64 if self._needs_double(precision) else self._old.dtype
        full = unpacked(self._sum(each.gram(exact) for each in self._ratings))
        full.diagonal(dim1=1, dim2=2).add_(precision)
        root, fault = torch.linalg.cholesky_ex(full)
        sound = fault == 0
        if not bool(sound.all()):
            root[~sound] = torch.eye(root.shape[1]).to(root)
        right = self._sum(each.pull(exact) for each in self._ratings) + prior
        y = torch.linalg.solve_triangular(root, right[..., None], upper=False)
        return _Gaussian(root, y, sound)

    def draw(self, gaussian: _Gaussian, chance: _Chance, independent: bool) -> None:
        """Draw from the approximation; turned by more than pi / 2 from the old rows, or not."""
        y, noise = gaussian.y, chance.normal[self._range]
        if not independent:
            old = gaussian.root.mT @ self._old.double()[..., None] - y
            noise = math.cos(chance.turn) * old + math.sin(chance.turn) * noise
        rows = gaussian.rows(y + noise, self._old)
        self._take(
            rows, ((each.score_of(rows), None) for each in self._ratings), gaussian.is_sound
        )

    def correct(self, gaussian: _Gaussian, chance: _Chance, adapt: bool) -> None:
        """Propose rows by trajectories, and accept them or not."""
        y, ratings = gaussian.y, self._ratings
        angle = (self._step.double() * chance.turn / _KICKS)[:, None, None]
        cos, sin = angle.cos(), angle.sin()
        place = gaussian.root.mT @ self._old.double()[..., None] - y
        speed = chance.normal[self._range]
        before = (place.square() + speed.square()).sum((1, 2))
        rows, scores = self._old, [each.score for each in ratings]
        kick = self._kick(gaussian, scores) * (angle / 2)
        for _ in range(_KICKS):
            speed = speed + kick
            place, speed = cos * place + sin * speed, cos * speed - sin * place
            rows = gaussian.rows(place + y, self._old)
            scores = [each.score_of(rows) for each in ratings]
            kick = self._kick(gaussian, scores) * (angle / 2)
            speed = speed + kick
        after = (place.square() + speed.square()).sum((1, 2))
        proposed = [(s, each.log_prob(s)) for s, each in zip(scores, ratings, strict=True)]
        gains = (each.residual_gain(*new) for each, new in zip(ratings, proposed, strict=True))
        ratio = self._sum(gains) - (after - before) / 2
        assert chance.uniform is not None
        accepted = (chance.uniform[self._range].log() < ratio) & gaussian.is_sound
        if adapt:
            gain = torch.exp((accepted.to(self._step) - _ACCEPTANCE) * _GAIN)
            self._step = (self._step * gain).clamp_(_SMALLEST_STEP, 1.0)
        self._take(rows, proposed, accepted)

    def _needs_double(self, precision: Tensor) -> bool:
        """Return whether float32 sums of the Gram matrices could be off beside the prior."""
        weight = max(float(each.weight.max()) for each in self._ratings)
        largest = float(self._side.counts[self._range].max()) * weight
        error = torch.finfo(self._old.dtype).eps * largest * self._columns.square().sum(1).max()
        return bool(error > _LARGEST_ERROR * precision.min())

    def _prior(self) -> tuple[Tensor, Tensor]:
        """Return the prior precision of each entry, and its product with the prior mean."""
        side, scales = self._side, self._state.scales
        parts, about = [], side.M[self._range]
        if side.has(Factor):
            sd = scales[side.terms[Factor].scale] * side.tau.double()
            parts.append(sd**-2)
        mean = torch.cat(parts) * about if parts else about.double()
        if side.has(Bias):
            parts.append(side.tau.new_tensor([scales[side.terms[Bias].scale]]).double() ** -2)
            mean = torch.nn.functional.pad(mean, (0, 1))
        return torch.cat(parts), mean

    def _kick(self, gaussian: _Gaussian, scores: Sequence[Tensor]) -> Tensor:
        """Return the force of the log likelihood beyond its approximation, in coordinates y."""
        each = zip(self._ratings, scores, strict=True)
        force = self._sum(ratings.force(score) for ratings, score in each)[..., None]
        return torch.linalg.solve_triangular(gaussian.root, force, upper=False)

    def _sum(self, each: Iterable[Tensor]) -> Tensor:
        """Return the sum over the ratings of each row, from those of each block."""
        return self._side.columns.sum(reduce(torch.add, each))

    def _take(
        self,
        rows: Tensor,
        proposed: Iterable[tuple[Tensor, Tensor | None]],
        accepted: Tensor,
    ) -> None:
        """Take the accepted rows, with the scores and log likelihoods of their ratings."""
        self._old = torch.where(accepted[:, None], rows, self._old)
        self._moved = accepted
        for each, new in zip(self._ratings, proposed, strict=True):
            each.take(*new, accepted)
