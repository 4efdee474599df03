"""From a table to indices: every column is checked, and rows are sorted by pair."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from pyro_pmf.data.columns import Columns
from pyro_pmf.data.ids import read_ids
from pyro_pmf.data.table import RowsByPair, read_ratings, read_scale, read_times
from pyro_pmf.errors import RatingsError


class Encoded(NamedTuple):
    """A table with indices in place of ids, sorted by user, then by item: one row per pair.

    Attributes
    ----------
    user, item : ndarray, int64, shape (n_pairs,)
        Indices into the ids.
    user_ids, item_ids : pandas.Index
        The ids, sorted and unique.
    rating : ndarray, float64, shape (n_pairs,), or None
        In rating units; None if the table has none.
    times : pandas.Series, shape (n_pairs,), or None
        Times, if the table has some.
    scale : tuple of float
        The lowest and the highest possible rating.
    kept : ndarray, int, shape (n_pairs,)
        Position of each pair in the table.
    """

    user: np.ndarray
    item: np.ndarray
    user_ids: pd.Index
    item_ids: pd.Index
    rating: np.ndarray | None
    times: pd.Series | None
    scale: tuple[float, float]
    kept: np.ndarray


def encoded(
    table: pd.DataFrame,
    columns: Columns,
    scale: tuple[float, float] | None,
    on_duplicate: str,
) -> Encoded:
    """Check and encode a table of the columns in use.

    Parameters
    ----------
    table : pandas.DataFrame
        The caller's table.
    columns : Columns
        Names of its columns.
    scale, on_duplicate
        As for `Ratings.from_frame`.

    Raises
    ------
    RatingsError
        If the table is empty, or an id, a rating, a time, the scale or a repeated pair is refused.
    """
    if not len(table):
        raise RatingsError("The table has no rows: give at least two ratings that differ.")
    user, user_ids = read_ids(table, columns.user)
    item, item_ids = read_ids(table, columns.item)
    rating = None if columns.rating is None else read_ratings(table, columns.rating)
    times = None if columns.time is None else read_times(table, columns.time)
    bounds = read_scale(table, rating, scale)
    rows = RowsByPair.of(table, user, item, times, on_duplicate)
    kept = rows.kept
    if rating is not None:
        rating = rows.rating(rating, bounds)
    if times is not None:
        times = times.iloc[kept].reset_index(drop=True)
    return Encoded(user[kept], item[kept], user_ids, item_ids, rating, times, bounds, kept)
