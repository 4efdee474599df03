"""Ids that a caller gives: of users, and of items to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.data.frames import KIND, as_list, is_frame
from pyro_pmf.data.ids import lookup
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
        If ``given`` is a table, bytes, a mapping or has more dimensions than one, or an id is
        missing.
    """
    name = argument or f"{column}s"
    given = given.tolist() if isinstance(given, Tensor) else as_list(given)
    if is_frame(given) or isinstance(given, bytes | bytearray | Mapping):
        raise RatingsError(
            f"{name} must be an id or an iterable of ids, not a {type(given).__name__}: give a "
            f"list, or a column as in frame[{column!r}]."
        )
    many = isinstance(given, Iterable) and not isinstance(given, str)
    listed = list(given) if many and getattr(given, "ndim", 1) != 0 else [given]
    if any(isinstance(x, Iterable) and not isinstance(x, str | bytes) for x in listed):
        raise RatingsError(f"{name} must be an id or an iterable of ids, not {given!r}.")
    ids = pd.Index(listed, dtype=object, tupleize_cols=False)  # as given: 1 beside 0.5 stays int
    if missing := sum(ids.isna().tolist()):
        raise RatingsError(f"{missing} of {len(ids)} {name} are missing: leave them out.")
    ids = ids.unique()
    try:
        return ids.infer_objects()
    except UnicodeEncodeError:  # half of a character, which no training id has
        return ids


def located(known: pd.Index, ids: pd.Index, column: Literal["user", "item"]) -> Tensor:
    """Return the indices of ids of `ids_of`, int64; -1 for an unknown id.

    Parameters
    ----------
    known : pandas.Index
        The ids of the training ratings.
    ids : pandas.Index
        The ids to look up.
    column : {"user", "item"}
        Whose ids they are.

    Raises
    ------
    RatingsError
        If an id is of another type than the known ids, or has lost digits.
    """
    table = pd.DataFrame({column: ids})
    table.attrs = {KIND: "list"}
    return torch.from_numpy(lookup(column, known, table))


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
    index = located(known, ids, column)
    if (unknown := index.numpy() < 0).any():
        raise RatingsError(
            f"{unknown.sum()} of {len(ids)} {argument or f'{column}s'} have no training ratings, "
            f"such as {ids[unknown][:5].tolist()}: give ids of ratings.{column}_ids, of the same "
            "type."
        )
    return index
