"""Updates of single numbers: slice sampling, and priors as functions of plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from pyro_pmf.model.priors import Fixed, HalfNormal, LogNormal, Normal, Prior

_LARGEST_LOG = 150.0  # of a standard deviation; exp(-2 y) is still a number
Density = Callable[[float], float]


def slice_sample(
    x: float, log_density: Density, width: float, generator: np.random.Generator
) -> float:
    """Draw a number by one update of slice sampling (Neal 2003, figures 3 and 5).

    Parameters
    ----------
    x : float
        Current value.
    log_density : callable
        Log density of a value, up to a constant.
    width : float
        Size of the first interval; any size is exact, about two standard deviations is quick.
    generator : numpy.random.Generator
        Source of randomness.
    """
    level = log_density(x) - generator.exponential()
    left = x - width * generator.random()
    right = left + width
    while log_density(left) > level:
        left -= width
    while log_density(right) > level:
        right += width
    while True:
        new = left + (right - left) * generator.random()
        if log_density(new) > level:
            return new
        if new < x:
            left = new
        else:
            right = new


def log_prior(prior: Prior) -> Density:
    """Return the log density of a prior, up to a constant, for plain numbers.

    Parameters
    ----------
    prior : Prior
        The prior of a parameter.
    """
    if isinstance(prior, HalfNormal):
        return lambda x: -0.5 * (x / prior.scale) ** 2
    if isinstance(prior, Normal):
        return lambda x: -0.5 * ((x - prior.loc) / prior.scale) ** 2
    if isinstance(prior, LogNormal):
        return lambda x: -0.5 * (math.log(x / prior.median) / prior.scale) ** 2 - math.log(x)
    if isinstance(prior, Fixed):
        return lambda x: 0.0
    like = torch.zeros((), dtype=torch.float64)
    return lambda x: float(prior.distribution(like).log_prob(like.new_tensor(x)))


def draw_scale(
    scale: float,
    sum_of_squares: float,
    count: int,
    prior: Density,
    generator: np.random.Generator,
) -> float:
    """Draw the standard deviation of Normals with mean zero, given them.

    Parameters
    ----------
    scale : float
        Current value.
    sum_of_squares : float
        Sum of the squares of the Normals.
    count : int
        Number of the Normals.
    prior : callable
        Log prior density of the standard deviation.
    generator : numpy.random.Generator
        Source of randomness.
    """

    def log_density(y: float) -> float:  # of the logarithm y, whose Jacobian adds y
        if abs(y) > _LARGEST_LOG:
            return -math.inf
        return y - count * y - 0.5 * sum_of_squares * math.exp(-2 * y) + prior(math.exp(y))

    width = max(1.5 / math.sqrt(count), 0.05)
    return math.exp(slice_sample(math.log(scale), log_density, width, generator))
