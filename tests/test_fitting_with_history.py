"""Fits that know of pairs without ratings: `fit(history=...)`, its predictions, and its files."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from pyro import poutine

from pyro_pmf import MAP, NUTS, PMF, VI, FitError, Fixed, Priors, Ratings, fit, load
from pyro_pmf.data.history import with_history
from pyro_pmf.inference.variational.objective import pose
from pyro_pmf.model import running

SCALES = {f"sigma_{site}": Fixed(0.7) for site in "UVWZ"}
MODEL = PMF(
    2,
    users="hierarchical",
    items="hierarchical",
    noise="shared",
    priors=Priors(tau=Fixed(1.0), sigma=Fixed(0.1), **SCALES),
)
KNOWN = pd.DataFrame({"user": [0, 1, 2, 50], "item": [99, 99, 3, 2]})


def training(n_users=20, n_items=15):
    """Ratings that factors explain, of 60% of the pairs."""
    rng = np.random.default_rng(0)
    cells = np.argwhere(rng.random((n_users, n_items)) < 0.6)
    left, right = rng.normal(size=(n_users, 2)), rng.normal(size=(n_items, 2))
    score = (left[cells[:, 0]] * right[cells[:, 1]]).sum(1)
    frame = pd.DataFrame(cells, columns=["user", "item"])
    return Ratings.from_frame(
        frame.assign(rating=1 + 4 / (1 + np.exp(-score))), scale=(1, 5), dtype=torch.float64
    )


@pytest.fixture(scope="module")
def posterior():
    return fit(
        MODEL, training(), VI(tolerance=1e-6, learn_scales=None), history=KNOWN, progress=False
    )


def pairs_of(pairs, ratings):
    users, items = ratings.user_ids[pairs.user.numpy()], ratings.item_ids[pairs.item.numpy()]
    return set(zip(users, items, strict=True))


def mean(posterior, site):
    return posterior.latents[site].mean.numpy()


@pytest.mark.slow
def test_rows_without_ratings_lie_at_their_prior_means(posterior):
    """Item 99 was rated by users 0 and 1, user 50 rated item 2; nobody said how.

    All that is known of such rows is their prior: Normal about mu_V + (Z_0 + Z_1) / sqrt(2), or
    about mu_U + W_2.
    """
    ids = posterior.ratings.user_ids.tolist(), posterior.ratings.item_ids.tolist()
    assert 50 in ids[0]
    assert 99 in ids[1]
    V, U = mean(posterior, "V")[ids[1].index(99)], mean(posterior, "U")[ids[0].index(50)]
    Z, W = mean(posterior, "Z"), mean(posterior, "W")
    raters = [ids[0].index(user) for user in (0, 1)]
    mu_U, mu_V = mean(posterior, "mu_U"), mean(posterior, "mu_V")
    np.testing.assert_allclose(V, mu_V + Z[raters].sum(0) / np.sqrt(2), atol=1e-3)
    np.testing.assert_allclose(U, mu_U + W[ids[1].index(2)], atol=1e-3)
    var = posterior.latents["V"].var.numpy()[ids[1].index(99)]
    of_effect = posterior.latents["Z"].var.numpy()[raters].sum(0) / 2
    of_mean = posterior.latents["mu_V"].var.numpy()
    np.testing.assert_allclose(var, 0.7**2 + of_mean + of_effect, rtol=0.02)


@pytest.mark.slow
def test_pairs_of_the_history_are_rated_already(posterior):
    both = [posterior.predict(KNOWN, rated=rated) for rated in (False, True)]
    pd.testing.assert_frame_equal(*both)
    assert both[0]["known_item"].all()
    scores = posterior.scores(KNOWN.assign(rating=3.0))
    counts = posterior.ratings.to_frame()["item"].value_counts()
    assert scores["n_item"].tolist() == [0, 0, counts[3], counts[2]]  # of ratings, not of pairs


@pytest.mark.slow
def test_recommendations_leave_out_what_was_rated(posterior):
    every = posterior.recommend([0, 50], n=20)
    seen = pd.concat([posterior.ratings.to_frame()[["user", "item"]], KNOWN])
    assert len(every.merge(seen, on=["user", "item"])) == 0
    assert len(every) == 2 * 16 - seen["user"].isin([0, 50]).sum()


@pytest.mark.slow
def test_a_history_is_saved(posterior, tmp_path):
    posterior.save(tmp_path / "fit")
    loaded = load(tmp_path / "fit")
    pairs = pd.DataFrame({"user": [3, 3, 60], "item": [99, 1, 99]})
    for rated in (False, True):
        pd.testing.assert_frame_equal(
            loaded.predict(pairs, rated=rated), posterior.predict(pairs, rated=rated)
        )
    assert torch.equal(loaded.history.user, posterior.history.user)
    assert torch.equal(loaded.history.item, posterior.history.item)


def test_a_bound_model_runs_with_its_history():
    ratings, seen = with_history(training(), KNOWN)
    bound = pickle.loads(pickle.dumps(running.with_history(MODEL, seen)))
    trace = poutine.trace(MODEL).get_trace(ratings, history=seen)

    def log_prob(model, **options):
        replayed = poutine.replay(model, trace=trace)
        return float(poutine.trace(replayed).get_trace(ratings, **options).log_prob_sum())

    expected = pytest.approx(float(trace.log_prob_sum()))
    assert log_prob(bound) == log_prob(bound, history=ratings) == expected
    assert log_prob(MODEL) != expected
    assert bound.terms == MODEL.terms
    assert running.with_history(MODEL, None) is MODEL


def test_blocks_add_up_to_the_loss_with_the_history():
    ratings, seen = with_history(training(), KNOWN)
    objective = pose(MODEL, ratings, VI(), history=seen)
    whole = objective.loss().item()
    blocks = ratings.user_blocks(3)
    parts = [objective.loss(block, len(blocks)).item() for block in blocks]
    assert np.mean(parts) == pytest.approx(whole)
    assert pose(MODEL, ratings, VI()).loss().item() != pytest.approx(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        MAP(max_steps=5, learn_scales=None),
        NUTS(n_draws=4, n_warmup=4),
        VI(max_steps=5, batches=2, learn_scales=None),
    ],
)
def test_every_method_takes_a_history(method):
    ratings = training(4, 4)
    posterior = fit(MODEL, ratings, method, history=KNOWN, progress=False)
    assert {*KNOWN.itertuples(index=False, name=None)} <= pairs_of(
        posterior.history, posterior.ratings
    )
    assert np.isfinite(posterior.predict(KNOWN)["mean"]).all()


def test_pairs_that_change_nothing():
    """Pairs among the training ratings add nothing, and independent rows look at none."""
    ratings = training()
    quick = {"method": MAP(max_steps=5, learn_scales=None), "progress": False}
    pairs = ratings.to_frame()
    for model, history in ((MODEL, pairs), (PMF(1), pairs[["user", "item"]][::-1])):
        plain, informed = (
            fit(model, ratings, **quick),
            fit(model, ratings, history=history, **quick),
        )
        pd.testing.assert_frame_equal(informed.predict(pairs), plain.predict(pairs))


def test_refusals():
    def model(ratings):
        return PMF(0)(ratings)

    with pytest.raises(FitError, match="takes no history"):
        fit(model, training(), history=KNOWN, progress=False)
    with pytest.raises(FitError, match="DataFrame"):
        fit(MODEL, training(), history=[(1, 2)], progress=False)
