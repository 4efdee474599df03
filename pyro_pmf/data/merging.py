"""New ratings joined to earlier ones, by id."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.data.frames import IntoFrame
from pyro_pmf.data.ids import read_ids, with_whole_ids
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings, as_frame, observed
from pyro_pmf.data.table import RowsByPair, refuse
from pyro_pmf.errors import RatingsError


def merged(ratings: Ratings, new: Ratings | IntoFrame) -> Ratings:
    """Return earlier ratings and new ones as one table, on the model scale of the earlier.

    Parameters
    ----------
    ratings : Ratings
        Earlier ratings.
    new : Ratings or table
        As for `Ratings.as_pairs`, with ratings and at least one row. Of a pair that occurs more
        than once, the last rating counts; a new one replaces an earlier one.

    Returns
    -------
    Ratings
        With the ids of both, on the CPU, without times. NaN stands for earlier ratings that were
        left out of a saved posterior.

    Raises
    ------
    RatingsError
        If a column or an id is missing, ids are of another type than the earlier ones, a rating is
        not a finite number, or the transform of the earlier ratings cannot map it.
    """
    pairs = ratings.as_pairs(new)
    rating = observed(pairs)
    table = as_frame(pairs)
    if not len(table):
        raise RatingsError("There are no new ratings: give at least one.")
    ratings.locate(table)  # refuses ids of another type
    table = with_whole_ids(table, ratings)
    user, user_ids = read_ids(table, "user")
    item, item_ids = read_ids(table, "item")
    refuse_impossible(ratings, table, rating)
    rows = RowsByPair.of(table, user, item, None, "last").kept
    joined = ratings.indexed_by(ratings.user_ids.union(user_ids), ratings.item_ids.union(item_ids))
    n = joined.n_items
    cells = np.concatenate(
        [
            joined.user.cpu().numpy() * n + joined.item.cpu().numpy(),
            joined.user_ids.get_indexer(user_ids)[user[rows]] * n
            + joined.item_ids.get_indexer(item_ids)[item[rows]],
        ]
    )
    earlier = np.full(len(joined), np.nan) if joined.rating is None else joined.rating
    ratings_of = np.concatenate([earlier, rating[rows]])
    cells, latest = np.unique(cells[::-1], return_index=True)
    return joined.replaced(
        user=torch.from_numpy(cells // n),
        item=torch.from_numpy(cells % n),
        rating=ratings_of[::-1][latest],
        time=None,
    )


def refuse_impossible(ratings: Ratings, table: pd.DataFrame, rating: np.ndarray) -> None:
    """Refuse ratings that the transform of earlier ones cannot map.

    Parameters
    ----------
    ratings : Ratings
        Earlier ratings.
    table : pandas.DataFrame
        The caller's table, for the message.
    rating : ndarray, float64, shape (n,)
        Ratings of the table, in rating units.

    Raises
    ------
    RatingsError
        If there are such ratings.
    """
    refuse(
        table,
        np.flatnonzero(~ratings.transform.allows(rating)),
        f"a rating outside the scale of the training ratings, {ratings.scale}"
        if ratings.transform.bounds
        else f"a rating that {ratings.transform} cannot map",
        "Fit with a scale=(lowest, highest) that holds them, or drop these rows."
        if ratings.transform.bounds
        else "Correct these rows, or drop them.",
    )


def rows_of(
    ratings: Ratings, seen: Pairs, plate: str, rows: Tensor
) -> tuple[Ratings, Pairs, Tensor]:
    """Return the ratings of some users, or of some items, as a table of their own.

    Parameters
    ----------
    ratings : Ratings
        All ratings.
    seen : Pairs
        All pairs with I_ij = 1, in the same matrix.
    plate : {"users", "items"}
        Whose ratings.
    rows : Tensor, int64, shape (n_rows,)
        Ascending indices of the users, or of the items.

    Returns
    -------
    ratings : Ratings
        A row for each of these, in this order; of the other side, those that they have a pair
        with.
    seen : Pairs
        Their pairs with I_ij = 1, in the matrix of the new table.
    others : Tensor, int64, shape (n_others,)
        Ascending indices of the rows of the other side.
    """
    of_users = plate == "users"
    there = torch.isin(seen.user if of_users else seen.item, rows)
    others = (seen.item if of_users else seen.user)[there].unique()
    users, items = (rows, others) if of_users else (others, rows)
    rated = torch.isin(ratings.user if of_users else ratings.item, rows)
    assert ratings.rating is not None  # as `merged` returned them
    part = ratings.replaced(
        user=torch.searchsorted(users, ratings.user[rated]),
        item=torch.searchsorted(items, ratings.item[rated]),
        user_ids=ratings.user_ids[users.numpy()],
        item_ids=ratings.item_ids[items.numpy()],
        rating=ratings.rating[rated.numpy()],
        time=None,
    )
    return (
        part,
        Pairs(
            torch.searchsorted(users, seen.user[there]),
            torch.searchsorted(items, seen.item[there]),
            len(users),
            len(items),
            dtype=ratings.dtype,
        ),
        others,
    )
