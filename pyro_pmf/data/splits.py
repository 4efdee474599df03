"""Choose the rows of a table that are held out."""

from __future__ import annotations

from numbers import Real

import numpy as np
import pandas as pd

from pyro_pmf.arguments import require_integer, require_seed
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.errors import RatingsError


def random_rows(n_rows: int, fraction: float, seed: int) -> np.ndarray:
    """Choose a random fraction of the rows.

    Parameters
    ----------
    n_rows : int
        Number of rows of the table.
    fraction : float
        Share of the rows to choose, inside (0, 1).
    seed : int
        Seed of the choice. No global random state is read or changed.

    Returns
    -------
    ndarray, bool, shape (n_rows,)
        Whether each row is chosen.

    Raises
    ------
    RatingsError
        If ``fraction`` is outside (0, 1).
    PMFError
        If ``seed`` is not an integer from 0 to 2^32 - 1.
    """
    require_seed(seed)
    n_chosen = _share(n_rows, fraction)
    return np.random.default_rng(seed).permutation(n_rows) < n_chosen


def random_rows_of_each_user(pairs: Pairs, fraction: float, seed: int) -> np.ndarray:
    """Choose a random fraction of each user's rows, rounded, and never all of them.

    Parameters
    ----------
    pairs : Pairs
        One pair per row of the table.
    fraction, seed
        See `random_rows`.

    Returns
    -------
    ndarray, bool, shape (n_rows,)
        Whether each row is chosen.

    Raises
    ------
    RatingsError, PMFError
        See `random_rows`.
    """
    require_seed(seed)
    _share(len(pairs), fraction)
    counts = pairs.user_counts.cpu().numpy()
    n_chosen = np.minimum(np.rint(counts * fraction).astype(int), counts - 1)
    user = pairs.user.cpu().numpy()
    # Shuffle the rows within each user and keep the order of users.
    order = np.lexsort((np.random.default_rng(seed).random(len(pairs)), user))
    place = np.arange(len(pairs)) - pairs.pattern.row_pointers.cpu().numpy()[user]
    chosen = np.empty(len(pairs), dtype=bool)
    chosen[order] = place < n_chosen[user]
    return chosen


def latest_rows(time: pd.Series, fraction: float) -> np.ndarray:
    """Choose the latest fraction of the rows; among equal times, the last rows.

    Parameters
    ----------
    time : pandas.Series, shape (n_rows,)
        Times of the rows: numbers or datetimes.
    fraction : float
        Share of the rows to choose, inside (0, 1).

    Returns
    -------
    ndarray, bool, shape (n_rows,)
        Whether each row is chosen.

    Raises
    ------
    RatingsError
        If ``fraction`` is outside (0, 1).
    """
    n_kept = len(time) - _share(len(time), fraction)
    chosen = np.zeros(len(time), dtype=bool)
    chosen[time.argsort(kind="stable").to_numpy()[n_kept:]] = True
    return chosen


def folds(n_rows: int, k: int, seed: int) -> np.ndarray:
    """Assign the rows to k folds of about equal size at random.

    Parameters
    ----------
    n_rows : int
        Number of rows of the table.
    k : int
        Number of folds, from 2 to ``n_rows``.
    seed : int
        Seed of the assignment. No global random state is read or changed.

    Returns
    -------
    ndarray, int, shape (n_rows,)
        The fold of each row, from 0.

    Raises
    ------
    RatingsError
        If ``k`` is not an integer from 2 to ``n_rows``.
    PMFError
        If ``seed`` is not an integer from 0 to 2^32 - 1.
    """
    require_integer("k", k, least=2, error=RatingsError)
    require_seed(seed)
    if k > n_rows:
        raise RatingsError(f"k={k} is outside 2 to {n_rows}, the number of ratings.")
    return np.random.default_rng(seed).permutation(n_rows) % k


def _share(n_rows: int, fraction: float) -> int:
    """Return the number of rows in a fraction, rounded."""
    if not isinstance(fraction, Real):
        raise RatingsError(f"test_fraction must be a number such as 0.1, not {fraction!r}.")
    if not 0 < fraction < 1:
        raise RatingsError(f"test_fraction={fraction} is outside (0, 1): try 0.1.")
    return round(n_rows * float(fraction))
