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


class Prior(ABC):
    """The prior distribution of one scalar parameter."""

    @abstractmethod
    def distribution(self, like: Tensor) -> dist.Distribution:
        """Return the distribution, with the type and device of ``like``."""

    def draw(self, name: str, like: Tensor) -> Tensor:
        """Make this the site ``name`` of the model that is running."""
        return pyro.sample(name, self.distribution(like))


@dataclass(frozen=True)
class Normal(Prior):
    """Normal(loc, scale^2) on the real line."""

    loc: float
    scale: float

    def __post_init__(self) -> None:
        _require(math.isfinite(self.loc), "Normal: loc must be finite", self.loc)
        _require_positive("Normal", self.scale)

    def distribution(self, like: Tensor) -> dist.Distribution:
        return dist.Normal(like.new_tensor(self.loc), like.new_tensor(self.scale))


@dataclass(frozen=True)
class HalfNormal(Prior):
    """Normal(0, scale^2), folded to the positive numbers."""

    scale: float

    def __post_init__(self) -> None:
        _require_positive("HalfNormal", self.scale)

    def distribution(self, like: Tensor) -> dist.Distribution:
        return dist.HalfNormal(like.new_tensor(self.scale))


@dataclass(frozen=True)
class LogNormal(Prior):
    """The exponential of Normal(log(median), scale^2)."""

    median: float
    scale: float

    def __post_init__(self) -> None:
        _require_positive("LogNormal", self.median)
        _require_positive("LogNormal", self.scale)

    def distribution(self, like: Tensor) -> dist.Distribution:
        return dist.LogNormal(like.new_tensor(math.log(self.median)), like.new_tensor(self.scale))


@dataclass(frozen=True)
class Fixed(Prior):
    """A known value: nothing is learnt."""

    value: float

    def __post_init__(self) -> None:
        _require(math.isfinite(self.value), "Fixed: the value must be finite", self.value)

    def distribution(self, like: Tensor) -> dist.Distribution:
        return dist.Delta(like.new_tensor(self.value))

    def draw(self, name: str, like: Tensor) -> Tensor:
        return pyro.deterministic(name, like.new_tensor(self.value))


@dataclass(frozen=True)
class Priors:
    """The priors of a `PMF`; those of parts that a model leaves out are unused.

    Parameters
    ----------
    mu : Prior
        Mean score.
    sigma : Prior
        Noise of a rating; the likelihood says what it is the scale of. Of Normal ratings, it is
        their standard deviation about the mean, on the model's scale, such as [0, 1].
    sigma_U, sigma_V : Prior
        Standard deviations of the user and item factors, about their means where these are not 0.
    sigma_W : Prior
        Standard deviation of W, the effect on a user of having rated an item.
    sigma_Z : Prior
        Standard deviation of Z, the effect on an item of having been rated by a user.
    sigma_b, sigma_c : Prior
        Standard deviations of the user and item biases.
    sigma_s, sigma_t : Prior
        Standard deviations of the users' and items' log noise, s and t.

    Raises
    ------
    PMFError
        If a field is not a `Prior`, or a standard deviation's prior is not on positive values.
    """

    mu: Prior = field(default=Normal(0.0, 1.0))
    sigma: Prior = field(default=HalfNormal(0.5))
    sigma_U: Prior = field(default=HalfNormal(1.0))
    sigma_V: Prior = field(default=HalfNormal(1.0))
    sigma_W: Prior = field(default=HalfNormal(0.3))
    sigma_Z: Prior = field(default=HalfNormal(0.3))
    sigma_b: Prior = field(default=HalfNormal(1.0))
    sigma_c: Prior = field(default=HalfNormal(1.0))
    sigma_s: Prior = field(default=HalfNormal(0.5))
    sigma_t: Prior = field(default=HalfNormal(0.5))

    def __post_init__(self) -> None:
        for f in fields(self):
            prior = getattr(self, f.name)
            _require(
                isinstance(prior, Prior),
                f"{f.name}: give a prior such as HalfNormal(1.0) or Fixed(0.3)",
                prior,
            )
            positive = isinstance(prior, HalfNormal | LogNormal) or (
                isinstance(prior, Fixed) and prior.value > 0
            )
            _require(
                positive or not f.name.startswith("sigma"),
                f"{f.name} is a standard deviation: its prior must be on positive values",
                prior,
            )

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the priors as plain data: family and parameters by name."""
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
        """Rebuild what `to_dict` returned."""
        families = {c.__name__: c for c in Prior.__subclasses__()}
        return cls(
            **{
                name: families[given["family"]](
                    **{key: value for key, value in given.items() if key != "family"}
                )
                for name, given in data.items()
            }
        )
