"""Explanations, against refits of a user's row, and of the whole model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import torch
from posteriors import LIKELIHOODS, posterior_of

from pyro_pmf import PMF, VI, Fixed, NormalIdentity, PMFError, Priors, Ratings, RatingsError, fit
from pyro_pmf.prediction.explanation import explain

USER, TARGET = 103, "film07"


def row_without(posterior, left_out):
    """The most probable row of the user given all else, found by SciPy; and the prediction.

    This is the density of the paper: a Normal row, and the ratings but one.
    """
    train, model = posterior.ratings, posterior.model
    values = {
        site: x if isinstance(x, torch.Tensor) else x.mean for site, x in posterior.latents.items()
    }
    i = train.user_ids.get_loc(USER)
    j = train.item[train.user == i]
    value = train.value[train.user == i]
    keep = torch.arange(len(j)) != left_out
    loc = values["mu_U"]
    if model.users == "hierarchical":
        loc = loc + values["W"][j[keep]].sum(0) / keep.sum() ** 0.5
    sd = torch.cat([values["sigma_U"].expand(2), values["sigma_b"].expand(1)])
    own = {}
    if "shares" in values:
        below = values["shares"].cumsum(0)[:-1]
        own["cutpoints"] = (below / (1 - below)).log()
    mu, sigma = values.get("mu", torch.tensor(0.0)), values.get("sigma", torch.tensor(1.0))

    def rating(row, items):
        score = mu + row[2] + values["c"][items] + values["V"][items] @ row[:2]
        log = values["s"][i] + values["t"][items]
        return model.likelihood(score, sigma * log.exp(), **own)

    def loss(x):
        row = torch.tensor(x, requires_grad=True)
        prior = (((row - torch.cat([loc, torch.zeros(1)])) / sd) ** 2).sum() / 2
        lost = prior - rating(row, j[keep]).log_prob(value[keep]).sum()
        lost.backward()
        return float(lost.detach()), row.grad.numpy()

    found = scipy.optimize.minimize(loss, np.zeros(3), jac=True, tol=1e-12, method="BFGS")
    target = torch.tensor([train.item_ids.get_loc(TARGET)])
    expected = rating(torch.tensor(found.x), target).mean
    return found.x, float(train.transform.origin + train.transform.width * expected)


@pytest.mark.parametrize("users", ["independent", "hierarchical"])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_changes_are_those_of_refits_of_the_row(name, users):
    """A point estimate, whose row is the most probable one given the items.

    The Normal is exact. Elsewhere one step of Newton's method has an error; it is at most a fifth
    of the largest change, and where a change is a fifth of the largest, its sign is right.
    """
    posterior = posterior_of(name, "point", users=users)
    i = posterior.ratings.user_ids.get_loc(USER)
    row, whole = row_without(posterior, -1)
    posterior.latents["U"].mean[i] = torch.tensor(row[:2])
    posterior.latents["b"].mean[i] = row[2]
    pair = pd.DataFrame({"user": [USER], "item": [TARGET]})
    assert posterior.predict(pair)["mean"][0] == pytest.approx(whole, abs=1e-6)

    table = posterior.explain(USER, TARGET)
    frame = posterior.ratings.to_frame()
    theirs = frame[frame["user"] == USER].reset_index(drop=True)
    refits = pd.Series(
        [whole - row_without(posterior, k)[1] for k in theirs.index], index=theirs["item"]
    )
    wanted, found = refits[table["item"]].to_numpy(), table["change"].to_numpy()
    atol = 1e-5 if name == "NormalIdentity" else 0.2 * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, atol=atol)
    strong = np.abs(wanted) > atol
    assert (np.sign(found) == np.sign(wanted))[strong].all()
    assert np.corrcoef(found, wanted)[0, 1] > 0.97
    assert (np.diff(np.abs(found)) <= 0).all()
    ratings = theirs.set_index("item")["rating"]
    assert table["rating"].tolist() == ratings[table["item"]].tolist()


def small_table():
    rng = np.random.default_rng(2)
    user, item = np.nonzero(rng.random((30, 12)) < 0.6)
    score = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 12))
    rating = 3 + score[user, item] + 0.5 * rng.normal(size=len(user))
    return pd.DataFrame({"user": user, "item": item, "rating": rating})


@pytest.mark.slow
def test_changes_are_near_those_of_refits_by_vi():
    """The items and their variances move too, so only most of a change is found."""
    frame = small_table()
    fixed = {f"sigma_{site}": Fixed(0.8) for site in "UVbc"}
    model = PMF(
        2,
        noise="shared",
        likelihood=NormalIdentity(0.0),
        priors=Priors(sigma=Fixed(0.5), tau=Fixed(1.0), mu=Fixed(0.0), **fixed),
    )
    ratings = Ratings.from_frame(frame, transform="standardize", dtype=torch.float64)
    method = VI(tolerance=1e-9, learn_scales=None)
    posterior = fit(model, ratings, method, progress=False)
    pair = pd.DataFrame({"user": [4], "item": [5]})
    found = posterior.explain(4, 5).set_index("item")["change"]
    refits = {}
    for item in found.index:
        rest = ratings._take(~((frame["user"] == 4) & (frame["item"] == item)).to_numpy())
        again = fit(model, rest, method, progress=False)
        refits[item] = posterior.predict(pair)["mean"][0] - again.predict(pair)["mean"][0]
    wanted = pd.Series(refits)
    assert np.corrcoef(found, wanted)[0, 1] > 0.9
    strong = wanted.abs() > 0.3 * wanted.abs().max()
    assert (np.sign(found) == np.sign(wanted))[strong].all()


def test_draws_average_the_changes_of_their_rows():
    """Of a linear model: each draw's row is the Normal one given its items, in closed form."""
    posterior = posterior_of("NormalIdentity", "draws", noise="shared")
    train, latents = posterior.ratings, posterior.latents
    i = train.user_ids.get_loc(USER)
    j, value = train.item[train.user == i], train.value[train.user == i]
    target = train.item_ids.get_loc(TARGET)

    def predicted(k, keep):
        X = torch.cat([latents["V"][k], torch.ones(train.n_items, 1)], 1).double()
        precision = torch.cat([latents["sigma_U"][k].expand(2), latents["sigma_b"][k, None]]) ** -2
        noise = latents["sigma"][k] ** -2
        loc = torch.cat([latents["mu_U"][k], torch.zeros(1)]).double()
        x, rest = X[j[keep]], value[keep] - latents["mu"][k] - latents["c"][k, j[keep]]
        row = torch.linalg.solve(
            torch.diag(precision) + noise * x.T @ x, precision * loc + noise * x.T @ rest
        )
        return float(train.transform.width * (X[target] @ row))

    every = torch.ones(len(j), dtype=torch.bool)
    wanted = {}
    for n, item in enumerate(train.item_ids[j.numpy()]):
        keep = torch.arange(len(j)) != n
        changes = [predicted(k, every) - predicted(k, keep) for k in range(posterior.n_draws)]
        wanted[item] = np.mean(changes)
    found = posterior.explain(USER, TARGET).set_index("item")["change"]
    np.testing.assert_allclose(found, pd.Series(wanted)[found.index], rtol=1e-6)


@pytest.mark.parametrize("kind", ["closed", "draws"])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_kind_of_posterior_is_explained(name, kind):
    table = posterior_of(name, kind, users="hierarchical").explain(USER, TARGET)
    assert list(table) == ["item", "rating", "change"]
    assert np.isfinite(table["change"]).all()
    assert len(table) > 3


def test_a_user_without_ratings_has_no_rows():
    with_empty = posterior_of()
    train = with_empty.ratings
    ids = train.user_ids.append(pd.Index([500]))
    wider = Ratings(
        train.user, train.item, ids, train.item_ids, train.scale, train.rating, dtype=train.dtype
    )
    object.__setattr__(with_empty, "ratings", wider)
    table = with_empty.explain(500, TARGET)
    assert list(table) == ["item", "rating", "change"]
    assert len(table) == 0


def test_refusals():
    posterior = posterior_of()
    with pytest.raises(RatingsError, match="999"):
        posterior.explain(999, TARGET)
    with pytest.raises(RatingsError, match="'film99'"):
        posterior.explain(USER, "film99")
    with pytest.raises(RatingsError, match="missing"):
        posterior.explain(None, TARGET)

    def own(ratings):
        raise AssertionError

    object.__setattr__(posterior, "model", own)
    with pytest.raises(PMFError, match="terms of a PMF"):
        explain(posterior, USER, TARGET)
