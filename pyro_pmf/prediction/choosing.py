"""Ids that a caller gives: of users, and of items to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pandas as pd

from pyro_pmf.errors import RatingsError


def ids_of(given: Any, column: Literal["user", "item"], argument: str | None = None) -> pd.Index:
    """Return distinct ids in the order given.

    Parameters
    ----------
    given : id or iterable of ids
        A str, and anything that is not iterable, is one id.
    column : {"user", "item"}
        Whose ids they are.
    argument : str, optional
        Name of the argument, for messages.

    Raises
    ------
    RatingsError
        If ``given`` is a DataFrame, bytes or a mapping, or an id is missing.
    """
    name = argument or f"{column}s"
    if isinstance(given, pd.DataFrame | bytes | bytearray | Mapping):
        raise RatingsError(
            f"{name} must be an id or an iterable of ids, not a {type(given).__name__}: give a "
            f"list, or a column as in frame[{column!r}]."
        )
    one = isinstance(given, str) or not isinstance(given, Iterable)
    ids = pd.Index([given] if one else list(given), tupleize_cols=False)
    if ids.isna().any():
        raise RatingsError(
            f"{ids.isna().sum()} of {len(ids)} {name} are missing: drop them, as in "
            f"frame[{column!r}].dropna()."
        )
    return ids.unique()
