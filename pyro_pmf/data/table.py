"""Read a long table: one function checks each kind of column and shows the invalid rows."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from numbers import Real

import numpy as np
import pandas as pd

from pyro_pmf.data import remedies
from pyro_pmf.data.frames import NAMES, called
from pyro_pmf.errors import RatingsError

_LARGEST = 1e15  # rating; single precision holds its square


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
        shown = table.iloc[rows[:5]].rename(columns=table.attrs.get(NAMES, {}))
        more = f"\n(and {len(rows) - 5:,} more)" if len(rows) > 5 else ""
        with np.errstate(over="ignore"):  # pandas compares half precision with a million
            text = shown.to_string()
        raise RatingsError(
            f"{len(rows):,} of {len(table):,} rows have {problem}:\n"
            f"{text}{more}\n{remedy}{remedies.where(table, remedy)}"
        )


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
        listed = ratings.astype(object)  # pandas fails on decimals of Arrow beside a gap
        unreadable = np.flatnonzero(pd.to_numeric(listed, errors="coerce").isna())
        refuse(
            table,
            unreadable if len(unreadable) else np.arange(len(table)),
            f"a rating in column {called(table, column)!r} that is not a number (its type is "
            f"{ratings.dtype})",
            "Correct or drop the values that are not numbers. "
            + remedies.convert(table, column, "float"),
        )
    values = ratings.to_numpy(float, na_value=np.nan)
    refuse(
        table,
        np.flatnonzero(~np.isfinite(values)),
        f"a missing or infinite rating in column {called(table, column)!r}",
        remedies.keep_finite(table, column),
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
            f"a time in column {called(table, column)!r} that is neither a number nor a datetime",
            remedies.to_datetime(table, column),
        )
    numbers = times.dtype.kind != "M"
    known = np.isfinite(times.to_numpy(float, na_value=np.nan)) if numbers else times.notna()
    refuse(
        table,
        np.flatnonzero(~known),
        f"a missing or infinite time in column {called(table, column)!r}",
        (remedies.keep_finite if numbers else remedies.drop_missing)(table, column)
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
            raise RatingsError(
                "Pairs without ratings need scale=(lowest, highest). If each only says that a "
                "user took an item, add negatives with pyro_pmf.data.with_sampled_negatives."
            )
        low, high = float(ratings.min()), float(ratings.max())
        _require_range(low, high)
        return low, high
    try:
        low, high = (float(end) if isinstance(end, Real) else math.nan for end in scale)
    except (TypeError, ValueError, OverflowError):
        low = high = math.nan
    if not (low < high and math.isfinite(high - low)):
        raise RatingsError(
            f"scale must be (lowest, highest), two ascending finite numbers, not {scale!r}."
        )
    _require_range(low, high)
    if ratings is not None:
        refuse(
            table,
            outside(ratings, (low, high)),
            f"a rating outside the scale {(low, high)}",
            "Correct these ratings, or give a scale=(lowest, highest) that holds them.",
        )
    return low, high


def _require_range(low: float, high: float) -> None:
    """Refuse a scale whose numbers, or their squares, leave the range of single precision."""
    width, size = high - low, max(abs(low), abs(high))
    if size > _LARGEST or 0 < width < 1 / _LARGEST:
        raise RatingsError(
            f"Ratings from {low:g} to {high:g} cannot be computed with in single precision: bring "
            f"them into another unit, with numbers below {_LARGEST:g} and a range above "
            f"{1 / _LARGEST:g}."
        )


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
                'Drop repeated rows, or give on_duplicate="last" to keep the last of each, or '
                '"mean" to average them.',
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


def outside(ratings: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Return the positions of the ratings outside a scale (lowest, highest), in rating units."""
    return np.flatnonzero((ratings < scale[0]) | (ratings > scale[1]))
