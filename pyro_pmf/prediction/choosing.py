"""Ids that a caller gives: of users, and of items to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.data.ratings import positions
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


def rows_of(
    known: pd.Index, given: Any, column: Literal["user", "item"], argument: str | None = None
) -> Tensor:
    """Return the indices of distinct known ids, int64, in the order given.

    Parameters
    ----------
    known : pandas.Index
        The ids of the training ratings.
    given, column, argument
        As for `ids_of`.

    Raises
    ------
    RatingsError
        As for `ids_of`, or if an id is unknown.
    """
    ids = ids_of(given, column, argument)
    index = positions(known, ids)
    if (unknown := index < 0).any():
        raise RatingsError(
            f"{unknown.sum()} of {len(ids)} {argument or f'{column}s'} have no training ratings, "
            f"such as {ids[unknown][:5].tolist()}: give ids of ratings.{column}_ids, of the same "
            "type."
        )
    return torch.from_numpy(index)
