"""What can be asked of a posterior, against dense float64 computations and simulated truth."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import scipy.stats
import torch

from pyro_pmf import (
    MAP,
    PMF,
    VI,
    Fixed,
    Likelihood,
    PMFError,
    Posterior,
    Priors,
    Ratings,
    RatingsError,
    fit,
)
from pyro_pmf.datasets import simulate
from pyro_pmf.model.likelihoods import OrderedLogit
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian
from pyro_pmf.prediction.located import LocatedPairs

N_USERS, N_ITEMS, K = 6, 5, 2
CONFIGURATIONS = [
    {"users": users, "items": items, "biases": biases}
    for users in ("independent", "hierarchical")
    for items in ("independent", "hierarchical")
    for biases in (True, False)
]


def gaussian(rng, site, *shape, sd=0.3):
    mean = torch.tensor(rng.normal(size=shape) * 0.5)
    return Gaussian(mean, torch.tensor(rng.uniform(0.2, 1.0, shape) * sd**2), frozenset({site}))


def log_gaussian(site, median):
    return LogGaussian(
        torch.tensor(np.log(median)), torch.tensor(1e-8).double(), frozenset({site})
    )


def known_posterior(seed=0, **options):
    """A posterior whose every moment is chosen here, on a table with one unrated pair a user."""
    rng = np.random.default_rng(seed)
    cells = [(i, j) for i in range(N_USERS) for j in range(N_ITEMS) if i % N_ITEMS != j]
    frame = pd.DataFrame(cells, columns=["user", "item"])
    frame["user"] += 100
    frame["item"] = "film" + frame["item"].astype(str)
    frame["rating"] = rng.integers(1, 6, len(frame)).astype(float)
    ratings = Ratings.from_frame(frame, dtype=torch.float64)
    model = PMF(n_factors=K, noise="shared", priors=Priors(tau=Fixed(1.0)), **options)
    latents = {name: log_gaussian(name, 0.2) for name in ("sigma", "sigma_U", "sigma_V")}
    latents["mu"] = gaussian(rng, "mu", sd=0.05)
    if model.biases:
        latents |= {name: log_gaussian(name, 0.4) for name in ("sigma_b", "sigma_c")}
        latents |= {"b": gaussian(rng, "b", N_USERS), "c": gaussian(rng, "c", N_ITEMS)}
    if model.users == "hierarchical":
        latents |= {"sigma_W": log_gaussian("sigma_W", 0.3), "W": gaussian(rng, "W", N_ITEMS, K)}
    if model.items == "hierarchical":
        latents |= {"sigma_Z": log_gaussian("sigma_Z", 0.3), "Z": gaussian(rng, "Z", N_USERS, K)}
    latents |= {"U": gaussian(rng, "U", N_USERS, K), "V": gaussian(rng, "V", N_ITEMS, K)}
    latents |= {site: gaussian(rng, site, K) for site in model.mean_sites}
    steps = pd.DataFrame({"step": [1], "elbo": [0.0], "seconds": [0.0]})
    return Posterior(model, ratings, latents, None, steps, True)


def dense_score_moments(posterior):
    """Mean and variance of every score, from the equations, without the package's operators.

    U and V are latents of every model: what they follow from a priori, W and Z, plays no part.
    """
    latents = posterior.latents
    u, su, v, sv = (getattr(latents[name], of).numpy() for name in "UV" for of in ("mean", "var"))
    mean = latents["mu"].mean.numpy() + u @ v.T
    var = latents["mu"].var.numpy() + su @ (v**2).T + u**2 @ sv.T + su @ sv.T
    if posterior.model.biases:
        mean = mean + latents["b"].mean.numpy()[:, None] + latents["c"].mean.numpy()
        var = var + latents["b"].var.numpy()[:, None] + latents["c"].var.numpy()
    return mean, var


def all_pairs(posterior):
    users, items = posterior.ratings.user_ids, posterior.ratings.item_ids
    return pd.DataFrame(
        [(user, item) for user in users for item in items], columns=["user", "item"]
    )


@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_predict_against_dense_quadrature(options):
    posterior = known_posterior(**options)
    mean, var = (x.ravel() for x in dense_score_moments(posterior))
    grid = scipy.stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    rating = 1 + 4 / (1 + np.exp(-(mean[:, None] + np.sqrt(var)[:, None] * grid)))
    expected = rating.mean(1)
    sd = np.sqrt(rating.var(1) + (4 * 0.2) ** 2)

    predicted = posterior.predict(all_pairs(posterior))
    np.testing.assert_allclose(predicted["mean"], expected, atol=1e-3)
    np.testing.assert_allclose(predicted["sd"], sd, atol=1e-3)
    below = scipy.stats.norm.cdf(predicted["lower"].to_numpy()[:, None], rating, 0.8).mean(1)
    inside = predicted["lower"] > 1
    np.testing.assert_allclose(below[inside], 0.05, atol=1e-3)
    assert predicted["upper"].le(5).all()
    assert predicted["known_user"].all()


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("options", CONFIGURATIONS[::3], ids=str)
def test_samples_have_the_predicted_moments(options):
    """Means within 4.5 standard errors: a false alarm in 1 of 2000 runs of 30 pairs."""
    posterior = known_posterior(**options)
    pairs = all_pairs(posterior)
    samples = posterior.sample(pairs, n_draws=500, seed=1)
    predicted = posterior.predict(pairs)
    assert samples.shape == (500, len(pairs))
    error = (samples.mean(0) - predicted["mean"]) / (predicted["sd"] / np.sqrt(500))
    assert error.abs().max() < 4.5
    np.testing.assert_allclose(samples.std(0), predicted["sd"], rtol=0.15)


@pytest.mark.slow
@pytest.mark.statistical
def test_samples_are_joint():
    """Two films of one user share the user's bias: their draws correlate, those of two users less.

    With 1000 draws a correlation has standard error 0.03; the difference is 5 times that.
    """
    posterior = known_posterior()
    posterior.latents["b"] = Gaussian(
        torch.zeros(N_USERS).double(), torch.ones(N_USERS).double(), frozenset("b")
    )
    pairs = pd.DataFrame({"user": [100, 100, 101], "item": ["film1", "film2", "film2"]})
    correlation = np.corrcoef(posterior.sample(pairs, n_draws=1000).T)
    assert correlation[0, 1] > correlation[0, 2] + 0.15


def one_of(posterior, site, counts):
    """Mean and variance of a row with prior sd 0.2 about an effect drawn by these counts."""
    effect, share = posterior.latents[site], np.array(counts) / sum(counts)
    mean = share @ effect.mean.numpy()
    of_all = posterior.latents["mu_U" if site == "W" else "mu_V"]
    spread = share @ (effect.var.numpy() + (effect.mean.numpy() - mean) ** 2)
    return of_all.mean.numpy() + mean, of_all.var.numpy() + spread + 0.2**2


def test_unknown_ids_get_the_prior():
    posterior = known_posterior(users="hierarchical", items="hierarchical")
    pairs = pd.DataFrame({"user": [100, 999, 100, 998], "item": ["film1", "film1", "new", "new"]})
    predicted = posterior.predict(pairs)
    assert predicted["known_user"].tolist() == [True, False, True, False]
    assert predicted["known_item"].tolist() == [True, True, False, False]
    both = predicted.iloc[3]
    mu = posterior.latents["mu"]
    # b and c are of mean 0; U and V of mu_U or mu_V plus the mean of W_j or Z_i over the training
    # pairs (here all users have as many, film0 one less), and vary as these and the row itself do.
    (u, u_var), (v, v_var) = (
        one_of(posterior, site, counts)
        for site, counts in (("W", [4, 5, 5, 5, 5]), ("Z", [4] * 6))
    )
    var = mu.var.item() + 0.4**2 + 0.4**2 + u**2 @ v_var + v**2 @ u_var + u_var @ v_var
    grid = scipy.stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    rating = 1 + 4 / (1 + np.exp(-(mu.mean.item() + u @ v + np.sqrt(var) * grid)))
    assert both["mean"] == pytest.approx(rating.mean(), abs=2e-3)
    assert both["sd"] == pytest.approx(np.sqrt(rating.var() + 0.8**2), abs=2e-3)
    pd.testing.assert_frame_equal(
        posterior.predict(pairs[:1]), predicted[:1]
    )  # the others change nothing


@pytest.mark.slow
@pytest.mark.statistical
def test_unknown_users_are_different_people():
    """Draws for one unknown user correlate over films; those for two unknown users do not."""
    posterior = known_posterior()
    posterior.latents["sigma_b"] = log_gaussian("sigma_b", 2.0)
    pairs = pd.DataFrame({"user": [-1, -1, -2], "item": ["film1", "film2", "film2"]})
    correlation = np.corrcoef(posterior.sample(pairs, n_draws=500).T)
    assert correlation[0, 1] > 0.5
    assert abs(correlation[0, 2]) < 0.2


def test_pairs_in_any_order_and_form():
    posterior = known_posterior()
    pairs = all_pairs(posterior)
    one_by_one = posterior.predict(pairs)
    shuffled = pairs.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(posterior.predict(shuffled), one_by_one.loc[shuffled.index])
    repeated = pd.concat([pairs[:3], pairs[:3]], ignore_index=True)
    assert posterior.predict(repeated)["mean"].tolist() == one_by_one["mean"][:3].tolist() * 2
    train = posterior.predict(posterior.ratings)
    merged = train.merge(one_by_one, on=["user", "item"])
    np.testing.assert_allclose(merged["mean_x"], merged["mean_y"])
    assert posterior.predict(pairs[:0]).empty
    with pytest.raises(RatingsError, match="no ratings to score"):
        posterior.evaluate(pairs[:0].assign(rating=3.0))


def predict_in_chunks_of(size, monkeypatch):
    chunks = LocatedPairs.chunks
    monkeypatch.setattr(LocatedPairs, "chunks", lambda self: chunks(self, size))


def test_chunks_change_nothing(monkeypatch):
    posterior = known_posterior(users="hierarchical")
    pairs = all_pairs(posterior).assign(rating=3.0)
    whole = posterior.predict(pairs), posterior.scores(pairs)
    predict_in_chunks_of(7, monkeypatch)
    parts = posterior.predict(pairs), posterior.scores(pairs)
    for a, b in zip(whole, parts, strict=True):
        pd.testing.assert_frame_equal(a, b)


def test_evaluate_is_in_rating_units():
    posterior = known_posterior()
    pairs = all_pairs(posterior)
    rating = np.random.default_rng(3).integers(1, 6, len(pairs)).astype(float)
    predicted = posterior.predict(pairs)
    summary = posterior.evaluate(pairs.assign(rating=rating))
    error = rating - predicted["mean"]
    assert summary["n"] == len(pairs)
    assert summary["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    covered = (rating >= predicted["lower"]) & (rating <= predicted["upper"])
    assert summary["coverage"] == pytest.approx(covered.mean())
    normal = -scipy.stats.norm.logpdf(rating, predicted["mean"], predicted["sd"]).mean()
    assert summary["nll"] == pytest.approx(normal, abs=0.03)  # the mixture is nearly Normal


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"user": [100], "item": ["film1"]}), "rating"),
        (pd.DataFrame({"user": [100], "item": ["film1"], "rating": [np.nan]}), "finite"),
        (pd.DataFrame({"user": [100], "rating": [3.0]}), "item"),
        (pd.DataFrame({"user": ["100"], "item": ["film1"], "rating": [3.0]}), "int"),
    ],
)
def test_evaluate_bad_input(frame, message):
    with pytest.raises(RatingsError, match=message):
        known_posterior().evaluate(frame)


def test_recommend_the_best_unseen():
    posterior = known_posterior()
    predicted = posterior.predict(all_pairs(posterior))
    seen = posterior.ratings.to_frame()[["user", "item"]]
    unseen = predicted.merge(seen, how="left", indicator=True).query("_merge == 'left_only'")
    recommended = posterior.recommend(posterior.ratings.user_ids, n=3)
    # One film is left for each.
    assert list(recommended["user"]) == list(posterior.ratings.user_ids)
    merged = recommended.merge(unseen, on=["user", "item"])
    assert len(merged) == len(recommended)
    np.testing.assert_allclose(merged["mean_x"], merged["mean_y"])
    np.testing.assert_allclose(merged["sd_x"], merged["sd_y"])

    everything = posterior.recommend(100, n=3, exclude_seen=False)
    best = predicted.query("user == 100").nlargest(3, "mean")
    assert list(everything["item"]) == list(best["item"])
    assert list(everything["rank"]) == [1, 2, 3]


def test_recommend_to_unknown_and_text_users():
    posterior = known_posterior()
    recommended = posterior.recommend([100, 999], n=2)
    assert recommended["user"].tolist() == [100, 999, 999]
    with pytest.raises(PMFError, match="n must be"):
        posterior.recommend(100, n=0)


@pytest.mark.slow
def test_checkerboard_puts_the_withheld_item_first():
    """Even users like even items, odd users odd ones; each misses one item of its own kind."""
    n = 20
    user, item = np.divmod(np.arange(n * n), n)
    frame = pd.DataFrame(
        {"user": user, "item": item, "rating": 1.0 + 4 * ((user + item) % 2 == 0)}
    )
    withheld = frame.groupby("user").apply(
        lambda rows: rows[rows["rating"] == 5].iloc[rows.name // 2], include_groups=False
    )["item"]
    keep = frame["item"] != frame["user"].map(withheld)
    model = PMF(n_factors=2, priors=Priors(tau=Fixed(1.0), sigma_U=Fixed(1.0), sigma_V=Fixed(1.0)))
    method = MAP(learn_scales=None)
    posterior = fit(model, Ratings.from_frame(frame[keep]), method, progress=False)
    # Items of the other kind were all seen: let them compete.
    ranked = posterior.recommend(range(n), n=n, exclude_seen=False)
    first = ranked[ranked["rank"] <= n // 2]
    assert ((first["user"] + first["item"]) % 2 == 0).all()
    assert posterior.recommend(range(n), n=1)["item"].tolist() == withheld.tolist()


def test_repr_tells():
    posterior = known_posterior()
    text = repr(posterior)
    assert "PMF(n_factors=2" in text
    assert "24 ratings" in text
    assert "converged in 1 steps" in text


# Levels and thresholds

GRID = scipy.stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
SHARES = np.array([0.1, 0.15, 0.3, 0.25, 0.2])
FIVE = [1.0, 2.0, 3.0, 4.0, 5.0]


def dense_ratings(posterior):
    """Expected ratings of all pairs on a grid of scores, (n_pairs, n_grid); their sd is 0.8."""
    mean, var = (x.ravel() for x in dense_score_moments(posterior))
    return 1 + 4 / (1 + np.exp(-(mean[:, None] + np.sqrt(var)[:, None] * GRID)))


def ordinal_posterior(**options):
    posterior = known_posterior(likelihood=OrderedLogit(5), **options)
    posterior.latents.pop("sigma")
    posterior.latents["shares"] = torch.tensor(SHARES)
    return posterior


def dense_levels(posterior):
    """Probability of each level of all pairs, of shape (n_pairs, 5): mu has no part in it."""
    mean, var = dense_score_moments(posterior)
    mu = posterior.latents["mu"]
    mean, var = mean.ravel() - mu.mean.item(), var.ravel() - mu.var.item()
    score = mean[:, None] + np.sqrt(var)[:, None] * GRID
    cuts = scipy.stats.logistic.ppf(SHARES.cumsum()[:-1])
    below = scipy.stats.logistic.cdf(cuts - score[..., None]).mean(1)
    return np.diff(np.pad(below, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1))))


@pytest.mark.parametrize("at_least", [-1.0, 1.0, 3.0, 4.2, 5.0, 7.5])
def test_probability_of_at_least_a_rating(at_least):
    posterior = known_posterior(users="hierarchical")
    pairs = all_pairs(posterior)
    predicted = posterior.predict(pairs, at_least=at_least)
    begins = np.ceil(at_least) - 0.5  # the first star from there on
    expected = scipy.stats.norm.sf(begins, dense_ratings(posterior), 0.8).mean(1)
    expected = 1.0 if at_least <= 1 else 0.0 if at_least > 5 else expected  # outside the scale
    np.testing.assert_allclose(predicted["p_at_least"], expected, atol=1e-4)
    assert predicted.columns.tolist()[:7] == [
        *("user", "item", "mean", "sd", "lower", "upper"),
        "p_at_least",
    ]
    pd.testing.assert_frame_equal(posterior.predict(pairs), predicted.drop(columns="p_at_least"))


@pytest.mark.parametrize("options", CONFIGURATIONS[::3], ids=str)
def test_levels_of_an_ordinal_posterior(options):
    posterior = ordinal_posterior(**options)
    pairs, expected = all_pairs(posterior), dense_levels(posterior)
    table = posterior.predict_levels(pairs)
    assert table.columns.tolist() == ["user", "item", *FIVE]
    assert table[["user", "item"]].to_numpy().tolist() == pairs.to_numpy().tolist()
    np.testing.assert_allclose(table[FIVE], expected, atol=1e-4)
    np.testing.assert_allclose(table[FIVE].sum(axis=1), 1.0, atol=1e-6)
    predicted = posterior.predict(pairs)
    mean = expected @ FIVE
    np.testing.assert_allclose(predicted["mean"], mean, atol=1e-3)
    sd = np.sqrt(expected @ np.square(FIVE) - mean**2)
    np.testing.assert_allclose(predicted["sd"], sd, atol=1e-3)
    for k in range(1, 6):
        p = posterior.predict(pairs, at_least=k)["p_at_least"]
        np.testing.assert_allclose(p, expected[:, k - 1 :].sum(1), atol=1e-4)
        if k < 5:
            above = posterior.predict(pairs, at_least=k + 1)["p_at_least"]
            np.testing.assert_allclose(p - above, table[float(k)], atol=1e-6)
    between = posterior.predict(pairs, at_least=3.4)["p_at_least"]
    np.testing.assert_allclose(between, expected[:, 3:].sum(1), atol=1e-4)


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [(None, range(7)), (7, range(7)), (3, [0, 2, 4]), (1, [0]), (9, [*range(7), 0, 1])],
)
def test_draws_that_represent_a_posterior_are_spread_evenly(wanted, taken):
    closed = ordinal_posterior()
    latents = {"b": torch.arange(7.0)[:, None].expand(7, 3)}
    posterior = Posterior(closed.model, closed.ratings, latents, 7, closed.steps, True)
    assert [int(draw["b"][0]) for draw in posterior.draws(wanted)] == list(taken)


def test_levels_from_draws_are_averages():
    closed = ordinal_posterior()
    torch.manual_seed(0)
    draws = list(closed.draws(4))
    latents = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
    latents["shares"] = torch.distributions.Dirichlet(torch.ones(5).double()).sample((4,))
    pairs = all_pairs(closed)
    steps = closed.steps
    posterior = Posterior(closed.model, closed.ratings, latents, 4, steps, True)
    single = [
        Posterior(
            closed.model,
            closed.ratings,
            {name: x[k : k + 1] for name, x in latents.items()},
            1,
            steps,
            True,
        )
        for k in range(4)
    ]
    expected = np.mean([one.predict_levels(pairs)[FIVE] for one in single], axis=0)
    np.testing.assert_allclose(posterior.predict_levels(pairs)[FIVE], expected, atol=1e-12)
    score = latents["U"][2] @ latents["V"][2].T + latents["c"][2] + latents["b"][2][:, None]
    at_most_2 = scipy.stats.logistic.cdf(latents["shares"][2, :2].sum().logit() - score.ravel())
    got = single[2].predict(pairs, at_least=3)["p_at_least"]
    np.testing.assert_allclose(got, 1 - at_most_2, atol=1e-12)


@pytest.mark.parametrize("at_least", [np.nan, np.inf, [3.0, 4.0], "4"])
def test_at_least_what_is_no_rating(at_least):
    posterior = known_posterior()
    with pytest.raises(PMFError, match="at_least must be a rating"):
        posterior.predict(all_pairs(posterior), at_least=at_least)


def test_transforms_of_levels_differ_from_chunk_to_chunk(monkeypatch):
    """Randomised once for all ratings, not the same in each chunk."""
    posterior = ordinal_posterior()
    pairs = all_pairs(posterior).assign(rating=3.0)
    whole = posterior.scores(pairs)["pit"]
    predict_in_chunks_of(7, monkeypatch)
    np.testing.assert_allclose(posterior.scores(pairs)["pit"], whole)


@pytest.mark.parametrize("levels", [(1, 2, 3, 4, 5), (2.0, 4.5), (3,)])
def test_levels_of_a_continuous_posterior_are_the_nearest(levels):
    posterior = known_posterior()
    pairs = all_pairs(posterior)
    table = posterior.predict_levels(pairs, levels)
    assert table.columns.tolist() == ["user", "item", *map(float, levels)]
    cuts = np.add(levels[1:], levels[:-1]) / 2
    below = scipy.stats.norm.cdf(cuts[:, None, None], dense_ratings(posterior), 0.8).mean(-1)
    ends = np.zeros((1, len(pairs))), np.ones((1, len(pairs)))
    expected = np.diff(np.vstack([ends[0], below, ends[1]]).T)
    np.testing.assert_allclose(table[list(map(float, levels))], expected, atol=1e-4)
    np.testing.assert_allclose(table.iloc[:, 2:].sum(axis=1), 1.0)
    for star in levels if len(levels) == 5 else ():  # of all stars, at_least says the same
        p = posterior.predict(pairs, at_least=star)["p_at_least"]
        above = table[[float(x) for x in levels if x >= star]].sum(axis=1)
        np.testing.assert_allclose(p, above, atol=1e-6)


def test_levels_of_pairs_in_any_order(monkeypatch):
    posterior = ordinal_posterior()
    pairs = all_pairs(posterior)
    whole = posterior.predict_levels(pairs)
    shuffled = pairs.sample(frac=1, random_state=0)
    predict_in_chunks_of(7, monkeypatch)
    parts = posterior.predict_levels(shuffled)
    pd.testing.assert_frame_equal(parts, whole.loc[shuffled.index])
    train = posterior.predict_levels(posterior.ratings)
    merged = train.merge(whole, on=["user", "item"])
    np.testing.assert_allclose(merged["3.0_x"], merged["3.0_y"])
    strangers = pd.DataFrame({"user": [-5, -6], "item": ["film1", "film1"]})
    unknown = posterior.predict_levels(strangers)
    np.testing.assert_allclose(
        unknown.iloc[0, 2:].astype(float), unknown.iloc[1, 2:].astype(float)
    )


def test_levels_that_cannot_be():
    posterior = known_posterior()
    pairs = all_pairs(posterior)
    with pytest.raises(PMFError, match="no levels of their own"):
        posterior.predict_levels(pairs)
    with pytest.raises(PMFError, match="ascend"):
        posterior.predict_levels(pairs, (1, 3, 2))
    with pytest.raises(RatingsError, match="at least one"):
        posterior.predict_levels(pairs[:0], (1, 2))
    with pytest.raises(PMFError, match="none of the levels"):
        posterior.evaluate(pairs.assign(rating=2.5), levels=(1, 2, 3, 4, 5))


# Scores


def test_log_loss_of_a_continuous_posterior():
    posterior = known_posterior()
    pairs = all_pairs(posterior).assign(rating=np.tile(FIVE, 6))
    assert "log_loss" not in posterior.evaluate(pairs)
    scores = posterior.scores(pairs, levels=FIVE)
    chances = posterior.predict_levels(pairs, FIVE)
    expected = [-np.log(chances.loc[n, rating]) for n, rating in enumerate(pairs["rating"])]
    np.testing.assert_allclose(scores["log_loss"], expected)
    summary = posterior.evaluate(pairs, levels=FIVE)
    assert summary["log_loss"] == pytest.approx(np.mean(expected))
    assert summary["nll"] == posterior.evaluate(pairs)["nll"]


def test_scores_of_an_ordinal_posterior():
    posterior = ordinal_posterior()
    pairs = all_pairs(posterior).assign(rating=np.tile(FIVE, 6))
    scores, p = posterior.scores(pairs), dense_levels(posterior)
    level = pairs["rating"].astype(int).to_numpy() - 1
    rows = np.arange(len(pairs))
    np.testing.assert_allclose(scores["nll"], -np.log(p[rows, level]), atol=1e-3)
    np.testing.assert_allclose(scores["log_loss"], scores["nll"])
    steps = p.cumsum(1) - (np.arange(5) >= level[:, None])
    np.testing.assert_allclose(scores["crps"], (steps**2).sum(1), atol=1e-3)
    predicted = posterior.predict(pairs)
    inside = pairs["rating"].between(predicted["lower"], predicted["upper"])
    np.testing.assert_array_equal(scores["covered"], inside)


def scored():
    """All pairs, and some of an unknown user and an unknown item, with their counts."""
    posterior = known_posterior()
    pairs = all_pairs(posterior)
    strangers = pd.DataFrame({"user": [7, 7, 101], "item": ["film1", "film2", "new"]})
    pairs = pd.concat([pairs, strangers], ignore_index=True)
    rating = np.random.default_rng(0).integers(1, 6, len(pairs)).astype(float)
    pairs = pairs.assign(rating=rating).sample(frac=1, random_state=0)
    frame = posterior.ratings.to_frame()
    counts = {of: pairs[of].map(frame[of].value_counts()).fillna(0) for of in ("user", "item")}
    return posterior, pairs, counts


def test_scores_count_the_training_ratings():
    posterior, pairs, counts = scored()
    scores = posterior.scores(pairs)
    np.testing.assert_array_equal(scores["n_user"], counts["user"])
    np.testing.assert_array_equal(scores["n_item"], counts["item"])
    np.testing.assert_allclose(scores["error"], pairs["rating"] - posterior.predict(pairs)["mean"])


@pytest.mark.parametrize("by", ["user", "item"])
def test_evaluate_by_training_ratings(by):
    """Users have 0 or 4 of them, items 0, 4 or 5."""
    posterior, pairs, counts = scored()
    table = posterior.evaluate(pairs, by=by, interval=0.8)
    assert table.index.name == "training_ratings"
    bins = {"user": {"0": [0], "1-4": [4]}, "item": {"0": [0], "1-4": [4], "5-9": [5]}}[by]
    assert table.index.tolist() == list(bins)
    predicted = posterior.predict(pairs, 0.8)
    error = pairs["rating"] - predicted["mean"]
    inside = pairs["rating"].between(predicted["lower"], predicted["upper"])
    for name, values in bins.items():
        here, row = counts[by].isin(values), table.loc[name]
        assert row["n"] == here.sum()
        assert row["rmse"] == pytest.approx(np.sqrt((error[here] ** 2).mean()))
        assert row["mae"] == pytest.approx(error[here].abs().mean())
        assert row["coverage"] == pytest.approx(inside[here].mean())
        assert row["width"] == pytest.approx(
            (predicted["upper"] - predicted["lower"])[here].mean()
        )
        alone = posterior.evaluate(pairs[here], 0.8)
        np.testing.assert_allclose(row, alone)
    assert table["n"].sum() == len(pairs)


@pytest.mark.parametrize("by", ["rating", "users", "", 3])
def test_evaluate_by_something_else(by):
    posterior, pairs, _ = scored()
    with pytest.raises(PMFError, match='"user" or "item"'):
        posterior.evaluate(pairs, by=by)


@dataclass(frozen=True)
class HeavyTails(Likelihood):
    """Ratings of a Student-t distribution, of which torch has no distribution function."""

    def __call__(self, score, sigma, **own):
        return dist.StudentT(4.0, score, sigma)


@pytest.mark.slow
@pytest.mark.parametrize("method", [MAP(max_steps=10), VI(max_steps=10)], ids=["map", "vi"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # few steps, no closed form
def test_a_likelihood_of_ones_own_without_quantiles_answers_everything(method):
    ratings, _ = simulate(PMF(1), n_users=30, n_items=20, n_ratings=300)
    model = PMF(1, noise="shared", likelihood=HeavyTails())
    posterior = fit(model, ratings.with_transform("standardize"), method, progress=False)
    table = posterior.predict(ratings, interval=0.8, at_least=0.5)
    assert (table["lower"] < table["mean"]).all()
    assert (table["mean"] < table["upper"]).all()
    assert table["p_at_least"].between(0, 1).all()
    summary = posterior.evaluate(ratings, levels=None)
    assert summary[["rmse", "nll", "crps", "coverage", "pit_distance"]].map(np.isfinite).all()
    if isinstance(method, MAP):
        assert summary["coverage_80"] == pytest.approx(0.8, abs=0.15)
    assert len(posterior.recommend([0, 1], 3)) == 6
    pd.testing.assert_frame_equal(table, posterior.predict(ratings, interval=0.8, at_least=0.5))


def test_levels_that_are_none_are_refused_before_anything_is_predicted():
    posterior = known_posterior()
    pairs = all_pairs(posterior).assign(rating=3.0)
    for levels in ((), 5, "12345"):
        for ask in (posterior.predict_levels, posterior.evaluate):
            with pytest.raises(PMFError, match="levels must be all possible ratings, ascending"):
                ask(pairs, levels=levels)
