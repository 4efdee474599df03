"""Recommendations against predictions of every pair, sorted."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from posteriors import AT_LEAST, KINDS, LIKELIHOODS, N_ITEMS, every_pair, posterior_of

from pyro_pmf import PMF, PMFError, Posterior, RatingsError
from pyro_pmf.model.likelihoods import NormalSigmoid
from pyro_pmf.prediction import dense, recommendation
from pyro_pmf.prediction.located import LocatedPairs
from pyro_pmf.random_state import isolated_random_state

COLUMNS = ["user", "item", "rank", "score", "mean", "sd", "lower", "upper", "known_user"]
BOTH_SIDES = {"users": "hierarchical", "items": "hierarchical"}


def expected_at(posterior, latents, pairs):
    """Expected ratings of pairs, in rating units, given values of all latents."""
    where = LocatedPairs.of(posterior, pairs)
    found = np.empty(len(pairs))
    for rows, part in where.chunks():
        fn = where.rating_distribution(latents, part)
        transform = posterior.ratings.transform
        found[rows] = transform.origin + transform.width * transform.mean(fn).numpy()
    return found


def moments_over_latents(posterior, pairs, n=400):
    """Mean and sd of the expected rating over the posterior: its draws, or many draws of it."""
    with isolated_random_state(1):
        draws = posterior.draws(n if posterior.n_draws is None else None)
        found = np.stack([expected_at(posterior, draw, pairs) for draw in draws])
    return found.mean(0), found.std(0)


def best(pairs, score, n, barred=()):
    """The n best rows of each user, equal scores in order."""
    table = pairs.assign(score=score)
    table = table[[pair not in barred for pair in zip(pairs["user"], pairs["item"], strict=True)]]
    table = table.sort_values("score", ascending=False, kind="stable")
    return table.groupby("user", sort=False).head(n).sort_values("user", kind="stable")


def same(found, wanted, atol=1e-6):
    assert found["user"].tolist() == wanted["user"].tolist()
    assert found["item"].tolist() == wanted["item"].tolist()
    np.testing.assert_allclose(found["score"], wanted["score"], atol=atol)


def seen(posterior):
    frame = posterior.ratings.to_frame()
    return set(zip(frame["user"], frame["item"], strict=True))


def test_sampled_negatives_are_no_pairs_that_were_met():
    """Of yes and no; a no may be recommended, and a pair of the history may not."""
    posterior = posterior_of("BernoulliLogit")
    frame = posterior.ratings.to_frame()
    users = posterior.ratings.user_ids
    found = posterior.recommend(users, N_ITEMS, exclude_seen="positive")
    listed = set(zip(found["user"], found["item"], strict=True))
    yes = frame[frame["rating"] > 0]
    assert 0 < len(yes) < len(frame)
    assert listed.isdisjoint(zip(yes["user"], yes["item"], strict=True))
    assert len(listed) == len(users) * posterior.ratings.n_items - len(yes)
    wanted = posterior.recommend(users, N_ITEMS, exclude=yes, exclude_seen=False)
    pd.testing.assert_frame_equal(found, wanted)
    with pytest.raises(PMFError, match='exclude_seen="positive" needs the training ratings'):
        Posterior(**vars(posterior.without_training_ratings())).recommend(
            users, exclude_seen="positive"
        )
    with pytest.raises(PMFError, match="exclude_seen must be True"):
        posterior.recommend(users, exclude_seen="negative")


@pytest.fixture
def short(monkeypatch):
    """Lists hardly longer than wanted, so that the guess has to prove itself."""
    monkeypatch.setattr(recommendation, "_MORE", -3)
    monkeypatch.setattr(recommendation, "_N_SD", 10.0)  # few errors, so that their sd is not known
    monkeypatch.setattr(recommendation, "_CELLS", 4 * N_ITEMS)  # and several blocks of users


@pytest.mark.parametrize("options", [{}, BOTH_SIDES], ids=["independent", "hierarchical"])
@pytest.mark.parametrize(
    "kind", ["closed", "point", pytest.param("draws", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_means_and_probabilities_are_those_of_predict(name, kind, options, short):
    """All users, one that is not known, and an item that nobody has rated."""
    posterior = posterior_of(name, kind, **options)
    users = [*posterior.ratings.user_ids, 999]
    pairs = every_pair(posterior, users)
    at_least = AT_LEAST.get(name, 4.0)
    predicted = posterior.predict(pairs, at_least=at_least)
    for strategy, column in (("mean", "mean"), ("probability", "p_at_least")):
        level = at_least if column == "p_at_least" else None
        found = posterior.recommend(users, 4, strategy, at_least=level)
        assert list(found) == COLUMNS
        same(found, best(pairs, predicted[column], 4, seen(posterior)), atol=1e-12)
        assert found["rank"].tolist() == [1, 2, 3, 4] * len(users)
        again = posterior.predict(found[["user", "item"]])
        for part in ("mean", "sd", "lower", "upper", "known_user"):
            np.testing.assert_array_equal(found[part], again[part])
        assert found["known_user"].tolist() == [user != 999 for user in found["user"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strategy", "seed"), [("BernoulliLogit", "ucb", 1), ("NegativeBinomialLog", "lcb", 0)]
)
def test_items_left_out_are_hardly_better(name, strategy, seed, monkeypatch):
    """Of 800 items by 100 draws: what lists lose, as a share of what is between first and last.

    The noise of the draws is no part of the guess, and lists of hardly more than ten miss items.
    """
    posterior = posterior_of(name, "draws", seed, n_draws=100, n_items=800)
    monkeypatch.setattr(recommendation, "_MORE", -5)
    usual_n_sd = recommendation._N_SD

    def scores(n_sd):
        monkeypatch.setattr(recommendation, "_N_SD", n_sd)
        users = posterior.ratings.user_ids
        found = posterior.recommend(users, 10, strategy, exclude_seen=False)
        return found["score"].to_numpy().reshape(-1, 10)

    whole, usual, first = scores(1e9), scores(usual_n_sd), scores(-1e9)
    distance = (whole[:, 0] - whole[:, -1]).mean()
    assert 0 <= (whole - usual).mean() < 1e-4 * distance
    assert (whole - first).mean() > 2e-3 * distance


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ucb", "lcb"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["BernoulliLogit", "OrderedLogit"])
def test_bounds_are_of_the_expected_rating(name, kind, strategy, short):
    """Against draws of all latents; 400 of them where the posterior is no draws itself.

    Mean and sd of 400 draws have standard errors of 5% and 3.5% of an sd, and a bound one of 7%.
    The test allows four of these at each of 62 pairs, which fails once in 250 seeds. The noise of
    a rating, in place of the sd of its expectation, would move a bound by 150% of an sd or more.
    """
    posterior = posterior_of(name, kind, seed=2)
    users = [100, 104]
    pairs = every_pair(posterior, users)
    mean, sd = moments_over_latents(posterior, pairs, 1 if kind == "point" else 400)
    sign = 1.0 if strategy == "ucb" else -1.0
    found = posterior.recommend(users, N_ITEMS, strategy, n_sd=1.5, exclude_seen=False)
    wanted = pairs.assign(score=mean + sign * 1.5 * sd, sd=sd)
    both = found.merge(wanted, on=["user", "item"], suffixes=("", "_wanted"))
    assert len(both) == len(pairs)
    off = (both["score"] - both["score_wanted"]).abs()
    tolerance = 0.28 * both["sd_wanted"] if kind == "closed" else 1e-9
    assert (off <= tolerance + 1e-9).all()
    for _, rows in found.groupby("user"):
        assert rows["score"].is_monotonic_decreasing
    cut = posterior.recommend(users, 3, strategy, n_sd=1.5, exclude_seen=False)
    same(cut, found[found["rank"] <= 3])


def test_the_bound_of_a_linear_model_is_in_closed_form():
    """With NormalIdentity, the sd of the expected rating is the sd of the score, in units."""
    posterior = posterior_of("NormalIdentity")
    x = posterior.latents
    U, V = x["U"], x["V"]
    var = U.var @ (V.mean**2 + V.var).T + U.mean**2 @ V.var.T
    var += x["b"].var[:, None] + x["c"].var + x["mu"].var
    width = posterior.ratings.transform.width
    found = posterior.recommend(103, N_ITEMS, "ucb", n_sd=2, exclude_seen=False)
    columns = posterior.ratings.item_ids.get_indexer(found["item"])
    sd = width * var[3].sqrt().numpy()[columns]
    np.testing.assert_allclose(found["score"] - found["mean"], 2 * sd, rtol=1e-9)
    assert (sd < found["sd"]).all()  # the sd of a rating has its noise


@pytest.mark.parametrize("options", [{}, BOTH_SIDES], ids=["independent", "hierarchical"])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_thompson_ranks_by_one_joint_draw(name, options, short):
    posterior = posterior_of(name, **options)
    pairs = every_pair(posterior)
    with isolated_random_state(5):
        draw = next(posterior.draws(1))
        score = expected_at(posterior, draw, pairs)
    found = posterior.recommend(posterior.ratings.user_ids, 4, "thompson", seed=5)
    if options:  # the one rater of items that nobody has rated is drawn as well
        rated = found["item"].isin(posterior.ratings.to_frame()["item"])
        wanted = pairs.assign(wanted=score)
        both = found[rated].merge(wanted, on=["user", "item"])
        np.testing.assert_allclose(both["score"], both["wanted"], atol=1e-9)
    else:
        same(found, best(pairs, score, 4, seen(posterior)))
    again = posterior.recommend(posterior.ratings.user_ids, 4, "thompson", seed=5)
    pd.testing.assert_frame_equal(found, again)
    other = posterior.recommend(posterior.ratings.user_ids, 4, "thompson", seed=6)
    assert found["item"].tolist() != other["item"].tolist()
    mean = posterior.predict(found[["user", "item"]])["mean"]
    np.testing.assert_array_equal(found["mean"], mean)


def test_thompson_takes_one_of_the_draws():
    posterior = posterior_of("OrderedLogit", "draws")
    pairs = every_pair(posterior)
    candidates = [
        best(pairs, expected_at(posterior, draw, pairs), 4, seen(posterior))
        for draw in posterior.draws()
    ]
    taken = set()
    for seed in range(10):
        found = posterior.recommend(posterior.ratings.user_ids, 4, "thompson", seed=seed)
        of = [
            k
            for k, wanted in enumerate(candidates)
            if np.allclose(wanted["score"], found["score"], atol=1e-9)
        ]
        assert len(of) == 1
        same(found, candidates[of[0]])
        taken.add(of[0])
    assert len(taken) > 3


@pytest.mark.parametrize("kind", ["point", "draws"])
def test_equal_scores_keep_their_order(kind, short):
    """All items are the same but one."""
    posterior = posterior_of("OrderedLogit", kind)
    for site in ("V", "c", "t"):
        value = posterior.latents[site]
        for x in (value,) if isinstance(value, torch.Tensor) else (value.mean, value.var):
            axis = 1 if kind == "draws" else 0
            x.copy_(x.narrow(axis, 0, 1).expand(x.shape).clone())
            if site == "c":
                x.narrow(axis, 7, 1).add_(1.0)
    found = posterior.recommend([101, 100], 4, exclude_seen=False)
    names = ["film07", "film00", "film01", "film02"]
    assert found["item"].tolist() == 2 * names
    given = ["film09", "film03", "film07", "film05", "film03"]
    found = posterior.recommend(100, items=given, exclude_seen=False)
    assert found["item"].tolist() == ["film07", "film09", "film03", "film05"]


def test_choice_of_items():
    posterior = posterior_of()
    some = ["film03", "film05", "film08", "film30"]
    every = posterior.recommend([100, 101], 2 * N_ITEMS, exclude_seen=False)
    assert len(every) == 2 * N_ITEMS

    found = posterior.recommend([100, 101], items=some, exclude_seen=False)
    wanted = every[every["item"].isin(some)]
    assert found["item"].tolist() == wanted["item"].tolist()
    found = posterior.recommend([100, 101], 40, exclude=some, exclude_seen=False)
    assert found["item"].tolist() == every[~every["item"].isin(some)]["item"].tolist()
    pairs = pd.DataFrame({"user": [101, 101, 7], "item": ["film03", "film77", "film05"]})
    found = posterior.recommend([100, 101], 40, exclude=pairs, exclude_seen=False)
    assert len(found) == 2 * N_ITEMS - 1
    assert (101, "film03") not in set(zip(found["user"], found["item"], strict=True))

    unseen = posterior.recommend([101, 100], 2 * N_ITEMS)
    rows = zip(unseen["user"], unseen["item"], strict=True)
    left = set(itertools.product([101, 100], posterior.ratings.item_ids)) - seen(posterior)
    assert set(rows) == left
    assert len(unseen) == len(left)
    for _, of_user in unseen.groupby("user"):
        assert of_user["rank"].tolist() == list(range(1, len(of_user) + 1))
    assert posterior.recommend(100, items="film03", exclude_seen=False)["rank"].tolist() == [1]


def test_nothing_to_choose_from():
    posterior = posterior_of()
    types = posterior.recommend(100).dtypes
    for empty in (
        posterior.recommend(100, items=[]),
        posterior.recommend(100, items=["film03"], exclude="film03"),
        posterior.recommend([]),
    ):
        assert list(empty) == COLUMNS
        assert len(empty) == 0
    assert (posterior.recommend(100, items=[]).dtypes == types).all()


def test_users_are_listed_once_in_their_order():
    posterior = posterior_of()
    once = posterior.recommend([103, 101], 2)
    pd.testing.assert_frame_equal(posterior.recommend([103, 101, 103, 101], 2), once)
    pd.testing.assert_frame_equal(posterior.recommend(pd.Series([103, 101]), 2), once)
    assert once["user"].tolist() == [103, 103, 101, 101]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"users": pd.DataFrame({"user": [100]})}, RatingsError, r"frame\['user'\]"),
        ({"users": b"100"}, RatingsError, "not a bytes"),
        ({"users": {100: 1}}, RatingsError, "not a dict"),
        ({"users": None}, RatingsError, "leave them out"),
        ({"users": [100, None]}, RatingsError, "1 of 2 users are missing"),
        ({"users": np.array([100, np.nan])}, RatingsError, "missing"),
        ({"users": pd.Series([100, pd.NA], dtype="Int64")}, RatingsError, "missing"),
        ({"users": "ann"}, RatingsError, "of type string"),
        ({"items": ["film01", "film99"]}, RatingsError, "'film99'"),
        ({"items": pd.DataFrame({"item": ["film01"]})}, RatingsError, "items must be an id"),
        ({"items": [None]}, RatingsError, "missing"),
        ({"exclude": [3]}, RatingsError, "item ids are of type integer"),
        ({"exclude": pd.DataFrame({"item": ["film01"]})}, RatingsError, "column 'user'"),
        ({"n": 0}, PMFError, "n must be"),
        ({"strategy": "best"}, PMFError, "strategy must be one of"),
        ({"strategy": "probability"}, PMFError, "at_least"),
        ({"at_least": 4}, PMFError, "at_least"),
        ({"strategy": "probability", "at_least": np.nan}, PMFError, "finite"),
        ({"strategy": "ucb", "n_sd": -1}, PMFError, "n_sd"),
        ({"seed": -1}, PMFError, "seed"),
    ],
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        posterior_of().recommend(**{"users": 100} | arguments)


class Own(PMF):
    """A model of one's own: a PMF whose score has one more term."""

    def __call__(self, ratings, history=None):
        likelihood = NormalSigmoid()
        extra = 0.3 * (ratings.item % 3)
        V = pyro.sample("V", dist.Normal(torch.zeros(ratings.n_items).double(), 1.0).to_event(1))
        with pyro.plate("ratings", len(ratings)):
            fn = likelihood(V[ratings.item] + extra, torch.tensor(0.2).double())
            return pyro.sample("rating", fn, obs=ratings.value)


def test_models_of_ones_own_compute_every_pair():
    posterior = posterior_of(kind="draws")
    latents = {"V": posterior.latents["V"][..., 0]}
    steps = posterior.steps
    own = Posterior(Own(1, biases="item"), posterior.ratings, latents, 12, steps, True)
    pairs = every_pair(own)
    for strategy in ("mean", "ucb"):
        mean, sd = moments_over_latents(own, pairs)
        score = mean + (sd if strategy == "ucb" else 0.0)
        found = own.recommend(own.ratings.user_ids, 3, strategy)
        same(found, best(pairs, score, 3, seen(own)))


def test_the_draws_are_never_all_held(monkeypatch):
    """Moments are summed draw by draw: no tensor has an axis of draws, users and items."""
    posterior = posterior_of("OrderedLogit", "draws", n_draws=50)
    shapes = []
    summed = dense._moments_of_products

    def watched(left, right):
        shapes.extend([tuple(left.shape), tuple(right.shape)])
        return summed(left, right)

    monkeypatch.setattr(dense, "_TILE", (4, 5))
    monkeypatch.setattr(dense, "_moments_of_products", watched)
    found = posterior.recommend(posterior.ratings.user_ids)
    monkeypatch.undo()
    pd.testing.assert_frame_equal(found, posterior.recommend(posterior.ratings.user_ids))
    assert max(shape[0] for shape in shapes) == 50
    assert max(shape[1] for shape in shapes[::2]) == 4
    assert max(shape[2] for shape in shapes[1::2]) == 5


def test_moments_over_draws_are_those_of_every_pair():
    posterior = posterior_of("OrderedLogit", "draws", n_draws=50)
    latents, train = posterior.latents, posterior.ratings
    user, item = torch.tensor([3, 0, 7]), torch.tensor([1, 4])
    scores = dense.DrawnScores(posterior.model, latents, train)
    found = scores.dense(user, item)
    U, V = latents["U"][:, user].double(), latents["V"][:, item].double()
    drawn = torch.einsum("dik,djk->dij", U, V)
    for site, index, axis in (("b", user, 2), ("c", item, 1)):
        if site in latents:
            drawn += latents[site][:, index].double().unsqueeze(axis)
    torch.testing.assert_close(found.score[0].double(), drawn.mean(0), atol=1e-5, rtol=1e-5)
    var = drawn.var(0, unbiased=False)
    torch.testing.assert_close(found.score[1].double(), var, atol=1e-5, rtol=1e-4)
