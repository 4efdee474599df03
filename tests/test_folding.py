"""`fold_in` and `update`: rows given all other latents, against dense computations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import kstest

from pyro_pmf import (
    MAP,
    PMF,
    VI,
    BernoulliLogit,
    FitError,
    Fixed,
    Gibbs,
    Normal,
    NormalIdentity,
    OrderedLogit,
    PMFError,
    Posterior,
    Priors,
    Ratings,
    RatingsError,
    fit,
    load,
)
from pyro_pmf.data.merging import merged
from pyro_pmf.datasets import simulate

SD = {"sigma": 0.3, "sigma_U": 0.8, "sigma_V": 0.7, "sigma_b": 0.5, "sigma_c": 0.4, "tau": 1.0}
LINEAR = PMF(
    2,
    noise="shared",
    likelihood=NormalIdentity(0.0),
    priors=Priors(mu=Normal(0.3, 0.5), **{name: Fixed(sd) for name, sd in SD.items()}),
)
METHODS = {
    "vi": VI(learn_scales=None, tolerance=1e-5),
    "map": MAP(learn_scales=None, tolerance=1e-6),
    "gibbs": Gibbs(n_draws=30, n_warmup=40, n_chains=2, thin=1),
}
NEW = pd.DataFrame(
    {"user": [90, 90, 90, 91, 91], "item": [1, 4, 6, 2, 4], "rating": [1.3, 0.2, -0.4, 0.9, 1.1]}
)
each_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module")
def table() -> Ratings:
    frame = simulate(LINEAR, 25, 12, 150, seed=2)[0].to_frame()
    return Ratings.from_frame(frame, transform="standardize", dtype=torch.float64)


@pytest.fixture(scope="module")
def posteriors(table):
    return {name: fit(LINEAR, table, how, progress=False) for name, how in METHODS.items()}


def values_of(posterior, frame) -> np.ndarray:
    return posterior.ratings.to_value(frame["rating"].to_numpy())


def moments(value):
    return (value, torch.zeros_like(value)) if isinstance(value, torch.Tensor) else value


def dense(mu, mu_U, V, c, rating, gram):
    """Mean and covariance of (U_i, b_i) given the other side; gram is E[x x'] over ratings."""
    k = V.shape[1]
    prior = np.diag(np.r_[np.full(k, SD["sigma_U"] ** -2), SD["sigma_b"] ** -2])
    x = np.c_[V, np.ones(len(V))]
    precision = prior + gram / SD["sigma"] ** 2
    right = prior @ np.r_[mu_U, 0.0] + x.T @ (rating - mu - c) / SD["sigma"] ** 2
    return np.linalg.solve(precision, right), precision


@pytest.mark.parametrize("user", [90, 91])
@pytest.mark.parametrize("name", ["vi", "map"])
def test_a_new_user_has_the_moments_of_a_dense_computation(posteriors, name, user):
    """Mean field has the mean of the Gaussian, and the inverse diagonal of its precision."""
    posterior = posteriors[name]
    folded = posterior.fold_in(NEW)
    rows = NEW[NEW["user"] == user]
    _, item = folded.ratings.locate(rows)
    V, c, mu = (folded.latents[site] for site in ("V", "c", "mu"))
    mean_V, mean_c = V.mean[item].numpy(), c.mean[item].numpy()
    gram = np.c_[mean_V, np.ones(len(rows))]
    gram = gram.T @ gram
    gram[:2, :2] += np.diag(V.var[item].sum(0).numpy())
    mu_U, value = folded.latents["mu_U"].mean.numpy(), values_of(posterior, rows)
    mean, precision = dense(float(mu.mean), mu_U, mean_V, mean_c, value, gram)
    place = folded.ratings.user_ids.get_loc(user)
    U, b = folded.latents["U"], folded.latents["b"]
    found = np.r_[U.mean[place].numpy(), float(b.mean[place])]
    np.testing.assert_allclose(found, mean, atol=0.02)
    if name == "vi":
        var = np.r_[U.var[place].numpy(), float(b.var[place])]
        np.testing.assert_allclose(var, 1 / np.diag(precision), rtol=0.05)


@pytest.mark.statistical
def test_draws_of_a_new_user_are_of_the_exact_gaussian(posteriors):
    """False alarm: 1e-3 over 9 numbers, 3.9 standard errors. Power: at 60 draws, sds that are
    40% too large are found with probability 0.9.
    """
    folded = posteriors["gibbs"].fold_in(NEW)
    rows = NEW[NEW["user"] == 90]
    _, item = folded.ratings.locate(rows)
    place = folded.ratings.user_ids.get_loc(90)
    latents = {name: value.double().numpy() for name, value in folded.latents.items()}
    z = []
    for d in range(folded.n_draws):
        V, c, mu = latents["V"][d][item], latents["c"][d][item], latents["mu"][d]
        x = np.c_[V, np.ones(len(V))]
        mean, precision = dense(mu, latents["mu_U"][d], V, c, values_of(folded, rows), x.T @ x)
        found = np.r_[latents["U"][d][place], latents["b"][d][place]]
        z.append(np.linalg.cholesky(precision).T @ (found - mean))
    z = np.array(z)
    assert np.abs(z.mean(0) * np.sqrt(len(z))).max() < 3.9
    assert np.abs((np.square(z).mean(0) - 1) * np.sqrt(len(z) / 2)).max() < 3.9
    next_to = (z[1:] * z[:-1]).mean(0) * np.sqrt(len(z))  # each draw begins anew
    assert np.abs(next_to).max() < 3.9


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The factors have shrunk")  # these ratings have none
@pytest.mark.parametrize(
    "model",
    [
        PMF(2, "hierarchical", "hierarchical", likelihood=OrderedLogit(5)),
        PMF(2, noise="item"),
    ],
    ids=["ordered", "sigmoid"],
)
@pytest.mark.parametrize("how", ["vi", "gibbs"])
def test_rows_that_are_learnt_again_are_as_they_were(model, how):
    """The rating of an old pair is given again: nothing is new, so rows keep their moments."""
    ratings = stars(model)
    method = {"vi": VI(learn_scales=None, tolerance=1e-4), "gibbs": Gibbs(40, 40, thin=1)}[how]
    posterior = fit(model, ratings, method, progress=False)
    again = posterior.fold_in(ratings.to_frame().groupby("user").head(1))
    assert len(again.ratings) == len(ratings)
    old, new = posterior.predict(ratings), again.predict(ratings)
    atol = {"vi": 0.02, "gibbs": 5 * float(old["sd"].mean()) / np.sqrt(30)}[how]
    np.testing.assert_allclose(new["mean"], old["mean"], atol=atol)
    np.testing.assert_allclose(new["sd"].mean(), old["sd"].mean(), rtol=0.05)


def stars(model, n_users=40, n_items=25, n=500, seed=1) -> Ratings:
    rng = np.random.default_rng(seed)
    cells = rng.choice(n_users * n_items, n, replace=False)
    user, item = np.divmod(cells, n_items)
    score = rng.normal(size=n_users)[user] + rng.normal(size=n_items)[item]
    rating = np.clip(np.rint(3 + score + 0.5 * rng.normal(size=n)), 1, 5)
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return Ratings.from_frame(frame, scale=(1, 5))


@each_method
def test_nothing_else_is_touched(posteriors, table, name):
    posterior = posteriors[name]
    before = {site: str(value) for site, value in posterior.latents.items()}
    folded = posterior.fold_in(NEW, seed=3)
    assert {site: str(value) for site, value in posterior.latents.items()} == before
    assert posterior.ratings is not folded.ratings
    assert folded.n_draws == posterior.n_draws
    pairs = table.to_frame()
    np.testing.assert_array_equal(folded.predict(pairs)["mean"], posterior.predict(pairs)["mean"])
    assert folded.predict(NEW)["known_user"].all()
    assert not posterior.predict(NEW)["known_user"].any()


@each_method
def test_in_two_parts_or_at_once(posteriors, name):
    """Ratings of an old user are joined to those that the posterior has."""
    posterior = posteriors[name]
    at_once = posterior.fold_in(NEW, seed=1)
    later = posterior.fold_in(NEW.iloc[[0, 3]], seed=1).fold_in(NEW.iloc[[1, 2, 4]], seed=1)
    assert later.ratings.to_frame().equals(at_once.ratings.to_frame())
    one, other = at_once.predict(NEW), later.predict(NEW)
    atol = 0.01 if name != "gibbs" else 0.2
    np.testing.assert_allclose(one["mean"], other["mean"], atol=atol)
    np.testing.assert_allclose(one["sd"], other["sd"], rtol=0.15)


@each_method
def test_what_is_said_again_replaces_what_was_said(posteriors, table, name):
    old = table.to_frame().iloc[[5]]
    folded = posteriors[name].fold_in(old.assign(rating=table.scale[1]))
    assert len(folded.ratings) == len(table)
    kept = folded.ratings.to_frame().merge(old[["user", "item"]])
    assert kept["rating"].item() == table.scale[1]
    changed = folded.predict(old)["mean"] - posteriors[name].predict(old)["mean"]
    assert np.sign(changed.item()) == np.sign(table.scale[1] - old["rating"].item())


@pytest.mark.parametrize(("name", "counts"), [("vi", (1, 4, 11)), ("gibbs", (11,))])
def test_the_sd_shrinks_as_ratings_come(posteriors, name, counts):
    rows = pd.DataFrame({"user": 90, "item": np.arange(1, 12), "rating": 0.5})
    pair = pd.DataFrame({"user": [90], "item": [0]})
    sds = [posteriors[name].predict(pair)["sd"].item()]
    sds += [posteriors[name].fold_in(rows[:n]).predict(pair)["sd"].item() for n in counts]
    assert np.all(np.diff(sds) < 0)


@pytest.mark.parametrize("name", ["vi", "gibbs"])
def test_new_users_of_new_items(posteriors, name):
    """A new item is learnt from old and new users, and these from it."""
    frame = pd.DataFrame(
        {
            "user": [0, 1, 2, 3, 4, 5, 90, 90, 90, 90],
            "item": [70, 70, 70, 70, 70, 70, 70, 1, 2, 3],
            "rating": [2.0] * 7 + [-1.0] * 3,
        }
    )
    posterior = posteriors[name]
    folded = posterior.fold_in(frame)
    for user in range(6):  # pairs with a new item tell of the item
        row = posterior.ratings.user_ids.get_loc(user)
        old, new = (
            x.latents["b"][row] if x.n_draws is None else x.latents["b"][:, row]
            for x in (posterior, folded)
        )
        assert str(old) == str(new)
    pairs = pd.DataFrame({"user": [12, 90], "item": [70, 5]})
    high, low = folded.predict(pairs)["mean"] - posterior.predict(pairs)["mean"]
    assert high > 0.3 > -0.1 > low


def test_history_grows(table):
    model = PMF(1, users="hierarchical", noise="shared", likelihood=NormalIdentity(0.0))
    known = pd.DataFrame({"user": [0, 1], "item": [3, 50]})
    posterior = fit(
        model, table, VI(max_steps=20, learn_scales=None), history=known, progress=False
    )
    n_before = len(posterior.history)
    folded = posterior.fold_in(NEW)
    assert len(folded.history) == n_before + len(NEW)
    assert folded.ratings.item_ids.tolist() == posterior.ratings.item_ids.tolist()
    assert folded.predict(NEW)["sd"].notna().all()


def test_a_folded_posterior_is_saved(posteriors, tmp_path):
    folded = posteriors["vi"].fold_in(NEW)
    folded.save(tmp_path / "more.pmf")
    pd.testing.assert_frame_equal(load(tmp_path / "more.pmf").predict(NEW), folded.predict(NEW))


def test_a_seed_decides_draws_and_the_callers_random_state_stays(posteriors):
    before = torch.get_rng_state()
    first, again, other = (posteriors["gibbs"].fold_in(NEW, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.latents["U"], again.latents["U"])
    assert not torch.equal(first.latents["U"], other.latents["U"])


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (NEW.assign(user=[90, None, 90, 91, 91]), "no id"),
        (NEW.assign(user=list("abcde")), "of type string"),
        (NEW.assign(rating=[1.0, np.nan, 1.0, 1.0, 1.0]), "rating"),
        (NEW.drop(columns="rating"), "rating"),
        (NEW[:0], "no new ratings"),
        ([(1, 2, 3.0)], "not a list"),
    ],
    ids=["no id", "type of ids", "no number", "no ratings", "empty", "no table"],
)
def test_ratings_that_are_refused(posteriors, new, message):
    with pytest.raises(RatingsError, match=message):
        posteriors["vi"].fold_in(new)


def test_ratings_that_the_model_cannot_produce():
    model = PMF(1, likelihood=OrderedLogit(5), noise="shared")
    posterior = fit(model, stars(model), VI(max_steps=3, learn_scales=None), progress=False)
    with pytest.raises(RatingsError, match="outside the scale"):
        posterior.fold_in(NEW.assign(rating=7.0))
    with pytest.raises(FitError, match="cannot produce"):
        posterior.fold_in(NEW.assign(rating=2.3))


def test_a_model_of_ones_own_is_refused(table):
    def own(ratings):
        with pyro.plate("users", ratings.n_users):
            b = pyro.sample("b", dist.Normal(torch.zeros((), dtype=ratings.dtype), 1.0))
        with pyro.plate("ratings", len(ratings)):
            pyro.sample("rating", dist.Normal(b[..., ratings.user], 0.3), obs=ratings.value)

    posterior = fit(own, table, VI(max_steps=3), progress=False)
    with pytest.raises(PMFError, match="fit all ratings again"):
        posterior.fold_in(NEW)


# Updates


@pytest.mark.parametrize("name", ["vi", "gibbs"])
def test_an_update_moves_both_sides(posteriors, name):
    posterior = posteriors[name]
    folded, updated = posterior.fold_in(NEW), posterior.update(NEW)
    assert updated.ratings.to_frame().equals(folded.ratings.to_frame())
    for site, row, moves in (("c", 4, True), ("c", 5, False)):
        old, new = (str(x.latents[site][..., row]) for x in (posterior, updated))
        assert (old != new) == moves


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The factors have shrunk")
def test_a_stream_ends_near_a_fit_of_all():
    """Five batches lose less than a fifth of what the first batch alone lacks."""
    model = PMF(2, noise="shared")
    ratings = stars(model, 80, 40, 2400)
    train, test = ratings.split(0.2, seed=0)
    frame = train.to_frame().sample(frac=1, random_state=0)
    method = VI(learn_scales=None)
    posterior = fit(model, Ratings.from_frame(frame[:384], scale=(1, 5)), method, progress=False)
    first = posterior.evaluate(test)["rmse"]
    for start in range(384, len(frame), 384):
        posterior = posterior.update(frame[start : start + 384])
    whole = fit(model, train, method, progress=False).evaluate(test)["rmse"]
    assert posterior.evaluate(test)["rmse"] - whole < 0.2 * (first - whole)


def test_forgetting(posteriors, table):
    updated = posteriors["vi"].update(NEW, discount=0.5)
    kept = len(updated.ratings) - len(NEW)
    assert abs(kept - len(table) / 2) < 4 * np.sqrt(len(table) / 4)
    assert updated.ratings.user_ids.tolist() == [*table.user_ids, 90, 91]
    for _ in range(12):  # each forgets others, with the seed of all: the first, too
        updated = updated.update(NEW, discount=0.5)
    assert len(updated.ratings) - len(NEW) < len(NEW) + 3
    for discount in (0, 1.1, "half"):
        with pytest.raises(PMFError, match="discount"):
            posteriors["vi"].update(NEW, discount=discount)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The factors have shrunk")
@pytest.mark.parametrize("method", [VI(), MAP(max_steps=150)], ids=["vi", "map"])
def test_a_fit_begins_where_another_ended(method):
    model = PMF(2, noise="shared")
    ratings = stars(model, 40, 25, 600)
    some, _ = ratings.split(0.1, seed=0)
    before = fit(model, some, method, progress=False)
    warm = fit(model, ratings, method, start=before, progress=False)
    assert float(warm.latents["sigma_U"]) == float(before.latents["sigma_U"])
    cold_start = warm.steps["elbo"].iloc[0]
    assert cold_start > before.steps["elbo"].iloc[0]
    if isinstance(method, VI):
        assert len(warm.steps) < len(before.steps)
    other_noise = fit(PMF(2), ratings, METHODS["map"], start=before, progress=False)
    assert float(other_noise.latents["sigma_U"]) == float(before.latents["sigma_U"])
    assert float(other_noise.latents["sigma_b"]) > 0.01  # held: the density grows where it shrinks
    for other in (PMF(3), PMF(2, users="hierarchical"), PMF(2, likelihood=NormalIdentity())):
        with pytest.raises(
            FitError, match=r"start is the fit of another model, PMF\(.*: give one"
        ):
            fit(other, ratings, method, start=before, progress=False)
    with pytest.raises(FitError, match="chains begin apart"):
        fit(model, ratings, "gibbs", start=before, progress=False)


# The tables


def test_merged_tables(table):
    frame = pd.DataFrame({"user": [30, 2, 2], "item": [1, 90, 90], "rating": [0.0, 1.0, 2.0]})
    both = merged(table, frame)
    expected = pd.concat([table.to_frame(), frame.iloc[[0, 2]]])
    expected = expected.sort_values(["user", "item"], ignore_index=True)
    pd.testing.assert_frame_equal(both.to_frame(), expected, check_dtype=False)
    assert both.transform == table.transform
    assert both.scale == table.scale


@pytest.mark.statistical
def test_drawn_rows_are_exact_where_the_approximation_is_not():
    """Two times yes, which make the posterior of a bias skew: 500 users, 20 draws of each.

    The distance of the distribution functions is 0.13 without corrections, and 0.013 with them.
    That of 10,000 exact draws is above 0.03 with a probability of 3e-8.
    """
    n_draws, n_new = 20, 500
    model = PMF(0, biases="user", likelihood=BernoulliLogit(), noise="shared")
    old = pd.DataFrame({"user": "old", "item": ["a", "b"], "rating": [0.0, 1.0]})
    latents = {
        "b": torch.zeros(n_draws, 1),
        "sigma_b": torch.full((n_draws,), 3.0),
        "mu": torch.full((n_draws,), 0.5),
    }
    steps = pd.DataFrame({"step": [1], "elbo": [0.0], "seconds": [0.0]})
    ratings = Ratings.from_frame(old, scale=(0, 1))
    posterior = Posterior(model, ratings, latents, n_draws, steps, True)
    users = [f"new {i}" for i in range(n_new)]
    new = pd.DataFrame({"user": np.repeat(users, 2), "item": ["a", "b"] * n_new, "rating": 1.0})
    folded = posterior.fold_in(new)
    drawn = folded.latents["b"][:, folded.ratings.user_ids.get_indexer(users)]
    grid = np.linspace(-15, 25, 20_001)
    density = np.exp(-(grid**2) / 18) / (1 + np.exp(-(0.5 + grid))) ** 2
    shares = np.interp(drawn.numpy().ravel(), grid, density.cumsum() / density.sum())
    assert kstest(shares, "uniform").statistic < 0.03
