"""Read a long table: one function checks each kind of column and shows the invalid rows."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from numbers import Real

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype

from pyro_pmf.errors import RatingsError

# By kind of id, the kinds whose ids may equal it, as named by pandas' `infer_dtype`.
COMPARABLE = {"integer": {"integer", "floating", "mixed-integer-float"}, "string": {"string"}}


def select(frame: pd.DataFrame, *columns: Hashable) -> pd.DataFrame:
    """Return columns of a table without copying their data.

    Parameters
    ----------
    frame : pandas.DataFrame
        The caller's table.
    *columns : hashable
        Names of the columns to return.

    Raises
    ------
    RatingsError
        If ``frame`` is not a DataFrame, or does not have each column exactly once.
    """
    if not isinstance(frame, pd.DataFrame):
        raise RatingsError(f"Give a pandas DataFrame, not a {type(frame).__name__}.")
    found: list[Hashable] = list(frame.columns)
    for name in columns:
        if found.count(name) != 1:
            raise RatingsError(
                f"The table needs one column {name!r}, and its columns are {found}: rename a "
                "column, or name them in Ratings.from_frame by user=, item=, rating= and time=."
            )
    return pd.DataFrame({name: frame[name] for name in columns}, copy=False)


def refuse(table: pd.DataFrame, rows: np.ndarray, problem: str, remedy: str) -> None:
    """Raise `RatingsError` if there are invalid rows; the message shows the first five.

    Parameters
    ----------
    table : pandas.DataFrame
        The caller's table.
    rows : ndarray, int
        Positions of the invalid rows.
    problem, remedy : str
        The problem completes "3 of 10 rows have ..."; the remedy is a sentence of its own.
    """
    if len(rows):
        more = f"\n(and {len(rows) - 5:,} more)" if len(rows) > 5 else ""
        raise RatingsError(
            f"{len(rows):,} of {len(table):,} rows have {problem}:\n"
            f"{table.iloc[rows[:5]].to_string()}{more}\n{remedy}"
        )


def convert(column: Hashable, to: str) -> str:
    """Return the advice to convert a column to the type ``to``, such as "int"."""
    return f"Convert with frame[{column!r}] = frame[{column!r}].astype({to})."


def _keep_finite(column: Hashable) -> str:
    """Say how rows with a missing or infinite number are dropped."""
    return f"Drop them with frame[np.isfinite(frame[{column!r}].astype(float))]."


def read_ids(table: pd.DataFrame, column: Hashable) -> tuple[np.ndarray, pd.Index]:
    """Read a column of ids.

    Parameters
    ----------
    table : pandas.DataFrame
        The caller's table.
    column : hashable
        Name of the column.

    Returns
    -------
    index : ndarray, int64, shape (n_rows,)
        Each row's position in ``ids``.
    ids : pandas.Index
        The distinct ids, sorted: int or str.

    Raises
    ------
    RatingsError
        If an id is missing, or the ids are neither all int nor all str.
    """
    ids = table[column]
    refuse(
        table,
        np.flatnonzero(ids.isna()),
        f"no id in column {column!r}",
        f"Drop them with frame.dropna(subset=[{column!r}]).",
    )
    if isinstance(ids.dtype, pd.CategoricalDtype):
        ids = ids.astype(ids.dtype.categories.dtype)  # to sort by id, not by category
    if (id_kind := kind(ids)) not in COMPARABLE:
        types = ids.map(type)
        counts = types.value_counts()
        minority = np.flatnonzero(types != counts.index[0])
        held = " and ".join(held.__name__ for held in counts.index)
        whole = id_kind == "floating" and (ids % 1 == 0).all()
        refuse(
            table,
            minority if len(minority) else np.arange(len(table)),
            f"an unusable id: ids are all int or all str, and {column!r} holds {held}",
            convert(column, "int" if whole else "str"),
        )
    index, unique = pd.factorize(ids, sort=True)
    # Through a list, so that the ids are plain int64 or str whatever type the column has.
    return index.astype(np.int64, copy=False), pd.Index(unique.tolist())


def read_ratings(table: pd.DataFrame, column: Hashable) -> np.ndarray:
    """Read a column of ratings.

    Parameters
    ----------
    table : pandas.DataFrame
        The caller's table.
    column : hashable
        Name of the column.

    Returns
    -------
    ndarray, float64, shape (n_rows,)
        In rating units.

    Raises
    ------
    RatingsError
        If a rating is not a finite number.
    """
    ratings = table[column].infer_objects()
    if ratings.dtype.kind not in "iuf":
        unreadable = np.flatnonzero(pd.to_numeric(ratings, errors="coerce").isna())
        refuse(
            table,
            unreadable if len(unreadable) else np.arange(len(table)),
            f"a rating in column {column!r} that is not a number (its type is {ratings.dtype})",
            f"Correct or drop the values that are not numbers. {convert(column, 'float')}",
        )
    values = ratings.to_numpy(float, na_value=np.nan)
    refuse(
        table,
        np.flatnonzero(~np.isfinite(values)),
        f"a missing or infinite rating in column {column!r}",
        _keep_finite(column),
    )
    return values


def read_times(table: pd.DataFrame, column: Hashable) -> pd.Series:
    """Read a column of times.

    Parameters
    ----------
    table : pandas.DataFrame
        The caller's table.
    column : hashable
        Name of the column.

    Returns
    -------
    pandas.Series, shape (n_rows,)
        Numbers or datetimes.

    Raises
    ------
    RatingsError
        If a time is missing, infinite, or neither a number nor a datetime.
    """
    times = table[column].infer_objects()
    if times.dtype.kind not in "iufM":
        refuse(
            table,
            np.arange(len(table)),
            f"a time in column {column!r} that is neither a number nor a datetime",
            f"Convert with frame[{column!r}] = pd.to_datetime(frame[{column!r}]).",
        )
    numbers = times.dtype.kind != "M"
    known = np.isfinite(times.to_numpy(float, na_value=np.nan)) if numbers else times.notna()
    refuse(
        table,
        np.flatnonzero(~known),
        f"a missing or infinite time in column {column!r}",
        (_keep_finite(column) if numbers else f"Drop them with frame.dropna(subset=[{column!r}]).")
        + " Or leave time= out.",
    )
    return times


def read_scale(
    table: pd.DataFrame, ratings: np.ndarray | None, scale: tuple[float, float] | None
) -> tuple[float, float]:
    """Return the scale that is given, or else the range of the ratings.

    Parameters
    ----------
    table : pandas.DataFrame
        The caller's table.
    ratings : ndarray, shape (n_rows,), or None
        In rating units; None for pairs without ratings, which need a scale.
    scale : tuple of float, or None
        The lowest and the highest possible rating, in rating units.

    Returns
    -------
    tuple of float
        The lowest and the highest possible rating.

    Raises
    ------
    RatingsError
        If ``scale`` is not two ascending finite numbers, a rating lies outside it, or both
        ``ratings`` and ``scale`` are None.
    """
    if scale is None:
        if ratings is None:
            raise RatingsError("Pairs without ratings need scale=(lowest, highest).")
        return float(ratings.min()), float(ratings.max())
    try:
        low, high = (float(end) if isinstance(end, Real) else math.nan for end in scale)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (low < high and math.isfinite(high - low)):
        raise RatingsError(
            f"scale must be (lowest, highest), two ascending finite numbers, not {scale!r}."
        )
    if ratings is not None:
        refuse(
            table,
            outside(ratings, (low, high)),
            f"a rating outside the scale {(low, high)}",
            "Correct these ratings, or give a scale=(lowest, highest) that holds them.",
        )
    return low, high


@dataclass(frozen=True)
class RowsByPair:
    """The rows of a table sorted by (user, item) pair, and one row or mean for each pair.

    Attributes
    ----------
    order : ndarray, int, shape (n_rows,)
        Positions of the rows, sorted by user, by item, by time if known, then by position.
    first, last : ndarray, bool, shape (n_rows,)
        Whether each row, in that order, is the first or the last of its pair.
    on_duplicate : {"error", "last", "mean"}
        See `Ratings.from_frame`.
    """

    order: np.ndarray
    first: np.ndarray
    last: np.ndarray
    on_duplicate: str

    @classmethod
    def of(
        cls,
        table: pd.DataFrame,
        user: np.ndarray,
        item: np.ndarray,
        times: pd.Series | None,
        on_duplicate: str,
    ) -> RowsByPair:
        """Sort rows by pair; refuse duplicates if they are an error.

        Parameters
        ----------
        table : pandas.DataFrame
            The caller's table.
        user, item : ndarray, int, shape (n_rows,)
            Indices of the user and of the item of each row.
        times : pandas.Series, shape (n_rows,), or None
            Numbers or datetimes.
        on_duplicate : {"error", "last", "mean"}
            See `Ratings.from_frame`.

        Raises
        ------
        RatingsError
            If ``on_duplicate`` is unknown, or it is "error" and a pair occurs more than once.
        """
        if on_duplicate not in ("error", "last", "mean"):
            raise RatingsError(
                f'on_duplicate={on_duplicate!r} is unknown: give "error", "last" or "mean".'
            )
        keys = (item, user)
        order = np.lexsort(keys if times is None else (times.factorize(sort=True)[0], *keys))
        user, item = user[order], item[order]
        first = np.append(True, (np.diff(user) != 0) | (np.diff(item) != 0))
        last = np.append(first[1:], True)
        if on_duplicate == "error":
            refuse(
                table,
                order[~(first & last)],
                "a (user, item) pair that occurs more than once",
                'Drop repeated rows, or give Ratings.from_frame on_duplicate="last" to keep the '
                'last of each, or "mean" to average them.',
            )
        return cls(order, first, last, on_duplicate)

    @property
    def kept(self) -> np.ndarray:
        """Position of the last row of each pair, sorted by pair."""
        return self.order[self.last]

    def rating(self, ratings: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
        """Return one rating per pair: its last rating, or the mean of its ratings.

        Parameters
        ----------
        ratings : ndarray, float64, shape (n_rows,)
            The rating of each row of the table, in rating units.
        scale : tuple of float
            The lowest and the highest possible rating.

        Returns
        -------
        ndarray, float64, shape (n_pairs,)
            Sorted by pair, in rating units.
        """
        if self.on_duplicate != "mean":
            return ratings[self.kept]
        starts = np.flatnonzero(self.first)
        sums = np.add.reduceat(ratings[self.order], starts)
        means = sums / np.diff(starts, append=len(ratings))
        return np.clip(means, *scale)  # rounding may put a mean outside the scale


def require_spread(table: pd.DataFrame, ratings: np.ndarray, rows: np.ndarray) -> None:
    """Raise `RatingsError` if all ratings are equal.

    Parameters
    ----------
    table : pandas.DataFrame
        The caller's table, for the message.
    ratings : ndarray, shape (n_pairs,)
        In rating units.
    rows : ndarray, int, shape (n_pairs,)
        Position of each rating in the table.
    """
    if ratings.min() == ratings.max():
        refuse(
            table,
            np.sort(rows),
            f"the same rating, {ratings[0]:g}",
            "Give ratings that differ. If each row only says that a pair was observed, add "
            "negatives with pyro_pmf.data.with_sampled_negatives. For pairs without values, give "
            "rating=None and scale=(lowest, highest).",
        )


def require_counts(
    table: pd.DataFrame, ratings: np.ndarray, rows: np.ndarray, transform: str
) -> None:
    """Raise `RatingsError` if a transform of counts cannot map a rating.

    Parameters
    ----------
    table, ratings, rows
        See `require_spread`.
    transform : {"unit", "standardize", "log1p", "count"}
        "log1p" refuses negative ratings, "count" negative ratings and fractions.
    """
    if transform not in ("log1p", "count"):
        return
    whole = transform == "count"
    wrong = (ratings < 0) | (whole & (ratings % 1 != 0))
    refuse(
        table,
        np.sort(rows[wrong]),
        f"a rating that is {'not a count' if whole else 'negative'}",
        f"For transform={transform!r} give {'whole numbers' if whole else 'numbers'} of at "
        "least 0, or choose another transform.",
    )


def kind(ids: pd.Series | pd.Index) -> str:
    """Return the kind of ids, such as "integer" or "string", as pandas' `infer_dtype` names it."""
    if isinstance(ids.dtype, pd.CategoricalDtype):
        ids = ids.dtype.categories
    return infer_dtype(ids, skipna=True)


def outside(ratings: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Return the positions of the ratings outside a scale (lowest, highest), in rating units."""
    return np.flatnonzero((ratings < scale[0]) | (ratings > scale[1]))
