"""`Ratings`: a long table of ratings, checked, indexed, sorted and put on the model scale."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.arguments import require_integer, require_seed
from pyro_pmf.data import splits
from pyro_pmf.data.columns import Columns, select
from pyro_pmf.data.devices import require_device, require_dtype
from pyro_pmf.data.encoding import encoded
from pyro_pmf.data.frames import IntoFrame
from pyro_pmf.data.ids import lookup
from pyro_pmf.data.levels import Recorded, level_gap, spacing
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.partwise import collect
from pyro_pmf.data.reading import cells_of, read_columns
from pyro_pmf.data.scratch import Scratch
from pyro_pmf.data.table import (
    read_ratings,
    refuse,
    require_counts,
    require_spread,
)
from pyro_pmf.data.transforms import Affine, Name, Numbers, Transform, transform_of
from pyro_pmf.errors import RatingsError

_logger = logging.getLogger("pyro_pmf")
_AT_ONCE = 1 << 20  # ratings


class Ratings(Pairs):
    """Ratings of items by users, ready for a model.

    `from_frame` makes them from a table, `read` from a file, `from_matrix` from a sparse matrix.

    An *id* is the caller's label of a user or an item; an *index* is its row of a factor matrix.
    Rows are sorted by user index, then by item index. The constructor checks nothing.

    Parameters
    ----------
    user, item : Tensor, int64, shape (n,)
        Indices into ``user_ids`` and ``item_ids``, sorted by user, then by item.
    user_ids, item_ids : pandas.Index
        The ids, sorted and unique: all int or all str.
    scale : tuple of float
        The lowest and the highest possible rating, in rating units, or the range observed where
        `from_frame` was given no scale.
    rating : ndarray, float64, shape (n,), optional
        The ratings, in rating units.
    time : pandas.Series, shape (n,), optional
        Time of each rating: numbers or datetimes, with a default index.
    dtype : torch.dtype
        Floating-point type of ``value`` and of all that a model computes.
    transform : Transform, optional
        Map from rating units to the model scale. By default to the unit scale, where 0 is the
        lowest possible rating and 1 the highest.
    recorded : Recorded, optional
        How the ratings of the whole table were recorded. By default as these ratings show.
    columns : Columns, optional
        The names that the columns of the caller's tables have. A table with these names can be
        given to `Posterior.predict` and all else that takes pairs, as can one with the columns
        user, item and rating.

    Attributes
    ----------
    rating : ndarray, float64, shape (n,), or None
        The ratings in rating units, as given.
    value : Tensor, shape (n,), or None
        The ratings on the model scale.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame(
    ...     {
    ...         "user": ["ann", "ann", "bob", "eve"],
    ...         "item": [7, 9, 9, 7],
    ...         "rating": [4.0, 1.0, 5.0, 3.0],
    ...     }
    ... )
    >>> ratings = Ratings.from_frame(frame, scale=(1, 5))
    >>> ratings
    Ratings(4 ratings, 3 users, 2 items, density 66.67%, scale=(1.0, 5.0))
    >>> ratings.value
    tensor([0.7500, 0.0000, 1.0000, 0.5000])
    >>> train, test = ratings.split(0.25, seed=0)
    >>> len(train), len(test)
    (3, 1)
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
        recorded: Recorded | None = None,
        columns: Columns | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        self.columns = columns or Columns()
        self.user_ids, self.item_ids = user_ids, item_ids
        self.scale, self.time = scale, time
        self.transform = transform or Affine.of_scale(*scale)
        # Kept beside `value`, which is rounded to `dtype`.
        self.rating = rating
        value = None
        if rating is not None:
            value = self._on_model_scale(rating, user.device, dtype, scratch or Scratch())
        if recorded is None:
            recorded = Recorded(None if rating is None else level_gap(rating, scale))
        self.recorded = recorded
        super().__init__(user, item, len(user_ids), len(item_ids), value, dtype, scratch)

    def _on_model_scale(
        self, rating: np.ndarray, device: torch.device, dtype: torch.dtype, scratch: Scratch
    ) -> Tensor:
        if not scratch.is_mapped:
            return torch.from_numpy(self.to_value(rating)).to(device, dtype)
        value = scratch.empty(len(rating), dtype)
        for start in range(0, len(rating), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            value[some] = torch.from_numpy(self.to_value(rating[some]))
        return value

    @classmethod
    def from_frame(
        cls,
        frame: IntoFrame,
        user: Hashable = "user",
        item: Hashable = "item",
        rating: Hashable | None = "rating",
        time: Hashable | None = None,
        scale: tuple[float, float] | None = None,
        on_duplicate: str = "error",
        dtype: torch.dtype = torch.float32,
        transform: Name = "unit",
    ) -> Ratings:
        """Check and encode a long table with one row per rating; the table is not changed.

        Parameters
        ----------
        frame : pandas.DataFrame, polars.DataFrame or pyarrow.Table
            One row per rating, in any order; any table that narwhals reads.
        user, item : hashable
            The columns of ids: each column all int or all str. Later tables, such as those of
            `Posterior.predict`, may have these names too: they are remembered in ``columns``.
        rating : hashable, optional
            The column of ratings: finite numbers. None makes pairs without values.
        time : hashable, optional
            The column of times: numbers or datetimes.
        scale : tuple of float, optional
            The lowest and the highest possible rating, in rating units. By default the range of
            the ratings, which is logged and part of the repr: look at it, for instance where 0
            means that there is no rating. Required for pairs without values.
        on_duplicate : {"error", "last", "mean"}
            How to treat a repeated (user, item) pair: raise an error, keep its last rating (by
            ``time`` if given, else by row), or keep its mean rating (at its last time).
        dtype : torch.dtype
            Floating-point type of ``value`` and of all that a model computes.
        transform : {"unit", "standardize", "log1p", "count"}
            Map of a rating r to the model scale. "unit": (r - lowest) / (highest - lowest).
            "standardize": (r - mean) / sd, over these ratings. For counts, "log1p": log(1 + r),
            standardized; "count": r itself. Splits keep the transform of the whole table.
            Predictions are in rating units with every transform.

        Returns
        -------
        Ratings
            One rating per pair.

        Raises
        ------
        RatingsError
            If the table or an option is not valid. The message shows the rows at fault.
        """
        columns = Columns(user, item, rating, time)
        columns.require_distinct()
        names = [name for name in (user, item, rating, time) if name is not None]
        table = select(frame, *names, told="Ratings.from_frame")
        return cls._of_table(table, columns, scale, on_duplicate, dtype, transform)

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        user: Hashable = "auto",
        item: Hashable = "auto",
        rating: Hashable | None = "auto",
        time: Hashable | None = "auto",
        scale: tuple[float, float] | None = None,
        on_duplicate: str = "error",
        dtype: torch.dtype = torch.float32,
        transform: Name = "unit",
        **options: Any,
    ) -> Ratings:
        r"""Read ratings from a file, or from a folder of MovieLens.

        Parameters
        ----------
        path : path-like
            CSV, TSV or other delimited text, compressed or not; Parquet; or a folder with
            ``ratings.csv``, ``u.data`` or ``ratings.dat``.
        user, item, rating, time : hashable
            The names of the columns. By default they are recognised: userId, movieId, rating and
            timestamp, customer_id, product_id, stars, and the like. The names that were taken are
            logged and in ``columns``. None for a rating or time: there is none. Times are numbers
            or dates by ISO 8601; of other dates, ``parse_dates`` and ``date_format`` say more.
        scale, on_duplicate, dtype, transform
            As for `from_frame`.
        **options
            Further arguments of `pandas.read_csv`, such as ``sep``, ``encoding``, ``decimal``, or
            ``names`` for a file without a header; not chunksize and iterator. Types of columns
            are given to `data.read_table`, whose table `from_frame` takes.

        Returns
        -------
        Ratings
            Ids are int where every id of a column is written as an integer, and str otherwise.

        Raises
        ------
        RatingsError
            If the path cannot be read as a table, a column is not recognised, a time is neither a
            number nor a date, or as for `from_frame`.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "orders.csv"
        >>> _ = path.write_text("customer_id;product_id;stars\n7;a;4\n8;b;5\n")
        >>> ratings = Ratings.read(path, scale=(1, 5))
        >>> ratings
        Ratings(2 ratings, 2 users, 2 items, density 50.00%, scale=(1.0, 5.0))
        >>> print(ratings.columns)
        user from 'customer_id', item from 'product_id', rating from 'stars'
        """
        require_dtype(dtype)
        table, columns = read_columns(path, user, item, rating, time, options, on_duplicate)
        columns.require_distinct()
        return cls._of_table(table, columns, scale, on_duplicate, dtype, transform)

    @classmethod
    def read_parts(
        cls,
        paths: Iterable[str | os.PathLike[str]],
        folder: str | os.PathLike[str],
        scale: tuple[float, float],
        user: Hashable = "auto",
        item: Hashable = "auto",
        rating: Hashable = "auto",
        on_duplicate: str = "error",
        dtype: torch.dtype = torch.float32,
        transform: Name = "unit",
        **options: Any,
    ) -> Ratings:
        """Read ratings that do not fit into memory; they are kept in files.

        A fit by `MAP`, `VI` or `Gibbs` then reads them block by block at each step. Ids, and one
        row of each latent for each user and item, are in memory.

        Parameters
        ----------
        paths : iterable of path-like
            Files as for `read`. All ratings of a user are in one of them; in a Parquet file, they
            follow each other. A Parquet file is read some users after the others, any other file
            whole.
        folder : path-like
            Where to keep the ratings, on a disk here: 70 bytes each, or 160 for a chain.
            The files have no name, and are gone when the ratings are forgotten, or the process
            ends.
        scale : tuple of float
            The lowest and the highest possible rating, in rating units.
        user, item, rating : hashable
            The names of the columns, as for `read`, alike in all files.
        on_duplicate, dtype, **options
            As for `read`.
        transform : {"unit", "standardize", "log1p", "count"}
            As for `read`. While another than "unit" is made, the table is in memory.

        Returns
        -------
        Ratings
            Without times.

        Raises
        ------
        RatingsError
            As for `read`; if a user is in two parts; if the folder cannot hold the ratings.
        """
        require_dtype(dtype)
        if not isinstance(folder, str | os.PathLike) or not os.path.isdir(folder):
            raise RatingsError(f"{folder!r} is no folder to keep ratings in: give folder=.")
        scratch = Scratch(folder)
        found = collect(paths, scratch, (user, item, rating), scale, on_duplicate, options)
        ratings = cls(
            found.user,
            found.item,
            found.user_ids,
            found.item_ids,
            found.scale,
            found.rating.numpy(),
            dtype=dtype,
            recorded=Recorded(level_gap(found.levels, found.scale), scale_given=True),
            columns=found.columns,
            scratch=scratch,
        )
        return ratings if transform == "unit" else ratings.with_transform(transform)

    @classmethod
    def from_matrix(
        cls,
        matrix: Any,
        user_ids: Iterable[Any] | None = None,
        item_ids: Iterable[Any] | None = None,
        scale: tuple[float, float] | None = None,
        on_duplicate: str = "error",
        dtype: torch.dtype = torch.float32,
        transform: Name = "unit",
    ) -> Ratings:
        """Take the stored entries of a sparse matrix as ratings.

        Parameters
        ----------
        matrix : scipy.sparse array or matrix, shape (n_users, n_items)
            In any format. A stored 0 is a rating of 0; what is not stored is not rated.
        user_ids, item_ids : iterable of int or of str, optional
            The ids of rows and columns; by default their numbers, from 0.
        scale, on_duplicate, dtype, transform
            As for `from_frame`.

        Returns
        -------
        Ratings
            Rows and columns without entries are left out.

        Raises
        ------
        RatingsError
            If ``matrix`` is not sparse and two-dimensional, ``user_ids`` or ``item_ids`` are no
            ids or another number of them than its shape says, or as for `from_frame`.

        Examples
        --------
        >>> from scipy.sparse import coo_array
        >>> matrix = coo_array(([5.0, 2.0], ([0, 1], [2, 0])))
        >>> Ratings.from_matrix(matrix, item_ids=["a", "b", "c"]).to_frame()
           user item  rating
        0     0    c     5.0
        1     1    a     2.0
        """
        table = cells_of(matrix, user_ids, item_ids)
        return cls._of_table(table, Columns(), scale, on_duplicate, dtype, transform)

    @classmethod
    def _of_table(
        cls,
        table: pd.DataFrame,
        columns: Columns,
        scale: tuple[float, float] | None,
        on_duplicate: str,
        dtype: torch.dtype,
        transform: Name,
    ) -> Ratings:
        """Check and encode a table of the columns in use."""
        require_dtype(dtype)
        rows = encoded(table, columns, scale, on_duplicate)
        rating, bounds = rows.rating, rows.scale
        if rating is not None:
            require_spread(table, rating, rows.kept)
            require_counts(table, rating, rows.kept, transform)
        if scale is None:
            _logger.info("The ratings are from %g to %g, which is taken for the scale.", *bounds)
        return cls(
            torch.from_numpy(rows.user),
            torch.from_numpy(rows.item),
            rows.user_ids,
            rows.item_ids,
            bounds,
            rating,
            rows.times,
            dtype,
            transform_of(transform, rating, bounds),
            Recorded(None if rating is None else level_gap(rating, bounds), scale is not None),
            columns,
        )

    def __repr__(self) -> str:
        what = "pairs without values" if self.value is None else "ratings"
        density = len(self) / max(self.n_users * self.n_items, 1)
        return (
            f"Ratings({len(self):,} {what}, {self.n_users:,} users, {self.n_items:,} items, "
            f"density {density:.2%}, scale={self.scale}"
            f"{'' if self.recorded.scale_given else ' as found'}"
            f"{'' if self.time is None else ', time'}"
            f"{'' if self.transform.bounds else f', {self.transform}'})"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a table: user, item, and, if known, rating (in rating units) and time."""
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
            By default the device does not change.
        dtype : torch.dtype, optional
            By default the type does not change.

        Raises
        ------
        RatingsError
            If there is no such device, or no model computes with such a type.
        """
        device, dtype = require_device(device or self.device), dtype or self.dtype
        require_dtype(dtype)
        user, item = self.user.to(device), self.item.to(device)
        if user is not self.user:
            return self.replaced(user=user, item=item, dtype=dtype)
        return self if dtype == self.dtype else self.replaced(dtype=dtype)

    def replaced(self, **changes: Any) -> Ratings:
        """Return these ratings with other arguments of the constructor, given by name."""
        ids = "user", "item", "user_ids", "item_ids"
        kept = "scale", "rating", "time", "dtype", "transform", "recorded", "columns"
        names = ids + kept + (() if "user" in changes else ("scratch",))
        return Ratings(**({name: getattr(self, name) for name in names} | changes))

    def with_transform(self, name: Name) -> Ratings:
        """Return the same ratings on another model scale.

        Parameters
        ----------
        name : {"unit", "standardize", "log1p", "count"}
            The transform, see `from_frame`.

        Returns
        -------
        Ratings
            "standardize" and "log1p" take mean and standard deviation of these ratings.

        Raises
        ------
        RatingsError
            If the name is unknown, the transform cannot map a rating, or a transform other than
            "unit" is asked of pairs without values or of ratings that are all equal.
        """
        if self.rating is not None and name != "unit":
            table, rows = self.to_frame(), np.arange(len(self))
            require_spread(table, self.rating, rows)
            require_counts(table, self.rating, rows, name)
        return self.replaced(transform=transform_of(name, self.rating, self.scale))

    @property
    def spacing(self) -> float:
        """Spacing of the recorded ratings on the model scale, see `levels.spacing`.

        Returns
        -------
        float
            0 if nothing tells of rounding, or there are no ratings.
        """
        if self.rating is None:
            return 0.0
        gap = self.recorded.gap if isinstance(self.transform, Affine) else None
        some = self.rating[:: -(-len(self) // _AT_ONCE)]  # a million tell it as well as all
        return spacing(self.to_value(some), gap and gap / self.transform.width)

    def to_value(self, x: Numbers) -> Numbers:
        """Map ratings in rating units to the model scale; any shape."""
        return self.transform.to_value(x)

    def to_rating(self, x: Numbers) -> Numbers:
        """Map values on the model scale to rating units; any shape."""
        return self.transform.to_rating(x)

    def as_pairs(self, pairs: Ratings | IntoFrame) -> Ratings | pd.DataFrame:
        """Return a caller's pairs as these ratings name columns.

        Parameters
        ----------
        pairs : Ratings or table
            A table has the columns ``user`` and ``item``, or those that ``columns`` names.

        Returns
        -------
        Ratings or pandas.DataFrame
            The same Ratings, or a table with the columns user, item, and rating if there is one,
            and with the index of a pandas table.

        Raises
        ------
        RatingsError
            If it is not a table, or a column is missing.
        """
        return pairs if isinstance(pairs, Ratings) else self.columns.pairs(pairs)

    def locate(self, pairs: Ratings | IntoFrame) -> tuple[Tensor, Tensor]:
        """Look up the indices of pairs by their ids.

        Parameters
        ----------
        pairs : Ratings or table
            The pairs to look up; a table has the columns ``user`` and ``item``, or those that
            ``columns`` names.

        Returns
        -------
        user, item : Tensor, int64, shape (n_pairs,)
            Indices in the order of ``pairs``; -1 marks an unknown id.

        Raises
        ------
        RatingsError
            If a column or an id is missing, an id is of another type than the ids here, or an id
            is a floating-point number that may stand for several integers.
        """
        return self.locate_known(self.as_pairs(pairs))

    def locate_known(self, pairs: Ratings | pd.DataFrame) -> tuple[Tensor, Tensor]:
        """Look up the indices of pairs that `as_pairs` returned; see `locate`."""
        if isinstance(pairs, Ratings):
            sides = []
            for side, index in (("user", pairs.user), ("item", pairs.item)):
                ids = pd.DataFrame({side: getattr(pairs, f"{side}_ids")})
                found = lookup(side, getattr(self, f"{side}_ids"), ids)
                sides.append(torch.from_numpy(found)[index.cpu()])
        else:
            sides = [
                torch.from_numpy(lookup(side, getattr(self, f"{side}_ids"), pairs))
                for side in ("user", "item")
            ]
        return sides[0].to(self.device), sides[1].to(self.device)

    def aligned_to(self, train: Ratings) -> Ratings:
        """Keep the pairs whose user and item ``train`` knows, and index them as ``train`` does.

        Use it to run a model on test pairs: ``model(test.aligned_to(train), train)``.

        Parameters
        ----------
        train : Ratings
            The ratings whose ids, indices, scale, transform, device and dtype to adopt.

        Returns
        -------
        Ratings
            Pairs with a user or an item that ``train`` lacks are left out.

        Raises
        ------
        RatingsError
            If ``train`` is not `Ratings`; its transform cannot map a rating, such as one outside
            its scale; or no id is known and the ids are of another type.
        """
        if not isinstance(train, Ratings):
            raise RatingsError(f"Give the training Ratings, not a {type(train).__name__}.")
        user, item = train.locate(self)
        known = (user >= 0) & (item >= 0)
        # Ids are sorted on both sides, so the pairs stay in order.
        rating, time = self._given(known.cpu().numpy())
        aligned = train.replaced(user=user[known], item=item[known], rating=rating, time=time)
        if aligned.rating is not None:
            refuse(
                aligned.to_frame(),
                np.flatnonzero(~train.transform.allows(aligned.rating)),
                f"a rating outside the scale of the training ratings, {train.scale}"
                if train.transform.bounds
                else f"a rating that {train.transform} cannot map",
                "Make the training ratings with a scale=(lowest, highest) that holds them."
                if train.transform.bounds
                else "Correct these rows, or drop them.",
            )
        return aligned

    def keep(self, kept: np.ndarray) -> Ratings:
        """Return some of the ratings, with the indices of all ids.

        Parameters
        ----------
        kept : ndarray of bool, shape (n,)
            Whether to keep each rating.
        """
        rows = torch.from_numpy(kept).to(self.device)
        rating, time = self._given(kept)
        return self.replaced(user=self.user[rows], item=self.item[rows], rating=rating, time=time)

    def without_ratings(self) -> Ratings:
        """Return the same pairs without their ratings and times, on the same model scale."""
        return Ratings(
            self.user,
            self.item,
            self.user_ids,
            self.item_ids,
            self.scale,
            dtype=self.dtype,
            transform=self.transform,
            recorded=self.recorded,
        )

    def indexed_by(self, user_ids: pd.Index, item_ids: pd.Index) -> Ratings:
        """Return the same ratings, in the same order, with indices into longer lists of ids.

        Parameters
        ----------
        user_ids, item_ids : pandas.Index
            Sorted ids, all those of these ratings among them.
        """
        user, item = (
            self.scratch.keep(
                torch.from_numpy(longer.get_indexer(shorter)).to(index.device)[index]
            )
            for longer, shorter, index in (
                (user_ids, self.user_ids, self.user),
                (item_ids, self.item_ids, self.item),
            )
        )
        ids = {"user_ids": user_ids, "item_ids": item_ids}
        return self.replaced(user=user, item=item, **ids, scratch=self.scratch)

    def of_some_users(self, n_ratings: int, seed: int = 0) -> Ratings:
        """Return the ratings of random users, at most about ``n_ratings`` of them.

        Parameters
        ----------
        n_ratings : int
            Number of ratings; if there are no more, all are returned.
        seed : int
            Seed of the choice. No global random state is read or changed.

        Raises
        ------
        PMFError
            If ``n_ratings`` is not a positive integer, or ``seed`` is not a seed.
        """
        require_seed(seed)
        if len(self) <= require_integer("n_ratings", n_ratings):
            return self
        users = np.random.default_rng(seed).permutation(self.n_users)
        counts = self.user_counts.cpu().numpy()[users]
        chosen = np.zeros(self.n_users, dtype=bool)
        chosen[users[: 1 + int(np.searchsorted(counts.cumsum(), n_ratings))]] = True
        return self._take(chosen[self.user.cpu().numpy()])

    def split(self, test_fraction: float = 0.1, seed: int = 0) -> tuple[Ratings, Ratings]:
        """Hold out a random fraction of all ratings.

        Parameters
        ----------
        test_fraction : float
            Share of the ratings to hold out, inside (0, 1).
        seed : int
            Seed of the split. No global random state is read or changed.

        Returns
        -------
        train, test : Ratings
            Each has indices of its own ids; both keep the scale, transform and dtype.

        Raises
        ------
        RatingsError
            If the fraction is outside (0, 1) or leaves one side empty.
        PMFError
            If ``seed`` is not an integer from 0 to 2^32 - 1.
        """
        return self._partition(splits.random_rows(len(self), test_fraction, seed))

    def split_by_user(self, test_fraction: float = 0.1, seed: int = 0) -> tuple[Ratings, Ratings]:
        """Hold out a random fraction of each user's ratings, rounded, and never all of them.

        Parameters
        ----------
        test_fraction, seed
            See `split`.

        Returns
        -------
        train, test : Ratings
            See `split`.

        Raises
        ------
        RatingsError, PMFError
            See `split`.
        """
        return self._partition(splits.random_rows_of_each_user(self, test_fraction, seed))

    def split_by_time(self, test_fraction: float = 0.1) -> tuple[Ratings, Ratings]:
        """Hold out the latest fraction of all ratings; equal times are sorted by user and item.

        Parameters
        ----------
        test_fraction : float
            Share of the ratings to hold out, inside (0, 1).

        Returns
        -------
        train, test : Ratings
            See `split`.

        Raises
        ------
        RatingsError
            If the ratings have no times, or the fraction is outside (0, 1) or leaves one side
            empty.
        """
        if self.time is None:
            raise RatingsError(
                "These ratings have no time to split by: name the column in "
                "Ratings.from_frame(..., time=...)."
            )
        return self._partition(splits.latest_rows(self.time, test_fraction))

    def k_fold(self, k: int = 5, seed: int = 0) -> Iterator[tuple[Ratings, Ratings]]:
        """Split the ratings into k random folds for cross-validation.

        Parameters
        ----------
        k : int
            Number of folds, from 2 to the number of ratings.
        seed : int
            Seed of the folds. No global random state is read or changed.

        Returns
        -------
        iterator of (Ratings, Ratings)
            One (train, test) for each fold; every rating is in exactly one test side.

        Raises
        ------
        RatingsError
            If ``k`` is not an integer from 2 to the number of ratings.
        PMFError
            If ``seed`` is not an integer from 0 to 2^32 - 1.
        """
        fold = splits.folds(len(self), k, seed)
        return (self._partition(fold == i) for i in range(k))

    def _partition(self, test: np.ndarray) -> tuple[Ratings, Ratings]:
        """Return (train, test) given whether each rating is held out, bool, shape (n,)."""
        if test.all() or not test.any():
            raise RatingsError(
                f"{test.sum()} of {len(self)} ratings would be held out, which leaves one side "
                "empty: change the fraction or give more ratings. If users have one rating each, "
                "use split()."
            )
        return self._take(~test), self._take(test)

    def _take(self, keep: np.ndarray) -> Ratings:
        """Return the rows where ``keep`` is true, with indices of their own ids."""
        rows = torch.from_numpy(keep).to(self.device)
        user, user_ids = _compact(self.user[rows], self.user_ids)
        item, item_ids = _compact(self.item[rows], self.item_ids)
        ids = {"user_ids": user_ids, "item_ids": item_ids}
        rating, time = self._given(keep)
        return self.replaced(user=user, item=item, rating=rating, time=time, **ids)

    def _given(self, keep: np.ndarray) -> tuple[np.ndarray | None, pd.Series | None]:
        """Return the ratings and the times of the rows where ``keep`` is true."""
        rating = None if self.rating is None else self.rating[keep]
        return rating, None if self.time is None else self.time[keep].reset_index(drop=True)


def _compact(index: Tensor, ids: pd.Index) -> tuple[Tensor, pd.Index]:
    """Return indices and ids without the ids that have no row; sorted indices stay sorted."""
    present = torch.bincount(index, minlength=len(ids)) > 0
    return (present.cumsum(0) - 1)[index], ids[present.cpu().numpy()]


def as_frame(pairs: Ratings | pd.DataFrame) -> pd.DataFrame:
    """Return pairs as a table with the columns user and item, and rating if known."""
    return pairs.to_frame() if isinstance(pairs, Ratings) else pairs


def observed(pairs: Ratings | pd.DataFrame) -> np.ndarray:
    """Return the ratings of pairs.

    Parameters
    ----------
    pairs : Ratings or pandas.DataFrame
        As `Ratings.as_pairs` returns them.

    Returns
    -------
    ndarray, float64, shape (n_pairs,)
        In rating units.

    Raises
    ------
    RatingsError
        If the pairs have no ratings, or a rating is not a finite number.
    """
    rating = pairs.rating if isinstance(pairs, Ratings) else None
    if isinstance(pairs, pd.DataFrame) and "rating" in pairs:
        rating = read_ratings(pairs, "rating").copy()  # pandas lends what may not be written to
    if rating is None:
        raise RatingsError(
            "These pairs have no ratings: give Ratings with values, or a table with a finite "
            "number in each row of the column 'rating'."
        )
    return rating
