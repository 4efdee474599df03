"""Priors of the scalar parameters: frozen, validated, printable."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor

from pyro_pmf.errors import PMFError


def _require(condition: bool, message: str, got: object) -> None:
    if not condition:
        raise PMFError(f"{message}, not {got!r}")


def _require_positive(family: str, value: float) -> None:
    _require(
        isinstance(value, Real) and 0 < float(value) < math.inf,
        f"{family}: give a positive number",
        value,
    )


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(float(value))


class Prior(ABC):
    """The prior distribution of one scalar parameter, or of each entry of a vector."""

    @abstractmethod
    def distribution(self, like: Tensor) -> dist.Distribution:
        """Return the distribution, with the type and device of a tensor.

        Parameters
        ----------
        like : Tensor
            A tensor of the model's type and device.
        """

    def draw(self, name: str, like: Tensor) -> Tensor:
        """Sample the parameter in the model that is running.

        Parameters
        ----------
        name : str
            Name of the site.
        like : Tensor, shape () or (n,)
            A tensor of the shape of the parameter, and of the model's type and device.

        Returns
        -------
        Tensor, shape (...) or (..., n)
            The value of the site.
        """
        fn = self.distribution(like)
        return pyro.sample(name, fn.expand(like.shape).to_event(like.dim()) if like.dim() else fn)

    def for_factors(self, n_factors: int) -> Prior:
        """Return the prior of a model with this number of factors: itself, unless it depends.

        Parameters
        ----------
        n_factors : int
            Number of factors.
        """
        return self


@dataclass(frozen=True)
class Normal(Prior):
    """Normal(loc, scale^2) on the real line.

    Parameters
    ----------
    loc : float
        Mean.
    scale : float
        Standard deviation, positive.

    Raises
    ------
    PMFError
        If ``loc`` is not finite, or ``scale`` is not positive and finite.
    """

    loc: float
    scale: float

    def __post_init__(self) -> None:
        _require(_is_finite(self.loc), "Normal: loc must be finite", self.loc)
        _require_positive("Normal", self.scale)

    def distribution(self, like: Tensor) -> dist.Distribution:
        return dist.Normal(like.new_tensor(self.loc), like.new_tensor(self.scale))


@dataclass(frozen=True)
class HalfNormal(Prior):
    """The absolute value of Normal(0, scale^2).

    Parameters
    ----------
    scale : float
        Standard deviation of the Normal, positive.

    Raises
    ------
    PMFError
        If ``scale`` is not positive and finite.
    """

    scale: float

    def __post_init__(self) -> None:
        _require_positive("HalfNormal", self.scale)

    def distribution(self, like: Tensor) -> dist.Distribution:
        return dist.HalfNormal(like.new_tensor(self.scale))


@dataclass(frozen=True)
class FactorHalfNormal(Prior):
    """HalfNormal(scale / K^(1/4)) of a scale of K factors.

    The variance of U_i . V_j, a sum of K products, then has the same prior for every K, given tau.

    Parameters
    ----------
    scale : float
        Standard deviation of the Normal with one factor, positive.

    Raises
    ------
    PMFError
        If ``scale`` is not positive and finite.

    Examples
    --------
    >>> FactorHalfNormal(1.0).for_factors(16)
    HalfNormal(scale=0.5)
    """

    scale: float

    def __post_init__(self) -> None:
        _require_positive("FactorHalfNormal", self.scale)

    def distribution(self, like: Tensor) -> dist.Distribution:
        return HalfNormal(self.scale).distribution(like)

    def for_factors(self, n_factors: int) -> Prior:
        return HalfNormal(self.scale / max(n_factors, 1) ** 0.25)


@dataclass(frozen=True)
class LogNormal(Prior):
    """The exponential of Normal(log(median), scale^2).

    Parameters
    ----------
    median : float
        Median, positive.
    scale : float
        Standard deviation of the logarithm, positive.

    Raises
    ------
    PMFError
        If ``median`` or ``scale`` is not positive and finite.
    """

    median: float
    scale: float

    def __post_init__(self) -> None:
        _require_positive("LogNormal", self.median)
        _require_positive("LogNormal", self.scale)

    def distribution(self, like: Tensor) -> dist.Distribution:
        return dist.LogNormal(like.new_tensor(math.log(self.median)), like.new_tensor(self.scale))


@dataclass(frozen=True)
class Fixed(Prior):
    """A known value, which is not learnt.

    Parameters
    ----------
    value : float
        The value of the parameter.

    Raises
    ------
    PMFError
        If ``value`` is not finite.
    """

    value: float

    def __post_init__(self) -> None:
        _require(_is_finite(self.value), "Fixed: the value must be finite", self.value)

    def distribution(self, like: Tensor) -> dist.Distribution:
        return dist.Delta(like.new_tensor(self.value))

    def draw(self, name: str, like: Tensor) -> Tensor:
        value = like.new_tensor(self.value).expand(like.shape)
        return pyro.deterministic(name, value, event_dim=like.dim())


@dataclass(frozen=True)
class Priors:
    """The priors of the scalar parameters of a `PMF`.

    A model without a parameter ignores its prior.

    Parameters
    ----------
    mu : Prior
        Mean score.
    sigma : Prior
        Noise of a rating; the likelihood defines the quantity that it scales. With Normal
        ratings, their standard deviation about the mean, on the model scale, such as [0, 1].
    tau : Prior
        Scale of each factor, which multiplies sigma_U and sigma_W. ``Fixed(1.0)`` gives all
        factors the same scale.
    sigma_U, sigma_V : Prior
        Standard deviations of user and item factors about their prior means.
    sigma_W : Prior
        Standard deviation of W, the effect on a user of having rated an item.
    sigma_Z : Prior
        Standard deviation of Z, the effect on an item of having been rated by a user.
    sigma_b, sigma_c : Prior
        Standard deviations of user and item biases, on the scale of the score.
    sigma_s, sigma_t : Prior
        Standard deviations of the log noise of users and of items, s and t.

    Raises
    ------
    PMFError
        If a field is not a `Prior`, or the prior of a standard deviation allows values that are
        not positive.

    Examples
    --------
    >>> priors = Priors(sigma=Fixed(0.2), sigma_U=HalfNormal(0.5))
    >>> priors.sigma_U
    HalfNormal(scale=0.5)
    >>> priors.of("sigma_V", n_factors=16)
    HalfNormal(scale=0.5)
    >>> Priors.from_dict(priors.to_dict()) == priors
    True
    """

    mu: Prior = field(default=Normal(0.0, 1.0))
    sigma: Prior = field(default=HalfNormal(0.5))
    tau: Prior = field(default=HalfNormal(1.0))
    sigma_U: Prior = field(default=FactorHalfNormal(1.0))
    sigma_V: Prior = field(default=FactorHalfNormal(1.0))
    sigma_W: Prior = field(default=FactorHalfNormal(1.0))
    sigma_Z: Prior = field(default=FactorHalfNormal(1.0))
    sigma_b: Prior = field(default=HalfNormal(1.0))
    sigma_c: Prior = field(default=HalfNormal(1.0))
    sigma_s: Prior = field(default=HalfNormal(0.5))
    sigma_t: Prior = field(default=HalfNormal(0.5))

    def __post_init__(self) -> None:
        for f in fields(self):
            prior = getattr(self, f.name)
            _require(
                isinstance(prior, Prior),
                f"{f.name}: give a prior such as "
                + ("Normal(0.0, 1.0)" if f.name == "mu" else "HalfNormal(1.0)")
                + " or Fixed(0.3)",
                prior,
            )
            positive = isinstance(prior, HalfNormal | FactorHalfNormal | LogNormal) or (
                isinstance(prior, Fixed) and prior.value > 0
            )
            _require(
                positive or f.name == "mu",
                f"{f.name} is a standard deviation: give HalfNormal, LogNormal or Fixed above 0",
                prior,
            )

    def of(self, name: str, n_factors: int) -> Prior:
        """Return the prior of one parameter of a model with ``n_factors`` factors.

        Parameters
        ----------
        name : str
            Name of the parameter.
        n_factors : int
            Number of factors.
        """
        prior: Prior = getattr(self, name)
        return prior.for_factors(n_factors)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the priors as plain data: for each field, the family and its parameters."""
        return {
            f.name: {
                "family": type(prior).__name__,
                **{name: float(value) for name, value in asdict(prior).items()},
            }
            for f in fields(self)
            if (prior := getattr(self, f.name))
        }

    @classmethod
    def from_dict(cls, data: dict[str, dict[str, Any]]) -> Priors:
        """Make priors from plain data.

        Parameters
        ----------
        data : dict
            As returned by `to_dict`. Without tau, as the first version wrote it, all factors have
            the same scale, 1.
        """
        families = {c.__name__: c for c in Prior.__subclasses__()}
        data = {"tau": {"family": "Fixed", "value": 1.0}, **data}
        return cls(
            **{
                name: families[given["family"]](
                    **{key: value for key, value in given.items() if key != "family"}
                )
                for name, given in data.items()
            }
        )
