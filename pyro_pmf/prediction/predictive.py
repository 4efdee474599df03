"""Predictive distribution of ratings: the base of all predictions and scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Normal

from pyro_pmf.arguments import require_levels, require_probability
from pyro_pmf.data.transforms import Transform
from pyro_pmf.errors import PMFError
from pyro_pmf.moments.chains import mcse_mean
from pyro_pmf.moments.stacking import family
from pyro_pmf.random_state import isolated_random_state

_DRAWS = 1000  # that stand for a distribution function: its error is below 0.016, at one sd
_BLOCK = 4096  # pairs whose draws are transformed at a time
ON_LEVEL = 1e-3  # a rating this close to a level counts as this level; in units of level spacing


class PosteriorPredictive(ABC):
    """Distribution of each rating: a mixture over the unknown parameters of its likelihood.

    All arguments and results are in rating units. An argument ``rating`` broadcasts to shape
    (n_pairs,). `mixture` makes a predictive distribution. Where torch has no distribution function
    or no quantiles of a family, such as Student's t, 1000 draws with a fixed seed stand for it.

    Parameters
    ----------
    weights : Tensor, float64, shape (n_parts,)
        Weights of the parts, which sum to one.
    parts : Distribution, batch shape (n_parts, n_pairs)
        Distributions on the model scale.
    transform : Transform
        Transform of the training ratings.

    Attributes
    ----------
    levels : Tensor, shape (n_levels,), or None
        Possible ratings, ascending, if there are finitely many.
    """

    levels: Tensor | None = None

    def __init__(self, weights: Tensor, parts: Distribution, transform: Transform) -> None:
        self.weights, self.parts = weights, parts
        self._known: dict[str, bool] = {}
        self.transform, self.width = transform, transform.width

    @property
    def mean(self) -> Tensor:
        """Expected rating, shape (n_pairs,)."""
        mean = self._average(self.transform.mean(self.parts))
        return self.transform.origin + self.width * mean.double()

    def mcse(self, n_chains: int) -> np.ndarray:
        """Return the Monte Carlo standard error of `mean`, shape (n_pairs,).

        Parameters
        ----------
        n_chains : int
            Number of Markov chains whose draws the parts are, chain by chain.

        Returns
        -------
        ndarray, shape (n_pairs,)
            In rating units; NaN for chains of fewer than 4 draws.
        """
        means = self.transform.mean(self.parts)
        errors = [
            mcse_mean(block.double().unflatten(0, (n_chains, -1)).numpy())
            for block in means.split(_BLOCK, -1)
        ]
        return self.width * np.concatenate(errors)

    @property
    def sd(self) -> Tensor:
        """Standard deviation of the rating, noise included, shape (n_pairs,)."""
        means, variances = self.transform.mean(self.parts), self.transform.variance(self.parts)
        var = self._average(variances + (means - self._average(means)) ** 2)
        return self.width * var.sqrt()

    def bound_of_mean(self, n_sd: float) -> Tensor:
        """Return `mean` plus a number of standard deviations of the expected rating of each part.

        These say how well the expected rating is known; the noise of a rating is not in them.

        Parameters
        ----------
        n_sd : float
            Number of standard deviations; negative for a lower bound.

        Returns
        -------
        Tensor, shape (n_pairs,)
            In rating units.
        """
        means = self.transform.mean(self.parts).double()
        mean = self.weights @ means
        sd = (self.weights @ (means - mean) ** 2).sqrt()
        return self.transform.origin + self.width * (mean + n_sd * sd)

    @abstractmethod
    def log_prob(self, rating: Tensor) -> Tensor:
        """Return the log density of a rating, per rating unit, or the log mass of a level.

        Parameters
        ----------
        rating : Tensor, broadcastable to (n_pairs,)
            Ratings, in rating units.

        Returns
        -------
        Tensor, shape (n_pairs,)
            Log density or log mass, in nats.
        """

    @abstractmethod
    def log_prob_of_level(self, rating: Tensor, levels: Sequence[float] | Tensor) -> Tensor:
        """Return the log probability of a rating that is one of some levels.

        A discrete model gives the mass of the level, regardless of the other levels. For
        comparison, a continuous model's ratings are rounded to the nearest level; the lowest and
        highest level take the tails.

        Parameters
        ----------
        rating : Tensor, broadcastable to (n_pairs,)
            Ratings, in rating units, each one of the levels.
        levels : sequence of float or Tensor, shape (n_levels,)
            Possible ratings, ascending, in rating units.

        Returns
        -------
        Tensor, shape (n_pairs,)
            Log probability, in nats.

        Raises
        ------
        PMFError
            If the levels do not ascend, a rating is none of them, or a discrete model lacks the
            level.
        """

    @abstractmethod
    def log_mass(self, count: Tensor) -> Tensor:
        """Return the log probability of a count.

        For a continuous model, this is the probability of (count - 1/2, count + 1/2). This makes
        models of counts comparable.

        Parameters
        ----------
        count : Tensor, broadcastable to (n_pairs,)
            Counts: ratings that are whole numbers.

        Returns
        -------
        Tensor, shape (n_pairs,)
            Log probability, in nats.
        """

    def level_probabilities(self, levels: Sequence[float] | Tensor) -> Tensor:
        """Return the probability of each of some levels, see `log_prob_of_level`.

        Parameters
        ----------
        levels : sequence of float or Tensor, shape (n_levels,)
            Possible ratings, ascending, in rating units.

        Returns
        -------
        Tensor, shape (n_pairs, n_levels)
            Probabilities.

        Raises
        ------
        PMFError
            As for `log_prob_of_level`.
        """
        levels = as_levels(levels)
        return torch.stack([self.log_prob_of_level(x, levels).exp() for x in levels], -1)

    @abstractmethod
    def cdf(self, rating: Tensor | float) -> Tensor:
        """Return the probability of this rating or a lower one, shape (n_pairs,)."""

    @abstractmethod
    def probability_at_least(self, rating: Tensor | float) -> Tensor:
        """Return the probability of this rating or a higher one, shape (n_pairs,)."""

    @abstractmethod
    def quantile(self, probability: float) -> Tensor:
        """Return the lowest rating whose `cdf` is at least a probability.

        Parameters
        ----------
        probability : float
            Inside (0, 1).

        Returns
        -------
        Tensor, shape (n_pairs,)
            Ratings, in rating units.
        """

    def interval(self, probability: float) -> tuple[Tensor, Tensor]:
        """Return the central interval, clipped to the rating scale.

        Clipping to the range of the ratings does not change how many of them the interval holds,
        but where all of the interval lies beyond it: it is then the end of the scale.
        An interval of levels holds at least ``probability``. Intervals of counts, and intervals
        under a transform without bounds, are not clipped.

        Parameters
        ----------
        probability : float
            Probability of the interval, inside (0, 1).

        Returns
        -------
        lower, upper : Tensor, shape (n_pairs,)
            Ends of the interval, in rating units.

        Raises
        ------
        PMFError
            If the probability is not inside (0, 1).
        """
        require_probability("interval", probability)
        tail = (1 - probability) / 2
        lower, upper = self._quantiles((tail, 1 - tail))
        return self._clip(lower), self._clip(upper)

    @abstractmethod
    def crps(self, rating: Tensor) -> np.ndarray:
        """Return the continuous ranked probability score, in rating units, shape (n_pairs,)."""

    @abstractmethod
    def pit(self, rating: Tensor, generator: np.random.Generator | None = None) -> Tensor:
        """Return the probability integral transform, uniform if the prediction is calibrated.

        Parameters
        ----------
        rating : Tensor, broadcastable to (n_pairs,)
            Observed ratings, in rating units.
        generator : numpy.random.Generator, optional
            Source of the randomization for levels. Without it, every call gives the same result.

        Returns
        -------
        Tensor, shape (n_pairs,)
            Values in [0, 1].
        """

    def draws(self, n_draws: int) -> Tensor:
        """Return draws on the model scale, the same in every call, shape (n_draws, n_pairs)."""
        generator = np.random.default_rng(0)
        share = (self.weights / self.weights.sum()).numpy()
        which = generator.choice(len(share), n_draws, p=share)
        if isinstance(self.parts, Normal):
            loc, scale = self.parts.loc[which], self.parts.scale[which]
            return loc + scale * torch.from_numpy(generator.normal(size=loc.shape)).to(loc)
        counts = np.bincount(which, minlength=len(share))
        with isolated_random_state(0):
            drawn = self.parts.sample(Size([int(counts.max())]))
        return torch.cat([drawn[:n, k] for k, n in enumerate(counts)])

    @cached_property
    def _drawn(self) -> Tensor:
        """Draws for families without a distribution function."""
        return self.draws(_DRAWS)

    def _has(self, method: Literal["cdf", "icdf"]) -> bool:
        """Return whether the family has a distribution function, or quantiles."""
        if method not in self._known:
            one = family(self.parts)
            try:
                getattr(one, method)(one.mean.detach() if method == "cdf" else torch.tensor(0.5))
                self._known[method] = True
            except NotImplementedError:
                self._known[method] = False
        return self._known[method]

    def _quantiles(self, probabilities: Sequence[float]) -> Tensor:
        """Return several quantiles, shape (n_probabilities, n_pairs)."""
        return torch.stack([self.quantile(p) for p in probabilities])

    @property
    def _n_pairs(self) -> int:
        return self.parts.batch_shape[-1]

    def _average(self, values: Tensor) -> Tensor:
        """Average values of the parts, shape (..., n_parts, n_pairs), by their weights."""
        return (self.weights.to(values.dtype)[:, None] * values).sum(-2)

    def _log_average(self, logs: Tensor) -> Tensor:
        return torch.logsumexp(self.weights.log().to(logs.dtype)[:, None] + logs, -2)

    def _value_log_prob(self, x: Tensor) -> Tensor:
        return self._log_average(self.parts.log_prob(for_each_part(x)))

    def _value(self, rating: Tensor | float) -> Tensor:
        return self.transform.to_value(torch.as_tensor(rating, dtype=torch.float64))

    def _rating(self, x: Tensor) -> Tensor:
        return self.transform.to_rating(x.double())

    def _clip(self, rating: Tensor) -> Tensor:
        bounds = self.transform.bounds
        return rating if bounds is None else rating.clamp(*bounds)


def for_each_part(x: Tensor) -> Tensor:
    """Return values of pairs, shape (..., n_pairs), in a shape that broadcasts with the parts."""
    return torch.atleast_1d(x)[..., None, :]


def as_levels(levels: Sequence[float] | Tensor) -> Tensor:
    """Return levels that a caller gives, float64, shape (n_levels,).

    Raises
    ------
    PMFError
        If they are not finite numbers that ascend, at least one.
    """
    return torch.tensor([float(x) for x in require_levels(levels)], dtype=torch.float64)


def locate_levels(
    rating: Tensor | float, levels: Sequence[float] | Tensor
) -> tuple[Tensor, Tensor]:
    """Return the levels and the index of each rating among them.

    Parameters
    ----------
    rating : Tensor or float
        Ratings, each one of the levels.
    levels : sequence of float or Tensor, shape (n_levels,)
        Possible ratings, ascending, in rating units.

    Returns
    -------
    levels : Tensor, float64, shape (n_levels,)
        The levels.
    level : Tensor, int64, of the shape of ``rating``
        Indices.

    Raises
    ------
    PMFError
        If the levels do not ascend, or a rating is none of them.
    """
    levels = as_levels(levels)
    gaps = levels.diff()
    rating = torch.as_tensor(rating, dtype=torch.float64).contiguous()
    level = torch.searchsorted(levels[:-1] + gaps / 2, rating)
    off = (rating - levels[level]).abs() > ON_LEVEL * (gaps.min() if len(gaps) else 1.0)
    if off.any():
        wrong = rating[off][:5].tolist()
        raise PMFError(
            f"Some ratings are none of the levels, such as {wrong}: add them to levels."
        )
    return levels, level
