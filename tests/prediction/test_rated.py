"""Pairs that count as rated, and items that nobody has rated, against dense float64 algebra."""

import numpy as np
import pandas as pd
import pytest
import torch
from posteriors import posterior_of as random_posterior

from pyro_pmf import MAP, PMF, Fixed, PMFError, Posterior, Priors, Ratings, fit
from pyro_pmf.criticism.selection import cross_validate
from pyro_pmf.model.likelihoods import NormalIdentity, NormalSigmoid
from pyro_pmf.moments.gaussian import Gaussian
from pyro_pmf.prediction.located import LocatedPairs

N_USERS, N_ITEMS, K = 7, 6, 2
SIGMA, SIGMA_U, SIGMA_V, SIGMA_W, SIGMA_Z = 0.3, 0.7, 0.5, 0.4, 0.6
TAU = np.array([0.6, 1.4])
PRIORS = Priors(
    sigma=Fixed(SIGMA),
    sigma_U=Fixed(SIGMA_U),
    sigma_V=Fixed(SIGMA_V),
    sigma_W=Fixed(SIGMA_W),
    sigma_Z=Fixed(SIGMA_Z),
    sigma_b=Fixed(0.4),
    sigma_c=Fixed(0.4),
)
BOTH = {"users": "hierarchical", "items": "hierarchical"}


def training():
    """Ratings on [0, 1], so that rating units are the model scale; user 7 - i has few."""
    rng = np.random.default_rng(1)
    cells = [(i, j) for i in range(N_USERS) for j in range(N_ITEMS) if rng.random() < 0.3 + i / 14]
    frame = pd.DataFrame(cells, columns=["user", "item"])
    return Ratings.from_frame(
        frame.assign(rating=rng.normal(0.5, 0.3, len(frame)).clip(0, 1)),
        scale=(0, 1),
        dtype=torch.float64,
    )


RATINGS = training()
SEEN = np.zeros((N_USERS, N_ITEMS), dtype=bool)
SEEN[RATINGS.user, RATINGS.item] = True
MODEL = {"n_factors": K, "noise": "shared", "likelihood": NormalIdentity(), "priors": PRIORS}


def d(n, divisor="sqrt_count"):
    return np.sqrt(n) if divisor == "sqrt_count" else n


def values(rng, **options):
    """Latents of a model, as arrays."""
    shapes = {"mu": (), "b": (N_USERS,), "c": (N_ITEMS,), "U": (N_USERS, K), "V": (N_ITEMS, K)}
    shapes |= {"mu_U": (K,), "mu_V": (K,)}
    if options.get("users") == "hierarchical":
        shapes["W"] = N_ITEMS, K
    if options.get("items") == "hierarchical":
        shapes["Z"] = N_USERS, K
    return {name: rng.normal(0.2, 0.5, shape) for name, shape in shapes.items()} | {"tau": TAU}


def posterior_of(draws, n_draws, history=None, **options):
    """A posterior of these draws by site; each is one value for all draws, or an array of them."""
    latents = {
        name: torch.tensor(x if stacked else np.broadcast_to(x, (n_draws, *np.shape(x))).copy())
        for name, (x, stacked) in draws.items()
    }
    steps = pd.DataFrame({"step": [1], "elbo": [0.0], "seconds": [0.0]})
    model = PMF(**MODEL | options)
    return Posterior(model, RATINGS, latents, n_draws, steps, True, None, history)


def unseen():
    return pd.DataFrame(np.argwhere(~SEEN), columns=["user", "item"])


def conditional(value, j, mean, of="V", noise=SIGMA):
    """Mean and covariance of V_j (or U_j) given all else, if its prior mean is ``mean``."""
    seen, other, own_bias, bias, sd = (
        (SEEN[:, j], value["U"], value["c"][j], value["b"], np.full(K, SIGMA_V))
        if of == "V"
        else (SEEN[j], value["V"], value["b"][j], value["c"], SIGMA_U * TAU)
    )
    rating = np.zeros((N_USERS, N_ITEMS))
    rating[RATINGS.user, RATINGS.item] = RATINGS.rating
    y = (rating[:, j] if of == "V" else rating[j])[seen]
    x, residual = other[seen], y - value["mu"] - own_bias - bias[seen]
    precision = np.diag(sd**-2.0) + x.T @ x / noise**2
    covariance = np.linalg.inv(precision)
    return covariance @ (sd**-2.0 * mean + x.T @ residual / noise**2), covariance


# --- a pair that is rated ---


@pytest.mark.parametrize("divisor", ["sqrt_count", "count"])
@pytest.mark.parametrize("of", ["U", "V"])
def test_a_conjugate_row_is_the_row_of_a_model_run_with_the_pair(of, divisor):
    """The 2 K draws of the rows have exactly the mean and covariance of their conditionals.

    So mean and variance of the predictions are those of the row's conditional distribution, given
    the ratings and a prior mean that counts the pair.
    """
    sides = {"users": "hierarchical"} if of == "U" else {"items": "hierarchical"}
    value = values(np.random.default_rng(2), **sides)
    effect, seen = (value["W"], SEEN) if of == "U" else (value["Z"], SEEN.T)
    n = seen.sum(1)
    assert n.min() > 0
    draws = {name: (x, False) for name, x in value.items()}
    rows = np.empty((2 * K, *value[of].shape))
    for row in range(len(rows[0])):
        center, covariance = conditional(
            value, row, value[f"mu_{of}"] + effect[seen[row]].sum(0) / d(n[row], divisor), of
        )
        away = np.sqrt(K) * np.linalg.cholesky(covariance).T
        rows[:, row] = center + np.vstack([away, -away])
    posterior = posterior_of(draws | {of: (rows, True)}, 2 * K, divisor=divisor, **sides)
    pairs = unseen()
    predicted = posterior.predict(pairs, rated=True)
    for (i, j), found in zip(pairs.to_numpy(), predicted[["mean", "sd"]].to_numpy(), strict=True):
        row, column, other = (j, i, value["U"][i]) if of == "V" else (i, j, value["V"][j])
        counted = seen[row].copy()
        counted[column] = True
        mean = value[f"mu_{of}"] + effect[counted].sum(0) / d(n[row] + 1, divisor)
        center, covariance = conditional(value, row, mean, of)
        score = value["mu"] + value["b"][i] + value["c"][j] + other @ center
        variance = other @ covariance @ other + SIGMA**2
        np.testing.assert_allclose(found, [score, np.sqrt(variance)], rtol=1e-10)
    without = posterior.predict(pairs)
    assert (without["mean"] - predicted["mean"]).abs().max() > 0.05


def shares(value, of, extra=0.0):
    """(P + G)^-1 P of each row, by inverting; ``extra`` is the variance of the partner's rows."""
    other, seen = (value["V"], SEEN) if of == "U" else (value["U"], SEEN.T)
    precision = np.diag((SIGMA_U * TAU if of == "U" else np.full(K, SIGMA_V)) ** -2.0)
    found = []
    for row in seen:
        x = other[row]
        gram = x.T @ x + np.diag((extra * np.ones_like(other))[row].sum(0))
        found.append(np.linalg.inv(precision + gram / SIGMA**2) @ precision)
    return np.array(found)


def test_both_rows_move_under_each_draw():
    value = values(np.random.default_rng(3), **BOTH)
    posterior = posterior_of({name: (x, False) for name, x in value.items()}, 1, **BOTH)
    n_user, n_item = SEEN.sum(1), SEEN.sum(0)
    S, T = SEEN @ value["W"], SEEN.T @ value["Z"]
    of_user, of_item = shares(value, "U"), shares(value, "V")
    for _, row in posterior.predict(unseen(), rated=True).iterrows():
        i, j = int(row["user"]), int(row["item"])
        by_user = (S[i] + value["W"][j]) / d(n_user[i] + 1) - S[i] / d(n_user[i])
        by_item = (T[j] + value["Z"][i]) / d(n_item[j] + 1) - T[j] / d(n_item[j])
        u, v = value["U"][i] + of_user[i] @ by_user, value["V"][j] + of_item[j] @ by_item
        score = value["mu"] + value["b"][i] + value["c"][j] + u @ v
        assert row["mean"] == pytest.approx(score, rel=1e-10)
        assert row["sd"] == pytest.approx(SIGMA, rel=1e-10)


def closed_form(value, rng, **options):
    """A posterior of independent Gaussians about these values; returns it and their variances."""
    latents, variances = {}, {}
    for name, x in value.items():
        variances[name] = 0.0 * x if name == "tau" else rng.uniform(0.01, 0.05, np.shape(x))
        latents[name] = (
            torch.tensor(x)
            if name == "tau"
            else Gaussian(torch.tensor(x), torch.tensor(variances[name]), frozenset({name}))
        )
    posterior = posterior_of({}, None, **options)
    return Posterior(**vars(posterior) | {"latents": latents}), variances


def test_moments_of_a_closed_form():
    """Means move by the K x K share of the prior, and variances of the effects add."""
    rng = np.random.default_rng(4)
    value = values(rng, **BOTH)
    posterior, var = closed_form(value, rng, **BOTH)
    n_user, n_item = SEEN.sum(1)[:, None], SEEN.sum(0)[:, None]
    moments = {}
    for of, n, seen, effect in (("U", n_user, SEEN, "W"), ("V", n_item, SEEN.T, "Z")):
        share = shares(value, of, var["V" if of == "U" else "U"])
        less = d(n) / d(n + 1) - 1
        loc = seen @ value[effect] / d(n), seen @ var[effect] / n
        moments[of] = share, less, n, *loc
    for _, row in posterior.predict(unseen(), rated=True).iterrows():
        at = {"U": int(row["user"]), "V": int(row["item"])}
        mean, variance = {}, {}
        for of, effect, other in (("U", "W", at["V"]), ("V", "Z", at["U"])):
            share, less, n, loc, loc_var = (x[at[of]] for x in moments[of])
            shift = less * loc + value[effect][other] / d(n + 1)
            spread = less**2 * loc_var + var[effect][other] / (n + 1)
            mean[of] = value[of][at[of]] + share @ shift
            variance[of] = var[of][at[of]] + share**2 @ spread
        i, j = at["U"], at["V"]
        score = value["mu"] + value["b"][i] + value["c"][j] + mean["U"] @ mean["V"]
        of_score = (
            var["mu"]
            + var["b"][i]
            + var["c"][j]
            + mean["U"] ** 2 @ variance["V"]
            + mean["V"] ** 2 @ variance["U"]
            + variance["U"] @ variance["V"]
        )
        assert row["mean"] == pytest.approx(score, rel=1e-9)
        assert row["sd"] == pytest.approx(np.sqrt(of_score + SIGMA**2), rel=1e-3)


def strangers():
    """All pairs, and those of two users and two items that nobody knows."""
    known = pd.DataFrame(np.argwhere(SEEN | ~SEEN), columns=["user", "item"])
    new = [(0, 80), (0, 81), (90, 1), (90, 80), (91, 81), (3, 80)]
    return pd.concat([known, pd.DataFrame(new, columns=["user", "item"])], ignore_index=True)


def a_posterior(kind, **options):
    rng = np.random.default_rng(5)
    value = values(rng, **BOTH)
    if kind == "closed form":
        return closed_form(value, rng, **BOTH | options)[0]
    return posterior_of({name: (x, False) for name, x in value.items()}, 3, **BOTH | options)


@pytest.mark.slow
def test_no_pair_influences_another():
    posterior, pairs = a_posterior("closed form"), strangers()
    together = posterior.predict(pairs, rated=True)
    alone = [posterior.predict(pairs[k : k + 1], rated=True) for k in range(len(pairs))]
    pd.testing.assert_frame_equal(together, pd.concat(alone))
    twice = posterior.predict(pd.concat([pairs, pairs]), rated=True)
    pd.testing.assert_frame_equal(twice[: len(pairs)], together)
    pd.testing.assert_frame_equal(twice[len(pairs) :], together)


@pytest.mark.parametrize("kind", ["closed form", "draws"])
def test_chunks_change_nothing(kind, monkeypatch):
    posterior, pairs = a_posterior(kind), unseen().sample(frac=1, random_state=0)
    whole = posterior.predict(pairs, rated=True)
    chunks = LocatedPairs.chunks
    monkeypatch.setattr(LocatedPairs, "chunks", lambda self: chunks(self, 4))
    pd.testing.assert_frame_equal(posterior.predict(pairs, rated=True), whole)


@pytest.mark.parametrize("kind", ["closed form", "draws"])
def test_pairs_of_the_history_are_counted_already(kind):
    posterior = a_posterior(kind)
    train = RATINGS.to_frame()
    without, with_pair = (posterior.predict(train, rated=rated) for rated in (False, True))
    np.testing.assert_allclose(without["mean"], with_pair["mean"], rtol=1e-12)
    np.testing.assert_allclose(without["sd"], with_pair["sd"], rtol=1e-9)


@pytest.mark.parametrize("kind", ["closed form", "draws"])
def test_every_answer_is_of_the_same_distribution(kind):
    posterior = a_posterior(kind)
    pairs = unseen().assign(rating=0.5)
    predicted = posterior.predict(pairs, rated=True, at_least=0.5)
    scores = posterior.scores(pairs, rated=True)
    np.testing.assert_allclose(scores["error"], 0.5 - predicted["mean"])
    assert posterior.evaluate(pairs, rated=True)["rmse"] == pytest.approx(
        np.sqrt((scores["error"] ** 2).mean())
    )
    levels = posterior.predict_levels(pairs, (0.0, 1.0), rated=True)
    np.testing.assert_allclose(levels[1.0], predicted["p_at_least"], atol=1e-6)
    tables = predicted, scores, levels
    assert all(table.attrs["rated"] is True for table in tables)
    assert posterior.predict(pairs).attrs["rated"] is False


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("kind", ["closed form", "draws"])
def test_draws_have_the_predicted_mean(kind):
    """Means within 4.5 standard errors: a false alarm in 1 of 10,000 runs of 15 pairs."""
    posterior, n = a_posterior(kind), 300
    pairs = unseen()
    predicted = posterior.predict(pairs, rated=True)
    drawn = posterior.sample(pairs, n, rated=True)
    error = (drawn.mean(0) - predicted["mean"]) / (predicted["sd"] / np.sqrt(n))
    assert error.abs().max() < 4.5
    np.testing.assert_allclose(drawn.std(0), predicted["sd"], rtol=0.2)


@pytest.mark.parametrize("rows", [{}, {"n_factors": 0}])
def test_without_sums_over_pairs_both_questions_are_one(rows):
    ratings = Ratings.from_frame(RATINGS.to_frame(), scale=(0, 1))
    posterior = fit(
        PMF(**{"n_factors": 1} | rows),
        ratings,
        MAP(max_steps=5, learn_scales=None),
        progress=False,
    )
    with_pair, without = (posterior.predict(strangers(), rated=rated) for rated in (True, False))
    pd.testing.assert_frame_equal(with_pair, without)


def test_models_with_a_history_of_their_own_are_refused():
    posterior = a_posterior("draws")

    def model(ratings, history=None):
        return posterior.model(ratings, history)

    own = Posterior(**vars(posterior) | {"model": model})
    with pytest.raises(PMFError, match="rated=False"):
        own.predict(unseen(), rated=True)
    pd.testing.assert_frame_equal(own.predict(unseen()), posterior.predict(unseen()))


# --- an item that nobody has rated ---


def raters(rng, n):
    """Users drawn in proportion to their number of ratings."""
    return rng.choice(N_USERS, n, p=SEEN.sum(1) / SEEN.sum())


@pytest.mark.parametrize("users", ["independent", "hierarchical"])
def test_answers_for_a_stranger_do_not_depend_on_other_strangers(users):
    """Of draws: one row of the prior for each draw, which all unknown users share."""
    posterior = random_posterior("NormalSigmoid", "draws", users=users)
    item = posterior.ratings.item_ids[2]
    alone = posterior.predict(pd.DataFrame({"user": [900], "item": [item]}))
    many = pd.DataFrame({"user": [901, 900, *posterior.ratings.user_ids], "item": item})
    among = posterior.predict(many).iloc[:2]
    for part in ("mean", "sd", "lower", "upper"):
        np.testing.assert_allclose(among[part], alone[part].iloc[0], rtol=1e-6)
    lists = posterior.recommend([905, 906, 907], 5)
    assert lists["item"].tolist() == 3 * posterior.recommend(900, 5)["item"].tolist()


def test_moments_of_an_unknown_item_of_a_closed_form():
    """V_j ~ Normal(mu_V + Z_i, sigma_V^2 I) of a user i drawn by activity, by entry."""
    value = values(np.random.default_rng(6), items="hierarchical")
    posterior, var = closed_form(value, np.random.default_rng(7), items="hierarchical")
    share = SEEN.sum(1) / SEEN.sum()
    rater = share @ value["Z"]
    mean = value["mu_V"] + rater
    variance = share @ ((value["Z"] - rater) ** 2 + var["Z"]) + SIGMA_V**2 + var["mu_V"]
    predicted = posterior.predict(pd.DataFrame({"user": range(N_USERS), "item": 99}))
    u, u_var = value["U"], var["U"]
    score = value["mu"] + value["b"] + u @ mean
    of_score = var["mu"] + var["b"] + 0.4**2 + u**2 @ variance + u_var @ (mean**2 + variance)
    np.testing.assert_allclose(predicted["mean"], score, rtol=1e-9)
    np.testing.assert_allclose(predicted["sd"], np.sqrt(of_score + SIGMA**2), rtol=1e-3)


@pytest.mark.long
@pytest.mark.statistical
def test_draws_of_an_unknown_item_and_an_unknown_user():
    """20,000 simulated scores, and 1,000 draws: tolerances are 5 standard errors."""
    rng, n = np.random.default_rng(8), 1000
    value = values(rng, **BOTH)
    posterior = posterior_of({name: (x, False) for name, x in value.items()}, n, **BOTH)
    pairs = pd.DataFrame({"user": [2, 90, 90], "item": [99, 3, 99]})
    many = 20_000
    Z = value["Z"][raters(rng, many)]
    V = value["mu_V"] + Z + SIGMA_V * rng.normal(size=(many, K))
    W = value["W"][rng.choice(N_ITEMS, many, p=SEEN.sum(0) / SEEN.sum())]
    U = value["mu_U"] + W + SIGMA_U * TAU * rng.normal(size=(many, K))
    bias = 0.4 * rng.normal(size=(2, many))
    scores = (
        value["b"][2] + bias[1] + V @ value["U"][2],
        value["c"][3] + bias[0] + U @ value["V"][3],
        bias[0] + bias[1] + (U * V).sum(1),
    )
    predicted = posterior.predict(pairs)
    for score, found in zip(scores, predicted[["mean", "sd"]].to_numpy(), strict=True):
        sd = np.hypot(score.std(), SIGMA)
        assert found[0] == pytest.approx(value["mu"] + score.mean(), abs=5 * sd / np.sqrt(950))
        assert found[1] == pytest.approx(sd, rel=5 * np.sqrt(1.5 / 950))


def test_a_rated_pair_of_an_unknown_item_has_its_own_rater():
    """V_j ~ Normal(mu_V + Z_i, sigma_V^2 I) of the user i of the pair."""
    value = values(np.random.default_rng(9), items="hierarchical")
    posterior, var = closed_form(value, np.random.default_rng(10), items="hierarchical")
    pairs = pd.DataFrame({"user": range(N_USERS), "item": 99})
    predicted = posterior.predict(pairs, rated=True)
    u, u_var = value["U"], var["U"]
    v, v_var = value["mu_V"] + value["Z"], var["mu_V"] + var["Z"] + SIGMA_V**2
    score = value["mu"] + value["b"] + (u * v).sum(1)
    of_score = (u**2 * v_var + u_var * (v**2 + v_var)).sum(1) + var["mu"] + var["b"] + 0.4**2
    np.testing.assert_allclose(predicted["mean"], score, rtol=1e-9)
    np.testing.assert_allclose(predicted["sd"], np.sqrt(of_score + SIGMA**2), rtol=1e-3)


def test_the_callers_random_state_is_left_alone():
    posterior = a_posterior("closed form")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    posterior.predict(strangers(), rated=True)
    posterior.predict(strangers())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("scale", [1e-30, 1e15])
def test_extreme_scales_give_finite_predictions(scale):
    """A factor that is switched off, or free, moves by 0 or by all of the shift."""
    posterior = a_posterior("draws", likelihood=NormalSigmoid())
    posterior.latents["tau"][:, 0] = scale
    posterior.latents["U"][..., 0] *= min(scale, 1.0)
    predicted = posterior.predict(unseen(), rated=True)
    assert np.isfinite(predicted[["mean", "sd"]].to_numpy()).all()


@pytest.mark.slow
def test_cross_validation_asks_either_question():
    model, method = (
        PMF(1, items="hierarchical", noise="shared"),
        MAP(max_steps=5, learn_scales=None),
    )
    options = {"method": method, "progress": False}
    for rated in (False, True):
        table = cross_validate({"one": model}, RATINGS, k=2, rated=rated, **options)
        parts = [
            fit(model, train, **options).scores(test, rated=rated)
            for train, test in RATINGS.k_fold(2)
        ]
        error = pd.concat(parts)["error"]
        assert table.loc["one", "rmse"] == pytest.approx(np.sqrt((error**2).mean()))
