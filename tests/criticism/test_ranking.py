"""Lists of recommendations against a loop by hand, and scikit-learn's NDCG."""

import numpy as np
import pandas as pd
import pytest
from prediction.posteriors import every_pair, posterior_of

from pyro_pmf import PMF, VI, BernoulliLogit, PMFError, Posterior, Ratings, RatingsError, fit
from pyro_pmf.criticism import evaluate_ranking
from pyro_pmf.data import with_sampled_negatives
from pyro_pmf.prediction.metrics import clustered_error

COLUMNS = ["n_users", "recall", "recall_se", "ndcg", "ndcg_se", "coverage"]


def held_out(posterior, share=0.15, seed=0):
    """Return pairs with ratings from 1 to 5 that were not rated in training."""
    pairs, rng = every_pair(posterior), np.random.default_rng(seed)
    pairs["rating"] = rng.integers(1, 6, len(pairs)).astype(float)
    rated = posterior.ratings.to_frame()[["user", "item"]].assign(rated=True)
    new = pairs.merge(rated, "left", on=["user", "item"])["rated"].isna()
    return pairs[new & (rng.random(len(pairs)) < share)]


def by_hand(lists, wanted, n_items, n):
    """Return the row of a table, from the list and the set of wanted items of each user."""
    recall, ndcg = [], []
    for user, items in wanted.items():
        gain = sum(1 / np.log2(k + 2) for k, item in enumerate(lists[user]) if item in items)
        best = sum(1 / np.log2(k + 2) for k in range(min(n, len(items))))
        recall.append(len(set(lists[user]) & items) / len(items))
        ndcg.append(gain / best)
    errors = [np.std(x, ddof=1) / np.sqrt(len(x)) for x in (recall, ndcg)]
    coverage = len({item for user in wanted for item in lists[user]}) / n_items
    return [len(wanted), np.mean(recall), errors[0], np.mean(ndcg), errors[1], coverage]


@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize("at_least", [None, 4])
def test_against_a_loop_by_hand(n, at_least):
    posterior = posterior_of()
    test = held_out(posterior)
    table = evaluate_ranking(posterior, test, n, at_least)
    assert table.index.tolist() == ["model", "popularity"]
    assert table.columns.tolist() == COLUMNS
    frame, items = posterior.ratings.to_frame(), posterior.ratings.item_ids
    good = test if at_least is None else test[test["rating"] >= at_least]
    wanted = {user: set(rows["item"]) for user, rows in good.groupby("user")}
    assert len(wanted) > 4
    predicted = posterior.predict(every_pair(posterior)).set_index(["user", "item"])["mean"]
    count = frame["item"].value_counts().reindex(items, fill_value=0)
    lists, popular = {}, {}
    for user in wanted:
        new = [item for item in items if item not in set(frame["item"][frame["user"] == user])]
        lists[user] = sorted(new, key=lambda item, user=user: -predicted[user, item])[:n]
        popular[user] = sorted(new, key=lambda item: -count[item])[:n]
    expected = [by_hand(each, wanted, len(items), n) for each in (lists, popular)]
    np.testing.assert_allclose(table, expected, rtol=1e-6)


def test_ndcg_is_that_of_scikit_learn():
    """The NDCG of whole lists, of users who rated nothing in training: no pair is left out."""
    metrics = pytest.importorskip("sklearn.metrics")
    posterior = posterior_of()
    strangers = pd.DataFrame({"user": [1, 2, 3]}).merge(
        pd.DataFrame({"item": posterior.ratings.item_ids}), how="cross"
    )
    wanted = np.random.default_rng(0).random((3, len(posterior.ratings.item_ids))) < 0.2
    mean = posterior.predict(strangers)["mean"].to_numpy().reshape(3, -1)
    for n in (3, 10):
        table = evaluate_ranking(posterior, strangers[wanted.ravel()], n)
        expected = metrics.ndcg_score(wanted, mean, k=n)
        assert table.loc["model", "ndcg"] == pytest.approx(expected)


def test_a_list_by_hand():
    """One user, two held-out items; the most popular item that is new is the second of them."""
    frame = pd.DataFrame(
        [("ann", 1, 5), ("bob", 1, 4), ("bob", 2, 3), ("eve", 2, 1), ("bob", 3, 2), ("eve", 4, 2)],
        columns=["user", "item", "rating"],
    )
    posterior = fit(PMF(0), Ratings.from_frame(frame, scale=(1, 5)), "map", progress=False)
    test = pd.DataFrame({"user": ["ann", "ann"], "item": [2, 3]})
    table = evaluate_ranking(posterior, test, n=1)
    assert table.loc["popularity", ["recall", "ndcg", "coverage"]].tolist() == [0.5, 1, 0.25]
    assert table["recall_se"].isna().all()  # of one user
    table = evaluate_ranking(posterior, test, n=3)
    assert table.loc["popularity", ["recall", "ndcg", "coverage"]].tolist() == [1, 1, 0.75]


def test_kinds_of_tables_and_repeated_pairs():
    posterior = posterior_of()
    test = held_out(posterior)
    expected = evaluate_ranking(posterior, test, 5, 3)
    pl = pytest.importorskip("polars")
    assert evaluate_ranking(posterior, pl.from_pandas(test), 5, 3).equals(expected)
    twice = pd.concat([test, test, posterior.ratings.to_frame()]).sample(frac=1, random_state=0)
    found = evaluate_ranking(posterior, twice, 5, 3)
    pd.testing.assert_frame_equal(found, expected)  # pairs of training are not looked for
    ratings = Ratings.from_frame(test, scale=(1, 5))
    pd.testing.assert_frame_equal(evaluate_ranking(posterior, ratings, 5, 3), expected)


def test_unknown_items_count_as_not_found():
    posterior = posterior_of()
    test = held_out(posterior)[["user", "item"]]
    unknown = pd.DataFrame({"user": test["user"].unique(), "item": "new"})
    alone = evaluate_ranking(posterior, test, 40)
    assert alone.loc["model", "recall"] == 1
    n = test.groupby("user").size()
    found = evaluate_ranking(posterior, pd.concat([test, unknown]), 40)
    assert found.loc["model", "recall"] == pytest.approx((n / (n + 1)).mean())


@pytest.mark.parametrize("strategy", ["lcb", "thompson", "probability"])
def test_each_strategy_ranks(strategy):
    posterior = posterior_of()
    test = held_out(posterior)
    table = evaluate_ranking(posterior, test, 5, 4, strategy=strategy, seed=3)
    options = {"at_least": 4} if strategy == "probability" else {"seed": 3}
    good = test[test["rating"] >= 4]
    lists = posterior.recommend(good["user"].unique(), 5, strategy, **options)
    hits = lists.merge(good, on=["user", "item"]).groupby("user").size()
    n = good.groupby("user").size()
    expected = (hits.reindex(n.index, fill_value=0) / n).mean()
    assert table.loc["model", "recall"] == pytest.approx(expected)


# Clicks


def clicks(n_users=60, n_items=40, seed=0):
    """Return pairs of two tastes: users and items of the same half meet often."""
    rng = np.random.default_rng(seed)
    user, item = np.indices((n_users, n_items))
    chance = np.where(user % 2 == item % 2, 0.4, 0.03)
    user, item = np.nonzero(rng.random(chance.shape) < chance)
    frame = pd.DataFrame({"user": user, "item": item})
    test = rng.random(len(frame)) < 0.2
    return frame[~test], frame[test]


@pytest.mark.slow
def test_a_model_of_clicks_beats_popularity():
    """Items of a user's own taste are found: recall of ten of 20 is near a half, not a quarter."""
    seen, new = clicks()
    ratings = Ratings.from_frame(with_sampled_negatives(seen))
    model = PMF(2, noise="shared", likelihood=BernoulliLogit())
    posterior = fit(model, ratings, VI(), progress=False)
    table = evaluate_ranking(posterior, new)
    gain = table.loc["model"] - table.loc["popularity"]
    assert gain["recall"] > 3 * table.loc["model", "recall_se"]
    assert gain["ndcg"] > 0


def test_sampled_negatives_can_be_recommended():
    """A 0 is not a pair that the user has met; a held-out pair may be among them."""
    posterior = posterior_of("BernoulliLogit")
    frame = posterior.ratings.to_frame()
    negatives = frame[frame["rating"] == 0]
    table = evaluate_ranking(posterior, negatives[["user", "item"]], 31)
    assert (table["recall"] == 1).all()
    more = pd.concat([frame, held_out(posterior).assign(rating=1.0)])  # only a 1 is looked for
    alone = evaluate_ranking(posterior, held_out(posterior), 5)
    pd.testing.assert_frame_equal(evaluate_ranking(posterior, more, 5), alone)


# Refusals


def test_nothing_to_find():
    posterior = posterior_of()
    test = held_out(posterior)
    for nothing in (test[:0], posterior.ratings, test.assign(rating=1.0)):
        with pytest.raises(RatingsError, match="nothing to find"):
            evaluate_ranking(posterior, nothing, at_least=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be"),
        ({"at_least": "4"}, "at_least must be a rating"),
        ({"at_least": float("nan")}, "at_least must be a rating"),
        ({"at_least": True}, "at_least must be a rating"),
        ({"strategy": "best"}, "strategy must be"),
        ({"strategy": "probability"}, "at_least"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_wrong_arguments(options, message):
    posterior = posterior_of()
    with pytest.raises(PMFError, match=message):
        evaluate_ranking(posterior, held_out(posterior), **options)


def test_ratings_that_are_needed():
    posterior = posterior_of()
    test = held_out(posterior)
    with pytest.raises(RatingsError, match="have no ratings"):
        evaluate_ranking(posterior, test[["user", "item"]], at_least=4)
    bare = Posterior(**vars(posterior.without_training_ratings()))
    with pytest.raises(PMFError, match="evaluate_ranking needs the training ratings"):
        evaluate_ranking(bare, test)


def test_the_error_is_that_of_users():
    assert clustered_error(np.array([0.0, 1.0, 1.0]), ["a", "b", "c"]) == pytest.approx(1 / 3)
