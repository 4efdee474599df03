"""Last.fm: how often users listened to artists, from HetRec 2011."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pandas as pd

from pyro_pmf.arguments import require_integer
from pyro_pmf.errors import PMFError

_URL = "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip"
# Other public loaders of this archive check the same hash.
_SHA256 = "6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c"
_FILES = ["user_artists.dat", "artists.dat"]


def lastfm_hetrec(
    path: str | os.PathLike[str] | None = None, min_listeners: int = 1, min_artists: int = 1
) -> pd.DataFrame:
    """Read how often users of Last.fm listened to artists: HetRec 2011.

    Parameters
    ----------
    path : path-like, optional
        A folder with ``user_artists.dat`` and ``artists.dat``. By default the archive of
        GroupLens, which pooch downloads once into the user's cache folder. Its licence is
        non-commercial.
    min_listeners : int
        Keep artists with at least this number of users.
    min_artists : int
        Keep users with at least this number of artists. Artists and users are dropped in turn
        until all that remain satisfy both limits.

    Returns
    -------
    pandas.DataFrame
        Columns user (int), item (int, artist), rating (int, how often the user listened to the
        artist) and title (str, name of the artist, missing where unknown); one row per pair, in
        the order of the file. Without limits: 92,834 rows, 1,892 users with at most 50 artists
        each, 17,632 artists, counts from 1 to 352,698. With ``min_listeners=5``: 71,426 rows,
        1,881 users, 2,828 artists.

    Raises
    ------
    PMFError
        If a limit is not a positive integer or leaves no rows, a file is missing, pooch is not
        installed, or the download fails.

    References
    ----------
    I. Cantador, P. Brusilovsky & T. Kuflik, "Second Workshop on Information Heterogeneity and
    Fusion in Recommender Systems (HetRec 2011)", RecSys 2011.
    """
    limits = {"min_listeners": min_listeners, "min_artists": min_artists}
    for name, value in limits.items():
        require_integer(name, value)
    table = _read_lastfm(_download_lastfm() if path is None else Path(path))
    n_rows = None
    while len(table) != n_rows:
        n_rows = len(table)
        for column, least in (("item", min_listeners), ("user", min_artists)):
            table = table[table[column].map(table[column].value_counts()) >= least]
    if table.empty:
        raise PMFError(
            f"No rows are left with min_listeners={min_listeners} and min_artists={min_artists}: "
            "lower them."
        )
    return table.reset_index(drop=True)


def _read_lastfm(folder: Path) -> pd.DataFrame:
    """Read the unpacked files into the columns user, item, rating and title."""
    missing = [name for name in _FILES if not (folder / name).exists()]
    if missing:
        raise PMFError(
            f"No {' and no '.join(missing)} in {folder}: give the folder into which you unpacked "
            f"{_URL}"
        )
    names = {"userID": "user", "artistID": "item", "weight": "rating"}
    table = pd.read_csv(folder / "user_artists.dat", sep="\t", usecols=list(names))
    table = table[list(names)].rename(columns=names)
    # Names contain unpaired quotation marks, and "None" may be the name of a band.
    titles = pd.read_csv(
        folder / "artists.dat",
        sep="\t",
        usecols=["id", "name"],
        index_col="id",
        quoting=csv.QUOTE_NONE,
        keep_default_na=False,
        dtype={"name": str},
    )["name"]
    table["title"] = table["item"].map(titles)
    return table


def _download_lastfm() -> Path:
    """Download and unpack the archive at the first call; return the folder of its files."""
    by_hand = f"or download {_URL} yourself, unpack it, and give its folder as path=."
    try:
        import pooch  # optional
    except ImportError as error:
        raise PMFError(
            "This data set is downloaded by the package pooch: "
            f"pip install 'pyro-pmf[examples]', {by_hand}"
        ) from error
    try:
        files = pooch.retrieve(
            _URL,
            known_hash=_SHA256,
            fname=_URL.rpartition("/")[2],
            path=pooch.os_cache("pyro-pmf"),
            processor=pooch.Unzip(members=_FILES),
        )
    except (OSError, ValueError) as error:  # a failed request; a wrong hash
        raise PMFError(
            f"The Last.fm data could not be downloaded ({error}). Try again, {by_hand}"
        ) from error
    return Path(files[0]).parent
