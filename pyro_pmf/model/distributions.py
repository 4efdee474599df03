"""Distributions of ratings that torch lacks."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from scipy.special import betainc
from torch import Size, Tensor
from torch.distributions import constraints

from pyro_pmf.moments.ceiling import BelowCeiling
from pyro_pmf.moments.counts import expected_softpluses
from pyro_pmf.moments.expectations import expected_softplus
from pyro_pmf.moments.gaussian import (
    Gaussian,
    LogGaussian,
    NoClosedForm,
    Transformed,
    Uncertain,
    require_independent,
)

_FEW = 24  # counts whose masses are summed one by one
_LEAST_LOG_MASS = -600.0  # float64 ends at -745
LEAST_SIGMA = 1e-5  # of counts: they are as good as Poisson, and float64 still has their sums
_BEYOND = 1e3  # an outermost cut point, past all scores


class OrderedLogistic(TorchDistribution):
    """Levels 0, 1/(L-1), ..., 1 with P(level <= k) = sigmoid((cutpoints_k - score) / sigma).

    Parameters
    ----------
    score : Tensor, shape (..., n)
        Location of the latent response.
    sigma : Tensor, broadcastable to the shape of ``score``
        Scale of the latent response, which is logistic.
    cutpoints : Tensor, shape (..., L - 1)
        Ascending, on the scale of the score. Leading dimensions broadcast to the shape of
        ``score``.
    validate_args : bool, optional
        Whether to check parameters and values; see `torch.distributions.Distribution`.
    """

    arg_constraints = {  # noqa: RUF012
        "score": constraints.real,
        "sigma": constraints.positive,
        "cutpoints": constraints.real_vector,
    }

    def __init__(
        self,
        score: Tensor,
        sigma: Tensor,
        cutpoints: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.score, self.sigma, self.cutpoints = score, sigma, cutpoints
        super().__init__(score.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> OrderedLogistic:
        shape = Size(batch_shape)
        return OrderedLogistic(
            self.score.expand(shape), self.sigma.expand(shape), self.cutpoints, False
        )

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return _Lattice(self.n_levels)

    @property
    def n_levels(self) -> int:
        """Number of levels L."""
        return self.cutpoints.shape[-1] + 1

    @property
    def spacing(self) -> float:
        """Distance between neighbouring levels, on the unit scale."""
        return 1 / (self.n_levels - 1)

    @property
    def probs(self) -> Tensor:
        """Probability of each level, shape (..., n, L)."""
        below = torch.sigmoid((self.cutpoints - self.score[..., None]) / self.sigma[..., None])
        return torch.diff(F.pad(F.pad(below, (1, 0), value=0.0), (0, 1), value=1.0))

    @property
    def mean(self) -> Tensor:
        """Mean rating on the unit scale, shape (..., n): the mean of P(level > k) over k < L."""
        excess = self.score[..., None] - self.cutpoints
        return torch.sigmoid(excess / self.sigma[..., None]).mean(-1)

    @property
    def variance(self) -> Tensor:
        """Variance of the rating on the unit scale, shape (..., n)."""
        probs, levels = self.probs, self._levels
        return (probs * (levels - (probs @ levels)[..., None]) ** 2).sum(-1)

    @property
    def _levels(self) -> Tensor:
        like = self.score
        return torch.linspace(0, 1, self.n_levels, dtype=like.dtype, device=like.device)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of the level nearest to each value, on the unit scale."""
        lower, upper = self._cuts_around(value)
        a, b = (upper - self.score) / self.sigma, (lower - self.score) / self.sigma
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))
        return F.logsigmoid(a) + F.logsigmoid(-b) + _log1mexp((upper - lower) / self.sigma)

    def expected_log_prob(self, value: Tensor) -> Tensor:
        """Return E log_prob(value), where score is Gaussian and sigma known or LogGaussian.

        Quadratures over score and over sigma, the latter with 3 nodes, form a product rule.

        Parameters
        ----------
        value : Tensor, shape (..., n)
            Levels on the unit scale.

        Raises
        ------
        NoClosedForm
            If score and sigma share a latent site.
        """
        lower, upper = self._cuts_around(value)
        if not isinstance(self.sigma, LogGaussian):
            return self._given_sigma(lower, upper, self.sigma)
        require_independent(self.score, self.sigma)
        rule = self.sigma.quadrature(3)
        terms = [self._given_sigma(lower, upper, sigma) for sigma in rule.nodes]
        return rule.expectation(torch.stack(torch.broadcast_tensors(*terms)))

    def _given_sigma(self, lower: Tensor, upper: Tensor, sigma: Tensor) -> Tensor:
        above, below = (self.score + -upper) / sigma, (self.score * -1.0 + lower) / sigma
        of_gap = _log1mexp((upper - lower) / sigma)
        return of_gap - expected_softplus(above) - expected_softplus(below)

    def cdf(self, value: Tensor) -> Tensor:
        """Return the probability of at most this level."""
        _, upper = self._cuts_around(value)
        return torch.sigmoid((upper - self.score) / self.sigma)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw levels on the unit scale."""
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            u = torch.rand(shape, dtype=self.score.dtype, device=self.score.device)
            response = self.score + self.sigma * u.logit(eps=1e-7)
            above = (response[..., None] > self.cutpoints).sum(-1)
            return above.to(self.score.dtype) * self.spacing

    def _cuts_around(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cut points below and above each level."""
        ends = F.pad(F.pad(self.cutpoints, (1, 0), value=-_BEYOND), (0, 1), value=_BEYOND)
        level = (value * (self.n_levels - 1)).round().long().clamp(0, self.n_levels - 1)
        if ends.dim() == 1:
            flat = level.reshape(-1)  # indexing a vector is several times as fast
            lower, upper = ends.index_select(0, flat), ends.index_select(0, flat + 1)
            return lower.reshape(level.shape), upper.reshape(level.shape)
        shape = np.broadcast_shapes(level.shape, ends.shape[:-1])
        ends, level = ends.expand(*shape, ends.shape[-1]), level.expand(shape)[..., None]
        return ends.gather(-1, level)[..., 0], ends.gather(-1, level + 1)[..., 0]


class GammaPoisson(TorchDistribution):
    """Counts: Poisson(exp(score) g), g ~ Gamma with mean 1 and standard deviation sigma.

    This is the negative binomial distribution with mean exp(score) and size 1 / sigma^2.

    Parameters
    ----------
    score : Tensor, shape (..., n)
        Log of the mean count.
    sigma : Tensor, broadcastable to the shape of ``score``
        Standard deviation of the Gamma factor. Below 1e-5 it counts as 1e-5: as good as Poisson.
    validate_args : bool, optional
        Whether to check parameters and values; see `torch.distributions.Distribution`.
    """

    arg_constraints = {  # noqa: RUF012
        "score": constraints.real,
        "sigma": constraints.positive,
    }
    support = constraints.nonnegative_integer

    def __init__(self, score: Tensor, sigma: Tensor, validate_args: bool | None = None) -> None:
        self.score, self.sigma = score, sigma
        super().__init__(score.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GammaPoisson:
        shape = Size(batch_shape)
        return GammaPoisson(self.score.expand(shape), self.sigma.expand(shape), False)

    @property
    def mean(self) -> Tensor:
        """Mean count, shape (..., n)."""
        return self.score.exp()

    @property
    def variance(self) -> Tensor:
        """Variance of the count, shape (..., n)."""
        return self.mean + (self.sigma * self.mean) ** 2

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of each count."""
        if self._validate_args:
            self._validate_sample(value)
        return self._given_sigma(value, self.sigma)

    def expected_log_prob(self, value: Tensor) -> Tensor:
        """Return E log_prob(value), over a random score and a sigma known or LogGaussian.

        Parameters
        ----------
        value : Tensor, shape (..., n)
            Counts.

        Raises
        ------
        NoClosedForm
            If score is random but neither Gaussian nor a function of a Gaussian, or shares a
            latent site with sigma.
        """
        require_independent(self.score, self.sigma)
        log_mass: Any = self._given_sigma
        if not isinstance(self.score, Tensor):
            score, log_ceiling = _score_and_ceiling(self.score)
            log_mass = partial(_expected_log_mass, score=score, log_ceiling=log_ceiling)
        if not isinstance(self.sigma, Uncertain):
            return log_mass(value, self.sigma)
        rule = self.sigma.quadrature(3)
        return rule.expectation(torch.stack([log_mass(value, sigma) for sigma in rule.nodes]))

    def _given_sigma(self, value: Tensor, sigma: Tensor) -> Tensor:
        count, size = value.double(), size_of(sigma.double())
        odds = self.score.double() - size.log()
        # A sigmoid's logarithm is exact at both ends, where a mean is a share of 1e-10 of a size.
        share = count * F.logsigmoid(odds) + size * F.logsigmoid(-odds)
        return (_log_choices(count, size) + share).to(self.score.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """Return the probability of at most this count: float64, on the CPU, no gradient."""
        size = size_of(self.sigma.double())
        odds = self.score.double() - size.log()
        first = -size * F.softplus(odds)  # log probability of 0
        count, size, odds, first = torch.broadcast_tensors(
            value.double().floor(), size, odds, first
        )
        if not count.numel() or float(count.max()) > _FEW:
            return _cdf_by_beta(count, size, odds)
        cdf = _sum_of_masses(count, size, torch.sigmoid(odds), first.exp())
        rare = first < _LEAST_LOG_MASS
        if bool(rare.any()):
            cdf[rare] = _cdf_by_beta(count[rare], size[rare], odds[rare])
        return cdf

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw counts."""
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            size = size_of(self.sigma).expand(shape)
            rate = torch.distributions.Gamma(size, size).sample() * self.score.exp()
            return torch.poisson(rate)


def size_of(sigma: Tensor) -> Tensor:
    """Return the size of a negative binomial distribution, 1 / sigma^2 and at most 1e10."""
    return sigma.clamp(min=LEAST_SIGMA) ** -2


def _score_and_ceiling(log_mean: Uncertain) -> tuple[Gaussian, float | None]:
    """Return the Gaussian score of a random log mean, and the log of its ceiling."""
    if isinstance(log_mean, Gaussian):
        return log_mean, None
    of = log_mean.function if isinstance(log_mean, Transformed) else None
    if not (isinstance(log_mean, Transformed) and isinstance(of, BelowCeiling)):
        raise NoClosedForm(f"the logarithm of a mean that is a {type(log_mean).__name__}")
    return log_mean.base, of.log_ceiling


def _expected_log_mass(
    count: Tensor, sigma: Tensor, score: Gaussian, log_ceiling: float | None
) -> Tensor:
    """Return E log p of counts whose score is Gaussian."""
    size = size_of(sigma)
    log_size = size.log()
    # log p = log_choices - count log(1 + size / mean) - size log(1 + mean / size): no large
    # numbers cancel, so that no step of an optimizer gains by rounding.
    below, above = expected_softpluses(score.mean, score.var, log_size, log_ceiling)
    return _log_choices(count, size) - count * below - size * above


def _log_choices(count: Tensor, size: Tensor) -> Tensor:
    """Log of gamma(count + size) / (gamma(size) count!), in float64 as large terms cancel."""
    x, r = count.double(), size.double()
    return ((x + r).lgamma() - r.lgamma() - (x + 1).lgamma()).to(size.dtype)


def _cdf_by_beta(count: Tensor, size: Tensor, odds: Tensor) -> Tensor:
    """Return the probability of at most a count, as an incomplete beta function."""
    arguments = size, count.clamp(min=0) + 1, torch.sigmoid(-odds)
    cdf = betainc(*(x.numpy() for x in arguments))
    return torch.as_tensor(cdf).masked_fill(count < 0, 0.0)


def _sum_of_masses(count: Tensor, size: Tensor, success: Tensor, mass: Tensor) -> Tensor:
    """Return the probability of at most a count: for few counts, a tenth of betainc's time."""
    total = mass * (count >= 0)
    for k in range(int(count.max())):
        mass = mass * success * ((k + size) / (k + 1))
        total = total + mass * (count > k)
    return total.clamp(max=1.0)


class _Lattice(constraints.Constraint):
    """Evenly spaced levels from 0 to 1."""

    is_discrete = True

    def __init__(self, n_levels: int) -> None:
        self.n_levels = n_levels

    def check(self, value: Tensor) -> Tensor:
        steps = value * (self.n_levels - 1)
        return ((steps - steps.round()).abs() < 1e-3) & (value > -1e-3) & (value < 1 + 1e-3)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(-x)) for x > 0."""
    return torch.log(-torch.expm1(-x))
