"""Tables of other libraries: read as pandas would be, and answered in their own kind."""

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from rating_tables import rows, small_frame

from pyro_pmf import Ratings, RatingsError
from pyro_pmf.data import with_sampled_negatives
from pyro_pmf.data.frames import as_list, as_native, is_frame

KINDS = {
    "polars": pl.from_pandas,
    "lazy": lambda frame: pl.from_pandas(frame).lazy(),
    "pyarrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
    "narwhals": lambda frame: nw.from_native(pl.from_pandas(frame)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_read_as_that_of_pandas(kind):
    frame = small_frame()
    expected = Ratings.from_frame(frame, time="time")
    ratings = Ratings.from_frame(KINDS[kind](frame), time="time")
    assert rows(ratings) == rows(expected)
    pd.testing.assert_index_equal(ratings.user_ids, expected.user_ids)
    pd.testing.assert_index_equal(ratings.item_ids, expected.item_ids)
    user, item = ratings.locate(KINDS[kind](frame.assign(user=[30, 99, 20, 10, 30])))
    assert user.tolist() == [2, -1, 1, 0, 2]
    assert item.tolist() == [1, 2, 0, 0, 0]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["b", "c", "a", "a", "a"]).dictionary_encode(),
        pa.array(["b", "c", "a", "a", "a"], pa.large_string()),
        pa.array(["b", "c", "a", "a", "a"], pa.string_view()),
        pa.chunked_array([["b", "c"], ["a", "a", "a"]]),
        pa.array([2, 3, 1, 1, 1], pa.uint16()),
        pa.array([2, 3, 1, 1, 1]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_ids_of_any_type_of_arrow(column):
    frame = small_frame()
    arrow = pa.table({"user": frame["user"], "item": column, "rating": frame["rating"]})
    plain = frame.assign(item=column.to_pylist())
    assert rows(Ratings.from_frame(arrow)) == rows(Ratings.from_frame(plain))
    ratings = Ratings.from_frame(plain)
    assert ratings.locate(arrow)[1].tolist() == [1, 2, 0, 0, 0]
    if column.type == pa.string_view():
        return  # pandas has no methods for it
    in_pandas = frame.assign(item=pd.array(column, dtype=pd.ArrowDtype(column.type)))
    assert rows(Ratings.from_frame(in_pandas)) == rows(Ratings.from_frame(plain))
    assert ratings.locate(in_pandas)[1].tolist() == [1, 2, 0, 0, 0]


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["c", "b", "a", "z"])])
def test_categorical_ids_of_polars_are_sorted_by_id(dtype):
    frame = pl.from_pandas(small_frame()).with_columns(pl.col("item").cast(dtype))
    assert list(Ratings.from_frame(frame).item_ids) == ["a", "b", "c"]


def test_integers_beside_a_gap_keep_their_digits():
    frame = pl.DataFrame(
        {"user": [2**53 + 1, None, 2**53], "item": [1, 2, 3], "rating": [1, 2, 3]}
    )
    kept = Ratings.from_frame(frame.drop_nulls("user"))
    assert kept.user_ids.tolist() == [2**53, 2**53 + 1]
    with pytest.raises(RatingsError, match="1 of 3 rows have no id in column 'user'"):
        Ratings.from_frame(frame)


def test_what_is_no_table_is_refused_with_a_way_to_make_one(tmp_path):
    for given, remedy in (
        ([(1, 2, 3.0)], "pandas.DataFrame"),
        ({"user": [1]}, "pandas.DataFrame"),
        (np.zeros((2, 3)), "pandas.DataFrame"),
        (None, "pandas.DataFrame"),
        (pd.Series([1.0]), "pandas.DataFrame"),
        ("ratings.csv", r"Ratings.read\('ratings.csv'\)"),
        (tmp_path, r"Ratings.read\("),
    ):
        assert not is_frame(given)
        with pytest.raises(RatingsError, match=remedy):
            Ratings.from_frame(given)


class DataFrame:
    """Not a table, whatever its name."""


def test_a_class_of_the_same_name_is_named_in_full():
    with pytest.raises(RatingsError, match=r"not a test_frames\.DataFrame"):
        Ratings.from_frame(DataFrame())


def test_an_arrow_table_with_a_name_twice():
    twice = pa.Table.from_arrays([pa.array([1])] * 3, names=["user", "user", "rating"])
    with pytest.raises(RatingsError, match="give each column a name of its own"):
        Ratings.from_frame(twice)


def test_columns_that_arrow_does_not_have():
    odd = pl.DataFrame({"user": [1, 2], "item": [1, 2], "rating": [1.0, 2.0]})
    odd = odd.with_columns(pl.col("user").cast(pl.Int128))
    with pytest.raises(RatingsError, match="cannot be read"):
        Ratings.from_frame(odd)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (small_frame(), pd.DataFrame),
        (Ratings.from_frame(small_frame()), pd.DataFrame),
        ([1, 2], pd.DataFrame),
        (None, pd.DataFrame),
        (pl.DataFrame({"a": [1]}), pl.DataFrame),
        (pl.LazyFrame({"a": [1]}), pl.DataFrame),
        (pl.Series([1]), pl.DataFrame),
        (pa.table({"a": [1]}), pa.Table),
        (pa.chunked_array([[1]]), pa.Table),
    ],
)
def test_answers_come_in_the_kind_of_the_table(given, kind):
    table = pd.DataFrame({"user": [7, 8], 1.0: [0.5, 0.25], "known": [True, False]})
    answer = as_native(table, given)
    assert type(answer) is kind
    if kind is pd.DataFrame:
        assert answer is table
    elif kind is pl.DataFrame:
        assert answer.to_dict(as_series=False) == {
            "user": [7, 8],
            "1.0": [0.5, 0.25],
            "known": [True, False],
        }
    else:
        assert answer.column_names == ["user", "1.0", "known"]
        assert not answer.schema.metadata


def test_columns_of_other_libraries_become_lists():
    for column in (pl.Series([3, 1]), pa.array([3, 1]), pa.chunked_array([[3], [1]])):
        assert as_list(column) == [3, 1]
    assert as_list("ann") == "ann"


def test_sampled_negatives_of_other_tables():
    seen = pl.DataFrame({"who": ["ann", "bob", "eve", "ann"], "what": [1, 2, 3, 1]})
    table = with_sampled_negatives(seen, user="who", item="what")
    assert isinstance(table, pl.DataFrame)
    assert table.columns == ["who", "what", "rating"]
    assert table["rating"].to_list() == [1, 1, 1, 0, 0, 0]
