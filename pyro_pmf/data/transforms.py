"""Between ratings in the caller's units and the scale that a model works on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from pyro_pmf.errors import PMFError, RatingsError

Numbers = TypeVar("Numbers", float, np.ndarray, Tensor)
Name = Literal["unit", "standardize", "log1p", "count"]


class Transform(ABC):
    """An increasing map from ratings to the model scale.

    Attributes
    ----------
    origin, width : float
        The rating is origin + width x, where x is what `mean` and `variance` are of.
    bounds : tuple of float, or None
        The lowest and the highest rating there can be, if there are such.
    """

    origin: float
    width: float
    bounds: tuple[float, float] | None

    @abstractmethod
    def to_value(self, rating: Numbers) -> Numbers:
        """Map ratings to the model scale; any shape."""

    @abstractmethod
    def to_rating(self, value: Numbers) -> Numbers:
        """Map the model scale to ratings; any shape."""

    @abstractmethod
    def log_slope(self, rating: Tensor) -> Tensor | float:
        """Log derivative of `to_value`, which turns a density of the value into the rating's."""

    @abstractmethod
    def mean(self, part: Distribution) -> Tensor:
        """Mean of x, where the value has this distribution, of its batch shape."""

    @abstractmethod
    def variance(self, part: Distribution) -> Tensor:
        """Variance of x, where the value has this distribution, of its batch shape."""

    @abstractmethod
    def allows(self, rating: np.ndarray) -> np.ndarray:
        """Whether each rating can be mapped, bool, of the same shape."""


@dataclass(frozen=True)
class Affine(Transform):
    """value = (rating - origin) / width.

    Parameters
    ----------
    origin, width : float
        The rating that is mapped to 0, and how far from it lies that which is mapped to 1.
    bounds : tuple of float, optional
    """

    origin: float
    width: float
    bounds: tuple[float, float] | None = None

    @classmethod
    def of_scale(cls, low: float, high: float) -> Affine:
        """Map the lowest rating there can be to 0, the highest to 1."""
        return cls(low, high - low, (low, high))

    def to_value(self, rating: Numbers) -> Numbers:
        """Map ratings to the model scale; any shape."""
        return (rating - self.origin) / self.width

    def to_rating(self, value: Numbers) -> Numbers:
        """Map the model scale to ratings; any shape."""
        return self.origin + self.width * value

    def log_slope(self, rating: Tensor) -> float:
        """Log derivative of `to_value`, the same everywhere."""
        return -math.log(self.width)

    def mean(self, part: Distribution) -> Tensor:
        """Mean of the value."""
        return part.mean

    def variance(self, part: Distribution) -> Tensor:
        """Variance of the value."""
        return part.variance

    def allows(self, rating: np.ndarray) -> np.ndarray:
        """Whether each rating lies within the bounds, if there are any."""
        low, high = self.bounds or (-math.inf, math.inf)
        return (rating >= low) & (rating <= high)


@dataclass(frozen=True)
class Log1p(Transform):
    """value = (log(1 + rating) - log_mean) / log_sd.

    Parameters
    ----------
    log_mean, log_sd : float
        Of log(1 + rating): those of some ratings, which it standardizes.
    """

    log_mean: float
    log_sd: float
    # Predictions of counts are made in rating units already, which have no highest value.
    origin: float = field(default=0.0, init=False, repr=False)
    width: float = field(default=1.0, init=False, repr=False)
    bounds: tuple[float, float] | None = field(default=None, init=False, repr=False)

    def to_value(self, rating: Numbers) -> Numbers:
        """Map ratings to the model scale; those of -1 or less to minus infinity."""
        if isinstance(rating, Tensor):
            return (torch.log1p(rating.clamp(min=-1.0)) - self.log_mean) / self.log_sd
        with np.errstate(divide="ignore"):
            return (np.log1p(np.maximum(rating, -1.0)) - self.log_mean) / self.log_sd

    def to_rating(self, value: Numbers) -> Numbers:
        """Map the model scale to ratings; any shape."""
        log = self.log_mean + self.log_sd * value
        return torch.expm1(log) if isinstance(log, Tensor) else np.expm1(log)

    def log_slope(self, rating: Tensor) -> Tensor:
        """Log derivative of `to_value`; 0 where the density is."""
        return torch.where(rating > -1, -torch.log1p(rating), 0.0) - math.log(self.log_sd)

    def mean(self, part: Distribution) -> Tensor:
        """Mean of the rating; one plus it is log-normal. Errors as `log_normal`.

        It grows with exp(log_sd^2 / 2): where the noise of a user is large or hardly known, the
        mean is made by a tail that nobody has seen, and quantiles are what to look at.
        """
        log_mean, log_sd = self.log_normal(part)
        return torch.expm1(log_mean + log_sd**2 / 2)

    def variance(self, part: Distribution) -> Tensor:
        """Variance of the rating. Errors as `log_normal`."""
        log_mean, log_sd = self.log_normal(part)
        return (2 * log_mean + log_sd**2).exp() * torch.expm1(log_sd**2)

    def log_normal(self, part: Distribution) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of log(1 + rating), float64, of the part's batch shape.

        Raises
        ------
        PMFError
            If the value is not Normal: others may have no mean on this scale.
        """
        if not isinstance(part, Normal):
            raise PMFError(
                f"A {type(part).__name__} on the scale of log1p has no moments and no CRPS in "
                "closed form, or none at all: use a likelihood that is Normal there, or another "
                "transform."
            )
        mean, sd = part.loc.double(), part.scale.double()
        return self.log_mean + self.log_sd * mean, self.log_sd * sd

    def allows(self, rating: np.ndarray) -> np.ndarray:
        """Whether each rating is at least 0."""
        return rating >= 0


def transform_of(
    name: Name, rating: np.ndarray | None, scale: tuple[float, float]
) -> Affine | Log1p:
    """Make the transform of this name for some ratings.

    Parameters
    ----------
    name : {"unit", "standardize", "log1p", "count"}
        See `Ratings.from_frame`.
    rating : ndarray, shape (n,), or None
        Not all equal; of "log1p" at least 0.
    scale : tuple of float
        The lowest and the highest rating there can be.

    Raises
    ------
    RatingsError
        If there is none of this name, or it needs ratings and there are none.
    """
    if name not in get_args(Name):
        raise RatingsError(f"transform={name!r} is unknown: give one of {get_args(Name)}.")
    if name == "unit":
        return Affine.of_scale(*scale)
    if rating is None:
        raise RatingsError(
            f"transform={name!r} needs ratings. Pairs to predict need none: predictions are in "
            "the units of the training ratings."
        )
    if name == "count":
        return Affine(0.0, 1.0)
    if name == "standardize":
        return Affine(float(rating.mean()), float(rating.std()))
    logs = np.log1p(rating)
    return Log1p(float(logs.mean()), float(logs.std()))
