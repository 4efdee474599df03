"""Sums in tiles of columns, against the same sums without tiles."""

import numpy as np
import pytest
import torch

from pyro_pmf import PMF, OrderedLogit
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.mcmc.gibbs import tiles, working
from pyro_pmf.inference.mcmc.gibbs.sampler import Sampler
from pyro_pmf.inference.mcmc.gibbs.tiles import Tiles
from pyro_pmf.moments.bilinear import unpacked

# 7 users, 4 items; user 2 and item 2 have no ratings
USER = torch.tensor([0, 0, 1, 1, 1, 3, 4, 4, 5, 6])
ITEM = torch.tensor([1, 3, 0, 1, 3, 1, 0, 3, 1, 1])
PATTERN = Pairs(USER, ITEM, 7, 4).pattern


@pytest.mark.parametrize("n_tiles", [1, 2, 3, 7])
def test_they_are_the_dense_sums(n_tiles):
    cells, order = Tiles(PATTERN.T, n_tiles), torch.argsort(ITEM, stable=True)
    X, Y = torch.randn(7, 3).double(), torch.randn(4, 3).double()
    weights = torch.randn(len(USER)).double()
    in_tiles = weights[cells.pattern.to_row_order]
    torch.testing.assert_close(in_tiles[cells.pattern.to_column_order], weights)
    dense = torch.zeros(4, 7).double()
    dense[ITEM, USER] = weights
    torch.testing.assert_close(cells.weighted_sum(in_tiles, X), dense @ X)
    torch.testing.assert_close(cells.sum(in_tiles), dense.sum(1))
    grams = torch.einsum("ji,ik,il->jkl", dense, X, X)
    torch.testing.assert_close(unpacked(cells.gram(in_tiles, X)), grams)
    products = cells.dot(Y, X)[cells.pattern.to_column_order]
    torch.testing.assert_close(products, (Y @ X.T)[ITEM, USER])
    if n_tiles == 1:
        assert torch.equal(cells.pattern.to_row_order.long(), order)


def test_cells_of_a_tile_are_of_columns_close_together():
    pattern = Tiles(PATTERN.T, 2).pattern
    first = pattern.row_pointers[4]
    assert pattern.columns[:first].max() < pattern.columns[first:].min()


@pytest.mark.parametrize(("n_users", "wanted"), [(16_384, 1), (16_385, 2), (40_000, 3)])
def test_long_sides_with_many_ratings_have_tiles(n_users, wanted):
    pattern = Pairs(torch.arange(n_users), torch.zeros(n_users).long(), n_users, 1).pattern
    assert len(Tiles(pattern.T).pattern.row_pointers) == wanted + 1
    # ten ratings a row are too few to add up over tiles
    item = torch.arange(n_users) % (n_users // 10)
    pattern = Pairs(torch.arange(n_users), item, n_users, n_users // 10).pattern
    assert len(Tiles(pattern.T).pattern.row_pointers) == n_users // 10 + 1


def test_a_chain_in_tiles_draws_what_it_draws_without(monkeypatch):
    """In float64, so that another order of sums does not make another chain."""
    model = PMF(3, "hierarchical", "hierarchical", likelihood=OrderedLogit(5))
    ratings, _ = simulate(model, n_users=30, n_items=20, n_ratings=300)
    pairs = ratings.to(dtype=torch.float64)

    def draw():
        torch.manual_seed(0)
        sampler = Sampler(model, pairs, pairs, np.random.default_rng(0))
        for _ in range(20):
            sampler.sweep()
        return sampler

    whole = draw()
    assert whole.state.items.groups[0].order is not None
    monkeypatch.setattr(tiles, "_TILE", 8)
    monkeypatch.setattr(tiles, "_FEWEST", 1)
    monkeypatch.setattr(working, "_BLOCK", 64)
    cut = draw()
    assert len(cut.state.items.groups[0].tiles.pattern.row_pointers) == 4 * 20 + 1
    for name, value in whole.draw().items():
        torch.testing.assert_close(cut.draw()[name], value, rtol=1e-6, atol=1e-8)
