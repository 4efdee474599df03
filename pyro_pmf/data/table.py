"""Reading a long table: a function checks each column and shows the rows at fault."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype

from pyro_pmf.errors import RatingsError

# The kinds of ids, and what may equal one, in the words of pandas' `infer_dtype`.
COMPARABLE = {"integer": {"integer", "floating", "mixed-integer-float"}, "string": {"string"}}


def select(frame: pd.DataFrame, *columns: Hashable) -> pd.DataFrame:
    """Return these columns without copying their data."""
    if not isinstance(frame, pd.DataFrame):
        raise RatingsError(f"Give a pandas DataFrame, not a {type(frame).__name__}.")
    found: list[Hashable] = list(frame.columns)
    for name in columns:
        if found.count(name) != 1:
            raise RatingsError(
                f"The table needs one column {name!r}, and its columns are {found}: rename them, "
                "or name those to use with user=, item=, rating= and time=."
            )
    return pd.DataFrame({name: frame[name] for name in columns}, copy=False)


def refuse(table: pd.DataFrame, rows: np.ndarray, problem: str, remedy: str) -> None:
    """Raise if there are rows at fault, given by position, showing the first five."""
    if len(rows):
        more = f"\n(and {len(rows) - 5:,} more)" if len(rows) > 5 else ""
        raise RatingsError(
            f"{len(rows):,} of {len(table):,} rows have {problem}:\n"
            f"{table.iloc[rows[:5]].to_string()}{more}\n{remedy}"
        )


def convert(column: Hashable, to: str) -> str:
    """Say how a column is converted."""
    return f"Convert with frame[{column!r}] = frame[{column!r}].astype({to})."


def read_ids(table: pd.DataFrame, column: Hashable) -> tuple[np.ndarray, pd.Index]:
    """Return each row's index, int64, and the ids, sorted."""
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
    # Through a list, so that ids are plain int64 or str whatever the column was.
    return index.astype(np.int64, copy=False), pd.Index(unique.tolist())


def read_ratings(table: pd.DataFrame, column: Hashable) -> np.ndarray:
    """Return the ratings, float64."""
    ratings = table[column].infer_objects()
    if ratings.dtype.kind not in "iuf":
        unreadable = np.flatnonzero(pd.to_numeric(ratings, errors="coerce").isna())
        refuse(
            table,
            unreadable if len(unreadable) else np.arange(len(table)),
            f"a rating in column {column!r} that is not a number (its type is {ratings.dtype})",
            f"Correct or drop what cannot be read as one. {convert(column, 'float')}",
        )
    values = ratings.to_numpy(float, na_value=np.nan)
    refuse(
        table,
        np.flatnonzero(~np.isfinite(values)),
        f"a missing or infinite rating in column {column!r}",
        f"Drop them with frame[np.isfinite(frame[{column!r}])].",
    )
    return values


def read_times(table: pd.DataFrame, column: Hashable) -> pd.Series:
    """Return the times, numbers or datetimes."""
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
        f"Drop them with frame.dropna(subset=[{column!r}]), or leave time= out.",
    )
    return times


def read_scale(
    table: pd.DataFrame, ratings: np.ndarray | None, scale: tuple[float, float] | None
) -> tuple[float, float]:
    """Return the scale as given, or else the range of the ratings."""
    if scale is None:
        if ratings is None:
            raise RatingsError("Pairs without ratings need scale=(lowest, highest).")
        return float(ratings.min()), float(ratings.max())
    try:
        low, high = (float(end) for end in scale)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (low < high and math.isfinite(high - low)):
        raise RatingsError(f"scale={scale!r} is not (lowest, highest), two finite numbers.")
    if ratings is not None:
        refuse(
            table,
            outside(ratings, (low, high)),
            f"a rating outside the scale {(low, high)}",
            "Correct them, or give a scale=(lowest, highest) that holds them.",
        )
    return low, high


@dataclass(frozen=True)
class RowsByPair:
    """The rows of a table sorted by pair, and of each pair the row that stands for it.

    Attributes
    ----------
    order : ndarray, int, shape (n_rows,)
        Rows by user, then by item; rows of one pair in the order of time, then of the table.
    first, last : ndarray, bool, shape (n_rows,)
        Whether a row, in that order, is the first or the last of its pair.
    on_duplicate : {"error", "last", "mean"}
        As of `Ratings.from_frame`.
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
        """Sort rows by the indices of user and item; refuse duplicates where they are an error."""
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
                'Give on_duplicate="last" to keep the last of each, or "mean" to average them.',
            )
        return cls(order, first, last, on_duplicate)

    @property
    def kept(self) -> np.ndarray:
        """The last row of each pair, sorted by pair."""
        return self.order[self.last]

    def rating(self, ratings: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
        """Return one rating a pair, the last or the mean, from one rating a row of the table."""
        if self.on_duplicate != "mean":
            return ratings[self.kept]
        starts = np.flatnonzero(self.first)
        sums = np.add.reduceat(ratings[self.order], starts)
        means = sums / np.diff(starts, append=len(ratings))
        return np.clip(means, *scale)  # a mean may round past an end of the scale


def require_spread(table: pd.DataFrame, ratings: np.ndarray, rows: np.ndarray) -> None:
    """Refuse ratings that are all equal; ``rows`` are their positions in the table."""
    if ratings.min() == ratings.max():
        refuse(
            table,
            np.sort(rows),
            f"the same rating, {ratings[0]:g}",
            "Give ratings that differ, or rating=None for pairs without values.",
        )


def require_counts(
    table: pd.DataFrame, ratings: np.ndarray, rows: np.ndarray, transform: str
) -> None:
    """Refuse ratings that a transform of counts cannot map: negative ones, or fractions."""
    if transform not in ("log1p", "count"):
        return
    whole = transform == "count"
    wrong = (ratings < 0) | (whole & (ratings % 1 != 0))
    refuse(
        table,
        np.sort(rows[wrong]),
        f"a rating that is {'no count' if whole else 'negative'}",
        f"For transform={transform!r} give {'whole numbers' if whole else 'numbers'} from 0 on, "
        "or take another transform.",
    )


def kind(ids: pd.Series | pd.Index) -> str:
    """Name the type of ids, as pandas' `infer_dtype` calls it."""
    if isinstance(ids.dtype, pd.CategoricalDtype):
        ids = ids.dtype.categories
    return infer_dtype(ids, skipna=True)


def outside(ratings: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Return the positions of the ratings outside a scale."""
    return np.flatnonzero((ratings < scale[0]) | (ratings > scale[1]))
