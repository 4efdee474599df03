"""Compare two methods on the same held-out ratings."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pyro_pmf.prediction.metrics import clustered_error


def rmse_difference(
    rating: np.ndarray, ours: np.ndarray, theirs: np.ndarray, user: np.ndarray
) -> tuple[float, float]:
    """Return RMSE(theirs) - RMSE(ours) and the standard error of this difference.

    The standard error is by the delta method: the influence of a rating on an RMSE is its
    squared error / (2 RMSE). It is clustered by user, since ratings of a user share an estimate.
    """
    squares = np.stack([(rating - mean) ** 2 for mean in (ours, theirs)])
    roots = np.sqrt(squares.mean(axis=1))
    each = squares[1] / (2 * roots[1]) - squares[0] / (2 * roots[0])
    return float(roots[1] - roots[0]), clustered_error(each, user)


def pool(differences: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the mean over seeds and its standard error; seeds count as independent."""
    values, errors = np.array(differences).T
    return float(values.mean()), float(np.sqrt((errors**2).sum()) / len(values))


def seconds_to_reach(curve: Iterable[tuple[float, float]], target: float) -> float | None:
    """Return the seconds of the first point of a curve whose RMSE is at most ``target``.

    Parameters
    ----------
    curve : iterable of (seconds, RMSE)
        In the order of time. Nothing is interpolated: the answer is late by up to one gap
        between points.
    target : float

    Returns
    -------
    float or None
        None if no point reaches it.
    """
    return next((seconds for seconds, rmse in curve if rmse <= target), None)
