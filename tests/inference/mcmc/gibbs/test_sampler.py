"""What a chain of the sampler holds, and what a short run of it says about scales."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from configurations import MODELS
from joint import table
from mutations import Mutation

from pyro_pmf import PMF, Fixed, Normal, NormalIdentity, OrderedLogit, Priors
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.mcmc.gibbs import rows
from pyro_pmf.inference.mcmc.gibbs.rows import RowUpdate
from pyro_pmf.inference.mcmc.gibbs.sampler import Sampler
from pyro_pmf.inference.mcmc.gibbs.scales import draw_noise_scale
from pyro_pmf.inference.mcmc.gibbs.typical import ShortRun, short_run
from pyro_pmf.model.running import is_latent, run, sites_of

BOTH = {"users": "hierarchical", "items": "hierarchical"}


def sampler_of(model: PMF, history: Pairs | None = None) -> Sampler:
    """Return a sampler of ratings that the model makes, with a history beyond them if given."""
    value = sites_of(model, table(), history=history)["rating"]["value"].double()
    ratings = table(value=value)
    return Sampler(model, ratings, history or ratings, np.random.default_rng(1))


@pytest.mark.parametrize("knows_more", [False, True])
def test_users_and_items_without_pairs_have_no_sums(knows_more):
    user, item = torch.tensor([[0, 0, 1, 1, 3, 3], [0, 1, 1, 3, 0, 3]])
    ratings = Pairs(user, item, 5, 6, torch.linspace(0, 1, 6).double())
    history = Pairs(*torch.tensor([[0, 1, 3], [1, 4, 5]]), 5, 6, dtype=torch.float64)
    sampler = Sampler(
        PMF(2, **BOTH), ratings, history if knows_more else ratings, np.random.default_rng(0)
    )
    for _ in range(20):
        sampler.sweep()
    state, draw = sampler.state, sampler.draw()
    assert all(bool(x.isfinite().all()) for x in draw.values())
    assert torch.equal(state.users.M[4], draw["mu_U"])
    assert torch.equal(state.items.M[2], draw["mu_V"])
    assert not torch.allclose(state.users.M[0], draw["mu_U"])


@pytest.mark.parametrize(
    ("n_warmup", "n_safe", "n_adapted"), [(None, 15, 40), (150, 15, 40), (30, 15, 25), (3, 1, 1)]
)
def test_nothing_adapts_in_the_last_sweeps_of_the_warmup(n_warmup, n_safe, n_adapted, monkeypatch):
    told = []

    def watched(update, safe, adapt):
        told.append((safe, adapt))
        return update_rows(update, safe, adapt)

    update_rows = RowUpdate.__call__
    monkeypatch.setattr(RowUpdate, "__call__", watched)
    ratings = table(value=torch.linspace(0, 1, len(table())).double())
    model = PMF(1, noise="shared", priors=Priors(mu=Normal(0.0, 1.0)), biases=False)
    sampler = Sampler(model, ratings, ratings, np.random.default_rng(1), n_warmup=n_warmup)
    steps = []
    for _ in range(50):
        sampler.sweep()
        steps.append(dict(sampler.state.steps))
    assert [safe for safe, _ in told[::2]].count(True) == n_safe
    assert [adapt for _, adapt in told[::2]].count(True) == n_adapted
    first = max(n_adapted, 8 if n_warmup != 3 else 1)  # with the scales held, mu is, too
    assert all(step == steps[first] for step in steps[first:])


def test_cut_points_far_out_are_those_of_the_shares():
    """Shares are float32; sums of them from below would round to 1."""
    sampler = sampler_of(PMF(1, noise="shared", likelihood=OrderedLogit(6)))
    for cuts in ([-60.0, -30.0, 0.5, 31.0, 70.0], [-3.0, 0.0, 14.0, 17.0, 33.0]):
        sampler.state.set_cutpoints(torch.tensor(cuts))
        draw = sampler.draw()
        sampler.state.set_cutpoints(torch.zeros(5))
        sampler.state.take(draw)
        np.testing.assert_allclose(sampler.state.likelihood.cutpoints, cuts, 1e-5, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_scores_and_likelihoods_are_those_of_the_draw(name):
    """Blocks change them bit by bit; the Pyro model computes them from the latents alone."""
    model, history = MODELS[name], table(share=0.8)
    sampler = sampler_of(model, history)
    for _ in range(45):  # not a multiple of the sweeps after which all is computed anew
        sampler.sweep()
    state, draw = sampler.state, sampler.draw()
    sites = run(model, draw, table(), history)
    assert draw.keys() == {
        name
        for name, site in sites_of(model, table()).items()
        if is_latent(site) and name != "rating"
    }
    rating = sites["rating"]["fn"]
    log_prob = rating.log_prob(state.likelihood.value)
    np.testing.assert_allclose(state.of_ratings("log_prob"), log_prob, rtol=1e-6, atol=1e-6)
    assert sampler.log_likelihood() == pytest.approx(float(log_prob.sum()), rel=1e-6, abs=1e-6)
    if model.users == "hierarchical" and model.n_factors:
        mean = sites["U"]["fn"].base_dist.loc
        np.testing.assert_allclose(state.users.M, mean, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_noise_that_has_not_moved_leaves_its_scale(seed):
    """Of three items, none may move in the first sweep that draws the scale of their noise."""
    ratings, _ = simulate(PMF(1, likelihood=OrderedLogit(5)), 6, 3, 12, seed=seed)
    torch.manual_seed(seed)
    sampler = Sampler(
        PMF(1, likelihood=OrderedLogit(5)), ratings, ratings, np.random.default_rng(seed)
    )
    state = sampler.state
    before = dict(state.scales)
    for side, _ in state.sides:
        assert not side.s.any()
        draw_noise_scale(state, side)
    assert state.scales == before
    for _ in range(30):
        sampler.sweep()
    assert min(state.scales["sigma_s"], state.scales["sigma_t"]) > 1e-6


WRONG_KICK = Mutation(
    "sigmoid",
    "rows of users",
    rows,
    "speed = speed + kick\n            place, speed = cos",
    "speed = speed - kick\n            place, speed = cos",
)


def acceptance() -> float:
    """Return the share of the rows of a table with levels that move, with full steps."""
    torch.manual_seed(0)
    ratings, _ = simulate(PMF(2, likelihood=OrderedLogit(5), noise="shared"), 60, 40, 1500)
    ratings = ratings.to("cpu", torch.float64)
    model = PMF(2, likelihood=OrderedLogit(5), **BOTH)
    sampler = Sampler(model, ratings, ratings, np.random.default_rng(0))
    state = sampler.state
    for _ in range(40):
        sampler.sweep()
    moved = []
    for _ in range(10):
        for side, other in state.sides:
            side.step.fill_(1.0)
            moved.append(RowUpdate(state, side, other)(safe=False, adapt=False))
    return float(np.mean(moved))


@pytest.mark.slow
def test_rows_are_accepted(monkeypatch):
    """A kick of the wrong sign is exact, too, but then fewer rows move."""
    assert acceptance() > 0.95
    WRONG_KICK.make(monkeypatch)
    assert acceptance() < 0.9


TRUE = {"sigma_U": 1.2, "sigma_V": 0.9, "sigma_b": 0.6, "sigma_c": 0.3, "sigma": 0.3}
LINEAR = PMF(
    1,
    noise="shared",
    likelihood=NormalIdentity(rounding=0.0),
    priors=Priors(tau=Fixed(1.0), **{name: Fixed(sd) for name, sd in TRUE.items()}),
)


@pytest.mark.slow
@pytest.mark.statistical
def test_typical_scales_are_those_that_made_the_ratings():
    """To a quarter: 80 users and 60 items tell a scale to about a tenth, 2.5 such errors."""
    ratings, _ = simulate(LINEAR, 80, 60, 2400, seed=2)
    ratings = ratings.to("cpu", torch.float32)
    free = PMF(1, noise="shared", likelihood=LINEAR.likelihood, priors=Priors(sigma_b=Fixed(0.6)))
    sweeps = []
    found = short_run(free, ratings, seed=3, on_sweep=lambda: sweeps.append(1)).scales
    assert len(sweeps) == 60
    assert found.keys() == {"sigma", "tau", "sigma_U", "sigma_V", "sigma_c"}
    assert len(found["tau"]) == 1
    product = found["tau"][0] * found["sigma_U"] * found["sigma_V"]
    for value, true in (
        (product, TRUE["sigma_U"] * TRUE["sigma_V"]),
        (found["sigma_c"], TRUE["sigma_c"]),
        (found["sigma"], TRUE["sigma"]),
    ):
        assert abs(math.log(value / true)) < 0.25
    again = short_run(free, ratings, seed=3, on_sweep=lambda: None).scales
    assert again == found
    assert short_run(free, ratings, seed=4, on_sweep=lambda: None).scales != found


class Growing:
    """In the place of a sampler: factors that grow by 2% a sweep, up to some sweep."""

    last: int

    def __init__(self, model, ratings, *_):
        self._shapes, self._n = (ratings.n_users, ratings.n_items), 0

    def sweep(self):
        self._n += 1

    def draw(self):
        size = 1.02 ** min(self._n, self.last)
        U, V = (torch.linspace(-1, 1, n)[:, None] for n in self._shapes)
        return {"U": size * U, "V": V, "sigma_U": torch.tensor(size), "tau": torch.ones(1)}


@pytest.mark.parametrize(("last", "n"), [(0, 60), (35, 60), (50, 90), (125, 150), (999, 300)])
def test_sweeps_go_on_while_factors_grow_and_only_the_last_window_counts(monkeypatch, last, n):
    monkeypatch.setattr("pyro_pmf.inference.mcmc.gibbs.typical.Sampler", Growing)
    monkeypatch.setattr(Growing, "last", last, raising=False)
    ratings, _ = simulate(LINEAR, 20, 15, 90)
    sweeps = []
    found = short_run(LINEAR, ratings, 0, on_sweep=lambda: sweeps.append(1)).scales
    assert len(sweeps) == n
    powers = [min(sweep, last) for sweep in range(n - 29, n + 1)]
    assert math.log(found["sigma_U"]) == pytest.approx(np.mean(powers) * math.log(1.02), rel=1e-4)


def test_models_of_ones_own_have_no_short_run():
    ratings, _ = simulate(LINEAR, 5, 4, 12)
    assert short_run(lambda pairs: None, ratings, 0, on_sweep=lambda: None) == ShortRun()
