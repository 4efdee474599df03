"""MovieLens as a table: as packaged, and folders as it is published."""

import pandas as pd
import pytest

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.datasets import movielens
from pyro_pmf.errors import PMFError


@pytest.fixture
def csv_folder(tmp_path):
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n7,10,4.0,0\n7,99,1,86400\n"
    )
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\n10,"American President, The (1995)",Drama\n31,Jumanji,Comedy\n'
        "99,Alien,Horror\n"
    )
    return tmp_path


@pytest.fixture
def tab_folder(tmp_path):
    (tmp_path / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t5\t891717742\n")
    items = "242|Kolya (1996)|24-Jan-1997||url|0|1\n302|Misérables, Les|01-Jan-1995||url|0|1\n"
    (tmp_path / "u.item").write_bytes(items.encode("latin-1"))
    return tmp_path


def test_movielens_as_packaged():
    table = movielens()
    assert list(table) == ["user", "item", "rating", "time", "title"]
    assert len(table) == 100_004
    assert (table["user"].nunique(), table["item"].nunique()) == (671, 9_066)
    assert set(table["rating"]) == {x / 2 for x in range(1, 11)}
    assert table["time"].dt.year.agg(["min", "max"]).tolist() == [1995, 2016]
    first = table.iloc[0]
    assert first["time"] == pd.Timestamp("2009-12-14 02:52:24")
    assert (first["item"], first["title"]) == (31, "Dangerous Minds")
    ratings = Ratings.from_frame(table, time="time")
    assert ratings.scale == (0.5, 5.0)


def test_a_folder_of_csv_files(csv_folder):
    table = movielens(csv_folder)
    assert table.to_dict("list") == {
        "user": [1, 7, 7],
        "item": [31, 10, 99],
        "rating": [2.5, 4.0, 1.0],
        "time": [pd.Timestamp(x) for x in ("2009-12-14 02:52:24", "1970-01-01", "1970-01-02")],
        "title": ["Jumanji", "American President, The (1995)", "Alien"],
    }
    pd.testing.assert_frame_equal(movielens(str(csv_folder)), table)


def test_a_folder_of_movielens_100k(tab_folder):
    table = movielens(tab_folder)
    assert list(table) == ["user", "item", "rating", "time", "title"]
    assert table["title"].tolist() == ["Kolya (1996)", "Misérables, Les"]
    assert table["rating"].tolist() == [3.0, 5.0]
    assert table["time"][0] == pd.Timestamp("1997-12-04 15:55:49")


def test_movielens_100k_without_its_titles(tab_folder):
    (tab_folder / "u.item").unlink()
    table = movielens(tab_folder)
    assert table["title"].isna().all()
    assert table["item"].tolist() == [242, 302]


@pytest.mark.parametrize("gone", ["ratings.csv", "movies.csv"])
def test_missing_files_are_named(csv_folder, gone):
    (csv_folder / gone).unlink()
    with pytest.raises(
        PMFError, match=r"ratings\.csv with movies\.csv, and for u\.data"
    ) as caught:
        movielens(csv_folder)
    assert str(csv_folder) in str(caught.value)
