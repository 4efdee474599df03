"""Predictive distribution of ratings that may be any number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scoringrules
import torch
from scipy.special import ndtr
from torch import Tensor
from torch.distributions import Distribution, Normal

from pyro_pmf.data.transforms import Log1p, Transform
from pyro_pmf.prediction.predictive import (
    ON_LEVEL,
    PosteriorPredictive,
    for_each_part,
    locate_levels,
)

_CRPS_DRAWS = 200  # their estimator is unbiased, so more only reduce the noise of the mean score
_CRPS_PARTS = 100  # for mixtures of more parts, the draws are as exact and faster
_CRPS_NUMBERS = 1 << 23  # held at a time: the closed form needs every pair of parts
_NEWTON_STEPS = 50
_TOLERANCE = 1e-5  # of a quantile, on the model scale


class ContinuousPredictive(PosteriorPredictive):
    """Distribution of ratings that may be any number, see `PosteriorPredictive`.

    Parameters
    ----------
    weights, parts, transform
        As for `PosteriorPredictive`.
    gap : float, optional
        Distance in rating units of the levels that ratings were recorded on.
    """

    def __init__(
        self,
        weights: Tensor,
        parts: Distribution,
        transform: Transform,
        gap: float | None = None,
    ) -> None:
        super().__init__(weights, parts, transform)
        self._gap = gap or 0.0

    def log_prob(self, rating: Tensor) -> Tensor:
        """Return the log density of a rating, per rating unit, shape (n_pairs,)."""
        slope = self.transform.log_slope(torch.as_tensor(rating, dtype=torch.float64))
        return self._value_log_prob(self._part_value(rating)) + slope

    def log_prob_between(self, low: Tensor | float, high: Tensor | float) -> Tensor:
        """Return the log probability of a rating between two ends.

        It is finite even in the far tails of Normals, where the probability underflows.

        Parameters
        ----------
        low, high : Tensor or float, broadcastable to (n_pairs,)
            Ends, in rating units; they may be infinite.

        Returns
        -------
        Tensor, shape (n_pairs,)
            Log probability, in nats.
        """
        return self._log_prob_of_values(self._value(low), self._value(high))

    def _log_prob_of_values(self, low: Tensor, high: Tensor) -> Tensor:
        ends = for_each_part(low), for_each_part(high)
        if not self._has("cdf"):
            inside = (self._drawn > ends[0]) & (self._drawn <= ends[1])
            return inside.double().mean(-2).log()
        return self._log_average(_log_probability_between(self.parts, *ends))

    def log_mass(self, count: Tensor) -> Tensor:
        """Return the log probability of (count - 1/2, count + 1/2), shape (n_pairs,)."""
        count = torch.as_tensor(count, dtype=torch.float64)
        return self.log_prob_between(count - 0.5, count + 0.5)

    def log_prob_of_level(self, rating: Tensor, levels: Sequence[float] | Tensor) -> Tensor:
        """Return the log probability of ratings that round to this level, shape (n_pairs,)."""
        levels, level = locate_levels(rating, levels)
        infinity = levels.new_tensor([math.inf])
        ends = torch.cat([-infinity, levels[:-1] + levels.diff() / 2, infinity])
        return self.log_prob_between(ends[level], ends[level + 1])

    def cdf(self, rating: Tensor | float) -> Tensor:
        """Return the probability of this rating or a lower one, shape (n_pairs,)."""
        return self._value_cdf(self._part_value(rating))

    def probability_at_least(self, rating: Tensor | float) -> Tensor:
        """Return the probability of a recorded rating of at least this one, shape (n_pairs,).

        A recorded level stands for what is nearest to it, and so begins half a gap below it.
        Without a lowest rating to count levels from, ``rating`` is taken for one of them.
        Recorded ratings do not leave their scale.
        """
        rating = torch.as_tensor(rating, dtype=torch.float64)
        chance = self._value_above(self._value(self._lower_end(rating)))
        if self.transform.bounds is None:
            return chance
        low, high = self.transform.bounds
        chance = torch.where(rating > high + ON_LEVEL * self._gap, 0.0, chance)
        return torch.where(rating <= low, 1.0, chance)

    def _lower_end(self, rating: Tensor) -> Tensor:
        """Return where the first level from a rating on begins, in rating units."""
        if self.transform.bounds is not None and self._gap:
            low = self.transform.bounds[0]
            rating = low + ((rating - low) / self._gap - ON_LEVEL).ceil() * self._gap
        return rating - self._gap / 2

    def _value_above(self, x: Tensor) -> Tensor:
        """Return the probability of more than a value on the model scale."""
        if not isinstance(self.parts, Normal):
            return self._log_prob_of_values(x, x.new_tensor(math.inf)).exp()
        above = self.parts.loc.double() - for_each_part(x)
        chances = torch.erfc(-above / (math.sqrt(2) * self.parts.scale.double())) / 2
        return self._average(chances).clamp(max=1.0)  # erfc keeps the digits of far tails

    def quantile(self, probability: float) -> Tensor:
        """Return the rating whose `cdf` is this probability, shape (n_pairs,).

        The search uses Newton steps. A step that leaves the bracket is replaced by bisection.
        The quantile of a family that has none is that of draws.
        """
        return self._quantiles((probability,))[0]

    def _quantiles(self, probabilities: Sequence[float]) -> Tensor:
        p = self.parts.mean.new_tensor(probabilities)[:, None]
        if not self._has("icdf"):
            drawn = self._drawn.to(p.dtype)
            return self._rating(torch.quantile(drawn, p[:, 0], dim=0))
        of_parts = self.parts.icdf(for_each_part(p))
        low, high = of_parts.amin(-2), of_parts.amax(-2)
        x = self._average(of_parts)
        for _ in range(_NEWTON_STEPS):
            reached, density = self._value_cdf_and_density(x)
            excess = reached - p
            low, high = torch.where(excess < 0, x, low), torch.where(excess < 0, high, x)
            newton = x - excess / density
            inside = (newton >= low) & (newton <= high)
            previous, x = x, torch.where(inside, newton, (low + high) / 2)
            if not ((x - previous).abs() > _TOLERANCE).any():
                break
        return self._rating(x)

    def crps(self, rating: Tensor) -> np.ndarray:
        """Return the continuous ranked probability score, in rating units, shape (n_pairs,).

        It has a closed form for mixtures of up to 100 Normals, and for log-normals under "log1p".
        Otherwise it is estimated from 200 draws of the mixture, without bias: the distance between
        draws is averaged over the pairs of different draws (the fair estimator of Ferro 2014).
        """
        weights, parts = self.weights.numpy(), self.parts
        if isinstance(self.transform, Log1p):
            logs = (x.T.numpy() for x in self.transform.log_normal(parts))
            above = np.maximum(np.asarray(rating, dtype=float) + 1, 0)
            scores = _crps_log_normals(above, weights, *logs)
            return scores - np.minimum(np.asarray(rating, dtype=float) + 1, 0)
        if isinstance(parts, Normal) and len(weights) <= _CRPS_PARTS:
            means, sds = (x.T.double().numpy() for x in (parts.mean, parts.stddev))
            x = self._part_value(rating).double().numpy()
            share = np.broadcast_to(weights, means.shape)
            n_chunks = 1 + means.size * len(weights) // _CRPS_NUMBERS
            chunks = zip(
                *(np.array_split(a, n_chunks) for a in (x, means, sds, share)), strict=True
            )
            scores = np.concatenate([scoringrules.crps_mixnorm(*chunk) for chunk in chunks])
        else:
            draws = self.draws(_CRPS_DRAWS).T.numpy()
            x = self._part_value(rating).numpy()
            # Probability-weighted moments give the fair estimate without the table of all pairs.
            scores = scoringrules.crps_ensemble(x, draws, estimator="pwm")
        return self.width * np.asarray(scores)

    def pit(self, rating: Tensor, generator: np.random.Generator | None = None) -> Tensor:
        """Return the probability of this rating or a lower one, shape (n_pairs,)."""
        return self.cdf(rating)

    def _part_value(self, rating: Tensor | float) -> Tensor:
        return self._value(rating).to(self.parts.mean.dtype)

    def _value_cdf(self, x: Tensor) -> Tensor:
        if not self._has("cdf"):
            return (self._drawn <= for_each_part(x)).to(x.dtype).mean(-2)
        return self._average(self.parts.cdf(for_each_part(x)))

    def _value_cdf_and_density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts, x = self.parts, for_each_part(x)
        if not isinstance(parts, Normal):
            return self._average(parts.cdf(x)), self._average(parts.log_prob(x).exp())
        z = (x - parts.loc) / parts.scale  # once for both
        density = z.square().mul_(-0.5).exp_().div_(parts.scale * math.sqrt(2 * math.pi))
        return self._average(torch.special.ndtr(z)), self._average(density)


def _log_probability_between(part: Distribution, low: Tensor, high: Tensor) -> Tensor:
    """Return the log probability of values from low to high, by the log tails of Normals."""
    if not isinstance(part, Normal):
        return (part.cdf(high) - part.cdf(low)).log()
    loc, scale = part.loc.double(), part.scale.double()
    low, high = (low - loc) / scale, (high - loc) / scale
    upper = low > 0
    low, high = torch.where(upper, -high, low), torch.where(upper, -low, high)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return log_high + torch.log(-torch.expm1(log_low - log_high))


def _crps_log_normals(
    x: np.ndarray, weights: np.ndarray, log_means: np.ndarray, log_sds: np.ndarray
) -> np.ndarray:
    """Return the CRPS of mixtures of log-normals, E|X - x| - E|X - X'| / 2, in closed form.

    E max(X - X', 0) of two independent log-normals is the value of an exchange option (Margrabe
    1978); x is a log-normal without spread.

    Parameters
    ----------
    x : ndarray, shape (n,)
        Observed values, at least 0.
    weights : ndarray, shape (n_parts,)
        Weights of the mixture.
    log_means, log_sds : ndarray, shape (n, n_parts)
        Means and standard deviations of the logarithms.

    Returns
    -------
    ndarray, shape (n,)
        Scores, in the unit of ``x``.
    """
    with np.errstate(divide="ignore"):
        score = _mean_distance(np.log(x)[:, None], 0.0, log_means, log_sds) @ weights
    for k, weight in enumerate(weights):
        one = log_means[:, k, None], log_sds[:, k, None]
        score -= weight / 2 * (_mean_distance(*one, log_means, log_sds) @ weights)
    return score


def _mean_distance(
    log_mean: np.ndarray, log_sd: np.ndarray | float, log_means: np.ndarray, log_sds: np.ndarray
) -> np.ndarray:
    """Return E|X - Y| of independent log-normals, of any shapes."""
    x, y = np.exp(log_mean + np.square(log_sd) / 2), np.exp(log_means + np.square(log_sds) / 2)
    sd = np.hypot(log_sd, log_sds)
    middle = (log_mean - log_means + (np.square(log_sd) - np.square(log_sds)) / 2) / sd
    return x * (2 * ndtr(middle + sd / 2) - 1) - y * (2 * ndtr(middle - sd / 2) - 1)
