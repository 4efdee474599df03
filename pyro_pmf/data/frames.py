"""Tables of any library at the door: pandas inside, and the caller's kind on the way out."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import narwhals as nw
import pandas as pd
import pyarrow as pa
from narwhals.typing import IntoFrame

from pyro_pmf.errors import RatingsError

# Of the caller's table, among the attrs of a table that is read: its library, and the names there
# of columns that are called user, item and rating here.
KIND, NAMES = "pyro_pmf.kind", "pyro_pmf.names"

__all__ = [
    "KIND",
    "NAMES",
    "IntoFrame",
    "as_list",
    "as_native",
    "called",
    "column_names",
    "is_frame",
    "kind_of",
    "to_pandas",
]


def is_frame(x: Any) -> bool:
    """Return whether this is a table: of pandas, polars, pyarrow, or what else narwhals reads."""
    return isinstance(x, pa.Table) or isinstance(
        _wrapped(x), pd.DataFrame | nw.DataFrame | nw.LazyFrame
    )


def kind_of(x: Any) -> str:
    """Return the library of a table, such as "pandas", "polars" or "pyarrow"."""
    if isinstance(x, pd.DataFrame):
        return x.attrs.get(KIND, "pandas")
    if isinstance(x, pa.Table):
        return "pyarrow"
    return str(_wrapped(x).implementation.value)


def called(table: pd.DataFrame, column: Hashable) -> Hashable:
    """Return the name of a column in the caller's table."""
    return table.attrs.get(NAMES, {}).get(column, column)


def column_names(frame: IntoFrame) -> list[Any]:
    """Return the names of the columns of a table.

    Raises
    ------
    RatingsError
        If ``frame`` is not a table.
    """
    if isinstance(frame, pa.Table):  # narwhals reads no names that repeat
        return list(frame.column_names)
    wrapped = _wrapped(frame)
    if isinstance(wrapped, pd.DataFrame):
        return list(wrapped.columns)
    if isinstance(wrapped, nw.LazyFrame):
        return list(wrapped.collect_schema())
    if isinstance(wrapped, nw.DataFrame):
        return wrapped.columns
    raise RatingsError(_no_table(frame))


def to_pandas(frame: IntoFrame, columns: list[Any]) -> pd.DataFrame:
    """Return some columns of a table as pandas has them, without a copy where that is possible.

    Parameters
    ----------
    frame : table
        Of pandas, polars, pyarrow, or what else narwhals reads. A lazy one is collected.
    columns : list
        Names of columns that the table has once.

    Returns
    -------
    pandas.DataFrame
        A table of pandas keeps its index and its types. The columns of others have Arrow types,
        which hold missing integers without loss. ``attrs`` says the kind of the caller's table.

    Raises
    ------
    RatingsError
        If a column has a type that Arrow has not.
    """
    wrapped = _wrapped(frame)
    if isinstance(wrapped, pd.DataFrame):
        chosen = {name: wrapped[name] for name in columns}
        table = pd.DataFrame(chosen, wrapped.index, copy=False)  # nothing to align
    else:
        try:
            chosen = wrapped.select(*dict.fromkeys(columns))
            eager = chosen.collect() if isinstance(chosen, nw.LazyFrame) else chosen
            table = eager.to_arrow().to_pandas(types_mapper=_dtype)
        except Exception as error:  # each library has errors of its own
            raise RatingsError(
                f"The columns {columns} of this table cannot be read ({error}): give ids as "
                "integers or text, and ratings as numbers."
            ) from error
    table.attrs = {KIND: kind_of(frame)}
    return table


def as_native(table: pd.DataFrame, *given: Any) -> Any:
    """Return a table in the kind of the first table or column of another library among some.

    Parameters
    ----------
    table : pandas.DataFrame
        The table to return.
    *given
        What the caller gave.

    Returns
    -------
    DataFrame of that library, or pandas.DataFrame
        ``table`` itself where nothing of another library was given. Other libraries have no
        index, and names of columns are str there.
    """
    for x in given:
        wrapped = _wrapped(x, columns_too=True)
        if isinstance(wrapped, nw.DataFrame | nw.LazyFrame | nw.Series):
            kind = wrapped.implementation
            if kind.is_pandas():
                return table
            plain = table.set_axis([str(name) for name in table.columns], axis=1)
            plain.attrs = {}
            arrow = pa.Table.from_pandas(plain, preserve_index=False).replace_schema_metadata()
            if kind.is_pyarrow():
                return arrow
            backend = kind if kind.is_polars() or kind.is_modin() or kind.is_cudf() else "pyarrow"
            return nw.from_arrow(arrow, backend=backend).to_native()
    return table


def as_list(given: Any) -> Any:
    """Return a column of polars or pyarrow as a list, and anything else as it is."""
    wrapped = _wrapped(given, columns_too=True)
    if isinstance(wrapped, nw.Series) and not isinstance(given, pd.Series | pd.Index):
        return wrapped.to_list()
    return given.to_pylist() if isinstance(given, pa.Array) else given


def _dtype(of: pa.DataType) -> pd.ArrowDtype:
    """Return pandas' type for a type of Arrow; it has no methods for string views."""
    return pd.ArrowDtype(pa.large_string() if str(of) == "string_view" else of)


def _wrapped(x: Any, columns_too: bool = False) -> Any:
    """Return a table of pandas as it is, one of another library in narwhals' form."""
    if isinstance(x, pd.DataFrame):
        return x
    return nw.from_native(x, allow_series=columns_too or None, pass_through=True)


def _no_table(x: Any) -> str:
    """Say that this is no table, and how to make one of it."""
    name = f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
    if isinstance(x, str | bytes) or hasattr(x, "__fspath__"):
        return f"Give a table, not a {name}: Ratings.read({x!r}) reads a file."
    if hasattr(x, "tocoo"):
        return f"Give a table, not a {name}: Ratings.from_matrix(matrix) reads a sparse matrix."
    return (
        f"Give a table of pandas, polars or pyarrow, not a {name}: for instance "
        'pandas.DataFrame(rows, columns=["user", "item", "rating"]).'
    )
