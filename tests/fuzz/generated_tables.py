"""Generated tables, files and questions; each is tried, and the kind of its end is returned.

`attempt` is for tests; `make fuzz` tries thousands. The end of an input is "answered", or the
first words of a `PMFError`. Any other exception comes through, and so does a wrong answer.
"""

from __future__ import annotations

import functools
import gzip
import math
import re
import tempfile
import warnings
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from hypothesis import strategies as st

from pyro_pmf import MAP, PMF, PMFError, Posterior, Ratings, fit

# Columns of ids

_INTS = st.integers(-3, 6)
_HUGE = st.sampled_from([2**24, 2**24 + 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63)])
_TEXT = st.sampled_from(["a", "b", "", "1", "01", "NA", "ü", "日本", "\ud800", "a\0", " a", "a,b"])
_MISSING = [None, math.nan, pd.NA, pd.NaT]
_FLOATS = [1.0, 1.5, -0.0, math.inf, 2.0**53, np.float32(1), np.float32(2**24)]
_OTHERS = [True, b"x", (1,), [1], 3j, Decimal("1.0"), np.int8(1), pd.Timestamp("2020-01-01")]
_ODD = st.sampled_from([*_MISSING, *_FLOATS, *_OTHERS])
_ONE_KIND = st.sampled_from([_INTS, _INTS, _TEXT, _TEXT, _HUGE, _ODD, st.floats(width=16)])
_MIXED = st.one_of(_INTS, _TEXT, _HUGE, _ODD)
_LABELS: list[list[Any]] = [
    [*range(6)],
    [-5, 0, 7, 2**53, 2**53 + 1, 2**63 - 1],
    ["a", "b", "", "1", "01", "ü"],
    ["NA", "日本", "a,b", " a", "A", "0"],
]
_OF_NUMPY = ["int64", "int8", "uint64", "float64", "float32", "float16", "bool", "datetime64[ns]"]
_OF_PANDAS = ["Int64", "Float64", "category", "string", "str", "boolean", object, None]
_OF_ARROW = ["int64[pyarrow]", "double[pyarrow]", "float[pyarrow]", "string[pyarrow]"]
_DICTIONARIES = [
    pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string())),
    pd.ArrowDtype(pa.dictionary(pa.int8(), pa.int64())),
]
_DTYPES = st.sampled_from([*_OF_NUMPY, *_OF_PANDAS, *_OF_ARROW, *_DICTIONARIES])
_HEADERS = [
    ["user", "item", "rating"],
    ["userId", "movieId", "rating", "timestamp"],
    ["customer_id", "sku", "stars"],
    ["user", "user", "item", "rating"],
    ["a", "b"],
    [],
]
_STARS = st.one_of(
    st.integers(1, 5),
    st.integers(1, 5).map(float),
    st.sampled_from([0.0, -1.0, 4.999, 1e308, -1e308, 5e-324, 1e30, math.nan, math.inf, 2**70]),
)
_NOT_STARS = st.sampled_from(["4", "four", None, True, pd.Timestamp("2020-01-01"), 2j, Decimal(4)])
_SCALES = st.sampled_from(
    [*[None, (0, 10)] * 8, (1, 5), (5, 1), (1, 1), (-1e308, 1e308), "15", 5, (None, 1), (0, 1e400)]
)


@st.composite
def _column(draw: st.DrawFn, values: st.SearchStrategy[Any], n: int) -> Any:
    """Draw a column of any dtype that can hold it, or of objects."""
    listed = draw(st.lists(values, min_size=n, max_size=n))
    if draw(st.integers(0, 4)) == 0 and listed:
        listed = listed[:1] * n  # one user, one item, one rating
    column = pd.Series(listed, dtype=object)
    return _as_dtype(column, draw(_DTYPES))


@st.composite
def _sound(draw: st.DrawFn) -> pd.DataFrame:
    """Draw a table of distinct pairs, whose columns have some dtype that suits them."""
    labels = draw(st.sampled_from(_LABELS))
    n = draw(st.sampled_from([2, 3, 6, 12]))
    cells = st.integers(0, len(labels) ** 2 - 1)
    user, item = np.divmod(draw(st.lists(cells, min_size=n, max_size=n, unique=True)), len(labels))
    stars = draw(st.lists(st.integers(1, 5), min_size=n, max_size=n))
    columns: dict[str, Any] = {
        "user": [labels[k] for k in user],
        "item": [labels[k] for k in item],
        "rating": stars,
    }
    for name, values in columns.items():
        columns[name] = _as_dtype(pd.Series(values), draw(_DTYPES))
    return pd.DataFrame(columns)


def _as_dtype(column: pd.Series, dtype: Any) -> pd.Series:
    """Return a column as a dtype, or as it is where that is not possible or not the same."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return column if dtype is None else column.astype(dtype)
    except Exception:  # of pandas, numpy or pyarrow
        return column


@st.composite
def _any(draw: st.DrawFn) -> pd.DataFrame:
    """Draw a table of any columns."""
    n = draw(st.sampled_from([0, 1, 2, 3, 6, 12]))
    ids = st.one_of(_ONE_KIND, _ONE_KIND, _ONE_KIND, st.just(_MIXED))
    columns = {name: draw(_column(draw(ids), n)) for name in ("user", "item")}
    stars = draw(st.sampled_from([st.integers(1, 5), _STARS, _NOT_STARS]))
    return pd.DataFrame(columns | {"rating": draw(_column(stars, n))})


@st.composite
def tables(draw: st.DrawFn) -> Any:
    """Draw a table of pandas, polars or pyarrow: a sound one, one with a fault, or any."""
    frame = draw(st.one_of(_sound(), _sound(), _any()))
    fault = draw(st.sampled_from([None, None, None, None, None, 0, 0, 1, 2, 3, 4, 5, 5]))
    name = draw(st.sampled_from(["user", "item", "rating"]))
    if fault == 0 and len(frame):
        values = frame[name].astype(object)
        odd = draw(st.one_of(_STARS, _NOT_STARS) if name == "rating" else _MIXED)
        listed = values.tolist()
        listed[draw(st.integers(0, len(frame) - 1))] = odd
        values = pd.Series(listed, dtype=object, index=frame.index)
        frame[name] = values
    elif fault == 1:
        frame = frame.drop(columns=name)
    elif fault == 2:
        frame = frame.rename(columns={"user": "userId", "item": "movieId"})
    elif fault == 3:
        frame = pd.concat([frame, frame])
    elif fault == 4:
        frame = frame[: draw(st.integers(0, 1))]
    elif fault == 5 and len(frame):
        labels = st.lists(st.integers(0, 3), min_size=len(frame), max_size=len(frame))
        frame.index = pd.Index(draw(labels))
    kind = draw(st.sampled_from(["pandas", "pandas", "polars", "pyarrow"]))
    try:
        if kind == "polars":
            return pl.from_pandas(frame)
        return pa.Table.from_pandas(frame) if kind == "pyarrow" else frame
    except Exception:  # no such column there
        return frame


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes | None]:
    """Draw the name and the bytes of a file; None is a folder."""
    names = st.sampled_from(
        ["x.csv", "x.tsv", "x", "ratings.csv", "x.txt", "x.parquet", "x.csv.gz"]
    )
    name = draw(names)
    if draw(st.integers(0, 9)) == 0:
        odd = [None, b"", b"\n", b"PK\3\4", b"PAR1", b"\x1f\x8b", b"\xff\xfe", b"\0"]
        return name, draw(st.one_of(st.sampled_from(odd), st.binary(max_size=60)))
    separator = draw(st.sampled_from([*[",", "\t", ";", "|", "::", " "] * 2, "^"]))
    header = draw(st.sampled_from([*_HEADERS[:3] * 4, *_HEADERS]))
    if not header and draw(st.booleans()):
        name = {"\t": "u.data", "::": "ratings.dat"}.get(separator, name)
    ids = draw(st.sampled_from([["1", "2", "3"], ["a", "1", "NA"], ["007", "7"], ["é", "日本"]]))
    cell = st.sampled_from(ids)
    star = st.sampled_from(["1", "2", "4.5"])
    lines = [header] if header else []
    for _ in range(draw(st.sampled_from([2, 4, 6, 8, 1, 0]))):
        line = [draw(cell), draw(cell), draw(star), "900"][: max(3, len(header))]
        if draw(st.integers(0, 30)) == 0:
            odd = st.sampled_from(["", '"', '"a,b"', "1,5", "x" * 9, "\0", "1e400", "nan"])
            line[draw(st.integers(0, 2))] = draw(odd)
        if draw(st.integers(0, 30)) == 0:
            line = draw(st.sampled_from([[*line, "9"], line[:-1]]))
        lines.append(line)
    text = "\n".join(separator.join(line) for line in lines) + draw(st.sampled_from(["", "\n"]))
    encoding = draw(st.sampled_from([*["utf-8"] * 8, "latin-1", "utf-16", "utf-8-sig"]))
    content = text.encode(encoding, "replace")
    if name.endswith("gz") and draw(st.booleans()):
        content = gzip.compress(content)
    if draw(st.integers(0, 9)) == 0 and content:
        k = draw(st.integers(0, len(content) - 1))
        content = (
            content[:k] + draw(st.sampled_from([b"", b"\xff", b"\n", b'"'])) + content[k + 1 :]
        )
    return name, content


questions = st.tuples(
    tables(),
    st.sampled_from(["predict", "scores", "evaluate", "recommend", "fold_in"]),
    st.booleans(),
)
inputs = st.one_of(
    st.tuples(
        st.just("table"), st.tuples(tables(), _SCALES, st.sampled_from(["error", "last", "mean"]))
    ),
    st.tuples(st.just("file"), files()),
    st.tuples(st.just("question"), questions),
)


# Trying them


def attempt(kind: str, given: Any) -> str:
    """Try an input of `inputs`, check the answer, and return how it ended."""
    try:
        {"table": _try_table, "file": _try_file, "question": _try_question}[kind](*given)
    except PMFError as error:
        message = str(error)
        assert len(message) > 20, message
        what = re.sub(
            r"^[\d,]+ of [\d,]+ rows|^\S*/\S*|[-\d.]+|'[^']*'|\"[^\"]*\"|\[.*", "..", message
        )
        return f"{kind}: refused, {what.splitlines()[0][:50].strip()}"
    return f"{kind}: answered"


def _values(table: Any, name: str) -> list[Any]:
    column = table[name]
    return column.to_pylist() if isinstance(column, pa.ChunkedArray) else list(column)


def _try_table(table: Any, scale: Any, on_duplicate: str) -> None:
    ratings = Ratings.from_frame(table, scale=scale, on_duplicate=on_duplicate)
    cells: dict[tuple[Any, Any], list[float]] = {}
    columns = (_values(table, name) for name in ("user", "item", "rating"))
    for user, item, rating in zip(*columns, strict=True):
        cells.setdefault((user, item), []).append(float(rating))
    made = list(ratings.to_frame().itertuples(index=False, name=None))
    assert {(user, item) for user, item, _ in made} == set(cells)
    assert len(made) == len(cells)
    for user, item, rating in made:
        given = cells[user, item]
        want = sum(given) / len(given) if on_duplicate == "mean" else given[-1]
        assert math.isclose(rating, want, rel_tol=1e-9, abs_tol=1e-9)
    for ids in (ratings.user_ids, ratings.item_ids):
        assert {type(x) for x in ids.tolist()} in ({int}, {str})
    assert bool(ratings.value.isfinite().all())
    user, item = ratings.locate(table)
    assert ratings.user_ids[user.numpy()].tolist() == _values(table, "user")
    assert ratings.item_ids[item.numpy()].tolist() == _values(table, "item")


def _try_file(name: str, content: bytes | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)
        ratings = Ratings.read(path, on_duplicate="last")
    assert content is not None
    if name.endswith("gz"):
        content = gzip.decompress(content)
    text = content.decode("utf-8-sig")
    for ids in (ratings.user_ids, ratings.item_ids):
        assert all(str(x) in text for x in ids)
    assert len(ratings) <= text.count("\n") + 1
    assert np.isfinite(ratings.rating).all()


@functools.cache
def posterior(kind: type = int) -> Posterior:
    """Return a small fit whose ids are int, or str; some are next to 2^53."""
    labels: list[Any] = [*range(6), 2**53, 2**53 + 1] if kind is int else [*"abcü1", "01", "NA"]
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.permutation(len(labels) ** 2)[:30], len(labels))
    frame = pd.DataFrame(
        {
            "user": [labels[k] for k in user],
            "item": [labels[k] for k in item],
            "rating": rng.integers(1, 6, 30),
        }
    )
    ratings = Ratings.from_frame(frame, scale=(1, 5))
    return fit(PMF(1, noise="shared"), ratings, MAP(max_steps=5), progress=False)


def _try_question(table: Any, ask: str, by_text: bool) -> None:
    known = posterior(str if by_text else int)
    if ask == "recommend":
        users = _values(table, "user") if "user" in _names(table) else []
        answer = known.recommend(users, n=2)
        given, names = known.ratings.user_ids.tolist(), answer["user"].tolist()
        expected = [user in given for user in names]
        assert answer["known_user"].tolist() == expected
        return
    if ask == "fold_in":
        more = known.fold_in(table)
        assert set(_values(table, "user")) <= set(more.ratings.user_ids.tolist())
        return
    answer = getattr(known, ask)(table)
    if ask == "evaluate":
        assert np.isfinite(answer["rmse"])
        return
    assert type(answer) is type(table)
    n = len(_values(table, "user"))
    assert len(answer) == n
    if isinstance(table, pd.DataFrame):
        assert answer.index.equals(table.index)
    if ask == "predict":
        assert _values(answer, "user") == _values(table, "user")
        for side, ids in (("user", known.ratings.user_ids), ("item", known.ratings.item_ids)):
            listed = ids.tolist()
            expected = [x in listed for x in _values(table, side)]
            assert _values(answer, f"known_{side}") == expected
        assert np.isfinite(_values(answer, "mean")).all()
        _require_the_same_one_by_one(known, table, answer)


def _require_the_same_one_by_one(known: Posterior, table: Any, answer: Any) -> None:
    """Check the first prediction against that of its ids as plain Python numbers or text."""
    users, items = _values(table, "user"), _values(table, "item")
    if users:
        plain = int if known.ratings.user_ids.dtype.kind == "i" else str
        whole = [x for x in (users[0], items[0]) if isinstance(x, str) or x == int(x)]
        if len(whole) == 2:
            pair = pd.DataFrame({"user": [plain(users[0])], "item": [plain(items[0])]})
            mean = known.predict(pair)["mean"].iloc[0]
            assert math.isclose(mean, _values(answer, "mean")[0], rel_tol=1e-5)


def _names(table: Any) -> list[str]:
    return table.column_names if isinstance(table, pa.Table) else list(table.columns)
