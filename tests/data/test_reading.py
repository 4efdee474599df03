"""Files and sparse matrices: what is read, under which names, and what is refused."""

import bz2
import contextlib
import gzip
import logging
import lzma

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from rating_tables import rows

from pyro_pmf import Ratings, RatingsError
from pyro_pmf.data import read_table, with_sampled_negatives

ROWS = [(1, "b", 4.0), (2, "a", 3.5), (2, "b", 1.0)]


def text(separator=",", names=("userId", "movieId", "rating")):
    lines = [names, *ROWS] if names else ROWS
    return "".join(separator.join(map(str, line)) + "\n" for line in lines)


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|", " ", "::"])
def test_separators_are_found(tmp_path, separator):
    ratings = Ratings.read(written(tmp_path / "ratings.txt", text(separator)))
    assert rows(ratings) == ROWS
    assert str(ratings.columns) == "user from 'userId', item from 'movieId', rating from 'rating'"


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|"])
@pytest.mark.parametrize(
    "names", [("User ID", "Item ID", "Star Rating"), ('"u, or; who, or; when"', "item", "rating")]
)
def test_names_of_columns_may_contain_blanks_and_separators(tmp_path, separator, names):
    table = read_table(written(tmp_path / "ratings.txt", text(separator, names)))
    assert list(table) == [name.strip('"') for name in names]
    assert table.iloc[:, 2].tolist() == [4.0, 3.5, 1.0]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_damaged_archives_are_refused_wherever_they_are_damaged(tmp_path, pack):
    ending = {gzip.compress: "gz", bz2.compress: "bz2", lzma.compress: "xz"}[pack]
    whole = pack(b"user,item,rating\n1,2,3\n1,3,4\n")
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            path = tmp_path / f"x.csv.{ending}"
            path.write_bytes(bytes(changed))
            with contextlib.suppress(RatingsError):  # a name or a time in the header may change
                assert len(Ratings.read(path)) == 2


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_text(tmp_path, pack):
    ending = {gzip.compress: "gz", bz2.compress: "bz2", lzma.compress: "xz"}[pack]
    path = written(tmp_path / f"ratings.csv.{ending}", pack(text().encode()))
    assert rows(Ratings.read(path)) == ROWS
    with pytest.raises(RatingsError, match="cannot be read"):
        Ratings.read(written(path, text()))


def test_compressed_text_under_another_name(tmp_path):
    for pack, ending in ((gzip.compress, ".gz"), (bz2.compress, ".bz2"), (lzma.compress, ".xz")):
        with pytest.raises(RatingsError, match=f"compressed: let its name end in {ending}"):
            Ratings.read(written(tmp_path / "ratings.csv", pack(text().encode())))


def test_a_column_of_times_that_has_another_role(tmp_path):
    path = written(tmp_path / "ratings.csv", "user,item,timestamp\n1,2,3\n1,3,4\n")
    ratings = Ratings.read(path, rating="timestamp")
    assert ratings.time is None
    assert ratings.scale == (3.0, 4.0)


@pytest.mark.parametrize(
    ("encoding", "content"),
    [("utf-8", text().encode()), ("utf-8-sig", "\ufeff".encode() + text().encode())],
)
def test_text_with_and_without_a_mark(tmp_path, encoding, content):
    assert rows(Ratings.read(written(tmp_path / "ratings.csv", content))) == ROWS


def test_parquet(tmp_path):
    frame = pd.DataFrame(ROWS, columns=["customer_id", "product_id", "stars"])
    frame.to_parquet(tmp_path / "ratings.parquet")
    ratings = Ratings.read(tmp_path / "ratings.parquet", scale=(1, 5))
    assert rows(ratings) == ROWS
    assert ratings.scale == (1.0, 5.0)
    assert ratings.columns.user == "customer_id"


@pytest.mark.parametrize(("name", "separator"), [("u.data", "\t"), ("ratings.dat", "::")])
def test_folders_of_movielens(tmp_path, name, separator):
    lines = [(1, 10, 4, 900), (2, 10, 3, 800)]
    content = "\n".join(separator.join(map(str, line)) for line in lines)
    written(tmp_path / name, content)
    ratings = Ratings.read(tmp_path)
    assert rows(ratings) == [(1, 10, 4.0, 900), (2, 10, 3.0, 800)]
    assert rows(Ratings.read(tmp_path / name)) == rows(ratings)
    written(tmp_path / "ratings.csv", text())
    assert rows(Ratings.read(tmp_path)) == ROWS


@pytest.mark.parametrize(
    "names",
    [
        ("userId", "movieId", "rating"),
        ("user_id", "item_id", "stars"),
        ("CustomerID", "Product ID", "Score"),
        ("reviewerID", "asin", "overall"),
        ("user_id:token", "item_id:token", "rating:float"),
        ("User-ID", "ISBN", "Book-Rating"),
    ],
)
def test_names_are_recognised_and_said(tmp_path, caplog, names):
    with caplog.at_level(logging.INFO, "pyro_pmf"):
        ratings = Ratings.read(written(tmp_path / "x.csv", text(names=names)))
    assert rows(ratings) == ROWS
    assert (ratings.columns.user, ratings.columns.item, ratings.columns.rating) == names
    assert f"user from {names[0]!r}, item from {names[1]!r}" in caplog.text
    assert "The ratings are from 1 to 4, which is taken for the scale." in caplog.text


def test_the_name_of_the_role_comes_before_all_others(tmp_path):
    path = written(tmp_path / "x.csv", "userId,user,item,movie,rating\n9,1,b,8,4\n9,2,a,8,3\n")
    assert rows(Ratings.read(path)) == [(1, "b", 4.0), (2, "a", 3.0)]
    assert rows(Ratings.read(path, user="userId", item="item")) == [(9, "a", 3.0), (9, "b", 4.0)]


@pytest.mark.parametrize("names", [("user", "movie", "product", "rating"), ("a", "b", "c", "d")])
def test_doubt_about_a_column_is_not_decided(tmp_path, names):
    path = written(tmp_path / "x.csv", ",".join(names) + "\n1,2,3,4\n5,6,7,8\n")
    with pytest.raises(RatingsError, match=r"Which column holds the .*: name it by \w+="):
        Ratings.read(path)
    roles = {"user": names[0], "item": names[1], "rating": names[3]}
    assert rows(Ratings.read(path, **roles)) == [(1, 2, 4.0), (5, 6, 8.0)]


def test_a_name_that_is_not_there(tmp_path):
    path = written(tmp_path / "x.csv", text())
    with pytest.raises(RatingsError, match="no one column 'who' for user="):
        Ratings.read(path, user="who")


def test_a_file_without_a_header_is_named_by_hand(tmp_path):
    path = written(tmp_path / "x.csv", text(names=None))
    with pytest.raises(RatingsError, match=r'names=\["user", "item", "rating"\]'):
        Ratings.read(path)
    assert rows(Ratings.read(path, names=["user", "item", "rating"])) == ROWS


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["1", "20"], [1, 20]),
        (["007", "7"], ["007", "7"]),
        (["1.0", "2.0"], [1, 2]),
        (["-5", "0"], [-5, 0]),
        (["NA", "None"], ["NA", "None"]),
        ([str(2**70), "7"], [str(2**70), "7"]),
        (["-0", "0"], ["-0", "0"]),
        (["1e3", "1000"], ["1e3", "1000"]),
        (["True", "False"], ["False", "True"]),
    ],
)
def test_ids_are_as_they_are_written(tmp_path, ids, expected):
    path = written(tmp_path / "x.csv", f"user,item,rating\n{ids[0]},1,2\n{ids[1]},1,3\n")
    assert sorted(Ratings.read(path).user_ids.tolist(), key=str) == sorted(expected, key=str)
    assert read_table(path)["user"].tolist() == [
        x for want in ids for x in expected if str(x) == want.removesuffix(".0")
    ]


@pytest.mark.parametrize(
    ("dates", "kept"), [(["2020-01-02", "2020-01-01"], True), (["soon", "2020-01-01"], False)]
)
def test_times_are_taken_where_they_are_times(tmp_path, dates, kept):
    content = f"user,item,rating,date\n1,1,2,{dates[0]}\n2,1,3,{dates[1]}\n"
    path = written(tmp_path / "x.csv", content)
    ratings = Ratings.read(path)
    assert (ratings.time is not None) == kept == (ratings.columns.time == "date")
    if not kept:
        with pytest.raises(
            RatingsError, match=r"neither a number nor a date by ISO 8601.*\n.*\n.*soon"
        ):
            Ratings.read(path, time="date")


def test_other_dates_are_read_as_the_message_says(tmp_path):
    content = "user,item,rating,date\n1,1,2,03/04/2020\n2,1,3,14/03/2020\n"
    path = written(tmp_path / "x.csv", content)
    with pytest.raises(RatingsError, match=r"2 of 2 rows[^\n]*\n[^\n]*\n.*03/04/2020") as caught:
        Ratings.read(path, time="date")
    assert """parse_dates=['date'], date_format="%d/%m/%Y\"""" in str(caught.value)
    options = {"parse_dates": ["date"], "date_format": "%d/%m/%Y"}
    for time in ("date", "auto"):
        read = Ratings.read(path, time=time, **options)
        assert read.time.dt.strftime("%Y-%m-%d").tolist() == ["2020-04-03", "2020-03-14"]


def test_a_missing_time_is_no_odd_date(tmp_path):
    path = written(tmp_path / "x.csv", "user,item,rating,date\n1,1,2,2020-01-02\n2,1,3,\n")
    with pytest.raises(RatingsError, match="1 of 2 rows have a missing or infinite time"):
        Ratings.read(path, time="date")


def test_the_last_of_a_pair_is_not_guessed_where_dates_are_not_read(tmp_path):
    content = "user,item,rating,date\n1,1,2,14/04/2020\n2,1,3,13/04/2020\n1,1,5,13/04/2019\n"
    path = written(tmp_path / "x.csv", content)
    with pytest.raises(RatingsError, match="the last rating of a pair that repeats is not known"):
        Ratings.read(path, on_duplicate="last")
    by_row = Ratings.read(path, on_duplicate="last", time=None)
    assert rows(by_row) == [(1, 1, 5.0), (2, 1, 3.0)]
    options = {"parse_dates": ["date"], "date_format": "%d/%m/%Y"}
    assert Ratings.read(path, on_duplicate="last", **options).rating.tolist() == [2.0, 3.0]


# Options of pandas.read_csv


@pytest.mark.parametrize(
    ("above", "options"),
    [
        ("# user, item, rating, of, us\n", {"comment": "#"}),
        ("user, item, rating, of, us\n", {"skiprows": 1}),
        ("a, b, c, d\n\nx, y, z\n", {"skiprows": [0, 2]}),
        ("a, b, c, d\n", {"skiprows": iter([0])}),
        ("a, b, c, d\n", {"skiprows": lambda k: k == 0}),
        ("a, b, c, d\n", {"header": 1}),
        ("# a, b, c, d\n\nx, y, z, u\n", {"comment": "#", "header": 1}),
        ("a, rather, long, preamble\n" * 3000, {"skiprows": 3000}),
    ],
)
def test_the_separator_is_that_of_the_lines_that_remain(tmp_path, above, options):
    path = written(tmp_path / "x.csv", above + text(";"))
    assert rows(Ratings.read(path, **options)) == ROWS


def test_some_rows_only(tmp_path):
    path = written(tmp_path / "x.csv", text() + "and, that, is, all\n")
    assert rows(Ratings.read(path, nrows=3)) == ROWS
    assert rows(Ratings.read(path, skipfooter=1)) == ROWS
    assert len(read_table(path, nrows=2)) == 2
    pd.DataFrame(ROWS, columns=["user", "item", "rating"]).to_parquet(tmp_path / "x.parquet")
    assert len(Ratings.read(tmp_path / "x.parquet", nrows=2)) == 2


@pytest.mark.parametrize("options", [{"chunksize": 2}, {"iterator": True}])
def test_a_table_is_not_read_in_pieces(tmp_path, options):
    path = written(tmp_path / "x.csv", text())
    for read in (Ratings.read, read_table):
        with pytest.raises(RatingsError, match=r"leave it out\. Ratings\.read_parts"):
            read(path, **options)
    assert rows(Ratings.read(path, chunksize=None, iterator=False)) == ROWS


def test_types_of_columns_are_given_to_read_table(tmp_path):
    path = written(tmp_path / "x.csv", "user,item,rating\n1,007,2\n2,7,3\n")
    with pytest.raises(RatingsError, match=r"dtype= is the type that a model .*read_table\(path"):
        Ratings.read(path, dtype={"user": str})
    table = read_table(path, dtype={"user": str})
    assert rows(Ratings.from_frame(table)) == [("1", "007", 2.0), ("2", "7", 3.0)]
    assert read_table(path, dtype={"item": int})["item"].tolist() == [7, 7]
    assert read_table(path, dtype=str)["user"].tolist() == ["1", "2"]
    names = {"user": lambda x: f"u{x}"}
    assert read_table(path, converters=names)["user"].tolist() == ["u1", "u2"]


# Refusals, each with a remedy that is followed


@pytest.mark.parametrize(
    ("content", "problem", "options"),
    [
        (
            "user,item,rating\né,1,2\nb,1,3\n".encode("latin-1"),
            "not UTF-8",
            {"encoding": "latin-1"},
        ),
        ("user,item,rating\né,1,2\nb,1,3\n".encode("utf-16"), "UTF-16", {"encoding": "utf-16"}),
        (b"user^item^rating\nx^1^2\nb^1^3\n", "one column", {"sep": "^"}),
        (b"user;item;rating\nx;1;2,5\nb;1;3\n", "not a number", {"decimal": ","}),
        (b"x,1,2,0\nb,1,3,0\n", "names=", {"names": ["user", "item", "rating", "z"]}),
    ],
)
def test_remedies_are_options(tmp_path, content, problem, options):
    path = written(tmp_path / "x.csv", content)
    with pytest.raises(RatingsError, match=problem) as caught:
        Ratings.read(path)
    assert f"{next(iter(options))}=" in str(caught.value)
    assert len(Ratings.read(path, **options)) == 2


@pytest.mark.parametrize("separator", [",", "::"])
@pytest.mark.parametrize("more", ["1,b,4,9\n2,a,3,9\n", "1,b,4\n2,a,3,9\n"])
def test_a_field_too_many_does_not_shift_the_others(tmp_path, separator, more):
    content = ("user,item,rating\n" + more).replace(",", separator)
    with pytest.raises(RatingsError, match="cannot be read as a table"):
        Ratings.read(written(tmp_path / "x.csv", content))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"\n\n", "has no lines"),
        (b"user,item,rating\n", "no rows"),
        (b"\x00\x01\x02", "not text"),
        (b"PK\x03\x04zip", "unpack it"),
        (b"PAR1zip", "cannot be read"),
        (b"user,item,rating\n,1,2\n2,1,3\n", "no id in column 'user'"),
        (b"user,item,rating\n1,1,\n2,1,3\n", "missing or infinite rating"),
        (b"user,item,rating\n1,1,3\n2,1,3\n", "with_sampled_negatives"),
        (b"user,item\n1,1\n2,1\n", "with_sampled_negatives"),
    ],
)
def test_files_that_hold_no_ratings(tmp_path, content, problem):
    with pytest.raises(RatingsError, match=problem):
        Ratings.read(written(tmp_path / "x.csv", content))


@pytest.mark.parametrize("name", ["", "nothing.csv", "a\0b"])
def test_paths_that_are_no_files(tmp_path, name):
    with pytest.raises(RatingsError, match=r"give (the|another) path"):
        Ratings.read(f"{tmp_path}/{name}")
    for odd in (None, 5, ["x.csv"]):
        with pytest.raises(RatingsError, match="is no path"):
            Ratings.read(odd)


def test_an_option_that_pandas_does_not_have(tmp_path):
    with pytest.raises(RatingsError, match="unexpected keyword"):
        Ratings.read(written(tmp_path / "x.csv", text()), nonsense=1)


def test_rows_at_fault_can_be_dropped_from_the_table(tmp_path):
    path = written(tmp_path / "x.csv", text() + ",c,2\n")
    with pytest.raises(RatingsError) as caught:
        Ratings.read(path)
    assert "frame.dropna(subset=['userId'])" in str(caught.value)
    assert "frame = pyro_pmf.data.read_table(path)" in str(caught.value)
    frame = read_table(path).dropna(subset=["userId"])
    assert rows(Ratings.from_frame(frame, user="userId", item="movieId")) == ROWS


def test_clicks_become_ratings(tmp_path):
    path = written(tmp_path / "x.csv", "user,item\n1,a\n2,b\n3,c\n1,a\n")
    seen = Ratings.read(path, rating=None, scale=(0, 1), on_duplicate="last")
    table = with_sampled_negatives(seen)
    assert table["rating"].tolist() == [1, 1, 1, 0, 0, 0]
    pd.testing.assert_frame_equal(with_sampled_negatives(read_table(path)), table)


# Sparse matrices


@pytest.mark.parametrize("kind", ["coo", "csr", "csc", "lil", "dok", "bsr"])
@pytest.mark.parametrize("matrix", [sp.coo_array, sp.coo_matrix])
def test_sparse_matrices_of_any_format(kind, matrix):
    dense = np.array([[0, 4.0, 0], [3.5, 1.0, 0], [0, 0, 0]])
    ratings = Ratings.from_matrix(matrix(dense).asformat(kind), item_ids=["a", "b", "c"])
    assert rows(ratings) == [(0, "b", 4.0), (1, "a", 3.5), (1, "b", 1.0)]
    assert (ratings.n_users, ratings.n_items) == (2, 2)


def test_a_stored_zero_is_a_rating():
    matrix = sp.coo_array(([0.0, 2.0], ([0, 1], [0, 0])))
    assert rows(Ratings.from_matrix(matrix)) == [(0, 0, 0.0), (1, 0, 2.0)]


def test_entries_that_repeat():
    matrix = sp.coo_array(([1.0, 3.0, 2.0], ([0, 0, 1], [0, 0, 0])))
    with pytest.raises(RatingsError, match="more than once"):
        Ratings.from_matrix(matrix)
    assert rows(Ratings.from_matrix(matrix, on_duplicate="last")) == [(0, 0, 3.0), (1, 0, 2.0)]


@pytest.mark.parametrize("given", [np.eye(3), [[1, 2]], None, sp.coo_array(np.ones(3))])
def test_what_is_no_sparse_matrix(given):
    with pytest.raises(RatingsError, match="Give a sparse matrix"):
        Ratings.from_matrix(given)
    with pytest.raises(RatingsError, match="from_matrix"):
        Ratings.from_frame(sp.eye_array(3))


def test_ids_that_do_not_suit_the_shape():
    for ids in (["a", "b"], iter("ab")):
        with pytest.raises(RatingsError, match="Give 3 user_ids, one for each, not 2"):
            Ratings.from_matrix(sp.coo_array(np.eye(3)), user_ids=ids)
    for ids in ("abc", 3, {"a": 1, "b": 2, "c": 3}):
        with pytest.raises(RatingsError, match="user_ids must be a list of ids, not of type"):
            Ratings.from_matrix(sp.coo_array(np.eye(3)), user_ids=ids)


def test_ids_of_a_generator():
    matrix = sp.coo_array(np.diag([1.0, 2.0, 3.0]))
    read = Ratings.from_matrix(matrix, user_ids=(x for x in "abc"))
    assert read.user_ids.tolist() == ["a", "b", "c"]
