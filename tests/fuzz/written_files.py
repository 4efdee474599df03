"""Files of pairs as people write them: separators, quotes, blanks, names and endings."""

from __future__ import annotations

import gzip
import io
from typing import Any

import pandas as pd
from hypothesis import strategies as st

Row = tuple[Any, Any, float]

USERS: dict[str, list[Any]] = {
    "numbers": [1, 2, 3, 5, 8, 13, 21, -4],
    "texts": ["ann", "Bob B", "ü", "-x", "007", "7", "x,y", 'q"t'],
}
ITEMS: dict[str, list[Any]] = {
    "numbers": [101, 102, 103, 104, 105, 0],
    "texts": ["日本", "b", "the film", "-3", "NA", "nan"],
}
NEW = {"numbers": 99, "texts": "zoë"}
STARS = [1.0, 2.0, 2.5, 3.0, 4.0, 5.0]
RARELY = st.sampled_from([False] * 5 + [True])

_NAMES = [
    ("user", "item", "rating"),
    ("userId", "movieId", "rating"),
    ("Customer ID", "sku", "Stars"),
    ("wer", "was", "wie"),  # known to nobody
]
_ENDINGS = {",": "x.csv", ";": "x.csv", "\t": "x.tsv", "|": "x.txt"}


def _quoted(cell: Any, separator: str, always: bool) -> str:
    text = str(cell)
    odd = any(x in text for x in (separator, '"'))
    return '"' + text.replace('"', '""') + '"' if odd or always else text


@st.composite
def _text(draw: st.DrawFn, header: list[str], rows: list[list[Any]]) -> tuple[str, bytes]:
    """Draw delimited text of a table: its name and its bytes."""
    separator = draw(st.sampled_from(list(_ENDINGS)))
    always = draw(st.booleans())
    pad = draw(st.sampled_from(["", "", " "]))
    lines = [
        separator.join(pad * (k > 0) + _quoted(x, separator, always) for k, x in enumerate(row))
        for row in [header, *rows]
    ]
    if draw(st.booleans()):
        lines.insert(draw(st.integers(1, len(lines))), "")  # a blank line
    text = draw(st.sampled_from(["\n", "\r\n"])).join(lines) + draw(
        st.sampled_from(["", "\n", "\n\n"])
    )
    content = text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig"])))
    if draw(RARELY):
        return _ENDINGS[separator] + ".gz", gzip.compress(content)
    return _ENDINGS[separator], content


@st.composite
def files(
    draw: st.DrawFn, rows: list[Row], with_ratings: bool
) -> tuple[dict[str, bytes], list[str]]:
    """Draw a file of pairs, and the options that name its columns."""
    names = draw(st.sampled_from(_NAMES))
    roles = "user", "item", "rating"
    n = 3 if with_ratings or draw(st.booleans()) else 2
    order = draw(st.permutations(range(n)))
    header = [names[k] for k in order]
    cells: list[list[Any]] = [[row[k] for k in order] for row in rows]
    if draw(st.booleans()):
        header, cells = (
            [*header, "note"],
            [[*x, draw(st.sampled_from(["", "a b"]))] for x in cells],
        )
    if draw(RARELY):
        buffer = io.BytesIO()
        pd.DataFrame(cells, columns=header).to_parquet(buffer)
        files = {"x.parquet": buffer.getvalue()}
    else:
        name, content = draw(_text(header, cells))
        files = {name: content}
    given = names[0] == "wer" or draw(st.booleans())
    options = [[f"--{roles[k]}", names[k]] for k in order if given and (k < 2 or with_ratings)]
    return files, [x for pair in options for x in pair]


def spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    """Return a file with a fault, which may be harmless."""
    kind = draw(st.sampled_from(["cut", "byte", "odd", "encoding", "empty", "header", "line"]))
    k = draw(st.integers(0, len(content) - 1))
    odd = [b"four", b"1,5", b"nan", b"-", b'"', b"\0", b"1e400", b"2020-01-01", b"9" * 30]
    if kind == "cut":
        return content[:k]
    if kind == "byte":
        return content[:k] + bytes([draw(st.integers(0, 255))]) + content[k + 1 :]
    if kind == "odd":
        return content[:k] + draw(st.sampled_from(odd)) + content[k + 1 :]
    if kind == "encoding":
        to = draw(st.sampled_from(["utf-16", "latin-1"]))
        return content.decode("utf-8", "replace").encode(to, "replace")
    if kind == "header":
        return content.splitlines(keepends=True)[0]
    return b"" if kind == "empty" else content + b"1\n"
