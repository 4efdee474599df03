"""Pairs known to be rated, whose ratings are not known: the history of a fit."""

from __future__ import annotations

import torch

from pyro_pmf.data.frames import IntoFrame
from pyro_pmf.data.ids import with_whole_ids
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings


def with_history(
    ratings: Ratings, history: Ratings | IntoFrame | None
) -> tuple[Ratings, Pairs | None]:
    """Add pairs known to be rated to the pairs of some ratings.

    Parameters
    ----------
    ratings : Ratings
        The training ratings.
    history : Ratings or table, or None
        Pairs by id, see `Ratings.as_pairs`. Ratings are not looked at, and pairs may repeat or be
        among the training ratings.

    Returns
    -------
    ratings : Ratings
        The training ratings, indexed by their own ids and those of the history. Rows of the
        factors of the other ids then have no ratings.
    seen : Pairs or None
        All pairs with I_ij = 1, sorted by user, then by item, without values; None if ``history``
        has no pairs.

    Raises
    ------
    RatingsError
        If a column is missing, an id is missing, or ids are of another type than the training ids.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"user": [1, 1, 2], "item": [7, 9, 9], "rating": [4.0, 1.0, 5.0]})
    >>> rated = pd.DataFrame({"user": [2], "item": [8]})
    >>> ratings, seen = with_history(Ratings.from_frame(frame), rated)
    >>> ratings.item_ids.tolist(), len(seen)
    ([7, 8, 9], 4)
    """
    if history is None:
        return ratings, None
    pairs = ratings.as_pairs(history)
    if not len(pairs):
        return ratings, None
    if isinstance(pairs, Ratings):
        also = pairs
    else:
        also = Ratings.from_frame(
            with_whole_ids(pairs, ratings),
            rating=None,
            scale=ratings.scale,
            on_duplicate="last",
            dtype=ratings.dtype,
        )
    ratings.locate(also)  # refuses ids of another type
    ratings = ratings.indexed_by(
        ratings.user_ids.union(also.user_ids), ratings.item_ids.union(also.item_ids)
    )
    user, item = ratings.locate(also)
    n = ratings.n_items
    cells = torch.cat([ratings.user * n + ratings.item, user * n + item]).unique()
    shape = ratings.n_users, n
    return ratings, Pairs(cells // n, cells % n, *shape, dtype=ratings.dtype)
