"""Numerical integrals over random quantities, for the tests of this folder."""

import numpy as np
import torch
from scipy import stats
from scipy.special import expit

from pyro_pmf.moments.gaussian import Gaussian, LogGaussian


def number(value):
    return torch.as_tensor(value, dtype=torch.float64)


# The trapezoid rule for E f(z), z ~ Normal(0, 1): exact to 1e-14 for the smooth functions here.
GRID = np.linspace(-12, 12, 241)
GRID_WEIGHTS = stats.norm.pdf(GRID) * (GRID[1] - GRID[0])


def expectation(function, mean, sd):
    """E f(x) for x ~ Normal(mean, sd^2)."""
    return sum(w * function(mean + sd * z) for z, w in zip(GRID, GRID_WEIGHTS, strict=True))


KINDS = ["tensor", "Gaussian", "LogGaussian", "Transformed"]


def quantity(kind):
    """A quantity and a function that averages over it."""
    if kind == "tensor":
        return number([0.3]), lambda f: f(0.3)
    mean, var = number([0.3]), number([0.16])
    if kind == "Gaussian":
        return Gaussian(mean, var), lambda f: expectation(f, 0.3, 0.4)
    if kind == "LogGaussian":
        return LogGaussian(mean, var), lambda f: expectation(lambda x: f(np.exp(x)), 0.3, 0.4)
    return torch.sigmoid(Gaussian(mean, var)), lambda f: expectation(
        lambda x: f(expit(x)), 0.3, 0.4
    )
