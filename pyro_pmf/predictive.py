"""The predictive distribution of ratings, the one object that every prediction and score reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import scoringrules
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from pyro_pmf.errors import PMFError
from pyro_pmf.random_state import isolated_random_state

_CRPS_DRAWS = 200
_NEWTON_STEPS = 50
_TOLERANCE = 1e-5  # of a quantile, unit scale


class PosteriorPredictive:
    """The distribution of each rating: a mixture over what is not known of its parameters.

    Every method speaks in rating units.

    Parameters
    ----------
    parts : sequence of (float, Distribution)
        Weights, which sum to one, and distributions on the unit scale, of batch shape (n_pairs,).
    scale : tuple of float
        The lowest and the highest rating there can be.
    """

    def __init__(
        self, parts: Sequence[tuple[float, Distribution]], scale: tuple[float, float]
    ) -> None:
        self.parts = parts
        self.low, self.high = scale
        self.width = self.high - self.low

    def _average(self, value: Callable[[Distribution], Tensor]) -> Tensor:
        return torch.stack([weight * value(part) for weight, part in self.parts]).sum(0)

    def _unit(self, rating: Tensor) -> Tensor:
        return ((rating.double() - self.low) / self.width).to(self.parts[0][1].mean.dtype)

    def _rating(self, x: Tensor) -> Tensor:
        return self.low + self.width * x.double()

    @property
    def mean(self) -> Tensor:
        """Expected rating, shape (n_pairs,)."""
        return self._rating(self._average(lambda part: part.mean))

    @property
    def sd(self) -> Tensor:
        """Standard deviation of the rating, noise included, shape (n_pairs,)."""
        mean = self._average(lambda part: part.mean)
        var = self._average(lambda part: part.variance + (part.mean - mean) ** 2)
        return self.width * var.sqrt()

    def log_prob(self, rating: Tensor) -> Tensor:
        """Log density of a rating, per rating unit, shape (n_pairs,)."""
        x = self._unit(rating)
        logs = [math.log(weight) + part.log_prob(x) for weight, part in self.parts]
        return torch.logsumexp(torch.stack(logs), 0) - math.log(self.width)

    def cdf(self, rating: Tensor) -> Tensor:
        """Probability of a rating at most this, shape (n_pairs,)."""
        return self._unit_cdf(self._unit(rating))

    def _unit_cdf(self, x: Tensor) -> Tensor:
        return self._average(lambda part: part.cdf(x))

    def quantile(self, probability: float) -> Tensor:
        """The rating that has this probability below it, shape (n_pairs,).

        Safeguarded Newton steps: any that leaves the bracket is replaced by bisection.
        """
        p = torch.tensor(probability)
        ends = torch.stack([part.icdf(p).expand(part.batch_shape) for _, part in self.parts])
        low, high = ends.amin(0), ends.amax(0)
        x = self._average(lambda part: part.icdf(p))
        for _ in range(_NEWTON_STEPS):
            excess = self._unit_cdf(x) - p
            low, high = torch.where(excess < 0, x, low), torch.where(excess < 0, high, x)
            newton = x - excess / self._unit_density(x)
            inside = (newton >= low) & (newton <= high)
            previous, x = x, torch.where(inside, newton, (low + high) / 2)
            if not ((x - previous).abs() > _TOLERANCE).any():
                break
        return self._rating(x)

    def _unit_density(self, x: Tensor) -> Tensor:
        return self._average(lambda part: part.log_prob(x).exp())

    def interval(self, probability: float) -> tuple[Tensor, Tensor]:
        """Central interval, its ends clipped to the rating scale, each of shape (n_pairs,).

        Clipping to where the ratings are does not change how many of them the interval holds.

        Raises
        ------
        PMFError
            If the probability is not inside (0, 1), or torch lacks the family's quantiles.
        """
        if not 0 < probability < 1:
            raise PMFError(f"interval must lie between 0 and 1, not {probability!r}")
        tail = (1 - probability) / 2
        try:
            lower, upper = self.quantile(tail), self.quantile(1 - tail)
        except NotImplementedError as error:
            family = type(self.parts[0][1]).__name__
            raise PMFError(
                f"A rating that is {family} has no interval here, since torch has no quantiles of "
                "it: use Posterior.sample."
            ) from error
        return lower.clamp(self.low, self.high), upper.clamp(self.low, self.high)

    def crps(self, rating: Tensor) -> np.ndarray:
        """Continuous ranked probability score, in rating units, shape (n_pairs,).

        In closed form for mixtures of Normals, else from 200 draws of the mixture.
        """
        weights, parts = zip(*self.parts, strict=True)
        if all(isinstance(part, Normal) for part in parts):
            means = torch.stack([part.mean for part in parts], -1)
            sds = torch.stack([part.stddev for part in parts], -1)
            scores = scoringrules.crps_mixnorm(
                self._unit(rating).double().numpy(),
                means.double().numpy(),
                sds.double().numpy(),
                np.broadcast_to(weights, means.shape),
            )
        else:
            which = np.random.default_rng(0).choice(len(parts), _CRPS_DRAWS, p=weights)
            with isolated_random_state(0):
                draws = torch.stack([parts[k].sample() for k in which], -1)
            scores = scoringrules.crps_ensemble(self._unit(rating).numpy(), draws.numpy())
        return self.width * np.asarray(scores)
