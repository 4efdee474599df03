"""Maps between rating units, which the caller uses, and the model scale."""

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
    """An increasing map from rating units to the model scale.

    Attributes
    ----------
    origin, width : float
        `mean` and `variance` are moments of a quantity x with rating = origin + width x.
    bounds : tuple of float, or None
        The lowest and the highest possible rating, in rating units; None for no bounds.
    """

    origin: float
    width: float
    bounds: tuple[float, float] | None

    @abstractmethod
    def to_value(self, rating: Numbers) -> Numbers:
        """Map ratings to values on the model scale.

        Parameters
        ----------
        rating : float, ndarray or Tensor, any shape
            In rating units.

        Returns
        -------
        float, ndarray or Tensor, the same shape
            On the model scale.
        """

    @abstractmethod
    def to_rating(self, value: Numbers) -> Numbers:
        """Map values on the model scale to ratings: the inverse of `to_value`.

        Parameters
        ----------
        value : float, ndarray or Tensor, any shape
            On the model scale.

        Returns
        -------
        float, ndarray or Tensor, the same shape
            In rating units.
        """

    @abstractmethod
    def log_slope(self, rating: Tensor) -> Tensor | float:
        """Return the log derivative of `to_value`.

        Added to the log density of a value, it gives the log density of the rating.

        Parameters
        ----------
        rating : Tensor, any shape
            In rating units.

        Returns
        -------
        Tensor, the same shape, or float
            A float where the derivative is constant.
        """

    @abstractmethod
    def mean(self, part: Distribution) -> Tensor:
        """Return the mean of x.

        Parameters
        ----------
        part : Distribution
            The distribution of the values, on the model scale.

        Returns
        -------
        Tensor, of the batch shape of ``part``
        """

    @abstractmethod
    def variance(self, part: Distribution) -> Tensor:
        """Return the variance of x; parameter and shape as for `mean`."""

    @abstractmethod
    def allows(self, rating: np.ndarray) -> np.ndarray:
        """Return whether each rating, in rating units, can be mapped: bool, the same shape."""


@dataclass(frozen=True)
class Affine(Transform):
    """value = (rating - origin) / width.

    Parameters
    ----------
    origin : float
        The rating with value 0.
    width : float
        The distance in rating units between the values 0 and 1.
    bounds : tuple of float, optional
        The lowest and the highest possible rating, in rating units.
    """

    origin: float
    width: float
    bounds: tuple[float, float] | None = None

    @classmethod
    def of_scale(cls, low: float, high: float) -> Affine:
        """Return the map to the unit scale: the lowest possible rating to 0, the highest to 1.

        Parameters
        ----------
        low, high : float
            The lowest and the highest possible rating, in rating units.
        """
        return cls(low, high - low, (low, high))

    def to_value(self, rating: Numbers) -> Numbers:
        """Map ratings to the model scale; any shape."""
        return (rating - self.origin) / self.width

    def to_rating(self, value: Numbers) -> Numbers:
        """Map values on the model scale to ratings; any shape."""
        return self.origin + self.width * value

    def log_slope(self, rating: Tensor) -> float:
        """Return the log derivative of `to_value`, a constant."""
        return -math.log(self.width)

    def mean(self, part: Distribution) -> Tensor:
        """Return the mean of the value."""
        return part.mean

    def variance(self, part: Distribution) -> Tensor:
        """Return the variance of the value."""
        return part.variance

    def allows(self, rating: np.ndarray) -> np.ndarray:
        """Return whether each rating lies within the bounds; true without bounds."""
        low, high = self.bounds or (-math.inf, math.inf)
        return (rating >= low) & (rating <= high)


COUNT = Affine(0.0, 1.0)  # the transform "count"


@dataclass(frozen=True)
class Log1p(Transform):
    """value = (log(1 + rating) - log_mean) / log_sd.

    Parameters
    ----------
    log_mean, log_sd : float
        Mean and standard deviation of log(1 + rating) over the ratings that are standardized.
    """

    log_mean: float
    log_sd: float
    # `mean` and `variance` are in rating units, and counts have no upper bound.
    origin: float = field(default=0.0, init=False, repr=False)
    width: float = field(default=1.0, init=False, repr=False)
    bounds: tuple[float, float] | None = field(default=None, init=False, repr=False)

    def to_value(self, rating: Numbers) -> Numbers:
        """Map ratings to the model scale; ratings of -1 or less to minus infinity."""
        if isinstance(rating, Tensor):
            return (torch.log1p(rating.clamp(min=-1.0)) - self.log_mean) / self.log_sd
        with np.errstate(divide="ignore"):
            return (np.log1p(np.maximum(rating, -1.0)) - self.log_mean) / self.log_sd

    def to_rating(self, value: Numbers) -> Numbers:
        """Map values on the model scale to ratings; any shape."""
        log = self.log_mean + self.log_sd * value
        return torch.expm1(log) if isinstance(log, Tensor) else np.expm1(log)

    def log_slope(self, rating: Tensor) -> Tensor:
        """Return the log derivative of `to_value`.

        At ratings of -1 or less, where the density is 0, only the constant term is kept.
        """
        return torch.where(rating > -1, -torch.log1p(rating), 0.0) - math.log(self.log_sd)

    def mean(self, part: Distribution) -> Tensor:
        """Return the mean of the rating, where 1 + rating is log-normal. Raises as `log_normal`.

        The mean grows with exp(v / 2), v the variance of log(1 + rating). Where the noise of a
        user is large or poorly known, an unobserved tail dominates it: look at quantiles instead.
        """
        log_mean, log_sd = self.log_normal(part)
        return torch.expm1(log_mean + log_sd**2 / 2)

    def variance(self, part: Distribution) -> Tensor:
        """Return the variance of the rating. Raises as `log_normal`."""
        log_mean, log_sd = self.log_normal(part)
        return (2 * log_mean + log_sd**2).exp() * torch.expm1(log_sd**2)

    def log_normal(self, part: Distribution) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation of log(1 + rating).

        Parameters
        ----------
        part : Normal
            The distribution of the values, on the model scale.

        Returns
        -------
        log_mean, log_sd : Tensor, float64, of the batch shape of ``part``

        Raises
        ------
        PMFError
            If ``part`` is not Normal: the rating may then have no mean.
        """
        if not isinstance(part, Normal):
            raise PMFError(
                f'With transform="log1p", moments and CRPS of a {type(part).__name__} have no '
                "closed form and may not exist: use a Normal likelihood, or another transform."
            )
        mean, sd = part.loc.double(), part.scale.double()
        return self.log_mean + self.log_sd * mean, self.log_sd * sd

    def allows(self, rating: np.ndarray) -> np.ndarray:
        """Return whether each rating is at least 0."""
        return rating >= 0


def transform_of(
    name: Name, rating: np.ndarray | None, scale: tuple[float, float]
) -> Affine | Log1p:
    """Make a transform by name.

    Parameters
    ----------
    name : {"unit", "standardize", "log1p", "count"}
        See `Ratings.from_frame`.
    rating : ndarray, shape (n,), or None
        The ratings to standardize, in rating units: not all equal; for "log1p" at least 0.
    scale : tuple of float
        The lowest and the highest possible rating, in rating units.

    Returns
    -------
    Affine or Log1p

    Raises
    ------
    RatingsError
        If ``name`` is unknown, or ``rating`` is None and ``name`` is not "unit".
    """
    if name not in get_args(Name):
        raise RatingsError(f"transform={name!r} is unknown: give one of {get_args(Name)}.")
    if name == "unit":
        return Affine.of_scale(*scale)
    if rating is None:
        raise RatingsError(
            f"transform={name!r} needs ratings. For pairs without values leave transform out: "
            "predictions use the transform of the training ratings."
        )
    if name == "count":
        return COUNT
    if name == "standardize":
        return Affine(float(rating.mean()), float(rating.std()))
    logs = np.log1p(rating)
    return Log1p(float(logs.mean()), float(logs.std()))
