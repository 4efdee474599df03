"""The data sets, split into arrays that every method reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from pyro_pmf import Ratings
from pyro_pmf.datasets import insteval, movielens


@dataclass(frozen=True)
class Table:
    """Ratings, indexed by the users and the items of the training side.

    Attributes
    ----------
    user, item : ndarray, int64, shape (n,)
        -1 marks a user or an item without training ratings; only the test side has it.
    rating : ndarray, float64, shape (n,)
    n_users, n_items : int
        Of the training side.
    scale : tuple of float
        The lowest and the highest possible rating.
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    n_users: int
    n_items: int
    scale: tuple[float, float]

    def __len__(self) -> int:
        return len(self.rating)

    def part(self, rows: np.ndarray) -> Table:
        """Return the ratings at these places."""
        return replace(self, user=self.user[rows], item=self.item[rows], rating=self.rating[rows])

    def to_frame(self) -> pd.DataFrame:
        """Return columns user, item and rating."""
        return pd.DataFrame({"user": self.user, "item": self.item, "rating": self.rating})

    def clip(self, rating: np.ndarray) -> np.ndarray:
        """Clip predictions to the scale."""
        return np.clip(rating, *self.scale)


def movielens_100k() -> pd.DataFrame:
    """Read MovieLens-100K from the files of the package recbole, without importing it."""
    package = find_spec("recbole")
    if package is None or package.origin is None:
        raise FileNotFoundError("MovieLens-100K comes with recbole: make bench installs it.")
    path = Path(package.origin).parent / "dataset_example" / "ml-100k" / "ml-100k.inter"
    frame = pd.read_csv(path, sep="\t")
    return frame.rename(columns=lambda name: name.split(":")[0].removesuffix("_id"))


# By name: the function that reads the data set, and its rating scale.
DATA = {
    "movielens-small": (movielens, (0.5, 5.0)),
    "insteval": (insteval, (1.0, 5.0)),
    "movielens-100k": (movielens_100k, (1.0, 5.0)),
}


def split(name: str, seed: int, sample: int | None = None) -> tuple[Table, Table]:
    """Hold out a random tenth of a data set.

    Parameters
    ----------
    name : str
        One of `DATA`.
    seed : int
        Of the split.
    sample : int, optional
        Take only this many ratings, for a trial.

    Returns
    -------
    train, test : Table
    """
    read, scale = DATA[name]
    frame = read()
    if sample is not None:
        frame = frame.sample(sample, random_state=seed)
    return as_tables(*Ratings.from_frame(frame, scale=scale).split(test_fraction=0.1, seed=seed))


def as_tables(train: Ratings, test: Ratings) -> tuple[Table, Table]:
    """Return both sides of a split as arrays, indexed by the training users and items."""
    return _table(train, train), _table(test, train)


def _table(side: Ratings, train: Ratings) -> Table:
    user, item = (index.numpy() for index in train.locate(side))
    rating = np.asarray(side.rating)
    return Table(user, item, rating, train.n_users, train.n_items, side.scale)
