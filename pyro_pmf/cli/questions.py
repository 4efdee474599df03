"""What a command is given: files of pairs or titles, and ids as text."""

from __future__ import annotations

import atexit
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from pyro_pmf.cli.answers import fail
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.data.reading import Earlier, read_columns, read_items

_READING = "sep", "encoding", "decimal", "names"  # of pandas.read_csv
_INTEGER = re.compile(r"-?[0-9]+")  # int() takes underscores and blanks, too
_TITLES = "title", "name", "artist", "artistname"


def reading(options: list[str] | None) -> dict[str, Any]:
    """Return arguments of `pandas.read_csv` that are given as NAME=VALUE."""
    given: dict[str, Any] = {}
    for option in options or []:
        name, _, value = option.partition("=")
        if name not in _READING or not value:
            fail(f"--read {option}: give one of {', '.join(_READING)}, as in --read decimal=,")
        given[name] = value.split(",") if name == "names" else value.replace("\\t", "\t")
    return given


def given_file(path: Path | None) -> Path | None:
    """Return the path of a file; of - for stdin, or of a pipe, that of a copy.

    A file is looked at before it is read, and a stream can be read only once.
    """
    if path is None or not (path == Path("-") or path.is_fifo()):
        return path
    if path == Path("-") and sys.stdin is None:
        fail("-: stdin is closed")
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = folder / "stdin"
    with copy.open("wb") as file:
        if path == Path("-"):
            shutil.copyfileobj(sys.stdin.buffer, file)
        else:
            with path.open("rb") as stream:
                shutil.copyfileobj(stream, file)
    return copy


def read_pairs(
    path: Path,
    known: Ratings,
    user: str = "auto",
    item: str = "auto",
    rating: str | None = "auto",
    options: list[str] | None = None,
) -> pd.DataFrame:
    """Read pairs, or ratings, with the columns user, item and perhaps rating.

    Columns that are not named are looked for by their names in the training table first. Ids are
    text where those of the posterior are.
    """
    earlier = _earlier(known)
    table, columns = read_columns(
        path, user, item, rating, None, reading(options), earlier=earlier
    )
    columns.require_one_role()
    roles = {columns.user: "user", columns.item: "item"}
    if columns.rating is not None:
        roles[columns.rating] = "rating"
    table = table.rename(columns=roles)
    for side, ids in (("user", known.user_ids), ("item", known.item_ids)):
        table[side] = _as_known(table[side], ids)
    return table


def _earlier(known: Ratings) -> Earlier:
    sides = {"user": known.user_ids, "item": known.item_ids}
    text = frozenset(side for side, ids in sides.items() if not _are_integers(ids))
    return Earlier(known.columns, text)


def _as_known(ids: pd.Series, known: pd.Index) -> pd.Series:
    """Return integers, which Parquet holds, as text where the ids of the posterior are text."""
    is_other = pd.api.types.is_integer_dtype(ids) and not _are_integers(known)
    return ids.astype("string") if is_other else ids


def _are_integers(known: pd.Index) -> bool:
    return pd.api.types.is_integer_dtype(known.dtype)


def as_ids(texts: list[str], known: pd.Index) -> list[Any]:
    """Return ids as the posterior has them: a number, or text."""
    if not _are_integers(known):
        return texts
    try:
        if all(map(_INTEGER.fullmatch, texts)):
            return [int(text) for text in texts]
    except ValueError:  # it has thousands of digits
        pass
    fail(f"The ids of this posterior are integers, as {known[0]}: {texts} are not.")


def read_titles(path: Path, known: Ratings, options: list[str] | None = None) -> pd.Series:
    """Return titles by item, from the first column with such a name."""
    table, item = read_items(path, _earlier(known), reading(options))
    found = list(table.columns)
    titles = next((x for x in found if x != item and str(x).lower() in _TITLES), None)
    if item is None or titles is None:
        names = dict.fromkeys([str(known.columns.item), "item", "movieId"])
        fail(
            f"{path} does not say which titles items have: it needs one column of items, called "
            f"{', '.join(names)} or the like, and one called {' or '.join(_TITLES)}. Its columns "
            f"are {found}: rename them."
        )
    table[item] = _as_known(table[item], known.item_ids)
    return table.drop_duplicates(item).set_index(item)[titles]


def titled(table: pd.DataFrame, titles: pd.Series | None) -> pd.DataFrame:
    """Return a table of items with their titles after them."""
    if titles is not None:
        place = list(table.columns).index("item") + 1
        table.insert(place, "title", table["item"].map(titles))
    return table
