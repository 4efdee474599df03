"""From a table to `Ratings`: encoding, refusals, and looking up by id."""

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from rating_tables import DAYS, LABELS, STARS, rows, small_frame, tables

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings, as_frame, observed
from pyro_pmf.errors import PMFError, RatingsError


@pytest.fixture
def frame():
    return small_frame()


def error_of(frame, **options):
    """The message with which `from_frame` refuses a table."""
    with pytest.raises(RatingsError) as caught:
        Ratings.from_frame(frame, **options)
    return str(caught.value)


def shown(message):
    """The index labels of the rows that a message shows."""
    return [word for line in message.splitlines() for word in line.split()[:1] if word in LABELS]


# Encoding


def test_rows_are_sorted_by_user_then_item_and_indexed_by_sorted_ids(frame):
    ratings = Ratings.from_frame(frame, time="time")
    assert list(ratings.user_ids) == [10, 20, 30]
    assert list(ratings.item_ids) == ["a", "b", "c"]
    assert ratings.user.tolist() == [0, 0, 1, 2, 2]
    assert ratings.item.tolist() == [0, 2, 0, 0, 1]
    assert ratings.rating.tolist() == [2.0, 0.5, 5.0, 4.0, 3.5]
    assert list(ratings.time.dt.day) == [2, 1, 4, 3, 5]
    assert (ratings.n_users, ratings.n_items, len(ratings)) == (3, 3, 5)
    assert ratings.user.dtype == ratings.item.dtype == torch.int64


@pytest.mark.slow
def test_values_are_on_the_unit_scale_of_the_scale_given_or_inferred(frame):
    inferred = Ratings.from_frame(frame)
    assert inferred.scale == (0.5, 5.0)
    assert (inferred.value.min(), inferred.value.max()) == (0, 1)
    given_ = Ratings.from_frame(frame, scale=(0, 10), dtype=torch.float64)
    assert given_.scale == (0.0, 10.0)
    torch.testing.assert_close(given_.value, torch.tensor([0.2, 0.05, 0.5, 0.4, 0.35]).double())
    assert inferred.dtype == inferred.value.dtype == torch.float32


@pytest.mark.slow
@given(tables())
def test_a_table_comes_back_sorted_and_otherwise_as_it_was(frame):
    ratings = Ratings.from_frame(frame, time="time")
    assert rows(ratings) == sorted(rows(frame))
    again = Ratings.from_frame(ratings.to_frame(), time="time")
    pd.testing.assert_frame_equal(again.to_frame(), ratings.to_frame())
    assert ratings.to_rating(ratings.value).numpy() == pytest.approx(ratings.rating, abs=1e-4)


def test_ratings_come_back_to_the_last_bit():
    stars = np.array([0.1, 3.3, 1 / 3, 4.7])
    frame = pd.DataFrame({"user": [1, 2, 3, 4], "item": 1, "rating": stars})
    assert (Ratings.from_frame(frame, dtype=torch.float16).to_frame()["rating"] == stars).all()


@pytest.mark.parametrize("time", [None, "time"])
def test_the_frame_of_the_caller_is_neither_changed_nor_shared(frame, time):
    frame = frame.sort_values(["user", "item"]).astype({"item": "category"})
    before = frame.copy(deep=True)
    ratings = Ratings.from_frame(frame, time=time)
    ratings.split(0.4)
    ratings.locate(frame)
    pd.testing.assert_frame_equal(frame, before)
    kept, other = ratings.to_frame(), ratings.to_frame()
    for table in (frame, other):
        table.loc[:, ["user", "rating"]] = 77
    pd.testing.assert_frame_equal(ratings.to_frame(), kept)


@pytest.mark.parametrize(
    "dtype", ["int32", "uint8", "Int64", "int64[pyarrow]", "category", object]
)
def test_int_ids_of_any_type_become_int64(frame, dtype):
    ratings = Ratings.from_frame(frame.astype({"user": dtype}))
    pd.testing.assert_index_equal(ratings.user_ids, pd.Index([10, 20, 30]))
    assert rows(ratings) == rows(Ratings.from_frame(frame))


@pytest.mark.parametrize("dtype", [object, "string", "str", "category"])
def test_str_ids_of_any_type_become_the_default_str(frame, dtype):
    ratings = Ratings.from_frame(frame.astype({"item": dtype}))
    pd.testing.assert_index_equal(ratings.item_ids, pd.Index(["a", "b", "c"]))
    assert ratings.item.tolist() == [0, 2, 0, 0, 1]


def test_categorical_ids_are_sorted_by_id_and_unused_categories_dropped(frame):
    frame["item"] = pd.Categorical(frame["item"], categories=["z", "c", "b", "a"], ordered=True)
    assert list(Ratings.from_frame(frame).item_ids) == ["a", "b", "c"]


def test_other_column_names_come_back_as_the_standard_ones(frame):
    odd = frame.rename(columns={"user": "userId", "item": 7, "rating": "y", "time": "t"})
    ratings = Ratings.from_frame(odd, user="userId", item=7, rating="y", time="t")
    assert list(ratings.to_frame()) == ["user", "item", "rating", "time"]
    assert rows(ratings) == rows(Ratings.from_frame(frame, time="time"))


@pytest.mark.parametrize("dtype", ["int64", "Float64", "float32", "double[pyarrow]", object])
def test_ratings_of_any_numeric_type(frame, dtype):
    frame["rating"] = pd.Series([4, 1, 5, 2, 4], index=frame.index).astype(dtype)
    assert Ratings.from_frame(frame).rating.tolist() == [2, 1, 5, 4, 4]


@pytest.mark.parametrize(
    "dtype", ["datetime64[s]", "datetime64[ns, Europe/Rome]", "timestamp[s][pyarrow]", object]
)
def test_datetimes_of_any_type(frame, dtype):
    utc = frame["time"].dt.tz_localize("UTC") if "Rome" in str(dtype) else frame["time"]
    frame["time"] = utc.astype(dtype)
    ratings = Ratings.from_frame(frame, time="time")
    assert list(ratings.time.dt.day) == [2, 1, 4, 3, 5]
    assert ratings.split_by_time(0.4)[1].rating.tolist() == [5.0, 3.5]


@pytest.mark.parametrize("dtype", ["int64", "Int64", "float32", "int64[pyarrow]"])
def test_numeric_times_of_any_type(frame, dtype):
    frame["time"] = pd.Series([5, 1, 4, 2, 3], index=frame.index).astype(dtype)
    ratings = Ratings.from_frame(frame, time="time")
    assert list(ratings.time) == [2, 1, 4, 3, 5]
    assert list(ratings.split_by_time(0.4)[1].time) == [4, 5]


def test_pairs_without_values(frame):
    pairs = Ratings.from_frame(frame, rating=None, scale=(0, 5))
    assert pairs.value is None
    assert pairs.rating is None
    assert list(pairs.to_frame()) == ["user", "item"]
    assert pairs.split(0.4)[0].value is None
    assert "pairs without values" in repr(pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_values_are_plain_pairs_of_the_same_cells(frame, dtype):
    ratings = Ratings.from_frame(frame, time="time", dtype=dtype)
    hidden = ratings.without_values()
    assert type(hidden) is Pairs
    assert hidden.value is None
    assert torch.equal(hidden.user, ratings.user)
    assert torch.equal(hidden.item, ratings.item)
    assert (hidden.n_users, hidden.n_items, hidden.dtype) == (3, 3, dtype)
    assert hidden.pattern is ratings.pattern


def test_to_another_dtype_keeps_ids_and_ratings(frame):
    moved = Ratings.from_frame(frame, time="time").to(dtype=torch.float64)
    assert moved.value.dtype == moved.dtype == torch.float64
    assert rows(moved) == rows(Ratings.from_frame(frame, time="time"))
    assert all(part.dtype == torch.float64 for part in moved.split(0.4))


@pytest.mark.parametrize("transform", ["unit", "standardize", "log1p", "count"])
def test_to_a_finer_dtype_rounds_values_once(frame, transform):
    """Values come from the ratings as given, not from values that were rounded before."""
    frame["rating"] = [3, 0, 5, 2, 4]
    coarse = Ratings.from_frame(frame, transform=transform)
    fine = Ratings.from_frame(frame, transform=transform, dtype=torch.float64)
    assert torch.equal(coarse.to(dtype=torch.float64).value, fine.value)
    assert torch.equal(fine.to(dtype=torch.float32).value, coarse.value)
    hidden = Ratings.from_frame(frame, rating=None, scale=(0, 5)).to(dtype=torch.float64)
    assert (hidden.value, hidden.rating, hidden.dtype) == (None, None, torch.float64)


def test_repr_tells_size_density_scale_and_time(frame):
    text = repr(Ratings.from_frame(frame, scale=(0, 5), time="time"))
    assert text == ("Ratings(5 ratings, 3 users, 3 items, density 55.56%, scale=(0.0, 5.0), time)")
    assert "time" not in repr(Ratings.from_frame(frame))


@pytest.mark.slow
@given(tables())
def test_pattern_is_that_of_scipy(frame):
    whole = Ratings.from_frame(frame)
    part = whole.split(0.5)[1].aligned_to(whole) if len(whole) > 2 else whole  # empty rows too
    for ratings in (whole, part):
        cells = (np.ones(len(ratings)), (ratings.user.numpy(), ratings.item.numpy()))
        csr = sp.csr_array(cells, shape=(ratings.n_users, ratings.n_items))
        csc = csr.tocsc()
        pattern = ratings.pattern
        assert (pattern.row_pointers.numpy() == csr.indptr).all()
        assert (pattern.columns.numpy() == csr.indices).all()
        assert (pattern.column_pointers.numpy() == csc.indptr).all()
        assert (pattern.rows.numpy() == csc.indices).all()
        assert (ratings.user[pattern.to_column_order] == pattern.rows).all()
        assert (pattern.rows[pattern.to_row_order] == ratings.user).all()


def test_affine_maps_take_numbers_arrays_and_tensors(frame):
    ratings = Ratings.from_frame(frame)
    assert ratings.to_value(2.75) == 0.5
    assert ratings.to_rating(0.5) == 2.75
    x = torch.rand(2, 3, dtype=torch.float64)
    torch.testing.assert_close(ratings.to_value(ratings.to_rating(x)), x)
    np.testing.assert_allclose(ratings.to_rating(x.numpy()), ratings.to_rating(x).numpy())


# Duplicates


@pytest.fixture
def repeated(frame):
    """The pair (10, "a") occurs as r3 and r5: r5 is the last row, r3 has the last time."""
    extra = pd.DataFrame(
        {"user": [10], "item": ["a"], "rating": [3.0], "time": [pd.Timestamp("2019-01-01")]},
        index=["r5"],
    )
    return pd.concat([frame, extra])


def test_a_repeated_pair_is_refused(repeated):
    message = error_of(repeated)
    assert "2 of 6 rows have a (user, item) pair that occurs more than once" in message
    assert shown(message) == ["r3"]
    assert "r5" in message
    assert 'on_duplicate="last"' in message
    assert "(user, item) pair" in error_of(repeated, rating=None, scale=(0, 5))


def test_the_last_of_a_repeated_pair_is_by_row_or_by_time(repeated):
    by_row = Ratings.from_frame(repeated, on_duplicate="last")
    assert by_row.rating.tolist() == [3.0, 0.5, 5.0, 4.0, 3.5]
    by_time = Ratings.from_frame(repeated, on_duplicate="last", time="time")
    assert by_time.rating.tolist() == [2.0, 0.5, 5.0, 4.0, 3.5]
    assert by_time.time[0] == pd.Timestamp("2020-01-02")


def test_the_mean_of_a_repeated_pair(repeated):
    mean = Ratings.from_frame(repeated, on_duplicate="mean", time="time")
    assert mean.rating.tolist() == [2.5, 0.5, 5.0, 4.0, 3.5]
    assert mean.time[0] == pd.Timestamp("2020-01-02")


def test_a_mean_does_not_round_past_the_scale():
    frame = pd.DataFrame({"user": [1, 1, 1, 2], "item": 1, "rating": [0.1, 0.1, 0.1, 0.0]})
    ratings = Ratings.from_frame(frame, on_duplicate="mean", dtype=torch.float64)
    assert ratings.value.tolist() == [1.0, 0.0]


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 9)), min_size=2))
def test_duplicates_are_those_of_groupby(cells):
    frame = pd.DataFrame(cells, columns=["user", "item", "rating"]).astype({"rating": float})
    groups = frame.groupby(["user", "item"])["rating"]
    for how in ("last", "mean"):
        expected = getattr(groups, how)()
        if expected.nunique() > 1:
            ratings = Ratings.from_frame(frame, on_duplicate=how)
            np.testing.assert_allclose(ratings.rating, expected.to_numpy())
            assert [row[:2] for row in rows(ratings)] == list(expected.index)


def test_an_unknown_way_with_duplicates_is_refused(frame):
    assert '"error", "last" or "mean"' in error_of(frame, on_duplicate="first")


# Refusals: what is wrong, the rows at fault, what to do


def test_one_family_of_errors():
    assert issubclass(RatingsError, PMFError)
    assert issubclass(PMFError, ValueError)


def test_a_missing_column(frame):
    message = error_of(frame, user="userId")
    assert "one column 'userId'" in message
    assert "['user', 'item', 'rating', 'time']" in message
    assert "user=" in message
    assert "'when'" in error_of(frame, time="when")


def test_a_column_that_is_there_twice(frame):
    assert "one column 'user'" in error_of(frame.rename(columns={"item": "user"}))


def test_no_frame():
    assert "a table of pandas, polars or pyarrow, not a list" in error_of([(1, 2, 3.0)])


def test_an_empty_table(frame):
    assert "no rows" in error_of(frame[:0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_rating_that_is_missing_or_infinite(frame, bad):
    frame.loc["r2", "rating"] = bad
    message = error_of(frame)
    assert "1 of 5 rows have a missing or infinite rating in column 'rating'" in message
    assert shown(message) == ["r2"]
    assert str(abs(bad)).lower() in message.lower()
    remedy = message.splitlines()[-1]
    assert remedy == "Drop them with frame[np.isfinite(frame['rating'].astype(float))]."
    Ratings.from_frame(frame[np.isfinite(frame["rating"].astype(float))])


@pytest.mark.parametrize("dtype", ["Float64", "double[pyarrow]", object])
def test_a_rating_that_is_missing_from_a_nullable_column(frame, dtype):
    frame["rating"] = frame["rating"].astype(dtype)
    frame.loc["r4", "rating"] = pd.NA if dtype is not object else None
    assert shown(error_of(frame)) == ["r4"]


def test_no_more_than_five_rows_are_shown():
    frame = pd.DataFrame({"user": range(20), "item": 1, "rating": [np.nan] * 12 + [1.0] * 8})
    message = error_of(frame)
    assert "12 of 20 rows" in message
    assert "(and 7 more)" in message
    assert len(message.splitlines()) == 1 + 1 + 5 + 1 + 1


def test_only_the_columns_in_use_are_shown(frame):
    frame["plot"] = "a long story"
    frame.loc["r1", "rating"] = np.nan
    assert "long story" not in error_of(frame)


@pytest.mark.parametrize(("column", "missing"), [("user", np.nan), ("item", None)])
def test_a_missing_id(frame, column, missing):
    frame.loc["r1", column] = missing
    message = error_of(frame)
    assert f"1 of 5 rows have no id in column '{column}'" in message
    assert shown(message) == ["r1"]
    assert f"frame.dropna(subset=['{column}'])" in message


@pytest.mark.parametrize("dtype", ["Int64", "category"])
def test_a_missing_id_in_a_nullable_column(frame, dtype):
    frame["user"] = frame["user"].astype(dtype)
    frame.loc["r3", "user"] = None
    assert shown(error_of(frame)) == ["r3"]


@pytest.mark.parametrize(
    ("ids", "holds", "remedy"),
    [
        ([3.0, 1.0, 2.0, 1.0, 3.0], "holds float", "astype(int)"),
        ([3.5, 1.0, 2.0, 1.0, 3.0], "holds float", "astype(str)"),
        ([True, False, True, True, False], "holds bool", "astype(str)"),
        (DAYS, "holds Timestamp", "astype(str)"),
        ([(1,), (2,), (3,), (4,), (5,)], "holds tuple", "astype(str)"),
        (pd.Categorical(DAYS), "holds Timestamp", "astype(str)"),
    ],
)
def test_ids_of_another_type(frame, ids, holds, remedy):
    frame["user"] = ids
    message = error_of(frame)
    assert "ids are all int or all str" in message
    assert f"'user' {holds}" in message
    assert message.splitlines()[-1] == f"Convert with frame['user'] = frame['user'].{remedy}."
    assert shown(message) == LABELS


def test_ids_of_two_types_show_the_rarer_one(frame):
    frame["user"] = pd.Series([30, 10, "x20", 10, 30], index=frame.index, dtype=object)
    message = error_of(frame)
    assert "'user' holds int and str" in message
    assert shown(message) == ["r2"]
    frame["user"] = frame["user"].astype(str)
    assert list(Ratings.from_frame(frame).user_ids) == ["10", "30", "x20"]


def test_a_true_among_int_ids_is_not_one(frame):
    frame["user"] = pd.Series([1, 2, True, 3, 4], index=frame.index, dtype=object)
    assert shown(error_of(frame)) == ["r2"]


@pytest.mark.parametrize(
    ("stars", "rows_at_fault"),
    [
        (["4.0", "3", "2", "1", "5"], LABELS),
        (pd.Series([4.0, 3, "n/a", 1, 5], index=LABELS, dtype=object), ["r2"]),
        ([True, False, True, True, False], LABELS),
        (DAYS, LABELS),
        (pd.array([1, 2, None, 4, 5], dtype=pd.ArrowDtype(pa.decimal128(3, 1))), ["r2"]),
    ],
)
def test_a_rating_that_is_not_a_number(frame, stars, rows_at_fault):
    frame["rating"] = stars
    message = error_of(frame)
    assert "a rating in column 'rating' that is not a number" in message
    assert shown(message) == rows_at_fault
    assert "Convert with frame['rating'] = frame['rating'].astype(float)." in message


@pytest.mark.parametrize("stars", [["4.0", "3", "2", "1", "5"], [True, False, True, True, False]])
def test_the_remedy_for_ratings_works(frame, stars):
    frame["rating"] = stars
    frame["rating"] = frame["rating"].astype(float)
    assert len(Ratings.from_frame(frame)) == 5


def test_a_rating_outside_the_scale(frame):
    message = error_of(frame, scale=(1, 4.5))
    assert "2 of 5 rows have a rating outside the scale (1.0, 4.5)" in message
    assert shown(message) == ["r1", "r2"]
    assert "give a scale=" in message


@pytest.mark.parametrize(
    "scale",
    [
        (5, 1),
        (1, 1),
        (0, np.inf),
        (np.nan, 5),
        (1, 2, 3),
        5,
        "ab",
        "15",
        ("1", "5"),
        (-1.7e308, 1.7e308),
    ],
)
def test_a_bad_scale(frame, scale):
    assert "scale must be (lowest, highest), two ascending finite numbers" in error_of(
        frame, scale=scale
    )


@pytest.mark.parametrize("scale", [None, (1, 5)])
def test_ratings_that_are_all_equal(frame, scale):
    frame["rating"] = 3.0
    message = error_of(frame, scale=scale)
    assert "the same rating, 3" in message
    assert shown(message) == LABELS
    assert "rating=None" in message
    assert len(Ratings.from_frame(frame, rating=None, scale=(1, 5))) == 5


def test_pairs_without_ratings_need_a_scale(frame):
    assert "need scale=" in error_of(frame, rating=None)


@pytest.mark.parametrize("missing", [pd.NaT, np.inf])
def test_a_missing_or_infinite_time(frame, missing):
    if missing is not pd.NaT:
        frame["time"] = [5.0, 1.0, 4.0, 2.0, 3.0]
    frame.loc["r1", "time"] = missing
    message = error_of(frame, time="time")
    assert "1 of 5 rows have a missing or infinite time in column 'time'" in message
    assert shown(message) == ["r1"]
    assert "leave time= out" in message
    assert len(Ratings.from_frame(frame)) == 5


@pytest.mark.parametrize("dtype", ["Int64", "int64[pyarrow]", "timestamp[ns][pyarrow]"])
def test_a_missing_time_in_a_nullable_column(frame, dtype):
    frame["time"] = (DAYS if "time" in dtype else pd.Series(range(5), index=LABELS)).astype(dtype)
    frame.loc["r4", "time"] = pd.NA
    assert shown(error_of(frame, time="time")) == ["r4"]


def test_times_as_text(frame):
    frame["time"] = frame["time"].astype(str)
    message = error_of(frame, time="time")
    assert "neither a number nor a datetime" in message
    assert shown(message) == LABELS
    assert "pd.to_datetime(frame['time'])" in message


def test_a_dtype_that_cannot_hold_the_unit_scale(frame):
    assert "torch.float32" in error_of(frame, dtype=torch.int64)


# Looking up by id


@pytest.mark.slow
@given(tables())
def test_locate_is_the_inverse_of_encoding(frame):
    ratings = Ratings.from_frame(frame)
    user, item = ratings.locate(frame)
    assert list(ratings.user_ids[user.numpy()]) == list(frame["user"])
    assert list(ratings.item_ids[item.numpy()]) == list(frame["item"])
    for ours, same in zip(ratings.locate(ratings), (ratings.user, ratings.item), strict=True):
        assert ours.dtype == torch.int64
        assert torch.equal(ours, same)


def test_locate_marks_unknown_ids_and_keeps_the_order(frame):
    asked = pd.DataFrame({"item": ["c", "zz", "a"], "user": [99, 10, 30]}, index=[5, 5, 5])
    user, item = Ratings.from_frame(frame).locate(asked)
    assert user.tolist() == [-1, 0, 2]
    assert item.tolist() == [2, -1, 0]


@pytest.mark.parametrize("dtype", ["int32", "Int64", "float64", "category", object])
def test_locate_matches_int_ids_of_any_type(frame, dtype):
    asked = pd.DataFrame({"user": [20, 99], "item": ["b", "b"]}).astype({"user": dtype})
    assert Ratings.from_frame(frame).locate(asked)[0].tolist() == [1, -1]


@pytest.mark.parametrize("dtype", [object, "string", "category"])
def test_locate_matches_str_ids_of_any_type(frame, dtype):
    asked = pd.DataFrame({"user": [20, 20], "item": ["b", "x"]}).astype({"item": dtype})
    assert Ratings.from_frame(frame).locate(asked)[1].tolist() == [1, -1]


def test_locate_refuses_ids_of_another_type_and_says_how_to_convert(frame):
    ratings = Ratings.from_frame(frame)
    asked = frame.astype({"user": str})
    with pytest.raises(RatingsError, match=r"of type string.*of type integer.*astype\(int\)"):
        ratings.locate(asked)
    with pytest.raises(RatingsError, match=r"item ids are of type integer.*such as 'a', 'b', 'c'"):
        ratings.locate(frame.assign(item=1))
    with pytest.raises(RatingsError, match="user ids are of type string"):
        Ratings.from_frame(asked).aligned_to(ratings)


@pytest.mark.parametrize("user", [[99.0, np.nan], [None, 99], pd.array([99, pd.NA], "Int64")])
def test_locate_refuses_a_missing_id_and_says_what_to_ask(frame, user):
    asked = pd.DataFrame({"user": user, "item": "a"})
    with pytest.raises(RatingsError, match=r"no id in column 'user'[^$]*never seen"):
        Ratings.from_frame(frame).locate(asked)


@pytest.mark.parametrize("user", [[99, 98], [99.5, 98.0]])
def test_locate_takes_ids_that_are_merely_unknown(frame, user):
    asked = pd.DataFrame({"user": user, "item": "a"})
    assert Ratings.from_frame(frame).locate(asked)[0].tolist() == [-1, -1]


def test_locate_takes_no_rows_and_refuses_a_missing_column(frame):
    ratings = Ratings.from_frame(frame)
    for nothing in (frame[:0], frame[:0].astype({"user": float, "item": int})):
        assert [len(index) for index in ratings.locate(nothing)] == [0, 0]
    with pytest.raises(RatingsError, match="one column 'item'"):
        ratings.locate(frame.drop(columns="item"))


def test_aligned_to_keeps_known_pairs_in_the_indexing_of_the_other(frame):
    train = Ratings.from_frame(frame, scale=(0, 10), dtype=torch.float64)
    other = pd.DataFrame(
        {
            "user": [30, 5, 20, 10, 30],
            "item": ["c", "a", "zz", "b", "b"],
            "rating": [1.0, 2.0, 3.0, 4.0, 5.0],
            "time": [5, 4, 3, 2, 1],
        }
    )
    aligned = Ratings.from_frame(other, time="time").aligned_to(train)
    assert aligned.user_ids is train.user_ids
    assert aligned.item_ids is train.item_ids
    assert (aligned.n_users, aligned.n_items) == (3, 3)
    assert rows(aligned) == [(10, "b", 4.0, 2), (30, "b", 5.0, 1), (30, "c", 1.0, 5)]
    assert aligned.scale == (0.0, 10.0)
    assert aligned.value.tolist() == [0.4, 0.5, 0.1]
    assert aligned.dtype == torch.float64


@pytest.mark.slow
@given(tables(), tables())
def test_aligned_to_is_the_inner_join_by_id(left, right):
    assume(type(left["user"][0]) is type(right["user"][0]))
    assume(type(left["item"][0]) is type(right["item"][0]))
    train = Ratings.from_frame(right, scale=(-10, 10))
    aligned = Ratings.from_frame(left, time="time").aligned_to(train)
    known = left["user"].isin(right["user"]) & left["item"].isin(right["item"])
    assert rows(aligned) == sorted(rows(left[known]))
    assert (aligned.user.diff() >= 0).all()


def test_aligned_to_may_keep_nothing_and_takes_pairs_without_values(frame):
    train = Ratings.from_frame(frame)
    stranger = Ratings.from_frame(frame.assign(user=frame["user"] + 1))
    nothing = stranger.aligned_to(train)
    assert len(nothing) == 0
    assert "0 ratings" in repr(nothing)
    pairs = Ratings.from_frame(frame, rating=None, scale=(0.5, 5))
    assert len(pairs.aligned_to(train)) == 5
    assert pairs.aligned_to(train).value is None


def test_aligned_to_refuses_ratings_outside_the_scale(frame):
    test = Ratings.from_frame(frame.assign(rating=frame["rating"] + 1))
    with pytest.raises(RatingsError) as caught:
        test.aligned_to(Ratings.from_frame(frame))
    message = str(caught.value)
    assert "1 of 5 rows have a rating outside the scale of the training ratings" in message
    assert "20    a     6.0" in message
    assert "scale=(lowest, highest)" in message


# Ratings or a frame


def test_ratings_and_a_frame_are_read_alike(frame):
    ratings = Ratings.from_frame(frame, time="time")
    assert as_frame(frame) is frame
    pd.testing.assert_frame_equal(as_frame(ratings), ratings.to_frame())
    for stars in (frame["rating"], frame["rating"].astype("Float64")):
        got = observed(frame.assign(rating=stars))
        assert got.tolist() == STARS
        assert got.dtype == np.float64
    assert observed(ratings).tolist() == ratings.to_frame()["rating"].tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, None, "many"])
def test_ratings_that_are_not_observed(frame, bad):
    without = frame.drop(columns="rating")
    stars = frame["rating"].astype(object).where(frame["user"] != 20, bad)
    for pairs in (without, Ratings.from_frame(frame, rating=None, scale=(0, 5))):
        with pytest.raises(RatingsError, match="have no ratings: give Ratings with values"):
            observed(pairs)
    with pytest.raises(RatingsError, match=r"1 of 5 rows have a .*(not a number|missing or inf)"):
        observed(frame.assign(rating=stars))


def test_dates_are_no_ratings(frame):
    with pytest.raises(RatingsError, match="not a number"):
        observed(frame.assign(rating=frame["time"]))


# Slips of the caller


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user": None}, "user= must be the name of a column, not None"),
        ({"item": ["item"]}, r"item= must be the name of a column, not \['item'\]"),
        ({"rating": ["rating"]}, "rating= must be the name of a column"),
        ({"time": {}}, "time= must be the name of a column"),
    ],
)
def test_names_that_cannot_be_names(frame, options, message):
    assert re.search(message, error_of(frame, **options))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda r: r.to("gpu"), 'device must be "cpu" or "cuda", not \'gpu\''),
        (lambda r: r.to([0]), "device must be"),
        (lambda r: r.to("cuda:99"), "device='cuda:99' is not here for torch: give device=\"cpu\""),
        (lambda r: r.to(dtype="float64"), "dtype=float64 cannot be computed with"),
        (lambda r: r.to(dtype=torch.int64), "dtype=torch.int64 cannot be computed with"),
        (lambda r: r.aligned_to(r.to_frame()), "Give the training Ratings, not a DataFrame"),
        (lambda r: r.of_some_users("a"), r"n_ratings must be 1, 2, 3, \.\.\., not 'a'"),
        (lambda r: r.of_some_users(2, seed=-1), "seed must be"),
    ],
)
def test_slips_are_refused_in_plain_words(frame, ask, message):
    with pytest.raises(PMFError, match=message):
        ask(Ratings.from_frame(frame))
