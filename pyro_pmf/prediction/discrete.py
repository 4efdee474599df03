"""Predictive distribution of ratings that are levels or counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import scoringrules
import torch
import torch.nn.functional as F
from scipy.special import betainc
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, NegativeBinomial

from pyro_pmf.data.transforms import Affine, Transform
from pyro_pmf.errors import PMFError
from pyro_pmf.model.distributions import GammaPoisson, size_of
from pyro_pmf.moments.stacking import family
from pyro_pmf.prediction.predictive import (
    ON_LEVEL,
    PosteriorPredictive,
    for_each_part,
    locate_levels,
)

_TAIL = 1e-4  # probability of the counts that a CRPS leaves out at each end; it enters squared
_NODES = 64  # evaluations of a sum over counts, exact for up to this many counts
_LONGEST_WALK = 2048  # counts
_STRIDE = 16  # counts after which a walk leaves out the pairs that are there
_LEAST_LOG_MASS = -600.0  # float64 ends at -745
_DIGITS = 9  # of the distance of levels
_LARGEST = 2.0**53  # a float64 holds every count up to this one


class DiscretePredictive(PosteriorPredictive):
    """Distribution of ratings that are levels: ordered categories, 0 and 1, or counts.

    Levels are numbered 0, 1, ...; level k is k times ``part.spacing`` (default 1) on the model
    scale. The number of levels is ``part.n_levels``. Without this attribute, a Bernoulli has two
    levels and any other family has no highest level. Parts are evaluated in float64.

    Parameters
    ----------
    weights : Tensor, float64, shape (n_parts,)
        Weights of the parts, which sum to one.
    parts : Distribution, batch shape (n_parts, n_pairs)
        Distributions on the model scale.
    transform : Transform
        Transform of the training ratings, "unit" or "count".

    Attributes
    ----------
    spacing : float
        Distance of neighbouring levels, on the model scale.
    last : float
        Number of the highest level; infinite if there is none.
    levels : Tensor, shape (n_levels,), or None
        Ratings of the levels, ascending, in rating units; None if there is no highest one.

    Raises
    ------
    PMFError
        If the transform does not leave levels evenly spaced.
    """

    def __init__(self, weights: Tensor, parts: Distribution, transform: Transform) -> None:
        super().__init__(weights, parts, transform)
        part = family(parts)
        if not isinstance(self.transform, Affine):
            raise PMFError(
                f"{type(part).__name__} needs evenly spaced levels, and {self.transform} does not "
                'keep them so: make the Ratings with transform="unit" or "count".'
            )
        self.spacing = getattr(part, "spacing", 1.0)
        n_levels = getattr(part, "n_levels", 2 if isinstance(part, Bernoulli) else None)
        self.last = math.inf if n_levels is None else n_levels - 1
        if n_levels is not None:
            self.levels = self._recorded(torch.arange(n_levels, dtype=torch.float64))

    def log_prob(self, rating: Tensor) -> Tensor:
        """Return the log mass of a level, minus infinity between levels, shape (n_pairs,)."""
        position = self._position(rating)
        level = position.round().clamp(0, self.last)
        mass = self._value_log_prob(level * self.spacing)
        return mass.masked_fill((position - level).abs() > ON_LEVEL, -math.inf)

    def log_prob_of_level(self, rating: Tensor, levels: Sequence[float] | Tensor) -> Tensor:
        """Return the log mass of a level, regardless of the other levels, shape (n_pairs,)."""
        levels, level = locate_levels(rating, levels)
        position = self._position(levels[level])
        nearest = position.round().clamp(0, self.last)
        if ((position - nearest).abs() > ON_LEVEL).any():
            raise PMFError(
                f"The model has other levels than {levels.tolist()}: give only levels that it has."
            )
        return self.log_prob(levels[level])

    def log_mass(self, count: Tensor) -> Tensor:
        """Return the log mass of a level, shape (n_pairs,)."""
        return self.log_prob(count)

    def probabilities(self) -> Tensor:
        """Return the probability of each level.

        Returns
        -------
        Tensor, shape (n_pairs, n_levels)
            Probabilities.

        Raises
        ------
        PMFError
            If there is no highest level.
        """
        if self.levels is None:
            raise PMFError("Counts have no highest level: use level_probabilities(levels).")
        return self.level_probabilities(self.levels)

    def cdf(self, rating: Tensor | float) -> Tensor:
        """Return the probability of this rating or a lower one, shape (n_pairs,)."""
        return self._level_cdf((self._position(rating) + ON_LEVEL).floor())

    def probability_at_least(self, rating: Tensor | float) -> Tensor:
        """Return the probability of this rating or a higher one, shape (n_pairs,)."""
        return (1 - self._cdf_below(rating)).clamp_min(0)

    def quantile(self, probability: float) -> Tensor:
        """Return the lowest level whose `cdf` is at least this probability, shape (n_pairs,)."""
        return self._from_level(self._level_quantile(probability))

    def crps(self, rating: Tensor) -> np.ndarray:
        """Return the continuous ranked probability score of the nearest level, shape (n_pairs,).

        This is the width of a level, in rating units, times the ranked probability score (Epstein
        1969). For many counts, the sum is evaluated at some of them: exact to about 0.2%, or to 3%
        if most counts lie far below their mean.
        """
        level = self._position(rating).round().clamp(0, self.last)
        if self.levels is not None:
            chances = self.probabilities().clamp(max=1).numpy()
            scores = np.asarray(scoringrules.rps_score(level.numpy() + 1, chances))
        else:
            lowest = self._level_quantile(_TAIL).minimum(level)
            highest = self._level_quantile(1 - _TAIL).maximum(level)
            below = _sum_between(lambda k: self._level_cdf(k) ** 2, lowest, level)
            above = _sum_between(lambda k: (1 - self._level_cdf(k)) ** 2, level, highest)
            scores = (below + above).numpy()
        return self.width * self.spacing * scores

    def pit(self, rating: Tensor, generator: np.random.Generator | None = None) -> Tensor:
        """Return the randomized probability integral transform, shape (n_pairs,).

        It is uniform between P(lower rating) and P(this rating or a lower one). So it is uniform
        over [0, 1] if the prediction is calibrated (Czado, Gneiting & Held 2009).
        """
        below, to = self._cdf_below(rating), self.cdf(rating)
        generator = np.random.default_rng(0) if generator is None else generator
        return below + torch.from_numpy(generator.random(len(to))) * (to - below)

    def _position(self, rating: Tensor | float) -> Tensor:
        """Return the level of a rating, a fraction between levels, float64, shape (n_pairs,)."""
        return (self._value(rating) / self.spacing).expand(self._n_pairs)

    def _from_level(self, level: Tensor) -> Tensor:
        if self.levels is not None:
            return self.levels[level.long()]
        return self._rating(level * self.spacing)

    def _recorded(self, level: Tensor) -> Tensor:
        """Return the ratings of levels as people write them: 0.3, not 0.30000000000000004."""
        gap = self.width * self.spacing
        ratings = np.round(
            self._rating(level * self.spacing).numpy(), _DIGITS - round(math.log10(gap))
        )
        return torch.from_numpy(ratings)

    def _clip(self, rating: Tensor) -> Tensor:
        return rating if self.levels is None else super()._clip(rating)

    def _cdf_below(self, rating: Tensor | float) -> Tensor:
        return self._level_cdf((self._position(rating) - ON_LEVEL).ceil() - 1)

    def _level_cdf(self, level: Tensor) -> Tensor:
        x = level.clamp(0, self.last) * self.spacing
        known = isinstance(family(self.parts), Bernoulli | NegativeBinomial | GammaPoisson)
        if known or self._has("cdf"):  # which asks by a call, as dear as the answer
            chance = self._average(_lattice_cdf(self.parts, for_each_part(x)))
        else:
            below = self._drawn <= for_each_part(x) + ON_LEVEL * self.spacing
            chance = below.double().mean(-2)
        return chance.masked_fill(level < 0, 0)

    def _quantiles(self, probabilities: Sequence[float]) -> Tensor:
        if not isinstance(self.parts, GammaPoisson):
            return super()._quantiles(probabilities)
        found, rest = self._walked(torch.tensor(probabilities, dtype=torch.float64))
        if len(rest):
            whole = self.parts.expand(self.parts.batch_shape)
            parts = GammaPoisson(whole.score[:, rest], whole.sigma[:, rest], False)
            others = DiscretePredictive(self.weights, parts, self.transform)
            found[:, rest] = torch.stack([others._level_quantile(p) for p in probabilities])
        return self._from_level(found)

    def _walked(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Return quantiles of counts, as far as a walk from count to count finds them.

        A quantile is the number of counts whose distribution function is less than its
        probability. The mass of the next count is a ratio times that of the last, which takes a
        hundredth of the time of an incomplete beta function.

        Returns
        -------
        found : Tensor, float64, shape (n_probabilities, n_pairs)
            Quantiles.
        rest : Tensor, int64
            Pairs whose quantiles are not known: their counts are many, or 0 is too improbable.
        """
        parts = cast(GammaPoisson, self.parts).expand(self.parts.batch_shape)
        score, size = parts.score.double(), size_of(parts.sigma.double())
        log_first = -size * F.softplus(score - size.log())
        _, high = self._cantelli(float(probabilities.max()))
        known = self.mean.isfinite() & self.sd.isfinite() & (high < _LONGEST_WALK)
        known &= (log_first > _LEAST_LOG_MASS).all(0)
        found, rows = probabilities.new_zeros(len(probabilities), self._n_pairs), known.nonzero()
        rows, wanted = rows.flatten(), probabilities[:, None]
        size, success = size[:, rows], torch.sigmoid(score[:, rows] - size[:, rows].log())
        mass = self.weights[:, None] * log_first[:, rows].exp()
        below, count = mass.sum(0), 0
        steps = torch.zeros(len(probabilities), len(rows), dtype=torch.float64)
        while len(rows) and count < _LONGEST_WALK:
            steps += below < wanted
            mass *= success * ((count + size) / (count + 1))
            below = below + mass.sum(0)
            count += 1
            if count % _STRIDE == 0:
                going = below < wanted.max()
                found[:, rows[~going]] = steps[:, ~going]
                rows, steps, below = rows[going], steps[:, going], below[going]
                size, success, mass = size[:, going], success[:, going], mass[:, going]
        known[rows] = False  # rounding keeps them below the probability
        return found, (~known).nonzero().flatten()

    def _level_quantile(self, probability: float) -> Tensor:
        """Bisect over the levels; if there is no highest one, between bounds by the moments."""
        low = torch.full((self._n_pairs,), -1.0, dtype=torch.float64)
        if self.levels is None:
            low, high = self._cantelli(probability)
            while (short := (self._level_cdf(high) < probability) & (high < _LARGEST)).any():
                high = torch.where(short, 2 * high, high)
        else:
            high = torch.full_like(low, self.last)
        while ((high - low) > 1).any():
            middle = ((low + high) / 2).floor()
            reached = self._level_cdf(middle) >= probability
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        return high

    def _cantelli(self, probability: float) -> tuple[Tensor, Tensor]:
        """Return levels around a quantile, by Cantelli's inequality; -1 and 1 without moments."""
        unit = self.width * self.spacing
        mean, sd = (self.mean - self.transform.origin) / unit, self.sd.double() / unit
        odds = probability / (1 - probability)
        low = (mean - sd * odds**-0.5).floor() - 1
        high = (mean + sd * odds**0.5).ceil() + 1
        known = low.isfinite() & (high < _LARGEST)
        return torch.where(known, low, -1.0).clamp(min=-1), torch.where(known, high, 1.0)


def _lattice_cdf(part: Distribution, x: Tensor) -> Tensor:
    """Return the probability of a level at most x, float64; torch lacks it for two families."""
    if isinstance(part, Bernoulli):
        return torch.where(x < 1, 1 - part.probs.double(), 1.0)
    if isinstance(part, NegativeBinomial):  # successes before total_count failures
        failure = torch.sigmoid(-part.logits.double())
        arguments = part.total_count.double(), x + 1, failure
        return torch.from_numpy(betainc(*(argument.numpy() for argument in arguments)))
    return part.cdf(x).double()


def _sum_between(function: Callable[[Tensor], Tensor], start: Tensor, stop: Tensor) -> Tensor:
    """Sum a function over the integers from start to before stop.

    A long sum evaluates the function at some integers, denser near ``start``, and interpolates
    linearly.
    """
    node, value, total = start, function(start), torch.zeros_like(start)
    for k in range(1, _NODES + 1):
        away = ((stop - start) * (k / _NODES) ** 2).round().clamp(min=k)
        following = (start + away).minimum(stop)
        following_value = function(following)
        steps = following - node
        total += steps * value + (following_value - value) * (steps - 1) / 2
        node, value = following, following_value
        if (node == stop).all():
            break
    return total
