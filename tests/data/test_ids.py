"""Ids that cannot be told apart, or not be stored, are refused; and the remedies are followed."""

import re
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pyro_pmf import Ratings, RatingsError
from pyro_pmf.data.ids import positions

BIG = 2**53 + 1  # no double


def table(users, **columns):
    n = len(users)
    return pd.DataFrame({"user": users, "item": range(n), "rating": np.arange(n) + 1.0, **columns})


def refusal(frame, **options):
    with pytest.raises(RatingsError) as caught:
        Ratings.from_frame(frame, **options)
    return str(caught.value)


def followed(frame, message):
    """The table after the code of a remedy has run."""
    names = {"frame": frame.copy() if isinstance(frame, pd.DataFrame) else frame}
    names |= {"np": np, "pd": pd, "pl": pl, "pc": pc}
    code = re.search(r"(?:Convert|Drop them) with (.*)\.$", message.splitlines()[-1])[1]
    code = code if re.match(r"frame(\[[^\]]*\])? = ", code) else f"frame = {code}"
    exec(code, names)
    return names["frame"]


SPLIT = [  # ids, and which of them are one user
    ([1, 1.0, 2], [0, 0, 1]),
    ([1, 1.0, 1.5], [0, 0, 1]),
    (["a", 1, 1.0], [0, 1, 1]),
    (["a", 1, np.float32(1.0), 2.5], [0, 1, 1, 2]),
    ([0.0, -0.0, 0.5], [0, 0, 1]),
    ([3.0, 1.0, 3.0], [0, 1, 0]),
    ([3.5, 1.0, 3.5], [0, 1, 0]),
    ([Decimal("1"), Decimal("1.0"), Decimal("1.5")], [0, 0, 1]),
    ([b"x", b"\xff", b"x"], [0, 1, 0]),
    ([True, False, True], [0, 1, 0]),
    ([2**64, 5, 2**64 + 1], [0, 1, 2]),
    ([2**64, 5.0, 5], [0, 1, 1]),
    ([-(2**63) - 1, 5, 5], [0, 1, 1]),
    (["\ud800", "a", "\ud800b"], [0, 1, 2]),
    (pd.DatetimeIndex(np.array([0, 1, 0], "datetime64[ns]")), [0, 1, 0]),
    ([(1, 2), (1, 3), (1, 2)], [0, 1, 0]),
]


@pytest.mark.parametrize(("ids", "same"), SPLIT, ids=lambda x: str(x)[:40])
def test_a_remedy_keeps_equal_ids_equal_and_others_apart(ids, same):
    kind = None if isinstance(ids, pd.DatetimeIndex) else object
    frame = table(pd.Series(ids, dtype=kind))
    ratings = Ratings.from_frame(followed(frame, refusal(frame)))
    user = ratings.to_frame().sort_values("rating")["user"]
    assert len(set(user)) == len(set(same))
    assert [len({x, y}) for x, y in zip(user, user.iloc[::-1], strict=True)] == [
        len({x, y}) for x, y in zip(same, same[::-1], strict=True)
    ]


NATIVE = {
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
}


@pytest.mark.parametrize("kind", NATIVE)
@pytest.mark.parametrize(
    "users",
    [
        [3.0, 1.0, 2.0],
        [3.5, 1.0, 2.0],
        [True, False, True],
        [b"x", b"y", b"\xff"],
        [1, None, 2],
        [1.0, float("nan"), None, 2.0],
        [[1], [2], [3]],
    ],
    ids=str,
)
def test_a_remedy_speaks_of_the_library_of_the_table(kind, users):
    n = len(users)
    frame = NATIVE[kind]({"user": users, "item": [*range(n)], "rating": [1.0, 2.0, 3.0, 4.0][:n]})
    for _ in range(2):  # to drop what is missing, and then to convert
        try:
            ratings = Ratings.from_frame(frame)
            break
        except RatingsError as error:
            message = str(error)
            assert "pandas" not in message
            assert "astype" not in message
            frame = followed(frame, message)
    else:
        ratings = Ratings.from_frame(frame)
    assert ratings.n_users == len({str(x) for x in users if x == x and x is not None})


@pytest.mark.parametrize("kind", NATIVE)
@pytest.mark.parametrize("stars", [["1", "2", "3"], [1.0, None, 3.0], [1.0, np.inf, 3.0]])
def test_remedies_for_ratings_speak_of_that_library_too(kind, stars):
    frame = NATIVE[kind]({"user": [1, 2, 3], "item": [1, 2, 3], "rating": stars})
    message = refusal(frame)
    assert len(Ratings.from_frame(followed(frame, message))) >= 2


@pytest.mark.parametrize("users", [[2**64, 1], [2**63, 1], [-1, 2**63], [-(2**63) - 1, 1]])
def test_integers_of_more_than_64_bits(users):
    message = refusal(table(pd.Series(users, dtype=object)))
    assert "1 of 2 rows have an id in column 'user' that 64-bit integers do not hold" in message


def test_large_unsigned_integers():
    assert "64-bit" in refusal(table(np.array([2**64 - 1, 1], np.uint64)))
    small = Ratings.from_frame(table(np.array([2**62, 1], np.uint64)))
    assert small.user_ids.tolist() == [1, 2**62]


# Looked up


def known(users=(BIG, BIG - 1, 3)):
    return Ratings.from_frame(table(list(users)))


@pytest.mark.parametrize(
    "asked",
    [
        pd.Series([float(BIG), 3.0]),
        pd.Series([3.0, 1e300]),
        pd.Series([float(BIG), 3], dtype=object),
        pd.Series([np.float32(2**24), 3], dtype=object),
        pd.Series([2.0**24, 3.0], dtype="float32"),
        pd.Series([2.0**24, 3.0], dtype="Float32"),
        pd.Series([float(BIG), 3.0], dtype="double[pyarrow]"),
        pd.Series([2.0**24, 3.0], dtype="float[pyarrow]"),
        pd.Series([2.0**11, 3.0], dtype="float16"),
        pd.Categorical([float(BIG), 3.0]),
    ],
    ids=lambda asked: str(asked.dtype),
)
def test_floats_that_have_lost_digits_are_refused(asked):
    frame = pd.DataFrame({"user": asked, "item": 0})
    with pytest.raises(
        RatingsError, match="1 of 2 rows have an id in column 'user' that has lost"
    ):
        known().locate(frame)


def test_floats_that_have_lost_digits_are_not_made_training_ids():
    message = refusal(table([float(BIG), 1.0]))
    assert "lost digits" in message
    assert "astype" not in message


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "Float64", "double[pyarrow]", "int8", "uint64", object]
)
def test_small_numbers_of_any_type_are_found(dtype):
    frame = pd.DataFrame({"user": pd.Series([3, 4]).astype(dtype), "item": 0})
    assert known().locate(frame)[0].tolist() == [0, -1]


def test_neighbours_are_not_taken_for_each_other():
    asked = [BIG - 2, BIG - 1, BIG, BIG + 1, 2**63, 2**70, 3.0, 3.5]
    frame = pd.DataFrame({"user": pd.Series(asked, dtype=object), "item": 0})
    assert known().locate(frame)[0].tolist() == [-1, 1, 2, -1, -1, -1, 0, -1]
    unsigned = pd.Series(np.array([BIG, 2**63 + 5], np.uint64))
    assert positions(known().user_ids, unsigned).tolist() == [2, -1]


def test_text_with_surrogates_is_refused_as_in_training():
    ratings = Ratings.from_frame(table(["a", "b"]))
    frame = pd.DataFrame({"user": pd.Series(["\ud800", "b"], dtype=object), "item": 0})
    with pytest.raises(RatingsError, match="1 of 2 rows have an id in column 'user' with a lone"):
        ratings.locate(frame)
    frame["user"] = [ascii(x) for x in frame["user"]]
    assert ratings.locate(frame)[0].tolist() == [-1, -1]


@pytest.mark.parametrize("odd", ["3", True, 3.5j, (3,), b"3", [3]])
def test_one_id_of_another_type_is_not_merely_unknown(odd):
    frame = pd.DataFrame({"user": pd.Series([3, odd], dtype=object), "item": 0})
    with pytest.raises(RatingsError, match="the training ids of type integer, such as 3"):
        known().locate(frame)


def test_a_remedy_that_would_not_help_is_not_given():
    ratings = Ratings.from_frame(table(["u17", "u18"]))
    frame = pd.DataFrame({"user": [17], "item": [0]})
    with pytest.raises(RatingsError) as caught:
        ratings.locate(frame)
    assert "astype" not in str(caught.value)
    assert "such as 'u17', 'u18'" in str(caught.value)
    ratings = Ratings.from_frame(table(["17", "18"]))
    with pytest.raises(RatingsError, match=r"frame\['user'\].astype\(str\)"):
        ratings.locate(frame)
