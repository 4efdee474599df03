"""The ratings of some users, as one process of a fit holds them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from pyro_pmf.data.pairs import Pairs


class Shard(Pairs):
    """The pairs of consecutive users among all pairs, as rows from 0; columns are all items.

    Parameters
    ----------
    pairs : Pairs
        All pairs.
    first, last : int
        The users from ``first`` on, before ``last``.
    item_counts : Tensor, shape (n_items,)
        Number of pairs of each item in all shards.

    Attributes
    ----------
    first, last : int
        The users, by their indices among all users.
    n_all_users, n_all_pairs : int
        Numbers of users and of pairs in all shards.
    """

    def __init__(self, pairs: Pairs, first: int, last: int, item_counts: Tensor) -> None:
        bounds = torch.tensor([first, last], device=pairs.device)
        start, end = torch.searchsorted(pairs.user.contiguous(), bounds).tolist()
        super().__init__(
            pairs.user[start:end] - first,
            pairs.item[start:end].clone(),  # so that all pairs may be forgotten
            last - first,
            pairs.n_items,
            None if pairs.value is None else pairs.value[start:end].clone(),
            pairs.dtype,
        )
        self.first, self.last = first, last
        self.n_all_users, self.n_all_pairs = pairs.n_users, len(pairs)
        self._item_counts = item_counts

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Shard:
        """Return the same shard on another device or with another floating point type."""
        moved, other = super().to(device, dtype), copy.copy(self)
        vars(other).update(vars(moved))
        other._item_counts = self._item_counts.to(device)
        return other

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
    counts = torch.bincount(pairs.item, minlength=pairs.n_items).int()
    first, last = _cuts(pairs if of is None else of, size)[rank : rank + 2]
    return Shard(pairs, first, last, counts)


def _cuts(pairs: Pairs, size: int) -> list[int]:
    """Return the first user of each shard, and the number of users."""
    ends = torch.bincount(pairs.user, minlength=pairs.n_users).cumsum(0)
    wanted = torch.arange(1, size, device=ends.device) * (len(pairs) / size)
    # a user goes to the shard in which most of its pairs would be
    middles = ends.double() - torch.diff(ends, prepend=ends[:1] * 0).double() / 2
    return [0, *torch.searchsorted(middles, wanted.double()).tolist(), pairs.n_users]
