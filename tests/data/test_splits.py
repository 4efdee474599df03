"""Splits of ratings: partitions, the fractions asked for, seeds, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rating_tables import rows, small_frame, tables

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError, RatingsError


@pytest.fixture
def frame():
    return small_frame()


def simulated(n_users=40, n_items=30, n=600, seed=1):
    rng = np.random.default_rng(seed)
    cells = rng.choice(n_users * n_items, n, replace=False)
    stars = rng.integers(1, 11, n) / 2
    columns = {"user": cells // n_items, "item": cells % n_items, "rating": stars}
    return pd.DataFrame(columns | {"time": rng.permutation(n)})


SPLITS = {
    "split": lambda ratings: ratings.split(0.3, seed=1),
    "split_by_user": lambda ratings: ratings.split_by_user(0.3, seed=1),
    "split_by_time": lambda ratings: ratings.split_by_time(0.3),
    "k_fold": lambda ratings: next(ratings.k_fold(3, seed=1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
@settings(max_examples=50)
@given(frame=tables(min_size=8))
def test_splits_partition_the_ratings(split, frame):
    ratings = Ratings.from_frame(frame, time="time", scale=(-10, 10), dtype=torch.float64)
    try:
        parts = split(ratings)
    except RatingsError:
        assume(False)  # by user, when every user has too few ratings
    assert sorted(rows(parts[0]) + rows(parts[1])) == rows(ratings)
    for part in parts:
        table = part.to_frame()
        assert rows(part) == sorted(rows(part))
        assert list(part.user_ids) == sorted(set(table["user"]))
        assert list(part.item_ids) == sorted(set(table["item"]))
        assert (part.scale, part.dtype) == (ratings.scale, torch.float64)
        assert part.time.index.equals(pd.RangeIndex(len(part)))
        np.testing.assert_allclose(part.value, part.to_value(part.rating))


@pytest.mark.slow
@given(frame=tables(min_size=3), k=st.integers(2, 5), seed=st.integers(0, 9))
def test_k_folds_test_each_rating_once(frame, k, seed):
    ratings = Ratings.from_frame(frame, time="time")
    assume(k <= len(ratings))
    folds = list(ratings.k_fold(k, seed))
    assert len(folds) == k
    assert sorted(row for _, test in folds for row in rows(test)) == rows(ratings)
    assert max(len(test) for _, test in folds) - min(len(test) for _, test in folds) <= 1
    for train, test in folds:
        assert sorted(rows(train) + rows(test)) == rows(ratings)


def test_split_holds_out_the_fraction_asked_for_over_all_users():
    ratings = Ratings.from_frame(simulated())
    train, test = ratings.split(0.1)
    assert (len(train), len(test)) == (540, 60)
    assert test.n_users > 20  # random over the rows, not a block of them


def test_split_by_user_holds_out_the_fraction_of_each_user():
    ratings = Ratings.from_frame(simulated())
    train, test = ratings.split_by_user(0.25)
    kept = train.to_frame()["user"].value_counts()
    held = test.to_frame()["user"].value_counts().reindex(kept.index, fill_value=0)
    assert list(train.user_ids) == list(ratings.user_ids)
    assert (held == np.rint((kept + held) * 0.25)).all()
    assert test.n_items > 15


def test_split_by_user_leaves_each_user_at_least_one_rating():
    frame = pd.DataFrame({"user": [1, 2, 2], "item": [1, 1, 2], "rating": [1.0, 2.0, 3.0]})
    train, test = Ratings.from_frame(frame).split_by_user(0.99)
    assert list(train.user_ids) == [1, 2]
    assert list(test.user_ids) == [2]


def test_split_by_time_holds_out_the_latest():
    train, test = Ratings.from_frame(simulated(), time="time").split_by_time(0.2)
    assert len(test) == 120
    assert train.time.max() < test.time.min()


def test_split_by_time_needs_a_time(frame):
    with pytest.raises(RatingsError, match=r"no time.*from_frame"):
        Ratings.from_frame(frame).split_by_time()


@pytest.mark.parametrize("method", ["split", "split_by_user"])
def test_the_seed_alone_decides_a_split(method):
    ratings = Ratings.from_frame(simulated())
    first, again, other = (rows(getattr(ratings, method)(0.2, seed)[1]) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_the_seed_alone_decides_the_folds():
    ratings = Ratings.from_frame(simulated())
    first, again, other = (rows(next(ratings.k_fold(4, seed))[1]) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_the_global_random_state_is_left_alone():
    ratings = Ratings.from_frame(simulated(), time="time")
    torchs = torch.get_rng_state()
    numpys = np.random.get_state()  # noqa: NPY002 (that is the one to leave alone)
    for split in SPLITS.values():
        split(ratings)
    assert torch.equal(torch.get_rng_state(), torchs)
    now = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(now, numpys, strict=True))


@pytest.mark.parametrize("method", ["split", "split_by_user", "split_by_time"])
@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, np.nan])
def test_a_fraction_outside_zero_and_one(frame, method, fraction):
    with pytest.raises(RatingsError, match=r"test_fraction=.* is outside \(0, 1\)"):
        getattr(Ratings.from_frame(frame, time="time"), method)(fraction)


@pytest.mark.parametrize("method", ["split", "split_by_user", "split_by_time"])
def test_a_split_with_an_empty_side(frame, method):
    with pytest.raises(
        RatingsError, match=r"0 of 5 ratings would be held out.*change the fraction"
    ):
        getattr(Ratings.from_frame(frame, time="time"), method)(0.01)


@pytest.mark.parametrize("k", [-1, 0, 1, 6, 2.0, 1.5])
def test_a_number_of_folds_out_of_range_is_refused_at_the_call(frame, k):
    message = "k=6 is outside 2 to 5" if k == 6 else rf"k must be 2, 3, 4, \.\.\., not {k}"
    with pytest.raises(RatingsError, match=message):
        Ratings.from_frame(frame).k_fold(k)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "a"])
@pytest.mark.parametrize("method", ["split", "split_by_user", "k_fold"])
def test_seeds_that_are_none(frame, method, seed):
    with pytest.raises(PMFError, match="seed must be"):
        getattr(Ratings.from_frame(frame), method)(seed=seed)


@pytest.mark.parametrize("fraction", ["0.1", None, [0.1], 1j])
@pytest.mark.parametrize("by", ["split", "split_by_user", "split_by_time"])
def test_a_fraction_that_is_no_number(frame, by, fraction):
    ratings = Ratings.from_frame(frame, time="time")
    with pytest.raises(RatingsError, match=r"test_fraction must be a number such as 0\.1, not"):
        getattr(ratings, by)(fraction)
