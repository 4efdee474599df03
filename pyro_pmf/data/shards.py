"""The ratings of some users, as one process of a fit holds them."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import RatingsError
from pyro_pmf.reducer import Reducer


class Shard(Pairs):
    """The pairs of consecutive users among all users, as rows from 0; columns are all items.

    Parameters
    ----------
    pairs : Pairs
        The pairs, with rows for these users only.
    first : int
        Index of the first of these users among all.
    n_all_users, n_all_pairs : int
        Numbers of users and of pairs in all shards.
    item_counts : Tensor, shape (n_items,)
        Number of pairs of each item in all shards.

    Attributes
    ----------
    first, last : int
        The users from ``first`` on, before ``last``, by their indices among all users.
    """

    def __init__(
        self, pairs: Pairs, first: int, n_all_users: int, n_all_pairs: int, item_counts: Tensor
    ) -> None:
        shape = pairs.n_users, pairs.n_items
        super().__init__(pairs.user, pairs.item, *shape, pairs.value, pairs.dtype, pairs.scratch)
        self.first, self.last = first, first + pairs.n_users
        self.n_all_users, self.n_all_pairs = n_all_users, n_all_pairs
        self._item_counts = item_counts

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Shard:
        """Return the same shard on another device or with another floating point type."""
        of_all = self.first, self.n_all_users, self.n_all_pairs, self._item_counts.to(device)
        return Shard(super().to(device, dtype), *of_all)

    @property
    def item_counts(self) -> Tensor:
        """Number of pairs of each item in all shards, int32, shape (n_items,)."""
        return self._item_counts


def shard_of(pairs: Pairs, rank: int, size: int, of: Pairs | None = None) -> Shard:
    """Return one of several shards with about the same number of pairs each.

    Parameters
    ----------
    pairs : Pairs
        All pairs.
    rank, size : int
        Number of the shard, from 0, and number of shards.
    of : Pairs, optional
        The pairs that say where the users are cut; ``pairs`` by default.

    Returns
    -------
    Shard
        It may be empty: a user is in one shard, whatever its number of pairs.
    """
    first, last = _cuts(pairs if of is None else of, size)[rank : rank + 2]
    bounds = torch.tensor([first, last], device=pairs.device)
    start, end = torch.searchsorted(pairs.user.contiguous(), bounds).tolist()
    own = Pairs(
        pairs.user[start:end] - first,
        pairs.item[start:end].clone(),  # so that all pairs may be forgotten
        last - first,
        pairs.n_items,
        None if pairs.value is None else pairs.value[start:end].clone(),
        pairs.dtype,
    )
    counts = torch.bincount(pairs.item, minlength=pairs.n_items).int()
    return Shard(own, first, pairs.n_users, len(pairs), counts)


def shard_of_part(pairs: Pairs, reducer: Reducer) -> Shard:
    """Return the shard of a process that holds no other users.

    Parameters
    ----------
    pairs : Pairs
        The pairs of its users; columns are the items of all processes.
    reducer : Reducer
        Sums over the processes.
    """
    sizes = reducer.each((pairs.n_users, len(pairs)))
    n_users, n_pairs = zip(*sizes, strict=True)
    counts = reducer.sum(torch.bincount(pairs.item, minlength=pairs.n_items)).int()
    return Shard(pairs, sum(n_users[: reducer.rank]), sum(n_users), sum(n_pairs), counts)


def as_part(ratings: Ratings, reducer: Reducer) -> Ratings | None:
    """Return the ratings of this process with the items of all, if each has users of its own.

    Parameters
    ----------
    ratings : Ratings
        The ratings that this process was given.
    reducer : Reducer
        Sums over the processes.

    Returns
    -------
    Ratings or None
        None if all processes were given the same ratings.

    Raises
    ------
    RatingsError
        If some users are in several parts, or the parts have different scales, transforms or
        types.
    """
    user_hash, item_hash = (
        int(pd.util.hash_pandas_object(ids, index=False).sum())
        for ids in (ratings.user_ids.to_series(), ratings.item_ids.to_series())
    )
    sizes = len(ratings), ratings.n_users, ratings.n_items
    if len(set(reducer.each((*sizes, user_hash, item_hash)))) == 1:
        return None
    units = set(reducer.each((ratings.scale, repr(ratings.transform), str(ratings.dtype))))
    if len(units) > 1:
        raise RatingsError(
            "The processes of this fit hold ratings of different scales, transforms or types: "
            f"{sorted(map(str, units))}. Give the same scale= and transform= in all of them, such "
            "as scale=(1, 5)."
        )
    users = [ids for part in reducer.each(ratings.user_ids.tolist()) for ids in part]
    if n_shared := len(users) - len(set(users)):
        raise RatingsError(
            "Each process of a fit must be given either all ratings, or those of users that no "
            f"other process has: {n_shared} users are in several parts."
        )
    item_ids = ratings.item_ids
    for others in reducer.each(ratings.item_ids):
        item_ids = item_ids.union(others)
    if item_ids.equals(ratings.item_ids):
        return ratings
    return ratings.indexed_by(ratings.user_ids, item_ids)


def _cuts(pairs: Pairs, size: int) -> list[int]:
    """Return the first user of each shard, and the number of users."""
    ends = torch.bincount(pairs.user, minlength=pairs.n_users).cumsum(0)
    wanted = torch.arange(1, size, device=ends.device) * (len(pairs) / size)
    # a user goes to the shard in which most of its pairs would be
    middles = ends.double() - torch.diff(ends, prepend=ends[:1] * 0).double() / 2
    return [0, *torch.searchsorted(middles, wanted.double()).tolist(), pairs.n_users]
