"""Which rows of a table of ratings are held out: a bool or a number for each row."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pyro_pmf.arguments import require_integer, require_seed
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.errors import RatingsError


def random_rows(n_rows: int, fraction: float, seed: int) -> np.ndarray:
    """Choose a random fraction of the rows."""
    require_seed(seed)
    n_chosen = _share(n_rows, fraction)
    return np.random.default_rng(seed).permutation(n_rows) < n_chosen


def random_rows_of_each_user(pairs: Pairs, fraction: float, seed: int) -> np.ndarray:
    """Choose a random fraction of each user's rows, rounded, and never all of them."""
    require_seed(seed)
    _share(len(pairs), fraction)
    counts = pairs.user_counts.cpu().numpy()
    n_chosen = np.minimum(np.rint(counts * fraction).astype(int), counts - 1)
    user = pairs.user.cpu().numpy()
    # Rows are shuffled within each user, and the users stay where they are.
    order = np.lexsort((np.random.default_rng(seed).random(len(pairs)), user))
    place = np.arange(len(pairs)) - pairs.pattern.row_pointers.cpu().numpy()[user]
    chosen = np.empty(len(pairs), dtype=bool)
    chosen[order] = place < n_chosen[user]
    return chosen


def latest_rows(time: pd.Series, fraction: float) -> np.ndarray:
    """Choose the latest fraction of the rows; of rows with equal times, the last ones."""
    n_kept = len(time) - _share(len(time), fraction)
    chosen = np.zeros(len(time), dtype=bool)
    chosen[time.argsort(kind="stable").to_numpy()[n_kept:]] = True
    return chosen


def folds(n_rows: int, k: int, seed: int) -> np.ndarray:
    """Deal the rows out to k folds at random; return the fold of each row."""
    require_integer("k", k, least=2, error=RatingsError)
    require_seed(seed)
    if k > n_rows:
        raise RatingsError(f"k={k} is outside 2 to {n_rows}, the number of ratings.")
    return np.random.default_rng(seed).permutation(n_rows) % k


def _share(n_rows: int, fraction: float) -> int:
    """Return how many rows a fraction is."""
    if not 0 < fraction < 1:
        raise RatingsError(f"test_fraction={fraction} is outside (0, 1): try 0.1.")
    return round(n_rows * fraction)
