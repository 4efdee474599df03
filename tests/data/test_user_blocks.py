"""Blocks of users are together all users, with all of their ratings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pyro_pmf import PMF, Ratings
from pyro_pmf.data import blocks
from pyro_pmf.data.blocks import blocks_of, number_of_blocks
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.shards import shard_of
from pyro_pmf.datasets import simulate


@pytest.fixture
def ratings() -> Ratings:
    """Ratings of 30 users; the first, one in the middle and the last few have none."""
    ratings = simulate(PMF(1), 30, 20, 300, seed=0)[0].to("cpu", torch.float64)
    n = ratings.n_users
    return ratings.keep(~np.isin(ratings.user.numpy(), [0, 13, n - 2, n - 1]))


@pytest.mark.parametrize("n_blocks", [1, 2, 5, 100])
def test_they_are_all_users_and_all_ratings_in_order(n_blocks, ratings):
    found = blocks_of(ratings, n_blocks)
    bounds = [(block.users.start, block.users.stop) for block in found]
    assert (bounds[0][0], bounds[-1][1]) == (0, ratings.n_users)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    assert len(found) <= n_blocks
    for block in found:
        assert block.pairs.n_users == block.users.stop - block.users.start
        assert block.pairs.n_items == ratings.n_items
        assert block.pairs.dtype == torch.float64
    user = torch.cat([block.pairs.user + block.users.start for block in found])
    assert torch.equal(user.long(), ratings.user)
    for name in ("item", "value"):
        parts = [getattr(block.pairs, name) for block in found]
        assert torch.equal(torch.cat(parts), getattr(ratings, name))


def test_one_block_is_the_ratings_themselves(ratings):
    (block,) = blocks_of(ratings, 1)
    assert block.pairs is ratings


def test_pairs_without_values_have_the_type_of_the_others(ratings):
    pairs = ratings.without_values()
    assert {block.pairs.dtype for block in blocks_of(pairs, 3)} == {torch.float64}


@pytest.mark.parametrize(("size", "wanted"), [(1 << 20, 1), (300, 1), (100, 3), (70, 5)])
def test_many_ratings_have_several(size, wanted, monkeypatch):
    ratings = simulate(PMF(1), 30, 20, 300, seed=0)[0]
    monkeypatch.setattr(blocks, "_IN_A_BLOCK", size)
    assert number_of_blocks(ratings) == wanted
    assert number_of_blocks(ratings.to("meta")) == 1


def test_those_of_shards_are_half_as_large(monkeypatch):
    monkeypatch.setattr(blocks, "_IN_A_BLOCK", 100)
    pairs = Pairs(torch.arange(300), torch.arange(300) % 7, 300, 7)
    assert number_of_blocks(pairs) == 3
    assert number_of_blocks(shard_of(pairs, 0, 2)) == 3


def test_no_ratings_are_one_block():
    none = torch.zeros(0, dtype=torch.int64)
    assert number_of_blocks(Pairs(none, none, 3, 2)) == 1
