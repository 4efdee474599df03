"""Draws held against a known mean and covariance."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm

from pyro_pmf.moments.chains import mcse_mean


def whiten(draws: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return draws, shape (n, d), in coordinates that should be independent standard Normals."""
    root = np.linalg.cholesky(covariance)
    return np.linalg.solve(root, (draws - mean).T).T


def worst_z(whitened: np.ndarray, is_chain: bool) -> tuple[float, float]:
    """Compare whitened draws with standard Normals: all means, variances and covariances.

    Returns
    -------
    worst : float
        The largest deviation, in Monte Carlo standard errors.
    limit : float
        What it exceeds with probability 1e-3 if the draws are right.
    """
    n, d = whitened.shape
    i, j = np.tril_indices(d)
    moments = np.concatenate([whitened, whitened[:, i] * whitened[:, j] - (i == j)], 1)
    error = moments.std(0) / math.sqrt(n)
    if is_chain:
        error = mcse_mean(moments[None])
    return float(np.abs(moments.mean(0) / error).max()), float(norm.isf(5e-4 / moments.shape[1]))
