"""Tables from files: delimited text, Parquet, folders of MovieLens; and from sparse matrices."""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import os
import re
import warnings
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyro_pmf.data.columns import Columns, select
from pyro_pmf.data.frames import KIND, as_list
from pyro_pmf.data.times import as_times, require_no_repeats
from pyro_pmf.errors import RatingsError

_logger = logging.getLogger("pyro_pmf")
_OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_MARKS = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zX"}  # at the start of a file
_SEPARATORS = "\t", "::", ",", ";", "|"
_MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]  # of ratings and times
_IN_FOLDERS = "ratings.csv", "u.data", "ratings.dat"  # of MovieLens
_HEADLESS = {"u.data": "\t", "ratings.dat": "::"}
_NAMES = ["user", "item", "rating", "time"]
_HEAD = 1 << 16  # bytes that are looked at first
_INTEGER = r"(?:-?[1-9][0-9]{0,17}|0)"  # as one writes it, so that 007 and 7 stay apart


@dataclass(frozen=True)
class Earlier:
    """What is known of earlier ratings when a file that belongs to them is read.

    Attributes
    ----------
    columns : Columns
        The names of their columns.
    text : frozenset of str
        Those of "user" and "item" whose ids are text: they stay as they are written.
    """

    columns: Columns = field(default_factory=Columns)
    text: frozenset[str] = frozenset()


def read_table(path: str | os.PathLike[str], **options: Any) -> pd.DataFrame:
    r"""Read a table of pairs or of ratings from a file, or from a folder of MovieLens.

    Parameters
    ----------
    path : path-like
        As for `Ratings.read`.
    **options
        Further arguments of `pandas.read_csv`; not chunksize and iterator.

    Returns
    -------
    pandas.DataFrame
        All columns by the names that they have in the file. Ids, of the columns whose names are
        known, are int where each is written as an integer, and str otherwise; or of the type that
        ``dtype`` gives their column.

    Raises
    ------
    RatingsError
        If the path cannot be read as a table.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "pairs.tsv"
    >>> _ = path.write_text("userId\tmovieId\n7\t007\n8\t12\n")
    >>> read_table(path).to_dict("list")
    {'userId': [7, 8], 'movieId': ['007', '12']}
    """
    file, options = _file_of(path), _of_whole_table(options)
    found = _header(file, options)
    names = _columns_of_ids(found, Columns()).values()
    return _parsed(file, found, [x for x in found if x in names], found, options)


def read_items(
    path: str | os.PathLike[str], earlier: Earlier, options: dict[str, Any]
) -> tuple[pd.DataFrame, Hashable | None]:
    """Read a table of items, such as their titles.

    Parameters
    ----------
    path : path-like
        As for `Ratings.read`.
    earlier : Earlier
        What is known of the ratings of these items.
    options : dict
        Further arguments of `pandas.read_csv`.

    Returns
    -------
    table : pandas.DataFrame
        All columns.
    item : hashable, or None
        The column of the items' ids; None where there is no such column, or there are several.

    Raises
    ------
    RatingsError
        If the path cannot be read as a table.
    """
    file, options = _file_of(path), _of_whole_table(options)
    found = _header(file, options)
    item = _columns_of_ids(found, earlier.columns).get("item")
    ids = [] if item is None else [item]
    text = ids if "item" in earlier.text else []
    return _parsed(file, found, ids, found, options, text), item


def _columns_of_ids(found: list[Any], earlier: Columns) -> dict[str, Hashable]:
    """Return the columns of users and items by role, where they are recognised."""
    names: dict[str, Hashable] = {}
    for role in ("user", "item"):
        try:
            given = earlier.found_again(found, **{role: "auto"})
            names[role] = getattr(Columns.recognised(found, **given), role)
        except RatingsError:
            continue
    return names


def read_columns(
    path: str | os.PathLike[str],
    user: Hashable,
    item: Hashable,
    rating: Hashable | None,
    time: Hashable | None,
    options: dict[str, Any],
    on_duplicate: str = "error",
    earlier: Earlier | None = None,
) -> tuple[pd.DataFrame, Columns]:
    """Read the columns of ratings from a file.

    Parameters
    ----------
    path, user, item, rating, time, options, on_duplicate
        As for `Ratings.read`.
    earlier : Earlier, optional
        What is known of the earlier ratings that these belong to. Names that are "auto" are then
        looked for among the earlier ones first.

    Returns
    -------
    table : pandas.DataFrame
        The columns that are used.
    columns : Columns
        Their names.

    Raises
    ------
    RatingsError
        As for `Ratings.read`.
    """
    file, options = _file_of(path), _of_whole_table(options)
    found = _header(file, options)
    earlier = earlier or Earlier()
    given = earlier.columns.found_again(found, user=user, item=item, rating=rating, time=time)
    columns = Columns.recognised(found, **given)
    names = [columns.user, columns.item, columns.rating, columns.time]
    used = [x for x in names if x is not None]
    text = [getattr(columns, role) for role in earlier.text]
    table = _parsed(file, found, [columns.user, columns.item], used, options, text)
    if columns.time is not None:
        times = as_times(table, columns.time, refused=time != "auto")
        if time == "auto" and times.isna().any():
            if on_duplicate == "last":
                require_no_repeats(table, columns, times)
            _logger.info("%s: %r is left out: it is not a time in each row.", file, columns.time)
            columns = Columns(columns.user, columns.item, columns.rating)
            used.pop()
        else:
            table[columns.time] = times
    _logger.info("%s: %s", file, columns)
    table = select(table, *used)
    table.attrs = {KIND: "file"}
    return table, columns


def read_pieces(
    path: str | os.PathLike[str],
    user: Hashable,
    item: Hashable,
    rating: Hashable,
    options: dict[str, Any],
    n_rows: int,
) -> Iterator[tuple[pd.DataFrame, Columns]]:
    """Read the columns of ratings from a file: of Parquet, some users after the others.

    Parameters
    ----------
    path, user, item, rating, options
        As for `Ratings.read`.
    n_rows : int
        Number of rows of a Parquet file that are read at once.

    Yields
    ------
    table : pandas.DataFrame
        Columns that are used. The last user of a piece goes to the next one whole, if the rows of
        each user follow each other.
    columns : Columns
        Their names.

    Raises
    ------
    RatingsError
        As for `Ratings.read`.
    """
    file, options = _file_of(path), _of_whole_table(options)
    if not _is_parquet(file):
        yield read_columns(path, user, item, rating, None, options)
        return
    import pyarrow.parquet as pq

    found = _header(file, options)
    columns = Columns.recognised(found, user=user, item=item, rating=rating, time=None)
    used = [columns.user, columns.item, columns.rating]
    _logger.info("%s: %s", file, columns)
    with _told(file, options):
        batches = pq.ParquetFile(file).iter_batches(n_rows, columns=used)
    left: pd.DataFrame | None = None
    while True:
        with _told(file, options):
            batch = next(batches, None)
            if batch is None:
                break
            table = batch.to_pandas()
        if left is not None:
            table = pd.concat([left, table], ignore_index=True)
        others = np.flatnonzero(table[columns.user] != table[columns.user].iloc[-1])
        end = others[-1] + 1 if len(others) else 0
        left = table.iloc[end:]
        if end:
            yield _piece(table.iloc[:end], used), columns
    if left is not None:
        yield _piece(left, used), columns


def _piece(table: pd.DataFrame, used: list[Any]) -> pd.DataFrame:
    piece = select(table.reset_index(drop=True), *used)
    piece.attrs = {KIND: "file"}
    return piece


def cells_of(
    matrix: Any, user_ids: Iterable[Any] | None, item_ids: Iterable[Any] | None
) -> pd.DataFrame:
    """Return the stored entries of a sparse matrix as a table; see `Ratings.from_matrix`.

    Parameters
    ----------
    matrix : scipy.sparse array or matrix
        The matrix.
    user_ids, item_ids : iterable, or None
        The ids of its rows and columns.

    Returns
    -------
    pandas.DataFrame
        Columns user, item and rating.

    Raises
    ------
    RatingsError
        As for `Ratings.from_matrix`.
    """
    if not hasattr(matrix, "tocoo") or len(matrix.shape) != 2:
        raise RatingsError(
            f"Give a sparse matrix of users and items, not a {type(matrix).__name__}: for example "
            "scipy.sparse.coo_array((rating, (user, item))). Of a dense array in which 0 means "
            "that there is no rating, scipy.sparse.coo_array(array) keeps the others."
        )
    coo = matrix.tocoo()
    table = {}
    for name, index, ids, n in (
        ("user", coo.row, user_ids, coo.shape[0]),
        ("item", coo.col, item_ids, coo.shape[1]),
    ):
        if ids is not None and (
            not isinstance(ids, Iterable) or isinstance(ids, str | bytes | Mapping | pd.DataFrame)
        ):
            raise RatingsError(
                f"{name}_ids must be a list of ids, not of type {type(ids).__name__}."
            )
        listed = np.arange(n) if ids is None else list(as_list(ids))
        if len(listed) != n:
            raise RatingsError(f"Give {n:,} {name}_ids, one for each, not {len(listed):,}.")
        labels = pd.Series(listed)
        table[name] = labels.iloc[index].reset_index(drop=True)
    return pd.DataFrame(table | {"rating": coo.data})


def _file_of(path: str | os.PathLike[str]) -> Path:
    """Return the file to read: of a folder, the ratings of MovieLens."""
    try:
        given = Path(path)
        is_folder = given.is_dir()
    except (OSError, TypeError, ValueError) as error:
        raise RatingsError(f"{path!r} is no path ({error}): give the path of a file.") from error
    if is_folder:
        inside = next((given / x for x in _IN_FOLDERS if (given / x).is_file()), None)
        if inside is None:
            raise RatingsError(
                f"{given} is a folder without {', '.join(_IN_FOLDERS)}: give the path of a file, "
                "or the folder of MovieLens that you unpacked."
            )
        given = inside
    try:
        with given.open("rb") as file:
            start = file.read(4)
    except (OSError, ValueError) as error:
        raise RatingsError(f"{given} cannot be read ({error}): give another path.") from error
    if not start:
        raise RatingsError(f"{given} is empty: give a file with a header and a row per rating.")
    packed = next((end for end, mark in _MARKS.items() if start.startswith(mark)), None)
    if packed is not None and given.suffix.lower() not in _OPEN:
        raise RatingsError(f"{given} is compressed: let its name end in {packed}.")
    if start == b"PK\3\4":
        raise RatingsError(
            f"{given} is a zip archive or a workbook: unpack it, or save the sheet as CSV."
        )
    return given


def _of_whole_table(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of options of `pandas.read_csv`; refuse those that read piece by piece."""
    options = dict(options)
    for name in ("chunksize", "iterator"):
        if options.pop(name, None):
            raise RatingsError(
                f"With {name}=, pandas reads a table piece by piece, and all of it is needed: "
                "leave it out. Ratings.read_parts reads ratings that do not fit into memory."
            )
    if isinstance(options.get("skiprows"), Iterator):  # which is asked twice
        options["skiprows"] = list(options["skiprows"])
    return options


def _is_parquet(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(4) == b"PAR1"


def _header(file: Path, options: dict[str, Any]) -> list[Any]:
    """Return the names of the columns; complete the options of `pandas.read_csv`."""
    if _is_parquet(file):
        import pyarrow.parquet as pq

        with _told(file, options):
            return list(pq.read_schema(file).names)
    with _told(file, options):
        first = _first_line(file, options)
    if file.name in _HEADLESS and not {"names", "header"} & set(options):
        options["names"] = _NAMES[: first.count(_HEADLESS[file.name]) + 1]
        options.setdefault("sep", _HEADLESS[file.name])
    if "sep" not in options and "delimiter" not in options:
        bare = re.sub('"[^"]*"', "", first)
        options["sep"] = max(_SEPARATORS, key=bare.count)
        if not bare.count(options["sep"]):
            options["sep"] = " "  # which names of columns contain as well
        if not bare.count(options["sep"]):
            raise RatingsError(
                f"{file} has one column, {first[:80]!r}: if a character parts its columns that is "
                "neither a comma, semicolon, tab, bar nor blank, give it as sep=."
            )
    # With an index of its own, pandas warns of rows with more fields than there are names.
    defaults = {"index_col": False, "skipinitialspace": True, "on_bad_lines": "error"}
    if len(options.get("sep", ",")) > 1 or options.get("skipfooter"):
        options.setdefault("engine", "python")
    if options.get("engine", "c") == "c":
        defaults["low_memory"] = False  # else a column may have one type here and another there
    for name, value in defaults.items():
        options.setdefault(name, value)
    no_rows = {name: x for name, x in options.items() if name != "skipfooter"} | {"nrows": 0}
    with _told(file, options):
        return list(pd.read_csv(file, **no_rows).columns)


def _first_line(file: Path, options: dict[str, Any], n_bytes: int = _HEAD) -> str:
    """Return the line of the header, or else the first row, decoded; refuse what is not text."""
    encoding = options.setdefault("encoding", "utf-8-sig")
    try:
        with _OPEN.get(file.suffix.lower(), open)(file, "rb") as opened:
            head = opened.read(n_bytes)
        if head.startswith((b"\xff\xfe", b"\xfe\xff")) and encoding == "utf-8-sig":
            raise RatingsError(f'{file} is UTF-16: give encoding="utf-16".')
        text = head.decode(encoding, "ignore" if len(head) == n_bytes else "strict")
    except UnicodeDecodeError as error:
        raise _not_text(file, error) from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error, LookupError) as error:
        raise RatingsError(f"{file} cannot be read: {error}.") from error
    if "\0" in text:
        raise RatingsError(f"{file} is not text: give CSV, TSV or Parquet.")
    lines = _lines_left(text, options)
    if not lines and len(head) == n_bytes:  # more is skipped than was looked at
        return _first_line(file, options, 16 * n_bytes)
    if not lines:
        raise RatingsError(f"{file} has no lines: give a file with a header and a row per rating.")
    return lines[0]


def _lines_left(text: str, options: dict[str, Any]) -> list[str]:
    """Return the lines that `pandas.read_csv` does not skip, from the header on."""
    skipped, comment, header = (options.get(name) for name in ("skiprows", "comment", "header"))
    lines = text.splitlines()
    if callable(skipped):
        lines = [line for k, line in enumerate(lines) if not skipped(k)]
    elif isinstance(skipped, Integral):
        lines = lines[int(skipped) :]
    elif isinstance(skipped, Iterable):
        among = set(skipped)
        lines = [line for k, line in enumerate(lines) if k not in among]
    if isinstance(comment, str) and comment:
        # a line that is a comment is none, whatever skip_blank_lines says
        lines = [x.partition(comment)[0] for x in lines if not x.lstrip().startswith(comment)]
    if options.get("skip_blank_lines", True):
        lines = [line for line in lines if line.strip()]
    if isinstance(header, Integral) and not isinstance(header, bool):
        lines = lines[int(header) :]
    return [line for line in lines if line.strip()]


def _parsed(
    file: Path,
    found: list[Any],
    ids: list[Any],
    used: list[Any],
    options: dict[str, Any],
    text: Sequence[Any] = (),
) -> pd.DataFrame:
    """Read the columns in use; ids as they are written, and those that are text as text."""
    with _told(file, options):
        if _is_parquet(file):
            whole = pd.read_parquet(file, columns=list(dict.fromkeys(used)))
            return whole.iloc[: options.get("nrows")]
        missing = {name: [""] if name in ids else _MISSING for name in found}
        usual: dict[str, Any] = {"keep_default_na": False, "na_values": missing}
        types = options.get("dtype") or {}
        own = set(options.get("converters") or ())  # columns whose type is the caller's choice
        own |= set(types) if isinstance(types, Mapping) else set(ids)
        if isinstance(types, Mapping):
            types = {name: str for name in ids if name not in own} | dict(types)
        given: dict[str, Any] = usual | options | {"dtype": types}
        table = pd.read_csv(file, **given)
    table = table[list(dict.fromkeys(used))]
    for name in dict.fromkeys(ids):
        if name not in own:
            table[name] = _as_written(table[name], name in text)
    return table


def _as_written(ids: pd.Series, as_text: bool) -> pd.Series:
    """Return ids as int if each is written as one, else as str; without blanks at their ends."""
    if not pd.api.types.is_string_dtype(ids):
        return ids  # another option of the caller made something else of them
    ids = ids.str.strip().replace("", None)
    if as_text:
        return ids
    known = ids.dropna()
    for pattern in (_INTEGER, _INTEGER + r"\.0"):  # 1.0 is what pandas writes of 1 beside a gap
        if len(known) and known.str.fullmatch(pattern).all():
            numbers = known.str.removesuffix(".0").astype("int64")
            return (
                numbers if len(known) == len(ids) else numbers.astype("Int64").reindex(ids.index)
            )
    return ids


@contextmanager
def _told(file: Path, options: dict[str, Any]) -> Iterator[None]:
    """Turn what pandas and pyarrow raise for a file into a `RatingsError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    except RatingsError:
        raise
    except UnicodeDecodeError as error:
        raise _not_text(file, error) from error
    except Exception as error:  # of many classes
        given = {name: options[name] for name in ("sep", "encoding", "names") if name in options}
        raise RatingsError(
            f"{file} cannot be read as a table with {given} ({error}): correct the file, or give "
            "arguments of pandas.read_csv that suit it, such as sep=."
        ) from error


def _not_text(file: Path, error: UnicodeDecodeError) -> RatingsError:
    return RatingsError(
        f"{file} is not {error.encoding.upper()} text: give its encoding, "
        'such as encoding="latin-1" for most other files of Europe and America.'
    )
