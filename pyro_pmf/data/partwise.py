"""Read a table that does not fit into memory: some users after the others."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.data.columns import Columns
from pyro_pmf.data.encoding import encoded
from pyro_pmf.data.ids import kind
from pyro_pmf.data.reading import read_pieces
from pyro_pmf.data.scratch import Scratch
from pyro_pmf.errors import RatingsError

_AT_ONCE = 1 << 20  # rows of a Parquet file
_MOST_LEVELS = 1000  # different ratings that are remembered; a lattice has fewer


@dataclass(frozen=True)
class Collected:
    """Ratings of all parts, sorted by user, then by item.

    Attributes
    ----------
    user, item : Tensor, int64, shape (n,)
        Indices into the ids.
    rating : Tensor, float64, shape (n,)
        In rating units.
    user_ids, item_ids : pandas.Index
        The ids, sorted and unique.
    levels : ndarray, float64
        The different ratings, or many of them.
    scale : tuple of float
        The lowest and the highest possible rating.
    columns : Columns
        The names of the columns.
    """

    user: Tensor
    item: Tensor
    rating: Tensor
    user_ids: pd.Index
    item_ids: pd.Index
    levels: np.ndarray
    scale: tuple[float, float]
    columns: Columns


class _Part(NamedTuple):
    user_ids: pd.Index
    item_ids: pd.Index
    counts: np.ndarray  # ratings of each user
    item: Tensor  # indices into the ids of this part
    rating: Tensor


def collect(
    paths: Iterable[str | os.PathLike[str]],
    scratch: Scratch,
    names: tuple[Hashable, Hashable, Hashable],
    scale: tuple[float, float],
    on_duplicate: str,
    options: dict[str, Any],
) -> Collected:
    """Read and check ratings part by part, and put them together in files.

    Parameters
    ----------
    paths, scale, on_duplicate, options
        As for `Ratings.read_parts`.
    scratch : Scratch
        Makes the arrays.
    names : tuple of hashable
        The columns of users, items and ratings.

    Raises
    ------
    RatingsError
        As for `Ratings.read_parts`.
    """
    _require_whole(paths, names, scale)
    parts: list[_Part] = []
    levels, bounds, columns = np.empty(0), (0.0, 1.0), Columns()
    for path in paths:
        for table, columns in read_pieces(path, *names, options, _AT_ONCE):
            rows = encoded(table, columns, scale, on_duplicate)
            assert rows.rating is not None  # there is such a column
            bounds = rows.scale
            if len(levels) < _MOST_LEVELS:
                levels = np.union1d(levels, rows.rating)
            kept = (scratch.keep(torch.from_numpy(x)) for x in (rows.item, rows.rating))
            counts = np.bincount(rows.user, minlength=len(rows.user_ids))
            parts.append(_Part(rows.user_ids, rows.item_ids, counts, *kept))
        names = columns.user, columns.item, columns.rating
    if not parts:
        raise RatingsError("There are no ratings: give the path of at least one file.")
    user_ids, item_ids = _all_users(parts, columns), _all_items(parts, columns)
    together = _put_together(parts, user_ids, item_ids, scratch)
    return Collected(*together, user_ids, item_ids, levels, bounds, columns)


def _require_whole(paths: Any, names: tuple[Hashable, ...], scale: Any) -> None:
    """Refuse arguments that `Ratings.read` takes, but that say too little of ratings in parts."""
    if isinstance(paths, str | os.PathLike) or not isinstance(paths, Iterable):
        raise RatingsError(f"Give the paths of all parts, such as [{str(paths)!r}].")
    if scale is None:
        raise RatingsError("Ratings that are read in parts need scale=(lowest, highest).")
    if names[-1] is None:
        raise RatingsError("Pairs that are read in parts need a column of ratings: give rating=.")


def _all_users(parts: list[_Part], columns: Columns) -> pd.Index:
    """Return the ids of all users, sorted; each is in one part."""
    _require_one_kind([part.user_ids for part in parts], columns.user)
    ids = pd.Index(np.concatenate([part.user_ids for part in parts]))
    if not ids.is_unique:
        twice = ids[ids.duplicated()].tolist()
        raise RatingsError(
            f"{len(twice):,} users have ratings in several parts, such as {twice[0]!r}: put all "
            "ratings of a user into one file, and sort the rows of a Parquet file by user."
        )
    return ids.sort_values()


def _all_items(parts: list[_Part], columns: Columns) -> pd.Index:
    _require_one_kind([part.item_ids for part in parts], columns.item)
    return pd.Index(np.unique(np.concatenate([part.item_ids for part in parts])))


def _require_one_kind(of_parts: list[pd.Index], column: Hashable) -> None:
    kinds = {kind(ids) for ids in of_parts}
    if len(kinds) > 1:
        raise RatingsError(
            f"The ids of {column!r} are all int in some parts and all str in others: write all "
            "parts as Parquet, with the ids as str in each."
        )


def _put_together(
    parts: list[_Part], user_ids: pd.Index, item_ids: pd.Index, scratch: Scratch
) -> tuple[Tensor, Tensor, Tensor]:
    """Return user, item and rating of all ratings, by user and item."""
    users = [user_ids.get_indexer(part.user_ids) for part in parts]
    counts = np.zeros(len(user_ids), dtype=np.int64)
    for index, part in zip(users, parts, strict=True):
        counts[index] = part.counts
    starts, n = np.cumsum(counts) - counts, int(counts.sum())
    user, item = scratch.empty(n, torch.int64), scratch.empty(n, torch.int64)
    rating = scratch.empty(n, torch.float64)
    for index, part in zip(users, parts, strict=True):
        before = np.cumsum(part.counts) - part.counts  # ratings of earlier users of this part
        place = np.repeat(starts[index] - before, part.counts) + np.arange(len(part.item))
        where, items = torch.from_numpy(place), item_ids.get_indexer(part.item_ids)
        user[where] = torch.from_numpy(np.repeat(index, part.counts))
        item[where] = torch.from_numpy(items)[part.item]
        rating[where] = part.rating
    return user, item, rating
