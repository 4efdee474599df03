"""What a fit is asked: by tables of any kind and name, and how a wrong question is answered."""

import logging

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from pyro_pmf import (
    MAP,
    PMF,
    FitError,
    Gibbs,
    NegativeBinomialLog,
    PMFError,
    Ratings,
    RatingsError,
    fit,
    load,
)
from pyro_pmf.criticism import loo
from pyro_pmf.data import with_sampled_negatives
from pyro_pmf.model.header import _read_columns

QUICK = MAP(max_steps=5, learn_scales=None)


def shop(n_users=8, n_items=6, seed=0):
    """Orders of a shop, under its own names of columns and with labels for rows."""
    rng = np.random.default_rng(seed)
    user, item = np.divmod(rng.permutation(n_users * n_items)[:30], n_items)
    columns = {"customer_id": user, "sku": [f"s{k}" for k in item]}
    columns |= {"stars": rng.integers(1, 6, 30).astype(float)}
    return pd.DataFrame(columns, index=[f"row {k}" for k in range(30)])


NAMES = {"user": "customer_id", "item": "sku", "rating": "stars"}
STANDARD = {name: role for role, name in NAMES.items()}


@pytest.fixture(scope="module")
def ratings():
    return Ratings.from_frame(shop(), **NAMES, scale=(1, 5))


@pytest.fixture(scope="module")
def posterior(ratings):
    return fit(PMF(1, noise="shared"), ratings, QUICK, progress=False)


# Names of columns


def test_names_are_remembered(posterior):
    frame = shop().head(7)
    for ask in (posterior.predict, posterior.scores, posterior.evaluate, posterior.sample):
        got, expected = ask(frame), ask(frame.rename(columns=STANDARD))
        if isinstance(got, np.ndarray):
            np.testing.assert_array_equal(got, expected)
        else:
            assert got.equals(expected)


def test_names_are_remembered_by_parts_copies_and_files(ratings, posterior, tmp_path):
    posterior.save(tmp_path / "m")
    copies = [
        *ratings.split(0.3),
        next(ratings.k_fold(2))[0],
        ratings.to(dtype=torch.float64),
        ratings.with_transform("standardize"),
        ratings.indexed_by(ratings.user_ids, ratings.item_ids),
        ratings.of_some_users(10),
        posterior.ratings,
        posterior.fold_in(shop().head(1)).ratings,
        load(tmp_path / "m").ratings,
    ]
    assert {copy.columns for copy in copies} == {ratings.columns}
    again = load(tmp_path / "m").predict(shop())
    pd.testing.assert_frame_equal(again, posterior.predict(shop()))


@pytest.mark.parametrize(
    "names", [{"user": None}, {"item": [1]}, {"user": 1.5}, {"who": "x"}, {"user": "item"}, "user"]
)
def test_names_that_a_folder_cannot_have(names):
    with pytest.raises((TypeError, ValueError)):
        _read_columns(names)


def test_names_of_users_who_are_items_elsewhere():
    """The names of the roles may mean other columns in the caller's table."""
    frame = shop().rename(columns={"customer_id": "follower", "sku": "user"})
    made = Ratings.from_frame(frame, user="follower", item="user", rating="stars", scale=(1, 5))
    got = made.locate(frame)
    pairs = made.as_pairs(frame)
    for again in (made.locate(pairs), made.locate(made.as_pairs(pairs)), made.locate(made)):
        assert sorted(zip(*map(torch.Tensor.tolist, again), strict=True)) == sorted(
            zip(*map(torch.Tensor.tolist, got), strict=True)
        )


@pytest.mark.parametrize("names", [("item", "user"), ("item", "time"), ("user", "user")])
def test_names_that_would_be_mistaken_are_refused(names):
    frame = shop().rename(columns={"customer_id": names[0], "sku": names[1]})
    if names[0] == names[1]:
        frame = shop().rename(columns={"sku": "user"})
    with pytest.raises(RatingsError, match=r"(give the columns other names|has two roles)"):
        Ratings.from_frame(frame, user=names[0], item=names[1], rating="stars")


@pytest.mark.parametrize("kind", [lambda x: x, pl.from_pandas, pa.Table.from_pandas])
def test_a_message_names_no_argument_that_is_not_there(posterior, kind):
    frame = shop().rename(columns={"customer_id": "userId", "sku": "movieId"})
    with pytest.raises(RatingsError) as caught:
        posterior.predict(kind(frame))
    message = str(caught.value)
    assert "user=" not in message
    code = message.rpartition("rename with ")[2].removesuffix(".")
    assert len(posterior.predict(eval(code, {"frame": kind(frame)}))) == 30


def test_a_message_names_the_columns_of_the_caller(posterior):
    frame = shop().head(3)
    frame.loc["row 1", "sku"] = None
    with pytest.raises(RatingsError) as caught:
        posterior.predict(frame)
    assert "1 of 3 rows have no id in column 'sku'" in str(caught.value)
    assert "frame.dropna(subset=['sku'])" in str(caught.value)
    assert "row 1" in str(caught.value)
    assert len(posterior.predict(frame.dropna(subset=["sku"]))) == 2


# Kinds of tables, and the index


@pytest.mark.parametrize("kind", [pl.DataFrame, pa.Table])
def test_answers_come_in_the_kind_of_the_question(posterior, kind):
    frame = shop()
    given = pl.from_pandas(frame) if kind is pl.DataFrame else pa.Table.from_pandas(frame)
    asks = [posterior.predict, posterior.predict_levels, posterior.scores]
    options = [{}, {"levels": (1, 2, 3, 4, 5)}, {}]
    for ask, option in zip(asks, options, strict=True):
        answer, expected = ask(given, **option), ask(frame, **option).reset_index(drop=True)
        assert type(answer) is kind
        back = answer.to_pandas() if kind is pa.Table else pd.DataFrame(answer.to_dict())
        expected.columns = [str(name) for name in expected]
        pd.testing.assert_frame_equal(
            back.astype(object), expected.astype(object), check_dtype=False
        )
    assert isinstance(posterior.evaluate(given), pd.Series)
    assert isinstance(posterior.evaluate(given, by="user"), pd.DataFrame)
    np.testing.assert_array_equal(posterior.sample(given), posterior.sample(frame))
    assert posterior.fold_in(given).ratings.n_users == 8


def test_recommendations_come_in_the_kind_of_the_question(posterior):
    expected = posterior.recommend([3, 1], n=2)
    for users, kind in (
        (pl.Series([3, 1]), pl.DataFrame),
        (pa.array([3, 1]), pd.DataFrame),
        (pa.chunked_array([[3, 1]]), pa.Table),
        (np.array([3, 1]), pd.DataFrame),
    ):
        answer = posterior.recommend(users, n=2)
        assert type(answer) is kind
        assert answer["item"].to_numpy().tolist() == expected["item"].tolist()
    pairs = pl.DataFrame({"customer_id": [3, 3], "sku": expected["item"].tolist()[:2]})
    answer = posterior.recommend([3, 1], n=2, exclude=pairs)
    assert isinstance(answer, pl.DataFrame)
    plain = posterior.recommend([3, 1], n=2, exclude=pairs.to_pandas())
    assert answer["item"].to_list() == plain["item"].tolist()
    assert not set(pairs["sku"]) & set(plain[plain["user"] == 3]["item"])


def test_similar_items_of_other_tables(posterior):
    titles = pl.DataFrame({"item": [f"s{k}" for k in range(6)], "title": [*"abcdef"]})
    answer = posterior.similar_items("s1", n=2, titles=titles)
    assert isinstance(answer, pl.DataFrame)
    plain = posterior.similar_items("s1", n=2, titles=titles.to_pandas())
    assert answer["title"].to_list() == plain["title"].tolist()


@pytest.mark.parametrize("labels", [[*"abc"], [5, 5, 5], [2.5, None, 7]])
def test_every_table_with_a_row_a_pair_keeps_the_index(posterior, labels):
    frame = shop().head(3).set_axis(pd.Index(labels, name="order"))
    expected = posterior.scores(frame.reset_index(drop=True))
    for answer in (
        posterior.predict(frame),
        posterior.predict_levels(frame, levels=(1, 2, 3, 4, 5)),
        posterior.scores(frame),
    ):
        pd.testing.assert_index_equal(answer.index, frame.index)
    np.testing.assert_array_equal(posterior.scores(frame)["error"], expected["error"])
    assert posterior.evaluate(frame, by="user").equals(
        posterior.evaluate(frame.reset_index(drop=True), by="user")
    )


def test_tracked_pairs_and_histories_and_criticism_of_other_tables(ratings):
    frame = pl.from_pandas(shop())
    method = Gibbs(n_draws=30, n_warmup=2, track=frame.head(4), n_chains=1, thin=1)
    with_history = fit(
        PMF(1, noise="shared"), ratings, method, history=frame.head(2), progress=False
    )
    assert with_history.tracked["item"].tolist() == shop()["sku"].head(4).tolist()
    assert with_history.history is not None
    with pytest.warns(UserWarning, match="draws"):
        polars = loo(with_history, frame, n_draws=30)
    with pytest.warns(UserWarning, match="draws"):
        pandas = loo(with_history, shop(), n_draws=30)
    assert polars.equals(pandas) if hasattr(polars, "equals") else polars.elpd == pandas.elpd


# Wrong questions


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
@pytest.mark.parametrize("column", ["customer_id", "sku"])
def test_a_missing_id_is_refused(posterior, column, missing):
    frame = shop().head(3).astype(object)
    frame.loc["row 0", column] = missing
    with pytest.raises(RatingsError, match=f"1 of 3 rows have no id in column '{column}'"):
        posterior.predict(frame)


def test_ids_of_another_type_are_advised_as_they_were_given():
    frame = shop().astype({"customer_id": str})
    by_text = fit(
        PMF(0, noise="shared"), Ratings.from_frame(frame, **NAMES), QUICK, progress=False
    )
    with pytest.raises(RatingsError) as caught:
        by_text.recommend([3])
    assert "frame" not in str(caught.value)
    assert "Give them as str" in str(caught.value)
    assert by_text.recommend(["3"])["known_user"].all()
    with pytest.raises(RatingsError, match="As str, none of them is known either"):
        by_text.recommend([1234])
    with pytest.raises(RatingsError, match="training ids of type string"):
        by_text.recommend(["3", 3])


@pytest.mark.parametrize(
    "users", [[[1, 2]], np.zeros((2, 2)), [{}], {"a": 1}, b"1", [None], [np.nan], [True], [3.5j]]
)
def test_what_are_no_ids(posterior, users):
    with pytest.raises(RatingsError):
        posterior.recommend(users)


def test_numbers_that_lost_digits_are_no_ids(posterior):
    with pytest.raises(RatingsError, match="lost digits"):
        posterior.recommend([2.0**53])
    assert posterior.recommend([3.0], n=1)["known_user"].all()


@pytest.mark.parametrize("dates", [pd.Timestamp("2020-01-01"), "5", True])
def test_dates_and_text_are_no_ratings(posterior, dates):
    for ask in (posterior.evaluate, posterior.scores, posterior.fold_in):
        with pytest.raises(RatingsError, match="not a number"):
            ask(shop().assign(stars=dates))


@pytest.mark.parametrize("stars", [10.0, 50.0, -2.0, -1e300])
def test_ratings_off_the_scale_are_not_evaluated(posterior, stars):
    frame = shop()
    frame.loc["row 2", "stars"] = stars
    with pytest.raises(RatingsError, match=r"1 of 30 rows have a rating far outside"):
        posterior.evaluate(frame)


def test_ratings_a_little_off_the_scale_are_evaluated(posterior):
    """Draws of a likelihood without bounds are such ratings."""
    frame = shop()
    frame.loc["row 2", "stars"] = 5.7
    assert np.isfinite(posterior.evaluate(frame)["rmse"])


def test_the_scale_that_was_found_is_said(caplog):
    frame = shop().assign(stars=lambda x: x["stars"].replace(2.0, 0.0))
    with caplog.at_level(logging.INFO, "pyro_pmf"):
        found = Ratings.from_frame(frame, **NAMES)
    assert "scale=(0.0, 5.0) as found" in repr(found)
    assert "The ratings are from 0 to 5, which is taken for the scale." in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "pyro_pmf"):
        assert "found" not in repr(Ratings.from_frame(frame, **NAMES, scale=(0, 5)))
    assert not caplog.text


def test_arguments_of_fit_that_are_exchanged_or_other_things(ratings):
    with pytest.raises(FitError, match=r"model first, then the ratings: fit\(model, ratings\)"):
        fit(ratings, PMF())
    with pytest.raises(FitError, match="Give Ratings, not a DataFrame"):
        fit(PMF(), shop())
    for model in (PMF, 5, None):
        with pytest.raises(FitError, match="model must be a PMF"):
            fit(model, ratings)


def test_those_who_have_clicks_are_told_what_to_do():
    clicks = shop()[["customer_id", "sku"]]
    for refused in (
        lambda: Ratings.from_frame(clicks, user="customer_id", item="sku"),
        lambda: Ratings.from_frame(clicks, user="customer_id", item="sku", rating=None),
        lambda: Ratings.from_frame(clicks.assign(rating=1), user="customer_id", item="sku"),
    ):
        with pytest.raises(RatingsError, match="with_sampled_negatives"):
            refused()
    pairs = Ratings.from_frame(clicks, user="customer_id", item="sku", rating=None, scale=(0, 1))
    with pytest.raises(FitError) as caught:
        fit(PMF(), pairs)
    code = "Ratings.from_frame(pyro_pmf.data.with_sampled_negatives(ratings))"
    assert code in str(caught.value)
    made = Ratings.from_frame(with_sampled_negatives(pairs, 0.2))
    assert made.scale == (0.0, 1.0)


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), np.int32(3)])
def test_seeds_of_numpy(ratings, seed, tmp_path):
    model, method = PMF(1, noise="shared"), MAP(max_steps=3, learn_scales=None)
    one, other = (
        fit(model, ratings, method, seed=s, progress=False, checkpoint=tmp_path / str(k))
        for k, s in enumerate((3, seed))
    )
    pd.testing.assert_frame_equal(one.predict(ratings), other.predict(ratings))
    np.testing.assert_array_equal(one.sample(ratings, 2, 3), one.sample(ratings, 2, seed))
    pd.testing.assert_frame_equal(
        one.recommend([3], seed=3, strategy="thompson"),
        one.recommend([3], seed=seed, strategy="thompson"),
    )
    assert ratings.split(0.3, seed)[0].to_frame().equals(ratings.split(0.3, 3)[0].to_frame())
    one.fold_in(shop().head(1), seed=seed)


@pytest.mark.parametrize("levels", [(), 5, "12345", (5, 1), (1, np.nan), [None, 1], (1, 1)])
def test_levels_that_are_none(posterior, levels):
    for ask in (posterior.predict_levels, posterior.scores, posterior.evaluate):
        with pytest.raises(PMFError, match="levels must be all possible ratings"):
            ask(shop(), levels=levels)


@pytest.mark.parametrize("scale", ["15", "ab", (1, 10**400), (None, 5)])
def test_scales_that_are_none(scale):
    with pytest.raises(RatingsError, match="scale must be"):
        Ratings.from_frame(shop(), **NAMES, scale=scale)


@pytest.mark.parametrize("factor", [1e300, 1e20, 1e-20, 5e-324])
def test_ratings_beyond_single_precision(factor):
    with pytest.raises(RatingsError, match=r"another unit|missing or infinite|same rating"):
        Ratings.from_frame(shop().assign(stars=lambda x: x["stars"] * factor), **NAMES)


def test_pairs_to_exclude_may_be_ratings(posterior, ratings):
    users = ratings.user_ids.tolist()
    expected = posterior.recommend(users, n=6)
    for pairs in (ratings, ratings.without_ratings()):
        found = posterior.recommend(users, n=6, exclude=pairs, exclude_seen=False)
        pd.testing.assert_frame_equal(found, expected)


def test_whole_numbers_are_ids_of_new_users(posterior):
    new = pd.DataFrame(
        {"user": [90, 90, 1], "item": ["s1", "s2", "s0"], "rating": [4.0, 2.0, 5.0]}
    )
    expected = posterior.fold_in(new)
    mixed = pd.Series([90.0, 90, np.float32(1)], dtype=object)
    for floats in (new["user"].astype(float), mixed, [90.0, 90.0, 1.0]):
        given = new.assign(user=floats)
        assert posterior.fold_in(given).ratings.user_ids.equals(expected.ratings.user_ids)
        assert posterior.fold_in(given).predict(new).equals(expected.predict(new))
        assert posterior.update(given).ratings.user_ids.equals(expected.ratings.user_ids)
    with pytest.raises(RatingsError, match=r"1 of 3 rows have an id .* that is no whole number"):
        posterior.fold_in(new.assign(user=[90.5, 90.0, 1.0]))
    with pytest.raises(RatingsError, match="lost digits"):
        posterior.fold_in(new.assign(user=[2.0**60, 90.0, 1.0]))


def test_whole_numbers_are_ids_of_a_history(ratings):
    more = pd.DataFrame({"user": [90.0, 1.0], "item": ["s1", "s9"]})
    hierarchical = PMF(1, items="hierarchical", noise="shared")
    found = fit(hierarchical, ratings, QUICK, history=more, progress=False)
    assert found.ratings.user_ids[-1] == 90


def test_counts_that_cannot_be_are_not_scored():
    frame = shop().rename(columns=STANDARD)
    counts = Ratings.from_frame(frame, transform="count")
    model = PMF(0, likelihood=NegativeBinomialLog())
    posterior = fit(model, counts, QUICK, progress=False)
    odd = frame.head(5).assign(rating=[-3, 1.5, 2, 3, 40])
    for ask in (posterior.evaluate, posterior.scores):
        with pytest.raises(
            RatingsError,
            match=r"2 of 5 rows have a rating that Negative(.*\n){4}Some are not counts",
        ) as caught:
            ask(odd)
        assert "row 0" in str(caught.value)
        assert "row 1" in str(caught.value)
    assert np.isfinite(posterior.evaluate(odd.iloc[2:])["nll"])
