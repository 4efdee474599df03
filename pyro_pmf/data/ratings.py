"""From a long table of ratings to ``Ratings``: checked, indexed, on the model scale, sorted."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.data import splits
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.table import (
    COMPARABLE,
    RowsByPair,
    convert,
    kind,
    read_ids,
    read_ratings,
    read_scale,
    read_times,
    refuse,
    require_counts,
    require_spread,
    select,
)
from pyro_pmf.data.transforms import Affine, Name, Numbers, Transform, transform_of
from pyro_pmf.errors import RatingsError


class Ratings(Pairs):
    """Ratings of items by users, ready for a model; made from a table by `from_frame`.

    An *id* is the caller's label of a user or an item, an *index* its row of a factor matrix.
    Rows are sorted by user index, then by item index. The constructor checks nothing.

    Parameters
    ----------
    user, item : Tensor, int64, shape (n,)
        Indices into ``user_ids`` and ``item_ids``, sorted by user, then by item.
    user_ids, item_ids : pandas.Index
        The ids, sorted and unique: all int or all str.
    scale : tuple of float
        The lowest and the highest rating there can be; where the transform has no bounds, those
        that occur.
    rating : ndarray, float64, shape (n,), optional
        In rating units.
    time : pandas.Series, shape (n,), optional
        When each rating was given: numbers or datetimes, with a default index.
    dtype : torch.dtype
        Floating point type of ``value`` and of everything a model computes.
    transform : Transform, optional
        From rating units to the model scale. By default the unit scale: 0 is the lowest rating
        there can be, 1 the highest.

    Attributes
    ----------
    rating : ndarray, float64, shape (n,), or None
        The ratings in rating units, as given.
    value : Tensor, shape (n,), or None
        The ratings on the model scale.
    """

    def __init__(
        self,
        user: Tensor,
        item: Tensor,
        user_ids: pd.Index,
        item_ids: pd.Index,
        scale: tuple[float, float],
        rating: np.ndarray | None = None,
        time: pd.Series | None = None,
        dtype: torch.dtype = torch.float32,
        transform: Transform | None = None,
    ) -> None:
        self.user_ids, self.item_ids = user_ids, item_ids
        self.scale, self.time = scale, time
        self.transform = transform or Affine.of_scale(*scale)
        # Kept beside `value`, so that ratings come back as given, not as rounded to `dtype`.
        self.rating = rating
        value = None
        if rating is not None:
            value = torch.from_numpy(self.to_value(rating)).to(user.device, dtype)
        super().__init__(user, item, len(user_ids), len(item_ids), value, dtype)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        user: Hashable = "user",
        item: Hashable = "item",
        rating: Hashable | None = "rating",
        time: Hashable | None = None,
        scale: tuple[float, float] | None = None,
        on_duplicate: str = "error",
        dtype: torch.dtype = torch.float32,
        transform: Name = "unit",
    ) -> Ratings:
        """Check a long table, one row a rating, and encode it; the table itself is not changed.

        Parameters
        ----------
        frame : pandas.DataFrame
            One row a rating, in any order.
        user, item : hashable
            The columns of ids, each all int or all str.
        rating : hashable, optional
            The column of ratings, finite numbers. None makes pairs without values.
        time : hashable, optional
            The column of times, numbers or datetimes.
        scale : tuple of float, optional
            The lowest and the highest rating there can be, in rating units. By default those
            that occur. Required without ratings.
        on_duplicate : {"error", "last", "mean"}
            What a repeated (user, item) pair means: an error, its last rating (by ``time`` if
            given, else by row), or the mean of its ratings (at the last of their times).
        dtype : torch.dtype
            Floating point type of ``value`` and of everything a model computes.
        transform : {"unit", "standardize", "log1p", "count"}
            What a model sees of a rating r: where it lies on the scale, from 0 to 1; (r - mean) /
            sd, of these ratings; log(1 + r), so standardized; r itself. The last two are for
            counts. Splits keep the transform of the whole, and predictions are in rating units
            whatever it is.

        Raises
        ------
        RatingsError
            If the table cannot be used as it stands. The message shows the offending rows.
        """
        columns = [name for name in (user, item, rating, time) if name is not None]
        table = select(frame, *columns)
        if not dtype.is_floating_point:
            raise RatingsError(f"dtype={dtype} cannot hold [0, 1]: give torch.float32 or alike.")
        if not len(table):
            raise RatingsError("The table has no rows: give at least one rating.")
        user_index, user_ids = read_ids(table, user)
        item_index, item_ids = read_ids(table, item)
        ratings = None if rating is None else read_ratings(table, rating)
        times = None if time is None else read_times(table, time)
        bounds = read_scale(table, ratings, scale)
        rows = RowsByPair.of(table, user_index, item_index, times, on_duplicate)
        if ratings is not None:
            ratings = rows.rating(ratings, bounds)
            require_spread(table, ratings, rows.kept)
            require_counts(table, ratings, rows.kept, transform)
        if times is not None:
            times = times.iloc[rows.kept].reset_index(drop=True)
        return cls(
            torch.from_numpy(user_index[rows.kept]),
            torch.from_numpy(item_index[rows.kept]),
            user_ids,
            item_ids,
            bounds,
            ratings,
            times,
            dtype,
            transform_of(transform, ratings, bounds),
        )

    def __repr__(self) -> str:
        what = "pairs without values" if self.value is None else "ratings"
        density = len(self) / max(self.n_users * self.n_items, 1)
        return (
            f"Ratings({len(self):,} {what}, {self.n_users:,} users, {self.n_items:,} items, "
            f"density {density:.2%}, scale={self.scale}{'' if self.time is None else ', time'}"
            f"{'' if self.transform.bounds else f', {self.transform}'})"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return columns user, item, rating (rating units) and time, as far as they are there."""
        columns = {
            "user": self.user_ids.take(self.user.cpu().numpy()),
            "item": self.item_ids.take(self.item.cpu().numpy()),
            "rating": self.rating,
            "time": self.time,
        }
        return pd.DataFrame({name: x for name, x in columns.items() if x is not None})

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Ratings:
        """Return the same ratings on another device or with another floating point type.

        Parameters
        ----------
        device : str or torch.device, optional
            The present one by default.
        dtype : torch.dtype, optional
            The present one by default.
        """
        return Ratings(
            self.user.to(device),
            self.item.to(device),
            self.user_ids,
            self.item_ids,
            self.scale,
            self.rating,
            self.time,
            dtype or self.dtype,
            self.transform,
        )

    def to_value(self, x: Numbers) -> Numbers:
        """Map rating units to the model scale; any shape."""
        return self.transform.to_value(x)

    def to_rating(self, x: Numbers) -> Numbers:
        """Map the model scale to rating units; any shape."""
        return self.transform.to_rating(x)

    def locate(self, pairs: Ratings | pd.DataFrame) -> tuple[Tensor, Tensor]:
        """Look pairs up by id among these users and items.

        Parameters
        ----------
        pairs : Ratings or pandas.DataFrame
            A frame has columns ``user`` and ``item``.

        Returns
        -------
        user, item : Tensor, int64, shape (n_pairs,)
            Indices in the order of ``pairs``; -1 marks an id that is unknown here.

        Raises
        ------
        RatingsError
            If a column is missing, or none of its ids is known because all are of another type.
        """
        if isinstance(pairs, Ratings):
            user = _lookup("user", self.user_ids, pairs.user_ids)[pairs.user.cpu()]
            item = _lookup("item", self.item_ids, pairs.item_ids)[pairs.item.cpu()]
        else:
            table = select(pairs, "user", "item")
            user = _lookup("user", self.user_ids, pd.Index(table["user"]))
            item = _lookup("item", self.item_ids, pd.Index(table["item"]))
        return user.to(self.device), item.to(self.device)

    def aligned_to(self, train: Ratings) -> Ratings:
        """Return the pairs whose user and item ``train`` knows, in its indices and transform.

        Device and dtype are those of ``train`` too: ``model(test.aligned_to(train), train)``.

        Raises
        ------
        RatingsError
            If the transform of ``train`` cannot map a rating, as one outside its scale, or the
            ids are of another type.
        """
        user, item = train.locate(self)
        known = (user >= 0) & (item >= 0)
        # Ids are sorted on both sides, so that what is kept stays in order.
        aligned = Ratings(
            user[known],
            item[known],
            train.user_ids,
            train.item_ids,
            train.scale,
            *self._given(known.cpu().numpy()),
            train.dtype,
            train.transform,
        )
        if aligned.rating is not None:
            refuse(
                aligned.to_frame(),
                np.flatnonzero(~train.transform.allows(aligned.rating)),
                f"a rating outside the scale of the training ratings, {train.scale}",
                "Make the training ratings with a scale=(lowest, highest) that holds them.",
            )
        return aligned

    def split(self, test_fraction: float = 0.1, seed: int = 0) -> tuple[Ratings, Ratings]:
        """Hold out a random fraction of all ratings.

        Parameters
        ----------
        test_fraction : float
            Share of the ratings that goes to the test side, inside (0, 1).
        seed : int
            Of this split alone: no global random state is read or changed.

        Returns
        -------
        train, test : Ratings
            Each indexed by its own ids; scale, transform and dtype are those of the whole.

        Raises
        ------
        RatingsError
            If the fraction is outside (0, 1) or leaves one side empty.
        """
        return self._partition(splits.random_rows(len(self), test_fraction, seed))

    def split_by_user(self, test_fraction: float = 0.1, seed: int = 0) -> tuple[Ratings, Ratings]:
        """Hold out a random fraction of each user's ratings, rounded, and never all of them.

        Parameters, results and errors are those of `split`.
        """
        return self._partition(splits.random_rows_of_each_user(self, test_fraction, seed))

    def split_by_time(self, test_fraction: float = 0.1) -> tuple[Ratings, Ratings]:
        """Hold out the latest fraction of all ratings; ties go by user, then by item.

        Parameters, results and errors are those of `split`; to have no time is an error too.
        """
        if self.time is None:
            raise RatingsError(
                "These ratings have no time to split by: name its column in from_frame(time=...)."
            )
        return self._partition(splits.latest_rows(self.time, test_fraction))

    def k_fold(self, k: int = 5, seed: int = 0) -> Iterator[tuple[Ratings, Ratings]]:
        """Iterate over k random pairs (train, test) whose test sides partition the ratings.

        Raises
        ------
        RatingsError
            If k is less than 2 or more than the number of ratings.
        """
        fold = splits.folds(len(self), k, seed)
        return (self._partition(fold == i) for i in range(k))

    def _partition(self, test: np.ndarray) -> tuple[Ratings, Ratings]:
        """Return (train, test) for a bool array of shape (n,)."""
        if test.all() or not test.any():
            raise RatingsError(
                f"{test.sum()} of {len(self)} ratings would be held out, which leaves one side "
                "empty: change the fraction or give more ratings."
            )
        return self._take(~test), self._take(test)

    def _take(self, keep: np.ndarray) -> Ratings:
        """Return the rows where the bool array is true, indexed by their own ids."""
        rows = torch.from_numpy(keep).to(self.device)
        user, user_ids = _compact(self.user[rows], self.user_ids)
        item, item_ids = _compact(self.item[rows], self.item_ids)
        return Ratings(
            user,
            item,
            user_ids,
            item_ids,
            self.scale,
            *self._given(keep),
            self.dtype,
            self.transform,
        )

    def _given(self, keep: np.ndarray) -> tuple[np.ndarray | None, pd.Series | None]:
        """Return the ratings and the times of the rows where the bool array is true."""
        rating = None if self.rating is None else self.rating[keep]
        return rating, None if self.time is None else self.time[keep].reset_index(drop=True)


def _compact(index: Tensor, ids: pd.Index) -> tuple[Tensor, pd.Index]:
    """Drop the ids without rows; sorted indices stay sorted."""
    present = torch.bincount(index, minlength=len(ids)) > 0
    return (present.cumsum(0) - 1)[index], ids[present.cpu().numpy()]


def _lookup(column: str, known: pd.Index, wanted: pd.Index) -> Tensor:
    """Return where each wanted id stands among those known, int64, -1 if nowhere."""
    index = known.get_indexer(wanted).astype(np.int64, copy=False)
    if len(wanted) and (index < 0).all():
        ours, theirs = kind(known), kind(wanted)
        if theirs not in COMPARABLE[ours] and theirs != "empty":
            to = "int" if ours == "integer" else "str"
            raise RatingsError(
                f"No {column} id is known: these are of type {theirs}, the known ones of type "
                f"{ours}. {convert(column, to)}"
            )
    return torch.from_numpy(index)


def as_frame(pairs: Ratings | pd.DataFrame) -> pd.DataFrame:
    """Return pairs as a table with the columns user and item, and rating where it is known."""
    return pairs.to_frame() if isinstance(pairs, Ratings) else pairs


def observed(pairs: Ratings | pd.DataFrame) -> np.ndarray:
    """Return the ratings of a table, float64, in rating units.

    Raises
    ------
    RatingsError
        If the table has no ratings, or they are not finite numbers.
    """
    if isinstance(pairs, Ratings):
        rating = pairs.rating
    elif isinstance(pairs, pd.DataFrame) and "rating" in pairs:
        numbers = pd.to_numeric(pairs["rating"], errors="coerce")
        rating = numbers.to_numpy(float, na_value=np.nan, copy=True)
    else:
        rating = None
    if rating is None or not np.isfinite(rating).all():
        raise RatingsError(
            "Scores need Ratings, or a DataFrame with a finite number for each pair in the column "
            "'rating'."
        )
    return rating
