"""What a posterior says of users, items and factors, against dense NumPy computations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from scipy import stats

from pyro_pmf import PMF, VI, Fixed, PMFError, Posterior, Priors, Ratings, fit
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian

N_USERS, N_ITEMS, K = 7, 5, 3
STEPS = pd.DataFrame({"step": [1], "elbo": [0.0], "seconds": [0.0]})
SIDES = {"user": ("b", "U", "V"), "item": ("c", "V", "U")}

both_sides = pytest.mark.parametrize("of", SIDES)


def ratings():
    """Return ratings of user i for the items from 0 to i % 5, and of user 6 for all items."""
    cells = [(i, j) for i in range(N_USERS) for j in range(N_ITEMS) if j <= i % N_ITEMS or i == 6]
    frame = pd.DataFrame(cells, columns=["user", "item"])
    frame["rating"] = np.random.default_rng(1).integers(1, 6, len(frame)).astype(float)
    frame["user"], frame["item"] = "u" + frame["user"].astype(str), frame["item"] + 40
    return Ratings.from_frame(frame, scale=(1, 5), dtype=torch.float64)


def sites(biases=True, n_factors=K):
    shapes = {"mu": (), "b": (N_USERS,), "c": (N_ITEMS,)} if biases else {"mu": ()}
    if n_factors:
        shapes |= {"U": (N_USERS, n_factors), "V": (N_ITEMS, n_factors)}
    return shapes


def closed_form(**options):
    rng, latents = np.random.default_rng(0), {}
    for name, shape in sites(**options).items():
        mean, var = rng.normal(size=shape), rng.uniform(0.05, 0.4, shape)
        latents[name] = Gaussian(torch.tensor(mean), torch.tensor(var), frozenset({name}))
    sigma = torch.tensor(-1.5).double(), torch.tensor(0.01).double()
    latents["sigma"] = LogGaussian(*sigma, frozenset({"sigma"}))
    return posterior_of(latents, None, **options)


def drawn(n=30, **options):
    rng = np.random.default_rng(0)
    latents = {
        name: torch.tensor(rng.normal(size=(n, *shape)))
        for name, shape in sites(**options).items()
    }
    return posterior_of(latents, n, **options)


def without_terms(ratings):
    """Sample ratings about a common mean: a Pyro model that states no terms."""
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=ratings.dtype), 1.0))
    sigma = pyro.sample("sigma", dist.LogNormal(mu.new_tensor(-1.5), 0.1))
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample("rating", dist.Normal(mu, sigma), obs=ratings.value)


def posterior_of(latents, n_draws, biases=True, n_factors=K):
    model = without_terms
    if biases or n_factors:
        model = PMF(n_factors, biases=biases, noise="shared")
    return Posterior(model, ratings(), latents, n_draws, STEPS, True)


def in_order(table, of, posterior):
    """Check the order of a table's rows, and return them in the order of the ids."""
    assert table["mean"].is_monotonic_decreasing
    assert table.index.tolist() == list(range(len(table)))
    assert table.columns.tolist() == [of, "mean", "sd", "lower", "upper", "n_ratings"]
    ids = posterior.ratings.user_ids if of == "user" else posterior.ratings.item_ids
    return table.set_index(of).loc[ids]


def effects(posterior, of, *args):
    return in_order(getattr(posterior, f"{of}_effects")(*args), of, posterior)


# Effects


@both_sides
@pytest.mark.parametrize("options", [{}, {"biases": False}, {"n_factors": 0}], ids=str)
def test_effects_in_closed_form(of, options):
    """Sum independent Normals, with the mean factors of the other side as known numbers."""
    posterior = closed_form(**options)
    bias, own, others = SIDES[of]
    latents, mean, var = posterior.latents, 0.0, 0.0
    if options.get("biases", True):
        mean, var = latents[bias].mean.numpy(), latents[bias].var.numpy()
    if options.get("n_factors", K):
        average = latents[others].mean.numpy().mean(0)
        mean = mean + (latents[own].mean.numpy() * average).sum(1)
        var = var + (latents[own].var.numpy() * average**2).sum(1)
    table = effects(posterior, of, 0.8)
    np.testing.assert_allclose(table["mean"], mean)
    np.testing.assert_allclose(table["sd"], np.sqrt(var))
    exact = stats.norm(mean, np.sqrt(var))
    np.testing.assert_allclose(table["lower"], exact.ppf(0.1))
    np.testing.assert_allclose(table["upper"], exact.ppf(0.9))


@both_sides
def test_effects_from_draws(of):
    posterior = drawn()
    bias, own, others = (posterior.latents[name].numpy() for name in SIDES[of])
    effect = bias + np.einsum("dnk,dk->dn", own, others.mean(1))
    table = effects(posterior, of, 0.5)
    np.testing.assert_allclose(table["mean"], effect.mean(0))
    np.testing.assert_allclose(table["sd"], effect.std(0, ddof=1))
    for column, p in (("lower", 0.25), ("upper", 0.75)):
        np.testing.assert_allclose(table[column], np.quantile(effect, p, axis=0))


def test_effects_count_the_training_ratings():
    posterior = closed_form()
    frame = posterior.ratings.to_frame()
    for of in SIDES:
        counts = effects(posterior, of)["n_ratings"]
        pd.testing.assert_series_equal(
            counts.sort_index(),
            frame[of].value_counts().sort_index(),
            check_names=False,
            check_dtype=False,
            check_index_type=False,
        )


def block_ratings():
    """Return ratings in which users 0 to 9 give one more, and items 0 to 4 get one more."""
    user, item = np.divmod(np.arange(20 * 10), 10)
    rating = 3.0 + (user < 10) + (item < 5) - 0.4 * ((user + item) % 2)
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return Ratings.from_frame(frame, scale=(1, 6))


@pytest.mark.slow
@both_sides
def test_effects_of_a_point_estimate(of):
    """Check that they have no spread, and that the generous come first."""
    posterior = fit(PMF(0), block_ratings(), "map", progress=False)
    table = effects(posterior, of)
    latents = posterior.latents["b" if of == "user" else "c"]
    np.testing.assert_allclose(table["mean"], latents.mean)
    assert (table["sd"] == 0).all()
    np.testing.assert_allclose(table["lower"], table["mean"])
    half = len(table) // 2
    assert set(table["mean"].nlargest(half).index) == set(range(half))


@pytest.mark.slow
@both_sides
@pytest.mark.parametrize("guide", ["normal", "auto"])
def test_effects_of_a_fit(of, guide):
    """Check that the generous come first, with a guide in closed form or known by draws."""
    model = PMF(0, noise="shared")
    if guide == "auto":
        method = VI(max_steps=200, guide=AutoNormal(model))
        with pytest.warns(UserWarning, match="Trace_ELBO"):
            posterior = fit(model, block_ratings(), method, progress=False)
    else:
        posterior = fit(
            model, block_ratings(), VI(max_steps=200, learn_scales=None), progress=False
        )
    table = effects(posterior, of)
    half = len(table) // 2
    assert table["mean"][:half].min() > table["mean"][half:].max()
    assert (table["lower"] < table["mean"]).all()
    assert (table["upper"] > table["mean"]).all()


@both_sides
@pytest.mark.parametrize("interval", [0.0, 1.0, -0.1, 90, float("nan")])
def test_an_interval_that_cannot_be(of, interval):
    with pytest.raises(PMFError, match="between 0 and 1"):
        getattr(closed_form(), f"{of}_effects")(interval)


def test_a_model_that_has_neither_biases_nor_factors():
    for posterior in (closed_form(biases=False, n_factors=0), drawn(biases=False, n_factors=0)):
        for ask in (posterior.user_effects, posterior.item_effects):
            with pytest.raises(PMFError, match="biases and no factors"):
                ask()
        with pytest.raises(PMFError, match="no factors"):
            posterior.factor_norms()


def test_a_model_that_does_not_state_its_biases_and_factors():
    """Refuse to guess from the names of sites."""
    posterior = replace(closed_form(), model=without_terms)
    for ask in (posterior.user_effects, posterior.item_effects, posterior.factor_norms):
        with pytest.raises(PMFError, match="PMF"):
            ask()


@pytest.mark.slow
@pytest.mark.parametrize(("side", "other"), [("user", "item"), ("item", "user")])
def test_biases_of_one_side(side, other):
    """Refuse effects of the other side, which has neither biases nor factors."""
    posterior = fit(PMF(0, biases=side, noise="shared"), block_ratings(), progress=False)
    assert effects(posterior, side)["mean"].std() > 0
    with pytest.raises(PMFError, match=f"no {other} biases and no factors"):
        effects(posterior, other)


# Factors


def assert_factors(table, product, pairs, n_factors):
    """Compare factors with NumPy's dense decomposition."""
    weights = (pairs.user_counts.numpy()[:, None] * pairs.item_counts.numpy()) ** 0.5
    expected = np.linalg.svd(product * weights / len(pairs), compute_uv=False)[:n_factors]
    assert table.index.name == "factor"
    assert table.index.tolist() == list(range(n_factors))
    assert table.columns.tolist() == ["rms", "share", "dead"]
    np.testing.assert_allclose(table["rms"], expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(table["share"], expected**2 / (expected**2).sum(), atol=1e-9)


def test_factors_in_closed_form():
    """Weight the product of the posterior means by the training pairs, not by all pairs."""
    posterior = closed_form()
    U, V = (posterior.latents[name].mean.double().numpy() for name in "UV")
    assert_factors(posterior.factor_norms(), U @ V.T, posterior.ratings, U.shape[1])
    assert not posterior.factor_norms()["dead"].any()


def test_factors_from_draws():
    posterior = drawn()
    U, V = (posterior.latents[name].double().numpy() for name in "UV")
    assert_factors(posterior.factor_norms(), (U @ V.mT).mean(0), posterior.ratings, U.shape[-1])


def test_factors_are_those_of_the_product_whatever_the_rotation():
    posterior = drawn()
    latents = dict(posterior.latents)
    rng = np.random.default_rng(0)
    n_draws, _, k = latents["U"].shape
    turns = np.linalg.qr(rng.normal(size=(n_draws, k, k)))[0]  # another one for each draw
    for name in "UV":
        latents[name] = latents[name] @ torch.from_numpy(turns).to(latents[name])
    turned = replace(posterior, latents=latents).factor_norms()
    np.testing.assert_allclose(turned["rms"], posterior.factor_norms()["rms"], rtol=1e-5)


def test_more_factors_than_rows():
    posterior = closed_form()
    latents = dict(posterior.latents)
    more = max(posterior.ratings.n_users, posterior.ratings.n_items) + 2
    for name in "UV":
        mean = torch.ones(len(latents[name].mean), more).double()
        latents[name] = Gaussian(mean, torch.ones_like(mean), latents[name].sites)
    table = replace(posterior, latents=latents).factor_norms()
    assert len(table) == more
    assert table["dead"].tolist() == [False] + [True] * (more - 1)
    assert table["share"].iloc[0] == pytest.approx(1.0)


@pytest.mark.parametrize(("factor", "dead"), [(1e-3, True), (0.5, False), (0.0, True)])
def test_a_factor_without_strength_is_dead(factor, dead):
    """Call a factor dead below a hundredth of the strongest one's standard deviation."""
    posterior = closed_form()
    U = posterior.latents["U"]
    scale = torch.tensor([1.0, factor, 1.0]).double()
    U = Gaussian(U.mean * scale, U.var, U.sites)
    table = replace(posterior, latents={**posterior.latents, "U": U}).factor_norms()
    assert table["dead"].tolist() == [False, False, dead]


def test_factors_that_are_all_nothing_are_all_dead():
    posterior = closed_form()
    latents = dict(posterior.latents)
    latents["U"] = Gaussian(latents["U"].mean * 0, latents["U"].var, latents["U"].sites)
    table = replace(posterior, latents=latents).factor_norms()
    assert table["dead"].all()
    assert (table["share"] == 0).all()
    assert table.index.tolist() == [0, 1, 2]


@pytest.mark.statistical
def test_a_fit_of_two_factors_too_many_says_so():
    """Check that variational inference prunes factors that the ratings do not have."""
    rng = np.random.default_rng(0)
    user, item = np.divmod(np.arange(60 * 40), 40)
    score = 1.5 * (rng.normal(size=60)[user] * rng.normal(size=40)[item])
    rating = 1 / (1 + np.exp(-score)) + 0.2 * rng.normal(size=len(user))
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    scale = (rating.min() - 0.1, rating.max() + 0.1)
    priors = Priors(sigma=Fixed(0.15), tau=Fixed(1.0), sigma_U=Fixed(0.3), sigma_V=Fixed(0.3))
    model = PMF(3, biases=False, noise="shared", priors=priors)
    posterior = fit(model, Ratings.from_frame(frame, scale=scale), progress=False)
    table = posterior.factor_norms()
    assert table["dead"].tolist() == [False, True, True]
    assert table["share"].iloc[0] > 0.999
