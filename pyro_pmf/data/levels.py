"""How ratings were recorded: on evenly spaced levels, rounded in another way, or exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_MOST_LEVELS = 101  # evenly spaced, from the lowest to the highest possible rating
_ROUNDOFF = 2e-6  # of the range: error of a level that was computed from others
_REMAINDER = 1e-4  # of the range: a remainder this small is 0, since its errors add up
_LEAST = 0.01  # spacing of ratings that repeat off a lattice, in their standard deviations
_MOST = math.sqrt(3.0)  # the same, of any ratings: rounding is a quarter of the variance at most


@dataclass(frozen=True)
class Recorded:
    """How the ratings of a whole table were recorded; splits keep it.

    Attributes
    ----------
    gap : float or None
        Distance of evenly spaced levels in rating units, see `level_gap`; None without levels.
    scale_given : bool
        Whether the caller said which ratings are possible, by a scale.
    """

    gap: float | None = None
    scale_given: bool = False


def level_gap(rating: np.ndarray, scale: tuple[float, float]) -> float | None:
    """Return the distance of evenly spaced levels on which all ratings lie.

    Parameters
    ----------
    rating : ndarray, shape (n,)
        Ratings, in rating units, at least one.
    scale : tuple of float
        The lowest and the highest possible rating.

    Returns
    -------
    float or None
        The largest distance, in rating units, such that every rating is a level; None if all
        ratings are equal, or a lattice from the lowest to the highest would have more than 101
        levels.

    Examples
    --------
    >>> level_gap(np.array([1.0, 2.0, 4.5]), (0.5, 5.0))
    0.5
    >>> level_gap(np.array([1.0, 2.0, np.pi]), (0.5, 5.0))
    """
    levels = np.unique(rating)
    if len(levels) < 2 or len(levels) > 2 * _MOST_LEVELS:  # float32 may tell one level from itself
        return None
    span = max(scale[1], levels[-1]) - min(scale[0], levels[0])
    gap, least = 0.0, span / (_MOST_LEVELS - 0.5)
    for difference in np.diff(levels):  # the greatest common divisor, by Euclid
        a, b = max(gap, difference), min(gap, difference)
        while b > _REMAINDER * span:
            a, b = b, abs(math.remainder(a, b))
        gap = a
        if _REMAINDER * span < gap < least:
            return None
    n_gaps = round(float(levels[-1] - levels[0]) / gap)
    gap = float(levels[-1] - levels[0]) / max(n_gaps, 1)  # over the range, where errors are small
    steps = (levels - levels[0]) / gap
    off = np.abs(steps - steps.round()).max() * gap
    held = np.spacing(np.float32(np.abs(levels).max()))  # levels may have been float32 numbers
    return gap if off <= max(_ROUNDOFF * span, held) and gap > least else None


def n_levels(gap: float | None, rating: np.ndarray, scale: tuple[float, float]) -> int | None:
    """Return the number of evenly spaced levels from the lowest to the highest possible rating.

    Parameters
    ----------
    gap : float or None
        Distance of levels, see `level_gap`.
    rating : ndarray, shape (n,)
        Ratings, in rating units.
    scale : tuple of float
        The lowest and the highest possible rating.

    Returns
    -------
    int or None
        None if there are no levels, or an end of the scale is none of them.

    Examples
    --------
    >>> n_levels(0.5, np.array([1.0, 2.0, 4.5]), (0.5, 5.0))
    10
    """
    if gap is None:
        return None
    steps = (np.array([rating[0], scale[1]]) - scale[0]) / gap
    if np.abs(steps - steps.round()).max() > 1e-3:
        return None
    return int(steps[1].round()) + 1


def spacing(value: np.ndarray, gap: float | None) -> float:
    """Return the spacing of recorded values: rounding to it has variance spacing^2 / 12.

    Two draws from a Normal distribution that are rounded to a fine spacing d are equal with
    probability d / (2 sqrt(pi) sd). The share of equal pairs thus tells d where there is no
    lattice. Where far more pairs are equal than a lattice explains, as among counts up to 100 of
    which half are 0, the equal ones say as little of the noise as coarse rounding would. No
    spacing explains more than a quarter of the variance of the values.

    Parameters
    ----------
    value : ndarray, shape (n,)
        Ratings, on any scale.
    gap : float or None
        Distance of evenly spaced levels on this scale; None without such levels.

    Returns
    -------
    float
        In the unit of ``value``; 0 if no value repeats and there is no lattice, so that nothing
        tells of rounding.

    Examples
    --------
    >>> spacing(np.array([1.0, 1.0, 2.0, 4.0, 5.0]), 1.0)
    1.0
    >>> spacing(np.array([0.1, 0.25, 0.7]), None)
    0.0
    """
    n, sd = len(value), float(value.std())
    counts = np.unique(value, return_counts=True)[1].astype(float)
    share = float((counts * (counts - 1)).sum()) / max(n * (n - 1), 1)
    if gap is None and not share:
        return 0.0
    of_pairs = 2 * math.sqrt(math.pi) * sd * share
    finest = _LEAST * sd if gap is None else gap
    return min(max(finest, of_pairs - 2 * (gap or 0.0)), _MOST * sd)
