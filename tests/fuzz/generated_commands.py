"""Command lines on saved posteriors and written files; most are sound.

`attempt` is for tests; `make fuzz` tries thousands. A sound command ends with exit code 0 and with
the numbers of the library. Any other ends so too, or with exit code 2 and words for a person.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from written_files import ITEMS, NEW, RARELY, STARS, USERS, Row, files, spoilt

from pyro_pmf import MAP, PMF, VI, Gibbs, Posterior, Ratings, cli, fit, load

_POSTERIORS = {"map.pmf": "numbers", "draws.pmf": "numbers", "texts.pmf": "texts"}


@dataclass(frozen=True)
class Command:
    """A command line, the files that it reads, and what is known of its answer.

    Attributes
    ----------
    arguments : list of str
        The arguments after `pyro-pmf`.
    files : dict of str to bytes
        Files in the working directory, by name.
    is_sound : bool
        Whether it must be answered.
    check : callable, or None
        Takes what was printed, and the folder; fails where numbers are wrong.
    """

    arguments: list[str]
    files: dict[str, bytes]
    is_sound: bool = False
    check: Callable[[str, Path], None] | None = None


# What is there before


@functools.cache
def folder() -> Path:
    """Return a folder with tables, odd files and saved posteriors."""
    here = Path(tempfile.mkdtemp())
    rng = np.random.default_rng(0)
    methods: dict[str, Any] = {
        "map.pmf": MAP(max_steps=30, learn_scales=None),
        "draws.pmf": Gibbs(n_draws=4, n_warmup=4, thin=1),
        "texts.pmf": VI(max_steps=10, learn_scales=None),
    }
    for name, ids in _POSTERIORS.items():
        user, item = np.divmod(rng.permutation(48)[:36], 6)
        rating = np.array(STARS)[np.clip(user % 4 + rng.integers(-1, 2, 36), 0, 5)]
        users, items = (np.array(x[ids], dtype=object) for x in (USERS, ITEMS))
        table = pd.DataFrame({"user": users[user], "item": items[item], "rating": rating})
        ratings = Ratings.from_frame(table.infer_objects(), scale=(1, 5))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fits of a few steps
            fit(PMF(1, noise="shared"), ratings, methods[name], progress=False).save(here / name)
    titles = {"item": ITEMS["numbers"], "title": list("abcdef")}
    pd.DataFrame(titles).to_csv(here / "titles.csv", index=False)
    pd.DataFrame({"user": [1, 2], "item": [101, 102], "rating": [1, 2]}).to_csv(
        here / "good.csv", index=False
    )
    (here / "empty.csv").write_bytes(b"")
    (here / "bytes.csv").write_bytes(bytes(range(256)))
    (here / "folder").mkdir()
    return here


@functools.cache
def posterior(name: str) -> Posterior:
    """Return a posterior as it was saved."""
    return load(folder() / name)


# Commands


def _table_of(out: str, here: Path, output: str | None) -> pd.DataFrame:
    """Return the table that a command printed as JSON, or wrote."""
    if output is None:
        return pd.DataFrame(json.loads(out))
    if output.endswith(".parquet"):
        return pd.read_parquet(here / output)
    separator = "\t" if output.endswith("tsv") else ","
    return pd.read_csv(here / output, sep=separator, keep_default_na=False, dtype=str)


def _is_table(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Check that a table has the ids and the numbers of another."""
    assert list(found) == list(expected)
    assert len(found) == len(expected)
    for name in found:
        if expected[name].dtype.kind == "f":
            numbers = pd.to_numeric(found[name]).to_numpy(float)
            np.testing.assert_allclose(numbers, expected[name], rtol=1e-6, atol=1e-9)
        else:
            assert found[name].map(str).tolist() == expected[name].map(str).tolist()


def _frame(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["user", "item", "rating"])


@st.composite
def _rows(draw: st.DrawFn, ids: str, least: int = 1, n_new: int = 1) -> list[Row]:
    """Draw rows of ids that a posterior knows, and perhaps of a new one."""
    new = [NEW[ids]] * n_new
    user, item = (st.sampled_from([*known[ids], *new]) for known in (USERS, ITEMS))
    row = st.tuples(user, item, st.sampled_from(STARS))
    return draw(st.lists(row, min_size=least, max_size=8))


@st.composite
def _of_a_file(draw: st.DrawFn) -> Command:
    """Draw predict, evaluate or fold-in, of a file."""
    name = draw(st.sampled_from(list(_POSTERIORS)))
    command = draw(st.sampled_from([*["predict"] * 4, *["evaluate"] * 3, "fold-in"]))
    rows = draw(_rows(_POSTERIORS[name]))
    written, columns = draw(files(rows, with_ratings=command != "predict"))
    arguments = [command, name, next(iter(written)), *columns]
    pairs, known = _frame(rows), posterior(name)
    if command == "predict":
        output = draw(st.sampled_from([None, "out.csv", "out.tsv", "out.parquet"]))
        arguments += ["--json"] if output is None else ["-o", output]
        interval = draw(st.sampled_from([0.9, 0.5]))
        at_least = draw(st.sampled_from([None, 4.0]))
        arguments += ["--interval", str(interval)] if interval != 0.9 else []
        arguments += [] if at_least is None else ["--at-least", str(at_least)]

        def check(out: str, here: Path) -> None:
            expected = known.predict(pairs, interval, at_least)
            _is_table(_table_of(out, here, output), expected)
    elif command == "evaluate":
        arguments.append("--json")

        def check(out: str, here: Path) -> None:
            told, expected = json.loads(out), known.evaluate(pairs)
            assert told["n"] == len(rows)
            assert abs(told["rmse"] - expected["rmse"]) < 1e-4
    else:
        arguments += ["-o", "new.pmf", "--json"]

        def check(out: str, here: Path) -> None:
            told, after = json.loads(out), load(here / "new.pmf").ratings
            assert set(pairs["user"]) <= set(after.user_ids)
            assert told["ratings"] == len(after)
            assert told["new items"] == int(
                any(x == NEW[_POSTERIORS[name]] for x in pairs["item"])
            )

    if draw(RARELY):
        return Command(arguments, {k: spoilt(draw, content) for k, content in written.items()})
    return Command(arguments, written, True, check)


@st.composite
def _of_ids(draw: st.DrawFn) -> Command:
    """Draw recommend or similar, of ids as one types them."""
    name = draw(st.sampled_from(list(_POSTERIORS)))
    ids, known = _POSTERIORS[name], posterior(name)
    n = draw(st.sampled_from([1, 3, 10, 100]))
    if draw(st.booleans()):
        users = draw(st.lists(st.sampled_from([*USERS[ids], NEW[ids]]), min_size=1, max_size=3))
        arguments = ["recommend", name, *(x for user in users for x in ("--user", str(user)))]
        strategy = draw(st.sampled_from(["mean", "ucb", "lcb", "thompson"]))
        arguments += ["--strategy", strategy, "-n", str(n), "--json"]

        def check(out: str, here: Path) -> None:
            expected = known.recommend(users, n, strategy)
            rows = json.loads(out)
            assert all(list(row) == list(expected) for row in rows)
            _is_table(pd.DataFrame(rows, columns=list(expected)), expected)
    else:
        side = draw(st.sampled_from(["item", "user"]))
        some = draw(st.sampled_from((ITEMS if side == "item" else USERS)[ids]))
        arguments = ["similar", name, f"--{side}", str(some), "-n", str(n), "--json"]

        def check(out: str, here: Path) -> None:
            ask = known.similar_items if side == "item" else known.similar_users
            _is_table(_table_of(out, here, None), ask([some], n))

    return Command(arguments, {}, True, check)


@st.composite
def _fit(draw: st.DrawFn) -> Command:
    """Draw a fit of a file that has ratings of distinct pairs, or says what to do."""
    rows = draw(_rows(draw(st.sampled_from(["numbers", "texts"])), least=4))
    written, columns = draw(files(rows, with_ratings=True))
    arguments = [
        "fit",
        next(iter(written)),
        "-o",
        "fitted.pmf",
        "--method",
        "map",
        "--factors",
        "1",
    ]
    arguments += ["--json", "--scale", "1", "5", *columns]
    pairs = {row[:2] for row in rows}
    if len(pairs) < len(rows) or draw(st.booleans()):
        arguments += ["--on-duplicate", draw(st.sampled_from(["last", "mean"]))]

    def check(out: str, here: Path) -> None:
        assert json.loads(out)["ratings"] == len(pairs)
        assert set(load(here / "fitted.pmf").ratings.user_ids) == {row[0] for row in rows}

    ratings = [row[2] for row in rows]
    is_sound = len(pairs) >= 4 and len(set(ratings)) > 1 and len({row[0] for row in rows}) > 1
    if draw(RARELY):
        return Command(arguments, {k: spoilt(draw, content) for k, content in written.items()})
    return Command(arguments, written, is_sound, check if is_sound else None)


@st.composite
def _others(draw: st.DrawFn) -> Command:
    """Draw a summary, a figure, or a question for help."""
    name = draw(st.sampled_from(list(_POSTERIORS)))
    kind = draw(st.sampled_from(["summary", "summary", "plot", "help"]))
    if kind == "help":
        return Command([draw(st.sampled_from(_COMMANDS[:-1])), "--help"], {}, True)
    if kind == "summary":
        return Command(["summary", name, *draw(st.sampled_from([[], ["--json"]]))], {}, True)
    figure = draw(st.sampled_from(["calibration", "error-by-sd", "pit", "factor-norms"]))
    arguments = ["plot", name, figure, "-o", draw(st.sampled_from(["x.png", "x.svg"]))]
    if figure == "factor-norms":
        return Command(arguments, {}, True)
    rows = draw(_rows(_POSTERIORS[name], least=5))
    written, _ = draw(files(rows, with_ratings=True).filter(lambda drawn: not drawn[1]))
    return Command([*arguments, "--ratings", next(iter(written))], written)


# Any arguments

_FILES = [
    *("good.csv", "titles.csv", "empty.csv", "bytes.csv", "folder", "map.pmf", "none.csv"),
    *("", "\0", "é.csv", "-"),
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
    "-o": ["out.csv", "out.parquet", "out.tsv", "out.png", "out", "map.pmf", "folder", "a/b.csv"],
}
_OPTIONS = {
    "evaluate": ["--user", "--interval"],
    "predict": ["--item", "--interval", "--at-least", "-o"],
    "recommend": ["--user", "-n", "--strategy", "--at-least", "--titles", "--seed", "-o"],
    "similar": ["--item", "--user", "-n", "--titles", "-o"],
    "fold-in": ["--item", "--seed", "-o"],
    "summary": ["-o"],
    "plot": ["--ratings", "-o"],
}
_FLAGS = ["--json", "--rated", "--baselines", "--overwrite", "--help", "--none"]
_COMMANDS = [*_OPTIONS, "fit", "none"]


@st.composite
def _anything(draw: st.DrawFn) -> Command:
    """Draw arguments of which any may be wrong."""
    command = draw(st.sampled_from([*_OPTIONS, *_OPTIONS, "none"]))
    arguments = [command, draw(st.sampled_from(["map.pmf"] * 24 + _FILES))]
    if command in ("evaluate", "predict", "fold-in"):
        arguments.append(draw(st.sampled_from(["good.csv"] * 24 + _FILES)))
    if command == "plot":
        kinds = "calibration", "elbo", "error-by-sd", "factor-norms", "pit", "scales", "none"
        arguments.append(draw(st.sampled_from(kinds)))
    known = st.sampled_from(_OPTIONS.get(command, ["-n"]))
    options = st.one_of(known, known, known, st.sampled_from(list(_VALUES)))
    for option in draw(st.lists(options, max_size=3)):
        arguments += [option, draw(st.sampled_from(_VALUES[option]))]
    return Command(arguments + draw(st.lists(st.sampled_from(_FLAGS), max_size=1)), {})


def inputs() -> st.SearchStrategy[Command]:
    """Return a strategy of commands, most of them sound."""
    of_files, of_ids = [_of_a_file()] * 8, [_of_ids()] * 5
    return st.sampled_from([*of_files, *of_ids, *[_anything()] * 3, _others(), _fit()]).flatmap(
        lambda kind: kind
    )


# Trying them


def attempt(command: Command) -> str:
    """Run a command; return its name and how it ended; raise where it ended otherwise."""
    with tempfile.TemporaryDirectory() as there:
        here = Path(there)
        shutil.copytree(folder(), here, dirs_exist_ok=True)
        for name, content in command.files.items():
            (here / name).write_bytes(content)
        before = _contents(here)
        code, out, said = _run(command.arguments, here)
        _require_an_end(command, code, out, said)
        if code == 2:
            assert _contents(here) == before, command.arguments
        elif command.check is not None:
            command.check(out, here)
    return f"{command.arguments[0]}: {'answered' if code == 0 else 'refused'}"


def _require_an_end(command: Command, code: object, out: str, said: str) -> None:
    """Check the exit code, and where the words stand."""
    assert code in (0, 2), (command.arguments, code, said)
    assert "Traceback" not in said
    if code == 2:
        assert not command.is_sound, (command.arguments, said)
        assert "Error" in said, command.arguments
        assert out == "", command.arguments
    else:
        assert out, command.arguments


def _contents(here: Path) -> dict[str, bytes]:
    return {str(x): x.read_bytes() for x in sorted(here.rglob("*")) if x.is_file()}


def _run(arguments: list[str], here: Path) -> tuple[object, str, str]:
    """Run a command in a folder; return its exit code, its output and its errors."""
    out, said = io.StringIO(), io.StringIO()
    code: object = None
    with (
        contextlib.chdir(here),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(said),
        patch.object(sys, "argv", ["pyro-pmf", *arguments]),
        patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO())),
    ):
        try:
            cli.main()
        except SystemExit as left:
            code = left.code or 0
    return code, out.getvalue(), said.getvalue()
