"""Ids of users and items: read from a column, and looked up among those that are known."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import infer_dtype

from pyro_pmf.data import remedies
from pyro_pmf.data.frames import called
from pyro_pmf.data.table import refuse
from pyro_pmf.errors import RatingsError

# By kind of id, the kinds whose ids may equal it, as named by pandas' `infer_dtype`.
_COMPARABLE = {"integer": {"integer", "floating", "mixed-integer-float"}, "string": {"string"}}
_LEAST, _MOST = -(2**63), 2**63 - 1  # what files and Arrow hold
_LOOKING_UP = threading.Lock()


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
        If an id is missing, the ids are neither all int nor all str, or an id cannot be stored:
        an integer of more than 64 bits, or text that is not Unicode.
    """
    ids = present_ids(table, column)
    if (id_kind := kind(ids)) not in _COMPARABLE:
        types = pd.Series([type(x) for x in ids])
        counts = types.value_counts()
        minority = np.flatnonzero(types != counts.index[0])
        held = " and ".join(held.__name__ for held in counts.index)
        refuse_coarse(table, column, ids)
        refuse(
            table,
            minority if len(minority) else np.arange(len(table)),
            "an unusable id: ids are all int or all str, and "
            f"{called(table, column)!r} holds {held}",
            _make_alike(table, column, ids, id_kind),
        )
    if ids.dtype == object:
        _require_storable(table, column, ids, id_kind)
    elif id_kind == "integer" and len(ids) and int(ids.max()) > _MOST:
        _require_storable(table, column, ids.astype(object), id_kind)
    index, unique = pd.factorize(ids, sort=True)
    # Through a list, so that the ids are plain int64 or str whatever type the column has.
    return index.astype(np.int64, copy=False), pd.Index(unique.tolist())


def present_ids(table: pd.DataFrame, column: Hashable, advice: str = "") -> pd.Series:
    """Return a column of ids without categories; refuse missing ids.

    Parameters
    ----------
    table, column
        See `read_ids`.
    advice : str
        A further sentence for the message.
    """
    ids = table[column]
    missing = np.asarray(pd.isna(ids.array))
    if isinstance(ids.dtype, pd.ArrowDtype) and ids.dtype.kind == "f":
        missing |= np.isnan(ids.to_numpy(float, na_value=np.nan))  # Arrow tells NaN from null
    if missing.any():
        refuse(
            table,
            np.flatnonzero(missing),
            f"no id in column {called(table, column)!r}",
            f"{remedies.drop_missing(table, column)}{advice}",
        )
    return _without_categories(ids)


def _without_categories(ids: pd.Series) -> pd.Series:
    """Return ids as themselves, to sort by id and not by category."""
    if isinstance(ids.dtype, pd.CategoricalDtype):
        ids = ids.astype(ids.dtype.categories.dtype)
    if isinstance(ids.dtype, pd.ArrowDtype) and pa.types.is_dictionary(ids.dtype.pyarrow_dtype):
        ids = ids.astype(pd.ArrowDtype(ids.dtype.pyarrow_dtype.value_type))
    return ids


def _require_storable(table: pd.DataFrame, column: Hashable, ids: pd.Series, id_kind: str) -> None:
    """Refuse integers beyond 64 bits, and text with half of a character."""
    if id_kind == "integer":
        beyond = np.array([not _LEAST <= x <= _MOST for x in ids], dtype=bool)
        refuse(
            table,
            np.flatnonzero(beyond),
            f"an id in column {called(table, column)!r} that 64-bit integers do not hold",
            remedies.convert(table, column, "str"),
        )
    else:
        refuse(
            table,
            np.flatnonzero([not _is_unicode(x) for x in ids]),
            f"an id in column {called(table, column)!r} with a lone surrogate, which is no text",
            remedies.convert_by(table, column, "[ascii(x) for x in {}]"),
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _make_alike(table: pd.DataFrame, column: Hashable, ids: pd.Series, id_kind: str) -> str:
    """Say how to make ids all int or all str, such that equal ids stay equal."""
    if id_kind in ("floating", "mixed-integer-float"):
        whole = ids.map(lambda x: x % 1 == 0 and _LEAST <= x <= _MOST)
        if whole.all():
            return remedies.convert(table, column, "int")
    if id_kind in ("bytes", "unknown-array") and isinstance(ids.iloc[0], bytes):
        return remedies.convert_by(table, column, '[x.decode("latin-1") for x in {}]')
    if id_kind == "decimal":
        return remedies.convert_by(table, column, "[str(x.normalize()) for x in {}]")
    one_type = len({type(x) for x in ids}) == 1
    if one_type and not (id_kind == "floating" and (ids == 0).any()):
        return remedies.convert(table, column, "str")
    # str makes two ids of 1 and 1.0, and of 0.0 and -0.0, which are equal.
    is_whole = "isinstance(x, (float, np.floating)) and x % 1 == 0"
    plain = f"[str(int(x)) if {is_whole} else str(x) for x in {{}}]"
    return remedies.convert_by(table, column, plain)


def refuse_coarse(table: pd.DataFrame, column: Hashable, ids: pd.Series) -> None:
    """Refuse floating-point ids that may stand for one of several integers.

    Parameters
    ----------
    table, column
        See `read_ids`.
    ids : pandas.Series
        The column, of any type.

    Raises
    ------
    RatingsError
        If the magnitude of an id is 2^53 or more (2^24 for single precision).
    """
    name = called(table, column)
    refuse(
        table,
        np.flatnonzero(_is_coarse(ids)),
        f"an id in column {name!r} that has lost digits: neighbouring integers of this size are "
        "the same floating-point number",
        "To convert the numbers does not bring the digits back: read the column as integers or as "
        f'text where it comes from, as in pandas.read_csv(path, dtype={{{name!r}: "Int64"}}).',
    )


def _is_coarse(ids: pd.Series) -> np.ndarray:
    """Return whether each id is a floating-point number with a spacing of 1 or more."""
    dtype = ids.dtype
    if dtype.kind == "f":
        numbers = ids.to_numpy(float, na_value=np.nan)
        bits = np.finfo(getattr(dtype, "numpy_dtype", dtype)).nmant + 1
        return np.abs(numbers) >= 2.0**bits
    if not pd.api.types.is_object_dtype(dtype):
        return np.zeros(len(ids), dtype=bool)
    return np.array([isinstance(x, float | np.floating) and _loses_digits(x) for x in ids], bool)


def _loses_digits(x: Any) -> bool:
    """Return whether neighbours of a floating-point number are 1 or more away."""
    return abs(x) >= 2.0 ** (np.finfo(type(x)).nmant + 1)


def with_whole_ids(table: pd.DataFrame, ratings: Any) -> pd.DataFrame:
    """Return a table of pairs whose ids are int where `lookup` takes them for known integers.

    Parameters
    ----------
    table : pandas.DataFrame
        Pairs, with the columns user and item.
    ratings : Ratings
        The known ids. Whole floating-point numbers stand for integers among them.

    Raises
    ------
    RatingsError
        If an id is missing, or a floating-point number has lost digits or is not whole where the
        known ids are integers.
    """
    for column in ("user", "item"):
        ids = present_ids(table, column)
        if _kind_of_known(getattr(ratings, f"{column}_ids")) != "integer":
            continue
        if kind(ids) in ("floating", "mixed-integer-float"):
            refuse_coarse(table, column, ids)
            refuse(
                table,
                np.flatnonzero([x % 1 != 0 for x in ids]),
                f"an id in column {called(table, column)!r} that is no whole number, where the "
                "training ids are integers",
                "Correct these rows, or drop them.",
            )
            table = table.assign(**{column: [int(x) for x in ids]})
    return table


def lookup(column: str, known: pd.Index, table: pd.DataFrame) -> np.ndarray:
    """Return the index of each id of a column among the known ids, int64, or -1.

    Parameters
    ----------
    column : {"user", "item"}
        The column.
    known : pandas.Index
        The training ids: all int or all str.
    table : pandas.DataFrame
        A table of pairs, or of ids alone.

    Raises
    ------
    RatingsError
        If an id is missing, has another type than the known ids, is a floating-point number that
        has lost digits, or is text that is not Unicode.
    """
    in_general = f" To ask about {column}s in general, give an id that was never seen."
    wanted = present_ids(table, column, in_general)
    ours = _kind_of_known(known)
    if len(wanted) and (theirs := kind(wanted)) not in _COMPARABLE[ours]:
        raise RatingsError(_other_type(column, known, wanted, theirs, table))
    if ours == "integer":
        refuse_coarse(table, column, wanted)
    elif pd.api.types.is_object_dtype(wanted.dtype):
        _require_storable(table, column, wanted, "string")
    return positions(known, wanted)


def positions(known: pd.Index, wanted: pd.Series) -> np.ndarray:
    """Return the index of each id among the known ids of its type, int64, or -1; exactly.

    The first look-up makes a table of the ids, which pandas shows to other threads unfinished.
    """
    if not len(wanted) or not len(known):
        return np.full(len(wanted), -1, dtype=np.int64)
    with _LOOKING_UP:
        return _positions(known, wanted).astype(np.int64, copy=False)


def _positions(known: pd.Index, wanted: pd.Series) -> np.ndarray:
    kind_, dtype = _kind_of_known(known), wanted.dtype
    if kind_ == "integer" and dtype.kind in "iu" and int(wanted.max()) <= _MOST:
        return known.get_indexer(pd.Index(wanted.to_numpy(np.int64)))
    if kind_ == "integer" and dtype.kind == "f":
        numbers = wanted.to_numpy(float)
        whole = numbers % 1 == 0
        index = np.full(len(wanted), -1)
        index[whole] = known.get_indexer(pd.Index(numbers[whole].astype(np.int64)))
        return index
    if kind_ == "string" and not pd.api.types.is_object_dtype(dtype):
        return known.get_indexer(pd.Index(wanted.astype(known.dtype)))
    # Python compares exactly.
    exact = known.astype(object)
    return exact.get_indexer(pd.Index(wanted.tolist(), dtype=object, tupleize_cols=False))


def _other_type(
    column: str, known: pd.Index, wanted: pd.Series, theirs: str, table: pd.DataFrame
) -> str:
    """Say that ids are of another type than the known ones, and what to give instead."""
    ours = _kind_of_known(known)
    if theirs.startswith("mixed"):
        theirs = " and ".join(sorted({type(x).__name__ for x in wanted}))
    problem = (
        f"The given {column} ids are of type {theirs}, the training ids of type {ours}, such as "
        f"{', '.join(repr(x) for x in known[:3].tolist())}."
    )
    to: Literal["int", "str"] = "int" if ours == "integer" else "str"
    same = [y for x in wanted if (y := _as_known(x, ours)) is not None]
    helps = bool((positions(known, pd.Series(same, dtype=object)) >= 0).any())
    if helps:
        return f"{problem} {remedies.convert(table, column, to)}"
    return (
        f"{problem} As {to}, none of them is known either: give ids of ratings.{column}_ids. To "
        f"ask about {column}s in general, give an id of that type that was never seen."
    )


def _as_known(x: Any, ours: str) -> Any:
    """Return an id as the type of the known ids, or None where that would change it."""
    if ours == "string":
        return str(x)
    try:
        whole = int(x)
    except (TypeError, ValueError, OverflowError):
        return None
    return whole if str(x) == str(whole) else None


def _kind_of_known(known: pd.Index) -> str:
    return "integer" if known.dtype.kind in "iu" else "string"


def kind(ids: pd.Series | pd.Index) -> str:
    """Return the kind of ids, such as "integer" or "string", as pandas' `infer_dtype` names it."""
    if isinstance(ids.dtype, pd.CategoricalDtype):
        ids = ids.dtype.categories
    return infer_dtype(ids, skipna=True)
