"""The predictive distribution of ratings, which every prediction and every score reads."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_pmf.arguments import require_probability
from pyro_pmf.data.transforms import Transform
from pyro_pmf.errors import PMFError

ON_LEVEL = 1e-3  # how far from a level a rating may lie and be that level, in levels


class PosteriorPredictive(ABC):
    """The distribution of each rating: a mixture over what is not known of its parameters.

    Every argument and result is in rating units. `mixture` makes one.

    Parameters
    ----------
    parts : sequence of (float, Distribution)
        Weights, which sum to one, and distributions on the model scale, of batch shape (n_pairs,).
    transform : Transform
        Of the training ratings.

    Attributes
    ----------
    levels : Tensor, shape (n_levels,), or None
        The ratings there can be, ascending, where they are finitely many.
    """

    levels: Tensor | None = None

    def __init__(self, parts: Sequence[tuple[float, Distribution]], transform: Transform) -> None:
        self.parts = parts
        self.transform, self.width = transform, transform.width

    @property
    def mean(self) -> Tensor:
        """Expected rating, shape (n_pairs,)."""
        mean = self._average(self.transform.mean)
        return self.transform.origin + self.width * mean.double()

    @property
    def sd(self) -> Tensor:
        """Standard deviation of the rating, noise included, shape (n_pairs,)."""
        of = self.transform
        mean = self._average(of.mean)
        var = self._average(lambda part: of.variance(part) + (of.mean(part) - mean) ** 2)
        return self.width * var.sqrt()

    @abstractmethod
    def log_prob(self, rating: Tensor) -> Tensor:
        """Log density of a rating, per rating unit, or log mass of a level, shape (n_pairs,)."""

    @abstractmethod
    def log_prob_of_level(self, rating: Tensor, levels: Sequence[float] | Tensor) -> Tensor:
        """Log probability of a rating that is one of these levels, shape (n_pairs,).

        Of a model of levels it is the mass of that level, whichever others are named. So that a
        model of continuous ratings can be compared with it, its ratings are taken to be rounded to
        the nearest level, and the levels at the ends to take the tails.

        Parameters
        ----------
        rating : Tensor, broadcastable to (n_pairs,)
            Each one of the levels.
        levels : sequence of float or Tensor, shape (n_levels,)
            Ascending, in rating units.

        Raises
        ------
        PMFError
            If the levels do not ascend, a rating is none of them, or a model of levels does not
            have it.
        """

    @abstractmethod
    def log_mass(self, count: Tensor) -> Tensor:
        """Log probability of a whole number, shape (n_pairs,).

        So that models of counts can be compared, whatever they take counts for: under a continuous
        one it is that of the numbers from half below to half above.
        """

    def level_probabilities(self, levels: Sequence[float] | Tensor) -> Tensor:
        """Probability of each of these levels, see `log_prob_of_level`, (n_pairs, n_levels)."""
        levels = torch.as_tensor(levels, dtype=torch.float64)
        return torch.stack([self.log_prob_of_level(x, levels).exp() for x in levels], -1)

    @abstractmethod
    def cdf(self, rating: Tensor | float) -> Tensor:
        """Probability of a rating at most this, shape (n_pairs,)."""

    @abstractmethod
    def probability_at_least(self, rating: Tensor | float) -> Tensor:
        """Probability of this rating or a higher one, shape (n_pairs,)."""

    @abstractmethod
    def quantile(self, probability: float) -> Tensor:
        """The lowest rating whose `cdf` is at least this probability, shape (n_pairs,)."""

    def interval(self, probability: float) -> tuple[Tensor, Tensor]:
        """Central interval, its ends clipped to the rating scale, each of shape (n_pairs,).

        Clipping to where the ratings are does not change how many of them the interval holds.
        An interval of levels holds this probability or more; one of counts, or under a transform
        without bounds, is not clipped.

        Raises
        ------
        PMFError
            If the probability is not inside (0, 1), or torch lacks the family's quantiles.
        """
        require_probability("interval", probability)
        tail = (1 - probability) / 2
        try:
            lower, upper = self.quantile(tail), self.quantile(1 - tail)
        except NotImplementedError as error:
            family = type(self.parts[0][1]).__name__
            raise PMFError(
                f"A rating that is {family} has no interval here, since torch has no quantiles of "
                "it: use Posterior.sample."
            ) from error
        return self._clip(lower), self._clip(upper)

    @abstractmethod
    def crps(self, rating: Tensor) -> np.ndarray:
        """Continuous ranked probability score, in rating units, shape (n_pairs,)."""

    @abstractmethod
    def pit(self, rating: Tensor, generator: np.random.Generator | None = None) -> Tensor:
        """Probability integral transform, uniform if the prediction is right, (n_pairs,).

        Parameters
        ----------
        rating : Tensor
        generator : numpy.random.Generator, optional
            Randomises that of levels; the same at every call if left out.
        """

    def _average(self, value: Callable[[Distribution], Tensor]) -> Tensor:
        return torch.stack([weight * value(part) for weight, part in self.parts]).sum(0)

    def _value_log_prob(self, x: Tensor) -> Tensor:
        logs = [math.log(weight) + part.log_prob(x) for weight, part in self.parts]
        return torch.logsumexp(torch.stack(logs), 0)

    def _value(self, rating: Tensor | float) -> Tensor:
        return self.transform.to_value(torch.as_tensor(rating, dtype=torch.float64))

    def _rating(self, x: Tensor) -> Tensor:
        return self.transform.to_rating(x.double())

    def _clip(self, rating: Tensor) -> Tensor:
        bounds = self.transform.bounds
        return rating if bounds is None else rating.clamp(*bounds)


def locate_levels(
    rating: Tensor | float, levels: Sequence[float] | Tensor
) -> tuple[Tensor, Tensor]:
    """Levels, and which of them each rating is; refuse ratings that are none."""
    levels = torch.as_tensor(levels, dtype=torch.float64)
    gaps = levels.diff()
    if not (len(levels) and levels.isfinite().all() and (gaps > 0).all()):
        raise PMFError(f"levels must be numbers that ascend, not {levels.tolist()}")
    rating = torch.as_tensor(rating, dtype=torch.float64).contiguous()
    level = torch.searchsorted(levels[:-1] + gaps / 2, rating)
    off = (rating - levels[level]).abs() > ON_LEVEL * (gaps.min() if len(gaps) else 1.0)
    if off.any():
        wrong = rating[off][:5].tolist()
        raise PMFError(f"Ratings that are none of the levels, such as {wrong}: add them.")
    return levels, level
