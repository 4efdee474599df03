"""Command lines at random: each ends with exit code 0, or with 2 and words for a person."""

from __future__ import annotations

import contextlib
import functools
import io
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from pyro_pmf import MAP, PMF, Ratings, cli, fit


@functools.cache
def folder() -> Path:
    """Return a folder with tables, odd files and a saved posterior."""
    here = Path(tempfile.mkdtemp())
    rng = np.random.default_rng(0)
    user, item = np.divmod(np.arange(60), 6)
    rating = np.clip(np.rint(3 + rng.normal(size=10)[user] + 0.5 * rng.normal(size=60)), 1, 5)
    table = pd.DataFrame({"user_id": user, "item_id": item, "stars": rating})
    table.to_csv(here / "good.csv", index=False)
    table.head(7).to_parquet(here / "good.parquet", index=False)
    table.drop(columns="stars").to_csv(here / "pairs.tsv", index=False, sep="\t")
    pd.DataFrame({"item": range(6), "title": list("abcdef")}).to_csv(here / "titles.csv")
    (here / "empty.csv").write_bytes(b"")
    (here / "bytes.csv").write_bytes(bytes(range(256)))
    (here / "header.csv").write_text("user_id,item_id,stars\n")
    (here / "text.csv").write_text("user_id,item_id,stars\n1,2,good\n")
    (here / "nan.csv").write_text("user_id,item_id,stars\n1,2,\n,3,4\n")
    (here / "folder").mkdir()
    ratings = Ratings.from_frame(table, user="user_id", item="item_id", rating="stars")
    method = MAP(max_steps=30, learn_scales=None)
    fit(PMF(1, noise="shared"), ratings, method, progress=False).save(here / "m.pmf")
    return here


_FILES = [
    *("good.csv", "good.parquet", "pairs.tsv", "titles.csv", "empty.csv", "bytes.csv"),
    *("header.csv", "text.csv", "nan.csv", "folder", "m.pmf", "none.csv", "", "\0", "é.csv"),
]
_IDS = ["3", "-1", "99", "ann", "", "1.0", "9" * 30, "é", "nan"]
_NUMBERS = ["0", "1", "2", "-3", "0.5", "nan", "inf", "1e308", "x", "9" * 30]
_VALUES = {
    "--user": _IDS,
    "--item": _IDS,
    "-n": _NUMBERS,
    "--interval": _NUMBERS,
    "--at-least": _NUMBERS,
    "--seed": _NUMBERS,
    "--strategy": ["mean", "ucb", "lcb", "thompson", "probability", "best"],
    "--titles": _FILES,
    "--ratings": _FILES,
    "-o": ["out.csv", "out.parquet", "out.tsv", "out.png", "out", "m.pmf", "folder", "a/b.csv"],
}
_FLAGS = ["--json", "--rated", "--baselines", "--overwrite", "--help", "--none"]
_COMMANDS = ["evaluate", "predict", "recommend", "similar", "fold-in", "summary", "plot", "none"]


@st.composite
def inputs(draw: st.DrawFn) -> list[str]:
    """Draw the arguments of a command, most of them sound."""
    command = draw(st.sampled_from(_COMMANDS))
    model = draw(st.sampled_from(["m.pmf"] * 8 + _FILES))
    arguments = [command, model]
    if command in ("evaluate", "predict", "fold-in"):
        arguments.append(draw(st.sampled_from(["good.csv"] * 8 + _FILES)))
    if command == "plot":
        kinds = "calibration", "elbo", "error-by-sd", "factor-norms", "pit", "scales", "none"
        arguments.append(draw(st.sampled_from(kinds)))
    for option in draw(st.lists(st.sampled_from(list(_VALUES)), max_size=3)):
        arguments += [option, draw(st.sampled_from(_VALUES[option]))]
    return arguments + draw(st.lists(st.sampled_from(_FLAGS), max_size=2))


def attempt(arguments: list[str]) -> str:
    """Run a command; return its name and how it ended; raise where it ended otherwise."""
    before = (folder() / "m.pmf" / "posterior.json").read_bytes()
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with (
        contextlib.chdir(folder()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(sys, "argv", ["pyro-pmf", *arguments]),
    ):
        try:
            cli.main()
        except SystemExit as left:
            code = left.code or 0
    assert code in (0, 2), (arguments, code, err.getvalue())
    assert "Traceback" not in err.getvalue()
    if code == 2:
        assert "Error" in err.getvalue(), arguments
        assert out.getvalue() == "", arguments
    else:
        assert out.getvalue(), arguments
    if "--overwrite" not in arguments:
        assert (folder() / "m.pmf" / "posterior.json").read_bytes() == before
    return f"{arguments[0]}: {'answered' if code == 0 else 'refused'}"
