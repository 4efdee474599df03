"""What a command prints or writes: tables, names with values, and one line for an error.

Of processes that share a fit, only the first prints answers, warnings and logs. Each says its own
errors, for it may be the only one that has them.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pyro_pmf.errors import PMFError
from pyro_pmf.files import write_file
from pyro_pmf.reducer import number_of_process

_logger = logging.getLogger("pyro_pmf")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_WIDTH = 100  # of a table at least: a terminal breaks lines, and hides no digits
_ARGUMENT = re.compile(r"(?<![\w/])([a-z_]+)=")  # of Python, in a message
_READ = {  # as in a shell
    "sep": '"sep=;"',
    "encoding": "encoding=latin-1",
    "decimal": "decimal=,",
    "names": "names=user,item,rating",
}


@contextmanager
def as_lines() -> Iterator[None]:
    """Show errors, warnings and logs as lines of text on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # ids may be in letters that it cannot encode
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda _: number_of_process() == 0)
    level = _logger.level
    _logger.addHandler(handler)
    _logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = _show_warning
            yield
    except OSError as error:
        fail(f"{error}.")
    finally:
        _logger.removeHandler(handler)
        _logger.setLevel(level)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    if number_of_process() == 0:
        print(f"Warning: {message}", file=sys.stderr)


def with_hints(command: Callable[..., None], options: set[str]) -> Callable[..., None]:
    """Return a command whose errors are lines that say what its options are called.

    ``options`` are those of user, item, rating and read that the command has.
    """

    @wraps(command)
    def run(**given: Any) -> None:
        try:
            command(**given)
        except PMFError as error:
            fail(str(error), _hint(str(error), options))

    return run


def _hint(message: str, options: set[str]) -> str | None:
    """Say which options stand for the arguments of Python that a message names."""
    named = dict.fromkeys(_ARGUMENT.findall(message))
    hints = [f"{x}= is --{x} NAME" for x in named if x in options - {"read"}]
    if "read" in options:
        hints += [f"{x}= is --read, as in --read {_READ[x]}" for x in named if x in _READ]
    return f"Here, {'; '.join(hints)}." if hints else None


def fail(message: str, hint: str | None = None) -> NoReturn:
    """End with one line on stderr, and perhaps one more, and exit code 2."""
    number = number_of_process()
    where = f" in process {number}" if number else ""
    print(f"Error{where}: {message}", file=sys.stderr)
    if hint is not None:
        print(hint, file=sys.stderr)
    raise SystemExit(2)


def rounded(scores: pd.Series) -> dict[str, Any]:
    """Return scores by name, four digits after the point, and numbers of pairs as they are."""
    numbers = {str(name): float(value) for name, value in scores.items()}
    return {k: int(x) if k == "n" else round(x, 4) for k, x in numbers.items()}


def say(told: dict[str, Any], as_json: bool) -> None:
    """Print names and values, in the first of processes that share a fit."""
    if number_of_process() > 0:
        return
    if as_json:
        print(json.dumps(told))
        return
    width = max(map(len, told))
    for name, value in told.items():
        print(f"{name:<{width}}  {value}")


def show(table: pd.DataFrame, output: Path | None, as_json: bool) -> None:
    """Print a table, or write it to a file."""
    if number_of_process() > 0:
        return
    if output is not None:
        _write(table, output)
        say({"saved": str(output), "rows": len(table)}, as_json)
    elif as_json:
        print(table.to_json(orient="records"))
    elif table.empty:
        print("No rows.")
    elif (console := Console()).is_terminal:
        Console(width=max(console.width, _WIDTH)).print(_as_rich(table))
    else:
        print(table.to_string(index=False))


def writable(output: Path | None) -> Path | None:
    """Return the file that a table is to be written to; refuse other kinds before the work."""
    if output is not None and output.suffix.lower() not in (*_SEPARATORS, ".parquet"):
        fail(f"{output} is none of .csv, .tsv and .parquet: choose one of these endings.")
    return output


def _write(table: pd.DataFrame, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix.lower() == ".parquet":
        write_file(output, table.to_parquet(index=False))
    else:
        text = table.to_csv(index=False, sep=_SEPARATORS[output.suffix.lower()])
        write_file(output, text.encode())


def _as_rich(table: pd.DataFrame) -> Table:
    """Return a table for the terminal: numbers to the right, four digits."""
    shown = Table(header_style="bold", box=None)
    for name in table.columns:
        is_number = pd.api.types.is_numeric_dtype(table[name])
        justify: Any = "right" if is_number else "left"
        shown.add_column(Text(str(name)), justify=justify, no_wrap=is_number, overflow="fold")
    for row in table.itertuples(index=False):
        cells = (f"{x:.4g}" if isinstance(x, float) else str(x) for x in row)
        shown.add_row(*map(Text, cells))  # as text, for [rec] would be read as a style
    return shown
