"""Simulated ratings: drawn from the model that is given, at distinct pairs, by the seed alone."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_pmf import PMF, Fixed, NormalIdentity, OrderedLogit, PMFError, Priors
from pyro_pmf.datasets import simulate

EXACT = PMF(2, noise="shared", priors=Priors(sigma=Fixed(1e-6)), likelihood=NormalIdentity())


def test_ratings_are_those_of_the_sites_that_come_with_them():
    ratings, sites = simulate(EXACT, 12, 9, 60, seed=3)
    score = sites["mu"] + sites["b"][:, None] + sites["c"] + sites["U"] @ sites["V"].T
    torch.testing.assert_close(ratings.value, score[ratings.user, ratings.item], atol=1e-4, rtol=0)
    scales = {"sigma", "sigma_b", "sigma_c", "sigma_U", "sigma_V", "tau"}
    assert set(sites) == {"mu", "b", "c", "U", "V", "mu_U", "mu_V"} | scales
    assert sites["U"].shape == (12, 2)


@pytest.mark.parametrize("n_ratings", [1, 2, 40, 108])
def test_pairs_are_distinct_and_sorted(n_ratings):
    ratings, _ = simulate(EXACT, 12, 9, n_ratings)
    cells = ratings.user * 9 + ratings.item
    assert (cells.diff() > 0).all()
    assert (len(ratings), ratings.n_users, ratings.n_items) == (n_ratings, 12, 9)
    assert list(ratings.user_ids) == list(range(12))
    assert list(ratings.item_ids) == list(range(9))
    assert cells.min() >= 0
    assert cells.max() < 108


@pytest.mark.slow
def test_pairs_are_drawn_uniformly():
    """Each cell in about a quarter of 400 draws, by five standard errors."""
    counts = np.zeros((4, 5))
    for seed in range(400):
        ratings, _ = simulate(PMF(0, noise="shared"), 4, 5, 5, seed=seed)
        counts[ratings.user, ratings.item] += 1
    np.testing.assert_allclose(counts, 100, atol=5 * (400 * 0.25 * 0.75) ** 0.5)


def test_the_scale_names_0_and_1():
    unit, _ = simulate(EXACT, 6, 5, 20, seed=1)
    stars, _ = simulate(EXACT, 6, 5, 20, seed=1, scale=(1.0, 5.0))
    assert (unit.scale, stars.scale) == ((0.0, 1.0), (1.0, 5.0))
    np.testing.assert_allclose(stars.rating, 1 + 4 * unit.rating)
    torch.testing.assert_close(stars.value, unit.value)


def test_levels_are_levels_of_the_scale():
    ratings, sites = simulate(PMF(1, likelihood=OrderedLogit(5)), 10, 8, 50, scale=(1, 5))
    assert set(ratings.rating) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert {"shares", "cutpoints"} <= set(sites)


def test_the_seed_alone_decides_and_the_callers_random_state_stays():
    torchs, numpys = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    first, sites = simulate(EXACT, 12, 9, 60, seed=0)
    torch.manual_seed(77)
    state = torch.get_rng_state()
    again, same = simulate(EXACT, 12, 9, 60, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.value, again.value)
    assert all(torch.equal(x, same[name]) for name, x in sites.items())
    other, _ = simulate(EXACT, 12, 9, 60, seed=1)
    assert not torch.equal(other.value, first.value)
    assert not torch.equal(other.item, first.item)
    now = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(now, numpys, strict=True))
    torch.set_rng_state(torchs)
    simulate(EXACT, 12, 9, 60)
    assert torch.equal(torch.get_rng_state(), torchs)


def test_any_model_of_ratings_will_do():
    def model(pairs):
        level = pyro.sample("level", dist.Delta(torch.tensor(0.25)))
        with pyro.plate("ratings", len(pairs)):
            return pyro.sample("rating", dist.Normal(level, 1e-9), obs=pairs.value)

    ratings, sites = simulate(model, 6, 5, 20)
    assert set(sites) == {"level"}
    np.testing.assert_allclose(ratings.rating, 0.25, atol=1e-6)


@pytest.mark.parametrize("name", ["n_users", "n_items", "n_ratings"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "5"])
def test_numbers_are_positive_integers(name, value):
    options = {"n_users": 6, "n_items": 5, "n_ratings": 20} | {name: value}
    with pytest.raises(PMFError, match=rf"{name} must be 1, 2, 3, \.\.\., not {value!r}"):
        simulate(EXACT, **options)


def test_more_ratings_than_pairs():
    with pytest.raises(
        PMFError, match=r"n_ratings must be at most n_users \* n_items = 30, not 31"
    ):
        simulate(EXACT, 6, 5, 31)
