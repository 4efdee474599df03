"""Blocks of users: a partition of the pairs, in their order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.datasets import simulate
from pyro_pmf.model.pmf import PMF

N_ITEMS = 30
COUNTS = st.lists(st.integers(0, N_ITEMS), min_size=1, max_size=25).filter(any)


def pairs_of(counts, values=True):
    """Users with so many pairs each, the last of the items first."""
    user = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    item = torch.cat([torch.arange(N_ITEMS - n, N_ITEMS) for n in counts])
    value = torch.linspace(0, 1, len(user), dtype=torch.float64) if values else None
    return Pairs(user, item, len(counts), N_ITEMS, value)


@given(COUNTS, st.integers(1, 40), st.booleans())
def test_blocks_are_a_partition_into_whole_users(counts, n_blocks, values):
    pairs = pairs_of(counts, values)
    blocks = pairs.user_blocks(n_blocks)
    for name in ("user", "item", "value") if values else ("user", "item"):
        parts = [getattr(block, name) for block in blocks]
        assert torch.equal(torch.cat(parts), getattr(pairs, name))
    assert values or all(block.value is None for block in blocks)
    assert 1 <= len(blocks) <= n_blocks
    assert all(len(block) for block in blocks)
    users = [set(block.user.tolist()) for block in blocks]
    assert sum(map(len, users)) == len(set().union(*users))
    for block in blocks:
        assert (block.n_users, block.n_items) == (len(counts), N_ITEMS)
        assert block.dtype == pairs.dtype
        # an end is the first of a user's that is far enough
        assert len(block) < len(pairs) / n_blocks + max(counts) + 1


@given(COUNTS, st.integers(1, 40))
def test_counts_of_blocks_add_up(counts, n_blocks):
    pairs = pairs_of(counts)
    blocks = pairs.user_blocks(n_blocks)
    assert sum(block.user_counts for block in blocks).tolist() == counts
    assert torch.equal(sum(block.item_counts for block in blocks), pairs.item_counts)


@pytest.mark.parametrize(
    ("counts", "n_blocks", "sizes"),
    [
        ([10, 10, 10, 10], 4, [10, 10, 10, 10]),
        ([10, 10, 10, 10], 2, [20, 20]),
        ([10, 10, 10, 10], 1, [40]),
        ([1, 1, 1], 10, [1, 1, 1]),
        ([1, 28, 1, 1, 1], 4, [1, 28, 3]),
        ([1, 1, 30], 4, [2, 30]),
        ([30, 1, 1], 4, [30, 2]),
        ([0, 0, 5, 0], 3, [5]),
        ([0, 3, 0, 0, 3, 0], 2, [3, 3]),
    ],
)
def test_blocks_of_known_sizes(counts, n_blocks, sizes):
    assert [len(block) for block in pairs_of(counts).user_blocks(n_blocks)] == sizes


def test_blocks_of_many_users_are_nearly_equal():
    train = simulate(PMF(1), 300, 50, 3000, seed=0)[0]
    sizes = [len(block) for block in train.user_blocks(8)]
    assert len(sizes) == 8
    assert max(sizes) - min(sizes) <= 2 * train.user_counts.max()


def test_a_block_of_a_block():
    pairs = pairs_of([3, 4, 5, 6])
    first, second = pairs.user_blocks(2)
    assert torch.equal(first.pattern.row_pointers.diff(), first.user_counts)
    again = second.user_blocks(2)
    assert torch.equal(torch.cat([block.item for block in again]), second.item)
