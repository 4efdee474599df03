"""The ratings of a block of users, and the numbers that a chain holds for each of them.

A chain of many ratings goes through blocks of users in turn, so that what it computes with takes
the memory of a block. Users are independent given the items, so a block draws its own users. What
an item has from its ratings is a sum over all blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from pyro_pmf.data.blocks import Block as UserBlock
from pyro_pmf.data.scratch import Scratch
from pyro_pmf.inference.mcmc.gibbs.tiles import Tiles
from pyro_pmf.inference.mcmc.gibbs.working import Working


@dataclass(frozen=True)
class Grouped:
    """The pairs of a block, grouped by the rows of a side.

    Attributes
    ----------
    rows, columns : slice
        The rows of this side and of the other one that the pairs are of: the users of the block,
        and all items, or the other way round.
    tiles : Tiles
        The pairs, with a row for each of ``rows``.
    row : Tensor, int32, shape (n_pairs,)
        The row of each pair, counted from the first of ``rows``, in row order of users.
    order, back : Tensor, int32, shape (n_pairs,), or None
        Positions that put values in row order of users into the order of this side, and back;
        None where the order is the same.
    """

    rows: slice
    columns: slice
    tiles: Tiles
    row: Tensor
    order: Tensor | None = None
    back: Tensor | None = None

    @classmethod
    def by_users(cls, block: UserBlock) -> Grouped:
        """Group the pairs of a block by its users."""
        pairs = block.pairs
        tiles = Tiles(pairs.pattern, 1)
        return cls(block.users, slice(0, pairs.n_items), tiles, pairs.user.int())

    @classmethod
    def by_items(cls, block: UserBlock) -> Grouped:
        """Group the pairs of a block by items."""
        pairs = block.pairs
        tiles = Tiles(pairs.pattern.T, scratch=pairs.scratch)
        orders = tiles.pattern.to_row_order, tiles.pattern.to_column_order
        return cls(slice(0, pairs.n_items), block.users, tiles, pairs.item.int(), *orders)

    def ordered(self, values: Tensor) -> Tensor:
        """Put values in row order of users into the order of this side."""
        return values if self.order is None else values.index_select(0, self.order)

    def in_user_order(self, values: Tensor) -> Tensor:
        """Put values in the order of this side into row order of users."""
        return values if self.back is None else values.index_select(0, self.back)

    def at_pairs(self, values: Tensor) -> Tensor:
        """Return a value of each row of the side at its pairs, in row order of users."""
        return values[self.rows].index_select(0, self.row)


def sum_by_row(groups: Sequence[Grouped], each: Sequence[Tensor]) -> Tensor:
    """Return sums over the pairs of all blocks, from those of each block.

    Parameters
    ----------
    groups : sequence of Grouped
        The pairs of all blocks, grouped by the same side.
    each : sequence of Tensor, shape (n_rows of the group, ...)
        The sum over each row's pairs of the block.

    Returns
    -------
    Tensor, shape (n_rows, ...)
    """
    if len(groups) == 1:
        return each[0]
    if groups[0].rows == groups[1].rows:
        return reduce(torch.add, each)
    return torch.cat(list(each))


@dataclass
class Block:
    """Ratings of consecutive users, with the numbers that a chain holds for each rating.

    All are in row order of users.

    Attributes
    ----------
    likelihood : Working
        The likelihood of the ratings.
    score, log_noise, log_prob : Tensor, shape (n_ratings,)
        Score, log noise and log likelihood of each rating.
    centre : Tensor, shape (n_ratings,)
        Score at which the likelihood is expanded: a running mean of the score.
    scratch : Scratch
        Where they are kept.
    """

    likelihood: Working
    score: Tensor
    log_noise: Tensor
    log_prob: Tensor
    centre: Tensor
    scratch: Scratch

    @classmethod
    def blank(cls, likelihood: Working, n: int, like: Tensor, scratch: Scratch) -> Block:
        """Return a block whose numbers are not yet computed.

        Parameters
        ----------
        likelihood : Working
            The likelihood of its ratings.
        n : int
            Number of its ratings.
        like : Tensor
            A tensor of the type and on the device of the numbers.
        scratch : Scratch
            Where the numbers are kept.
        """
        score, log_noise, log_prob, centre = (
            scratch.empty(n, like.dtype, like.device).zero_() for _ in range(4)
        )
        kept = likelihood.changed(scratch.keep)
        return cls(kept, score, log_noise, log_prob, centre, scratch)

    def put(self, **numbers: Tensor) -> None:
        """Set some of the numbers."""
        for name, values in numbers.items():
            if self.scratch.is_mapped:
                getattr(self, name).copy_(values)
            else:
                setattr(self, name, values)

    def compute_log_prob(self) -> None:
        """Compute the log likelihoods anew."""
        self.put(log_prob=self.likelihood.log_prob(self.score, self.log_noise))
