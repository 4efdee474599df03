"""Last.fm as a table: folders as HetRec 2011 publishes them, filters, and the download."""

import hashlib
import os
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest

from pyro_pmf.datasets import lastfm_hetrec
from pyro_pmf.errors import PMFError


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
    monkeypatch.setattr("pyro_pmf.datasets.lastfm._SHA256", digest)
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
