"""Ratings cut into blocks of consecutive users; sums over many ratings go through them in turn."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from pyro_pmf.data.pairs import CellBlocks, Pairs
from pyro_pmf.data.shards import Shard

# Ratings of a block. Its tensors are small enough for memory that is used again, without new pages
# at each step.
_IN_A_BLOCK = 1 << 20


class Block(NamedTuple):
    """Ratings of consecutive users.

    Attributes
    ----------
    users : slice
        The users, among all.
    pairs : Pairs
        Their ratings; rows are these users, from 0, columns are all items.
    """

    users: slice
    pairs: Pairs


def number_of_blocks(ratings: Pairs) -> int:
    """Return the number of blocks through which sums over ratings go: one on a GPU.

    Parameters
    ----------
    ratings : Pairs
        The ratings.
    """
    if ratings.device.type != "cpu":
        return 1
    # processes that share a fit may share a cache, too
    size = _IN_A_BLOCK // (2 if isinstance(ratings, Shard) else 1)
    return max(math.ceil(len(ratings) / size), 1)


def blocks_of(ratings: Pairs, n_blocks: int) -> list[Block]:
    """Cut ratings into blocks of users, with about as many ratings each.

    Parameters
    ----------
    ratings : Pairs
        The ratings, by user.
    n_blocks : int
        Number of blocks; there are fewer where one user has more ratings than a block holds.

    Returns
    -------
    list of Block
        Together, all users and all ratings, in order.
    """
    if n_blocks == 1:
        return [Block(slice(0, ratings.n_users), ratings)]
    cut, scratch = ratings.user_blocks(n_blocks), ratings.scratch
    firsts = [0, *(int(pairs.user[0]) for pairs in cut[1:]), ratings.n_users]
    return [
        Block(
            slice(first, last),
            Pairs(
                *(scratch.keep((pairs.user - first).int()), pairs.item),
                *(last - first, ratings.n_items),
                pairs.value,
                pairs.dtype,
                scratch,
            ),
        )
        for (first, last), pairs in zip(itertools.pairwise(firsts), cut, strict=True)
    ]


def cells_of(blocks: list[Block]) -> CellBlocks:
    """Return the cells of blocks of users that are together all users.

    Parameters
    ----------
    blocks : list of Block
        The blocks, as `blocks_of` cuts them.
    """
    users, pairs = zip(*blocks, strict=True)
    return CellBlocks(users, tuple(each.pattern for each in pairs))
