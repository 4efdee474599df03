"""How to correct a table, in the words of the library that it came from.

Each function returns a sentence with code that can be followed as it stands, where ``frame`` is
the caller's table, ``pl`` is polars and ``pc`` is pyarrow.compute.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Literal

import pandas as pd

from pyro_pmf.data.frames import KIND, called

_POLARS = {"int": "pl.Int64", "float": "pl.Float64"}
_ARROW = {"int": "int64", "float": "float64"}


def _kind(table: pd.DataFrame) -> str:
    return str(table.attrs.get(KIND, "pandas"))


def where(table: pd.DataFrame, remedy: str) -> str:
    """Say which frame a remedy speaks of, where the caller gave a file."""
    if table.attrs.get(KIND) != "file" or "frame" not in remedy:
        return ""
    return " Here frame = pyro_pmf.data.read_table(path); then give it to Ratings.from_frame."


def convert(table: pd.DataFrame, column: Hashable, to: Literal["int", "float", "str"]) -> str:
    """Say how to convert a column."""
    column = called(table, column)
    if _kind(table) == "list":
        return f"Give them as {to}."
    if _kind(table) == "file" and to == "float":
        return 'If the numbers have a decimal comma, give decimal=",".'
    if to == "str" and _kind(table) != "pandas":
        return convert_by(table, column, "[str(x) for x in {}]")
    if _kind(table) == "polars":
        return f"Convert with frame = frame.with_columns(pl.col({column!r}).cast({_POLARS[to]}))."
    if _kind(table) == "pyarrow":
        new = f"frame[{column!r}].cast({_ARROW[to]!r})"
        return "Convert with " + _set_column(column, new)
    return f"Convert with frame[{column!r}] = frame[{column!r}].astype({to})."


def convert_by(table: pd.DataFrame, column: Hashable, values: str) -> str:
    """Say how to make a column of a list; ``values`` is Python, with {} for the column."""
    column = called(table, column)
    if _kind(table) == "list":
        return f"Give {values.format('ids')}."
    if _kind(table) == "polars":
        new = values.format(f"frame[{column!r}].to_list()")
        return f"Convert with frame = frame.with_columns(pl.Series({column!r}, {new}))."
    if _kind(table) == "pyarrow":
        new = values.format(f"frame[{column!r}].to_pylist()")
        return "Convert with " + _set_column(column, f"[{new}]")
    return f"Convert with frame[{column!r}] = {values.format(f'frame[{column!r}]')}."


def _set_column(column: Hashable, values: str) -> str:
    return f"frame = frame.set_column(frame.column_names.index({column!r}), {column!r}, {values})."


def drop_missing(table: pd.DataFrame, column: Hashable) -> str:
    """Say how to drop rows that miss a value of a column."""
    column = called(table, column)
    if _kind(table) == "list":
        return "Leave them out."
    if _kind(table) == "polars":
        return f"Drop them with frame.fill_nan(None).drop_nulls([{column!r}])."
    if _kind(table) == "pyarrow":
        return f"Drop them with frame.filter(~pc.field({column!r}).is_null(nan_is_null=True))."
    return f"Drop them with frame.dropna(subset=[{column!r}])."


def keep_finite(table: pd.DataFrame, column: Hashable) -> str:
    """Say how to drop rows with a missing or infinite number."""
    column = called(table, column)
    if _kind(table) == "polars":
        return f"Drop them with frame.filter(pl.col({column!r}).cast(pl.Float64).is_finite())."
    if _kind(table) == "pyarrow":
        return f"Drop them with frame.filter(pc.is_finite(pc.field({column!r}).cast('float64')))."
    return f"Drop them with frame[np.isfinite(frame[{column!r}].astype(float))]."


def rename(kind: str, names: Mapping[Hashable, Hashable]) -> str:
    """Say how to rename columns, from the names of today to those that are needed."""
    if kind == "pandas":
        return f"frame.rename(columns={dict(names)})"
    verb = "rename" if kind == "polars" else "rename_columns"
    return f"frame.{verb}({dict(names)})"


def to_datetime(table: pd.DataFrame, column: Hashable) -> str:
    """Say how to make datetimes of text."""
    column = called(table, column)
    if _kind(table) == "polars":
        how = f"frame.with_columns(pl.col({column!r}).str.to_datetime())"
        return f"Convert with frame = {how}."
    if _kind(table) == "pyarrow":
        return "Convert with " + _set_column(column, f"frame[{column!r}].cast('timestamp[us]')")
    return f"Convert with frame[{column!r}] = pd.to_datetime(frame[{column!r}])."
