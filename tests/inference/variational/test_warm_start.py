"""Where a fit begins: at an earlier fit, or at a draw."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

from pyro_pmf import MAP, PMF, Fixed, Priors, Ratings, fit
from pyro_pmf.inference.initialization import initial_value
from pyro_pmf.inference.variational.warm_start import Start, WarmStart

TERMS = PMF(2, "hierarchical").terms


def ratings(users, items):
    frame = pd.DataFrame({"user": users, "item": items, "rating": np.arange(len(users)) % 5 + 1.0})
    return Ratings.from_frame(frame, scale=(1, 5))


BEFORE = ratings(["b", "d", "e"], [1, 2, 2])
NOW = ratings(["a", "b", "d", "c"], [2, 3, 1, 2])
LATENTS = {
    "U": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    "V": torch.tensor([[10.0, 20.0], [30.0, 40.0]]),
    "W": torch.tensor([[0.1, 0.2], [0.3, 0.4]]),
    "b": torch.tensor([7.0, 8.0, 9.0]),
    "mu_V": torch.tensor([0.5, 0.6]),
    "mu": torch.tensor(0.25),
}
ELSEWHERE = -99.0


def begun(start, site, shape):
    """Return the initial value of a site of the fit to `NOW`."""
    warm = WarmStart(start, TERMS, lambda site: torch.full(shape, ELSEWHERE))
    return warm.value({"name": site, "fn": dist.Normal(0.0, 1.0)}).tolist()


def test_rows_are_found_by_ids_and_others_begin_as_without():
    start = Start.at(LATENTS, BEFORE, NOW)
    none = [ELSEWHERE, ELSEWHERE]
    assert begun(start, "U", (4, 2)) == [none, [1.0, 2.0], none, [3.0, 4.0]]
    assert begun(start, "V", (3, 2)) == [[10.0, 20.0], [30.0, 40.0], none]
    assert begun(start, "b", (4,)) == [ELSEWHERE, 7.0, ELSEWHERE, 8.0]
    assert begun(start, "mu", ()) == 0.25
    assert begun(start, "sigma", ()) == ELSEWHERE  # a site that is not there
    assert begun(start, "U", (4, 3)) == [[ELSEWHERE] * 3] * 4  # another number of factors


def test_scales_do_not_begin_at_zero():
    start = Start({"tau": torch.tensor([0.0, 3.0])}, torch.tensor([]), torch.tensor([]))
    warm = WarmStart(start, TERMS, lambda site: torch.tensor([2.0, 2.0]))
    found = warm.value({"name": "tau", "fn": dist.HalfNormal(1.0)})
    assert found.tolist() == pytest.approx([0.02, 3.0])


def test_factors_are_made_weaker_in_all_their_rows():
    start, held = Start.at(LATENTS, BEFORE, NOW), torch.tensor([0.5, 1e-3])
    weaker = start.with_tau(TERMS, held, torch.tensor([1.0, 2.0])).latents
    for site in ("U", "V", "W", "mu_V"):
        torch.testing.assert_close(weaker[site], LATENTS[site] * torch.tensor([0.5, 5e-4]))
    for site in ("b", "mu"):
        assert weaker[site] is LATENTS[site]


@pytest.mark.parametrize("held", [0.0, 1e-3])
def test_factors_are_never_made_stronger(held):
    """A draw of tau may be zero in single precision, and a factor that is left out has 0.001."""
    start, taus = Start.at(LATENTS, BEFORE, NOW), torch.tensor([held, held])
    same = start.with_tau(TERMS, taus, torch.tensor([0.0, 1e-30])).latents
    for site in ("U", "V", "W", "mu_V"):
        assert same[site].isfinite().all()
        assert (same[site].abs() <= LATENTS[site].abs()).all()


@pytest.mark.parametrize(
    ("users", "items"), [([0, 2, -1], [0, -1]), ([0, 1], [1, 0])], ids=["items", "alike"]
)
def test_the_shorter_side_begins_there(users, items):
    start = Start(LATENTS, torch.tensor(users), torch.tensor(items)).of_one_side()
    assert start.users.tolist() == [-1] * len(users)
    assert start.items.tolist() == items


def test_the_users_do_if_they_are_fewer():
    start = Start(LATENTS, torch.tensor([1, 0]), torch.tensor([0, 1, -1])).of_one_side()
    assert start.users.tolist() == [1, 0]
    assert start.items.tolist() == [-1, -1, -1]


def test_a_part_of_the_users_and_strangers():
    start = Start(LATENTS, torch.tensor([2, -1, 0, 1]), torch.tensor([0, 1]))
    assert start.of_users(1, 3).users.tolist() == [-1, 0]
    assert start.of_strangers(3).users.tolist() == [-1, -1, -1]
    for other in (start.of_users(1, 3), start.of_strangers(3)):
        assert other.items is start.items
        assert other.latents is start.latents


@pytest.mark.parametrize("sd", [1e-3, 0.05, 2.0])
@pytest.mark.parametrize("in_a_plate", [False, True])
def test_random_initial_values_are_no_farther_than_the_prior(sd, in_a_plate):
    torch.manual_seed(0)
    fn = dist.Normal(torch.full((4000,), 3.0), sd).mask(True)
    values = initial_value({"fn": fn, "cond_indep_stack": [None] if in_a_plate else []})
    wanted = min(0.1, sd) if in_a_plate else 0.1 * min(1.0, sd)
    assert (values - 3.0).std().item() == pytest.approx(wanted, rel=0.05)


def one_factor(seed):
    """600 users and 20 items, signal and noise of 0.8."""
    g = np.random.default_rng(seed)
    U, V = g.normal(size=600), g.normal(size=20)
    user, item = np.nonzero(g.random((600, 20)) < 0.25)
    rating = 3 + 0.8 * U[user] * V[item] + 0.8 * g.normal(size=len(user))
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return Ratings.from_frame(frame, transform="standardize").split(0.2, seed)


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("seed", [0, pytest.param(3, marks=pytest.mark.long)])
def test_a_point_estimate_does_not_miss_a_strong_factor(seed):
    """From small random factors it did, with these seeds: 0.96 and 1.03 sds of the ratings."""
    train, test = one_factor(seed)
    found = fit(PMF(8, noise="shared", likelihood="auto"), train, "map", progress=False)
    assert found.evaluate(test)["rmse"] < 0.9 * test.rating.std()


def test_an_earlier_fit_is_where_the_next_begins():
    """With a single step, it is still there; held scales are those of the earlier fit."""
    train, _ = one_factor(1)
    held = Priors(sigma=Fixed(0.6), tau=Fixed(1.0), sigma_U=Fixed(0.7), sigma_V=Fixed(0.7))
    model = PMF(1, noise="shared", priors=held, likelihood="auto")
    first = fit(model, train, MAP(max_steps=200), progress=False)
    again = fit(model, train, MAP(max_steps=1), start=first, progress=False)
    before, after = (
        fitted.latents["U"].mean @ fitted.latents["V"].mean.T for fitted in (first, again)
    )
    assert float(before.std()) > 0.3
    torch.testing.assert_close(after, before, atol=0.3, rtol=0)
    assert np.corrcoef(after.flatten(), before.flatten())[0, 1] > 0.98
