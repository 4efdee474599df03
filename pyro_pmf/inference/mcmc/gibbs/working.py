"""Quadratic approximations of log likelihoods in the score, and the log likelihoods themselves.

Near a score a, the log likelihood of a rating is l(s) = h s - w s^2 / 2 + constant, with h = l'(a)
+ w a. With any weight w > 0 this is a Gaussian likelihood of the score, so that a row of factors
has a Gaussian conditional distribution. The sampler corrects for the difference exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from operator import itemgetter
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_pmf.model.distributions import LEAST_SIGMA
from pyro_pmf.model.likelihoods import (
    BernoulliLogit,
    Likelihood,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
)

_LEAST_WEIGHT = 0.03  # of a logistic rating, beside at most 1/2
_BEYOND = 1e3  # an outermost cut point, past all scores
_LARGEST_LOG_MEAN = 600.0  # float64 ends at 709
_LARGEST_LOG_ODDS = 80.0  # exponentials are float32, and not subnormal, which is slow
_BLOCK = 1 << 15  # ratings at once on a CPU, so that intermediate results stay in its cache


class Working(ABC):
    """The log likelihood of each rating as a function of its score and its log noise.

    Parameters
    ----------
    value : Tensor, shape (n,)
        Ratings on the model scale.

    Attributes
    ----------
    is_quadratic : bool
        Whether the log likelihood itself is quadratic in the score.
    information : float
        Approximate information of a rating about its log noise.
    """

    is_quadratic: ClassVar[bool] = False
    information: ClassVar[float] = 0.7
    _of_ratings: ClassVar[tuple[str, ...]] = ("value",)  # attributes with an entry for each rating

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the likelihood with other entries for the ratings: some, or in another order.

        Parameters
        ----------
        change : callable
            Returns the new entries, from a tensor with an entry for each rating.
        """
        other = object.__new__(type(self))
        changed = {name: change(vars(self)[name]) for name in self._of_ratings}
        vars(other).update(vars(self) | changed)
        return other

    def log_prob(self, score: Tensor, log_noise: Tensor) -> Tensor:
        """Return the log likelihood of each rating, shape (n,).

        Parameters
        ----------
        score : Tensor, shape (n,)
            Score of each rating.
        log_noise : Tensor, shape (n,)
            Logarithm of the noise sigma_ij.
        """
        return self._in_blocks(lambda part, *at: part._log_prob(*at), score, log_noise)

    def slope(self, score: Tensor, log_noise: Tensor) -> Tensor:
        """Return the derivative of `log_prob` in the score; parameters and shape are its own."""
        return self._in_blocks(lambda part, *at: part._slope(*at), score, log_noise)

    def weight(self, score: Tensor, log_noise: Tensor, safe: bool) -> Tensor:
        """Return the weight of the quadratic approximation; parameters and shape of `log_prob`.

        Parameters
        ----------
        score, log_noise
            As for `log_prob`.
        safe : bool
            Whether a Newton step from anywhere must not overshoot: secant slopes replace second
            derivatives.
        """
        return self._in_blocks(lambda part, *at: part._weight(*at, safe), score, log_noise)

    @abstractmethod
    def _log_prob(self, score: Tensor, log_noise: Tensor) -> Tensor: ...

    @abstractmethod
    def _slope(self, score: Tensor, log_noise: Tensor) -> Tensor: ...

    @abstractmethod
    def _weight(self, score: Tensor, log_noise: Tensor, safe: bool) -> Tensor: ...

    def _in_blocks(self, compute: Callable[..., Tensor], *at: Tensor) -> Tensor:
        """Return numbers of all ratings, computed for some ratings after the other."""
        n = len(at[0])
        if n <= _BLOCK or at[0].device.type != "cpu":
            return compute(self, *at)
        result = torch.empty_like(at[0])
        for start in range(0, n, _BLOCK):
            block = slice(start, start + _BLOCK)
            part = self.changed(itemgetter(block))
            result[block] = compute(part, *(x[block] for x in at))
        return result


class _Normal(Working):
    information: ClassVar[float] = 2.0

    def __init__(self, value: Tensor, rounding: float) -> None:
        super().__init__(value)
        self._rounding_variance = rounding**2 / 12

    def _mean(self, score: Tensor) -> Tensor:
        return score

    def _precision(self, log_noise: Tensor) -> Tensor:
        if not self._rounding_variance:
            return torch.exp(-2 * log_noise)
        return (torch.exp(2 * log_noise) + self._rounding_variance).reciprocal()

    def _log_prob(self, score: Tensor, log_noise: Tensor) -> Tensor:
        precision = self._precision(log_noise)
        error = (self.value - self._mean(score)).square_()
        return (
            error.mul_(precision)
            .sub_(precision.log_())
            .mul_(-0.5)
            .sub_(0.5 * math.log(2 * math.pi))
        )


class NormalIdentityWorking(_Normal):
    """The likelihood `NormalIdentity`, quadratic in the score."""

    is_quadratic: ClassVar[bool] = True

    def _slope(self, score: Tensor, log_noise: Tensor) -> Tensor:
        return (self.value - score).mul_(self._precision(log_noise))

    def _weight(self, score: Tensor, log_noise: Tensor, safe: bool) -> Tensor:
        return self._precision(log_noise)


class NormalSigmoidWorking(_Normal):
    """The likelihood `NormalSigmoid`."""

    def _mean(self, score: Tensor) -> Tensor:
        return torch.sigmoid(score)

    def _slope(self, score: Tensor, log_noise: Tensor) -> Tensor:
        p = torch.sigmoid(score)
        return (self.value - p) * (p * (1 - p)) * self._precision(log_noise)

    def _weight(self, score: Tensor, log_noise: Tensor, safe: bool) -> Tensor:
        p = torch.sigmoid(score)
        d = p * (1 - p)
        expected = d * d
        observed = expected - (self.value - p) * d * (1 - 2 * p)
        least = (0.3 * expected).clamp_(min=0.03 if safe else 0.003)  # 1/16 at a score of 0
        return torch.maximum(observed, least).mul_(self._precision(log_noise))


class LogisticWorking(Working):
    """The likelihoods `OrderedLogit` and `BernoulliLogit`, with the cut points given.

    Parameters
    ----------
    value : Tensor, shape (n,)
        Ratings on the unit scale.
    cutpoints : Tensor, shape (n_levels - 1,)
        Cut points, ascending.
    is_ordered : bool
        Whether the cut points are latents.
    """

    _of_ratings: ClassVar[tuple[str, ...]] = ("level",)

    def __init__(self, value: Tensor, cutpoints: Tensor, is_ordered: bool) -> None:
        super().__init__(value)
        self.is_ordered = is_ordered
        self.n_levels = len(cutpoints) + 1
        self.level = (value * (self.n_levels - 1)).round().int()
        self.set_cutpoints(cutpoints)

    def set_cutpoints(self, cutpoints: Tensor) -> None:
        """Set the cut points, shape (n_levels - 1,)."""
        self.cutpoints = cutpoints

    def _log_prob(self, score: Tensor, log_noise: Tensor) -> Tensor:
        slope, (lower, upper) = torch.exp(-log_noise), self._bounds()
        half = torch.tanh((upper - lower).mul_(slope).mul_(0.5))
        above, below = self._odds(score, slope, lower, upper)
        # With odds x = exp(s - upper), y = exp(lower - s), sigmoid(upper - s) - sigmoid(lower - s)
        # is (1 - x y) / ((1 + x) (1 + y)), and 1 - x y = 2 t / (1 + t), t = tanh(gap / 2).
        bottom = above.add_(1).mul_(below.add_(1)).mul_(half + 1)
        return half.mul_(2).div_(bottom).log_()

    def _slope(self, score: Tensor, log_noise: Tensor) -> Tensor:
        slope = torch.exp(-log_noise)
        above, below = self._odds(score, slope, *self._bounds())
        # sigmoid of the log odds; both are 1 - 1 / (1 + odds)
        return above.add_(1).reciprocal_().sub_(below.add_(1).reciprocal_()).mul_(slope)

    def _weight(self, score: Tensor, log_noise: Tensor, safe: bool) -> Tensor:
        slope = torch.exp(-log_noise)
        if safe:
            lower, upper = self._bounds()
            above, below = (upper - score) * slope, (score - lower) * slope
            return (_secant(above) + _secant(below)) * slope.square_()
        a, b = (odds.add_(1).reciprocal_() for odds in self._odds(score, slope, *self._bounds()))
        weight = torch.addcmul(a, a, a, value=-1).add_(torch.addcmul(b, b, b, value=-1))
        return weight.clamp_(min=_LEAST_WEIGHT).mul_(slope.square_())

    def _odds(
        self, score: Tensor, slope: Tensor, lower: Tensor, upper: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the odds of a higher and of a lower level; they are numbers in float32."""
        above, below = (
            x.mul_(slope).clamp_(-_LARGEST_LOG_ODDS, _LARGEST_LOG_ODDS).exp_()
            for x in (score - upper, lower - score)
        )
        return above, below

    def _bounds(self) -> tuple[Tensor, Tensor]:
        """Return the cut points below and above each rating."""
        ends = F.pad(F.pad(self.cutpoints, (1, 0), value=-_BEYOND), (0, 1), value=_BEYOND)
        return ends.index_select(0, self.level), ends[1:].index_select(0, self.level)


class NegativeBinomialWorking(Working):
    """The likelihood `NegativeBinomialLog`, in float64 since terms of large counts cancel.

    Parameters
    ----------
    value : Tensor, shape (n,)
        Counts.
    log_ceiling : float, optional
        Log of the ceiling C of the mean; None for no ceiling.
    """

    information: ClassVar[float] = 0.5
    _of_ratings: ClassVar[tuple[str, ...]] = ("value", "_count", "_log_factorial")

    def __init__(self, value: Tensor, log_ceiling: float | None) -> None:
        super().__init__(value)
        self._least_inverse = 0.0 if log_ceiling is None else math.exp(-log_ceiling)
        self._count = value.double()
        self._log_factorial = (self._count + 1).lgamma()

    def _log_prob(self, score: Tensor, log_noise: Tensor) -> Tensor:
        size, mean, _ = self._at(score, log_noise)
        total = self._count + size
        choices = total.lgamma().sub_(size.lgamma()).sub_(self._log_factorial)
        ratio = mean.div_(size)
        log_prob = choices.sub_(total.mul_(torch.log1p(ratio)))
        return log_prob.addcmul_(self._count, ratio.log_()).to(score.dtype)

    def _slope(self, score: Tensor, log_noise: Tensor) -> Tensor:
        size, mean, chain = self._at(score, log_noise)
        return (self._count - mean).div_(mean.add_(size)).mul_(size).mul_(chain).to(score.dtype)

    def _weight(self, score: Tensor, log_noise: Tensor, safe: bool) -> Tensor:
        if safe:
            # log p = count s - (count + size) softplus(s + log(1 / size + 1 / C))
            # + size softplus(s - log C) + constant, and the last term is convex in s.
            size = _size(log_noise)
            each = _secant(score.double() + (1 / size + self._least_inverse).log_())
        else:
            size, mean, chain = self._at(score, log_noise)
            share = mean / (mean + size)
            each = (share * (1 - share)).mul_(chain.square_())
        return each.mul_(size.add_(self._count)).clamp_(min=1e-6).to(score.dtype)

    def _at(self, score: Tensor, log_noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return size and mean of each count, and d log mean / d score."""
        inverse = score.double().clamp(-_LARGEST_LOG_MEAN, _LARGEST_LOG_MEAN).neg_().exp_()
        mean = (inverse + self._least_inverse).reciprocal_()
        return _size(log_noise), mean, inverse.mul_(mean)


def _size(log_noise: Tensor) -> Tensor:
    """Return the size of each count, float64, as `GammaPoisson` has it."""
    return log_noise.double().clamp(min=math.log(LEAST_SIGMA)).mul_(-2).exp_()


def _secant(x: Tensor) -> Tensor:
    """Slope of the secant of the logistic function: the mean of a Polya-Gamma variable.

    Jaakkola & Jordan, Bayesian parameter estimation via variational methods, 2000, equation 7.
    """
    x = x.abs().clamp_(min=1e-4)
    return torch.where(x < _BEYOND / 2, torch.tanh(x / 2) / (2 * x), 0.0)


def knows_likelihood(likelihood: Likelihood) -> bool:
    """Return whether a likelihood has a working likelihood: those of this package have.

    Parameters
    ----------
    likelihood : Likelihood
        The likelihood of a model.
    """
    return type(likelihood) in (
        NormalIdentity,
        NormalSigmoid,
        BernoulliLogit,
        NegativeBinomialLog,
        OrderedLogit,
    )


def working_likelihood(
    likelihood: Likelihood, value: Tensor, cutpoints: Tensor | None = None
) -> Working:
    """Return the working likelihood of some ratings.

    Parameters
    ----------
    likelihood : Likelihood
        A likelihood for which `knows_likelihood` holds.
    value : Tensor, shape (n,)
        Ratings on the model scale.
    cutpoints : Tensor, shape (n_levels - 1,), optional
        Cut points of `OrderedLogit`.
    """
    if isinstance(likelihood, NormalIdentity):
        return NormalIdentityWorking(value, likelihood.rounding or 0.0)
    if isinstance(likelihood, NormalSigmoid):
        return NormalSigmoidWorking(value, likelihood.rounding or 0.0)
    if isinstance(likelihood, NegativeBinomialLog):
        return NegativeBinomialWorking(value, likelihood.log_ceiling)
    if cutpoints is None:  # BernoulliLogit
        return LogisticWorking(value, value.new_zeros(1), is_ordered=False)
    return LogisticWorking(value, cutpoints, is_ordered=True)
