"""Times of ratings as files write them: numbers, or dates by ISO 8601."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pandas as pd

from pyro_pmf.data.columns import Columns
from pyro_pmf.data.table import refuse


def as_times(table: pd.DataFrame, column: Hashable, refused: bool) -> pd.Series:
    """Return a column of numbers, or of dates by ISO 8601.

    Parameters
    ----------
    table : pandas.DataFrame
        The table.
    column : hashable
        Name of the column of times.
    refused : bool
        Whether other text is refused; else it counts as missing.

    Raises
    ------
    RatingsError
        If a time is text that is neither, and this is refused.
    """
    written = table[column]
    if pd.api.types.is_numeric_dtype(written):
        return written
    times = pd.to_datetime(written, errors="coerce", format="ISO8601", utc=True)
    if refused:
        unread = (times.isna() & written.notna()).to_numpy()
        odd = unread & pd.to_numeric(written, errors="coerce").isna().to_numpy()
        refuse(
            table,
            np.flatnonzero(odd if odd.any() else unread),
            f"a time in column {column!r} that is neither a number nor a date by ISO 8601, such "
            "as 2020-04-03",
            f"Say how the dates are written, as in {_of_dates(column)}; or leave the times out, "
            "with time=None.",
        )
    return times


def require_no_repeats(table: pd.DataFrame, columns: Columns, times: pd.Series) -> None:
    """Refuse pairs that repeat where their last rating is asked for and not each has a time.

    Parameters
    ----------
    table : pandas.DataFrame
        The table.
    columns : Columns
        The names of its columns.
    times : pandas.Series
        Its times, as `as_times` returns them.

    Raises
    ------
    RatingsError
        If a pair repeats.
    """
    if table.duplicated([columns.user, columns.item]).any():
        refuse(
            table,
            np.flatnonzero(times.isna()),
            f"no time that can be read in column {columns.time!r}, so the last rating of a pair "
            "that repeats is not known",
            f"Say how dates are written, as in {_of_dates(columns.time)}; or give time=None, to "
            "keep the last row of each pair.",
        )


def _of_dates(column: Hashable) -> str:
    return f'parse_dates=[{column!r}], date_format="%d/%m/%Y"'
