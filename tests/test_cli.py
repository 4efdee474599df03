"""The command line: what it prints, what it saves, and how it refuses."""

import functools
import io
import json
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from pyro_pmf import MAP, PMF, Ratings, cli, fit, load
from pyro_pmf.cli import answers


def stars(users: range, seed: int) -> pd.DataFrame:
    """Return stars of 12 films, in columns named as those of MovieLens."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.array(users), 8)
    item = np.concatenate([rng.choice(12, 8, replace=False) for _ in users])
    taste = rng.normal(size=max(users) + 1)
    rating = np.clip(np.rint(3 + taste[user] + rng.normal(size=len(user))), 1, 5)
    return pd.DataFrame({"userId": user, "movieId": item, "rating": rating})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with tables and a posterior of them, fitted by the command line."""
    folder = tmp_path_factory.mktemp("shop")
    stars(range(20), 0).to_csv(folder / "ratings.csv", index=False)
    stars(range(20, 23), 1).to_csv(folder / "new.csv", index=False)
    titles = {"movieId": range(12), "title": [f"Film {k}" for k in range(12)]}
    pd.DataFrame(titles).to_csv(folder / "movies.csv", index=False)
    command = ["fit", "ratings.csv", "-o", "m.pmf", "--method", "map", "--factors", "1"]
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        here.setattr("pyro_pmf.fitting._learn_scales", lambda *_: (None, None))  # it takes long
        assert run(command) == 0
    return folder


def run(arguments: list[str]) -> int:
    """Return the exit code of the command line with these arguments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pyro-pmf", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
    return left.value.code or 0


@pytest.fixture
def ask(folder, capsys, monkeypatch):
    """Run a command in the folder; return its exit code, output and errors."""
    monkeypatch.chdir(folder)

    def asked(*arguments: object):
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return asked


def test_fit_says_what_it_took_and_what_it_saved(ask, tmp_path):
    code, out, said = ask(
        *("fit", "ratings.csv", "-o", tmp_path / "m", "--method", "map"),
        *("--factors", 1, "--likelihood", "auto", "--test", 0.2, "--json"),
    )
    assert code == 0
    assert "user from 'userId', item from 'movieId'" in said
    told = json.loads(out)
    assert told["users"] == 20
    assert told["likelihood"] == "OrderedLogit(n_levels=5)"  # as "auto" chose
    assert 0.3 < told["rmse"] < 3
    assert load(tmp_path / "m").ratings.n_users == 20


def test_predict_writes_what_the_posterior_predicts(ask, folder, tmp_path):
    code, out, _ = ask("predict", "m.pmf", "ratings.csv", "-o", tmp_path / "p.csv")
    assert code == 0
    assert "160" in out
    pairs = pd.read_csv(folder / "ratings.csv")
    expected = load(folder / "m.pmf").predict(pairs)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "p.csv"), expected, check_dtype=False)
    assert ask("predict", "m.pmf", "ratings.csv", "-o", tmp_path / "p.parquet")[0] == 0
    again = pd.read_parquet(tmp_path / "p.parquet")
    pd.testing.assert_frame_equal(again, expected, check_dtype=False)


def test_recommend_joins_titles(ask, folder):
    code, out, _ = ask(
        "recommend", "m.pmf", "--user", 5, "-n", 3, "--titles", "movies.csv", "--json"
    )
    assert code == 0
    rows = json.loads(out)
    expected = load(folder / "m.pmf").recommend([5], 3)
    assert [row["item"] for row in rows] == expected["item"].tolist()
    assert [row["title"] for row in rows] == [f"Film {k}" for k in expected["item"]]
    text = ask("recommend", "m.pmf", "--user", 5, "-n", 3)[1]
    assert text.splitlines()[0].split()[:3] == ["user", "item", "rank"]


def test_an_unknown_user_is_told_apart(ask):
    code, out, err = ask("recommend", "m.pmf", "--user", 5, "--user", 99, "-n", 2)
    assert code == 0
    assert len(out.splitlines()) == 5
    assert "No ratings of user 99 are known" in err
    assert "user 5 are" not in err


@pytest.mark.parametrize("is_pipe", [False, True])
def test_tables_from_a_stream(ask, folder, tmp_path, monkeypatch, is_pipe):
    table = (folder / "ratings.csv").read_bytes()
    path = "-"
    if is_pipe:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_bytes, args=(table,))
        writer.start()
    else:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(table)))
    code, out, _ = ask("predict", "m.pmf", path, "--json")
    if is_pipe:
        writer.join()
    assert code == 0
    assert out == ask("predict", "m.pmf", "ratings.csv", "--json")[1]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    code, _, err = ask("predict", "m.pmf", "-")
    assert code == 2
    assert "is empty" in err


def test_evaluate_similar_and_summary(ask, folder):
    code, out, _ = ask("evaluate", "m.pmf", "ratings.csv", "--json")
    assert code == 0
    expected = load(folder / "m.pmf").evaluate(pd.read_csv(folder / "ratings.csv"))
    assert json.loads(out)["rmse"] == pytest.approx(expected["rmse"], abs=1e-4)
    code, out, _ = ask("evaluate", "m.pmf", "ratings.csv", "--baselines", "--json")
    assert code == 0
    rmse = next(row for row in json.loads(out) if row["score"] == "rmse")
    assert rmse["model"] < rmse["biases"] < rmse["mean"]
    code, out, _ = ask("similar", "m.pmf", "--item", 3, "-n", 2, "--titles", "movies.csv")
    assert code == 0
    assert out.count("Film") >= 2
    assert ask("similar", "m.pmf", "--user", 3, "-n", 2)[0] == 0
    code, out, _ = ask("summary", "m.pmf")
    assert code == 0
    assert "sigma_b" in out


def test_fold_in_learns_new_users(ask, tmp_path):
    code, out, _ = ask("fold-in", "m.pmf", "new.csv", "-o", tmp_path / "n", "--json")
    assert code == 0
    assert json.loads(out)["new users"] == 3
    assert load(tmp_path / "n").ratings.n_users == 23


def test_ids_are_as_they_are_written_whatever_their_columns_are_called(ask, tmp_path):
    """As pandas reads them, 007 is the number 7, and NA is missing."""
    table = stars(range(20), 0)
    table["userId"] = [f"{user:03}" for user in table["userId"]]
    table["movieId"] = ["NA" if item == 0 else str(item) for item in table["movieId"]]
    table.columns = ["wer", "was", "wie"]
    table.to_csv(tmp_path / "r.csv", index=False)
    named = "--user", "wer", "--item", "was"
    given = "fit", tmp_path / "r.csv", "-o", tmp_path / "m", "--method", "map", "--factors", 0
    assert ask(*given, *named, "--rating", "wie")[0] == 0
    for items in (["NA", "3"], ["2", "3"]):  # all integers, in a file by itself
        pd.DataFrame({"wer": "007", "was": items}).to_csv(tmp_path / "p.csv", index=False)
        code, out, _ = ask("predict", tmp_path / "m", tmp_path / "p.csv", *named, "--json")
        assert code == 0
        assert all(row["known_user"] and row["known_item"] for row in json.loads(out))
        assert [row["item"] for row in json.loads(out)] == items


def saved(table: pd.DataFrame, path, **names: str) -> None:
    """Save a quick posterior of a table whose columns have these names."""
    ratings = Ratings.from_frame(table, **names)
    fit(PMF(0), ratings, MAP(max_steps=3, learn_scales=None), progress=False).save(path)


def test_the_names_of_columns_are_remembered(ask, tmp_path):
    """Names that say nothing, beside a column that is named as those of users are."""
    table = stars(range(20), 0).set_axis(["who", "what", "val"], axis=1)
    saved(table, tmp_path / "m", user="who", item="what", rating="val")
    table.assign(customer=0).to_csv(tmp_path / "r.csv", index=False)
    table.assign(who=table["who"] + 50).to_csv(tmp_path / "new.csv", index=False)
    code, out, _ = ask("predict", tmp_path / "m", tmp_path / "r.csv", "--json")
    assert code == 0
    assert [row["user"] for row in json.loads(out)] == table["who"].tolist()
    assert ask("evaluate", tmp_path / "m", tmp_path / "r.csv")[0] == 0
    given = "plot", tmp_path / "m", "pit", "--ratings", tmp_path / "r.csv"
    assert ask(*given, "-o", tmp_path / "p.png")[0] == 0
    given = "fold-in", tmp_path / "m", tmp_path / "new.csv", "-o", tmp_path / "n", "--json"
    assert json.loads(ask(*given)[1])["new users"] == 20


def test_a_name_that_is_given_counts_more_than_one_that_is_remembered(ask, tmp_path):
    table = stars(range(20), 0).set_axis(["who", "what", "val"], axis=1)
    saved(table, tmp_path / "m", user="who", item="what", rating="val")
    table.set_axis(["what", "film", "who"], axis=1).to_csv(tmp_path / "r.csv", index=False)
    given = "predict", tmp_path / "m", tmp_path / "r.csv", "--json", "--user", "what"
    code, out, _ = ask(*given)
    assert code == 0
    assert [row["user"] for row in json.loads(out)] == table["who"].tolist()
    assert [row["item"] for row in json.loads(out)] == table["what"].tolist()
    code, _, said = ask(*given, "--item", "what")
    assert code == 2
    assert "two roles" in said


def test_ids_that_are_text_stay_as_they_are_written(ask, tmp_path):
    """A file with 1.0 and 2.0 only would be one of integers, as would one of 1 and 2."""
    table = stars(range(20), 0).set_axis(["user", "item", "rating"], axis=1)
    table["item"] = table["item"].map(lambda item: f"{item // 2}.{item % 2}")
    saved(table, tmp_path / "m")
    names = [f"{item // 2}.0" for item in range(0, 12, 2)]
    pd.DataFrame({"user": 3, "item": names}).to_csv(tmp_path / "p.csv", index=False)
    code, out, _ = ask("predict", tmp_path / "m", tmp_path / "p.csv", "--json")
    assert code == 0
    assert [row["item"] for row in json.loads(out)] == names
    assert all(row["known_item"] for row in json.loads(out))
    titles = pd.DataFrame({"item": names, "title": [f"Film {name}" for name in names]})
    titles.to_csv(tmp_path / "t.csv", index=False)
    given = "--user", 99, "-n", 99, "--titles", tmp_path / "t.csv", "--json"
    rows = json.loads(ask("recommend", tmp_path / "m", *given)[1])
    found = {row["item"]: row["title"] for row in rows}
    assert found == {x: f"Film {x}" if x in names else None for x in set(table["item"])}


def test_pairs_that_occur_twice(ask, folder, tmp_path):
    table = pd.read_csv(folder / "ratings.csv")
    pd.concat([table, table.head(3)]).to_csv(tmp_path / "twice.csv", index=False)
    given = "fit", tmp_path / "twice.csv", "-o", tmp_path / "m", "--method", "map", "--factors", 0
    assert ask(*given)[0] == 2
    assert ask(*given, "--on-duplicate", "first")[0] == 2
    code, out, _ = ask(*given, "--on-duplicate", "mean", "--json")
    assert code == 0
    assert json.loads(out)["ratings"] == len(table)


def test_a_table_without_rows(ask, folder, tmp_path):
    (tmp_path / "none.csv").write_text("userId,movieId\n")
    assert ask("predict", "m.pmf", tmp_path / "none.csv")[:2] == (0, "No rows.\n")
    assert ask("predict", "m.pmf", tmp_path / "none.csv", "--json")[:2] == (0, "[]\n")


def test_figures(ask, tmp_path):
    assert ask("plot", "m.pmf", "elbo", "-o", tmp_path / "elbo.png")[0] == 0
    assert (tmp_path / "elbo.png").read_bytes().startswith(b"\x89PNG")
    given = "plot", "m.pmf", "calibration", "--ratings", "ratings.csv"
    assert ask(*given, "-o", tmp_path / "c.svg")[0] == 0
    assert "<svg" in (tmp_path / "c.svg").read_text()


@pytest.mark.parametrize(
    ("given", "written"),
    [("elbo", "elbo.png"), ("a.", "a.png"), ("b.svg", "b.svg"), ("new/c", "new/c.png")],
)
def test_a_figure_is_where_the_answer_says(ask, tmp_path, given, written):
    code, out, _ = ask("plot", "m.pmf", "elbo", "-o", tmp_path / given)
    assert code == 0
    assert out.split() == ["saved", str(tmp_path / written)]
    assert (tmp_path / written).is_file()


@pytest.mark.parametrize("place", [".", "..", "there", "there.png", "here"])
def test_a_figure_does_not_take_the_place_of_a_folder(ask, folder, tmp_path, monkeypatch, place):
    for name in ("there", "there.png", "here.png"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, said = ask("plot", folder / "m.pmf", "elbo", "-o", place)
    assert (code, out) == (2, "")
    assert "is a folder" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_figure_of_ratings_from_stdin(ask, folder, tmp_path, monkeypatch):
    table = (folder / "ratings.csv").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(table)))
    assert ask("plot", "m.pmf", "pit", "--ratings", "-", "-o", tmp_path / "p.png")[0] == 0
    assert (tmp_path / "p.png").is_file()


@pytest.mark.parametrize(
    ("options", "encoding", "write"),
    [
        (["decimal=,"], "utf-8", {"sep": ";", "decimal": ","}),
        (["encoding=latin-1", "sep=^"], "latin-1", {"sep": "^"}),
        (["names=user,item,rating"], "utf-8", {"header": False}),
    ],
)
def test_files_may_be_read_otherwise(ask, folder, tmp_path, options, encoding, write):
    table = pd.read_csv(folder / "ratings.csv").assign(é=1)
    columns = ["userId", "movieId", "rating", *(["é"] if "header" not in write else [])]
    path = tmp_path / "r.csv"
    table.to_csv(path, index=False, encoding=encoding, columns=columns, **write)
    code, _, said = ask("evaluate", "m.pmf", path)
    assert code == 2
    assert "--read" in said
    given = [x for option in options for x in ("--read", option)]
    code, out, _ = ask("evaluate", "m.pmf", path, "--json", *given)
    assert code == 0
    assert out == ask("evaluate", "m.pmf", "ratings.csv", "--json")[1]


@pytest.mark.parametrize("place", ["taken", "taken/m", "here"])
def test_a_place_that_cannot_be_written_is_refused_before_the_fit(
    ask, folder, tmp_path, monkeypatch, place
):
    (tmp_path / "taken").write_text("x")
    (tmp_path / "here").mkdir()
    monkeypatch.setattr("pyro_pmf.cli.commands.fit", None)
    code, _, said = ask("fit", "ratings.csv", "-o", tmp_path / place, "--overwrite")
    assert code == 2
    assert str(tmp_path / place) in said


@pytest.mark.parametrize("checkpoint", ["a.pmf", "./a.pmf", "a.pmf/checkpoint"])
def test_a_checkpoint_in_the_folder_of_the_result_is_refused_before_the_fit(
    ask, tmp_path, monkeypatch, checkpoint
):
    monkeypatch.setattr("pyro_pmf.cli.commands.fit", None)
    given = "fit", "ratings.csv", "-o", tmp_path / "a.pmf"
    code, _, said = ask(*given, "--checkpoint", f"{tmp_path}/{checkpoint}")
    assert code == 2
    assert "is in the folder of the result" in said
    assert not list(tmp_path.iterdir())


def test_a_table_is_written_to_a_new_folder(ask, tmp_path):
    path = tmp_path / "new" / "er" / "P.TSV"
    assert ask("predict", "m.pmf", "ratings.csv", "-o", path)[0] == 0
    assert len(pd.read_csv(path, sep="\t")) == 160


def test_titles_of_text_ids(ask, folder, tmp_path):
    table = stars(range(8), 0).astype({"movieId": str}).replace({"movieId": {"11": "x"}})
    saved(table, tmp_path / "t.pmf", user="userId", item="movieId")
    given = "--user", 1, "-n", 99, "--titles", "movies.csv", "--json"
    rows = json.loads(ask("recommend", tmp_path / "t.pmf", *given)[1])
    titles = {row["item"]: row["title"] for row in rows}
    assert titles == {x: None if x == "x" else f"Film {x}" for x in titles}


def test_a_terminal_shows_all_digits_and_all_of_a_title(monkeypatch):
    """Rich takes [rec] for a style, and shortens what does not fit."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", shown := io.StringIO())
    monkeypatch.setattr(answers, "Console", functools.partial(Console, force_terminal=True))
    columns = {f"number {k}": [-1234.5678] for k in range(6)} | {"title": ["[rec] a title"]}
    answers.show(pd.DataFrame(columns), None, False)
    assert shown.getvalue().count("-1235") == 6
    assert "[rec] a title" in shown.getvalue()


def test_letters_that_stdout_cannot_encode(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with answers.as_lines():
        answers.show(pd.DataFrame({"user": ["zoë"]}), None, False)
    sys.stdout.flush()
    assert b"zo\\xeb" in written.getvalue()


def test_only_the_first_of_several_processes_prints(ask, tmp_path, monkeypatch):
    """As `torchrun` starts them; an error may be in one of them only."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    for rank, shown in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        for command in (["evaluate", "m.pmf", "ratings.csv"], ["summary", "m.pmf"]):
            code, out, said = ask(*command)
            assert code == 0
            assert (bool(out), bool(said)) == (shown, shown)
    code, _, said = ask("evaluate", "m.pmf", "none.csv")
    assert code == 2
    assert said.startswith("Error in process 1: none.csv cannot be read")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "none.csv", "-o", "x"], "none.csv cannot be read"),
        (["fit", "ratings.csv", "-o", "m.pmf"], "--overwrite"),
        (["fit", "ratings.csv", "-o", "x", "--scale", 1, 3], "outside the scale"),
        (["fit", "ratings.csv", "-o", "x", "--user", "customer"], "customer"),
        (["fit", "ratings.csv", "-o", "x", "--test", 1.5], "test_fraction"),
        (["predict", "m.pmf", "movies.csv"], "user"),
        (["predict", "m.pmf", "ratings.csv", "-o", "p.xlsx"], ".parquet"),
        (["predict", "none.pmf", "ratings.csv"], "none.pmf"),
        (["evaluate", "m.pmf", "movies.csv"], "user"),
        (["recommend", "m.pmf", "--user", "ann"], "integers"),
        (["recommend", "m.pmf", "--user", "1_0"], "integers"),
        (["recommend", "m.pmf", "--user", 5, "-n", 0], "n must"),
        (["recommend", "m.pmf", "--user", 5, "--titles", "ratings.csv"], "title"),
        (["similar", "m.pmf"], "--item or --user"),
        (["similar", "m.pmf", "--item", 99], "99"),
        (["plot", "m.pmf", "elbo", "-o", "x.png", "--ratings", "ratings.csv"], "takes no"),
        (["plot", "m.pmf", "pit", "-o", "x.png"], "needs --ratings"),
        (["plot", "m.pmf", "elbo", "-o", "x.doc"], "doc"),
        (["fold-in", "m.pmf", "movies.csv", "-o", "x"], "user"),
    ],
)
def test_bad_input_gives_one_clear_line_and_exit_code_2(ask, folder, arguments, words):
    before = sorted(folder.iterdir())
    code, out, said = ask(*arguments)
    assert code == 2
    assert out == ""
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert words in errors[0]
    assert "Traceback" not in said
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fit", "movies.csv", "-o", "x"], "user= is --user"),
        (["predict", "m.pmf", "movies.csv"], "names= is --read"),
        (["plot", "m.pmf", "pit", "--ratings", "movies.csv", "-o", "x.png"], "user= is --user"),
        (["recommend", "m.pmf", "--user", 5, "--titles", "one.csv"], "sep= is --read"),
        (["fit", "ratings.csv", "-o", "x", "--scale", 1, 3], None),
        (["fit", "ratings.csv", "-o", "x", "--test", 1.5], None),
        (["fit", "ratings.csv", "-o", "x", "--resume"], None),
        (["recommend", "m.pmf", "--user", 5, "--at-least", 4], None),
        (["recommend", "m.pmf", "--user", 5, "--titles", "ratings.csv"], None),
    ],
)
def test_a_hint_names_options_that_the_command_has(ask, folder, arguments, named):
    (folder / "one.csv").write_text("title\nFilm\n")
    code, _, said = ask(*arguments)
    assert code == 2
    hints = [line for line in said.splitlines() if line.startswith("Here, ")]
    assert len(hints) == (named is not None)
    if named is not None:
        assert named in hints[0]
        helped = ask(arguments[0], "--help")[1]
        assert all(option in helped for option in re.findall(r"--[a-z]+", hints[0]))


@pytest.mark.parametrize("command", [["recommend", "--user", 5], ["similar", "--item", 3]])
def test_a_file_of_titles_needs_two_columns(ask, tmp_path, command):
    table = pd.DataFrame({"id": range(12), "name": "x"})
    table.to_csv(tmp_path / "t.csv", index=False)
    given = command[0], "m.pmf", *command[1:], "--titles", tmp_path / "t.csv"
    code, _, said = ask(*given)
    assert code == 2
    assert "it needs one column of items, called movieId, item" in said
    assert "=" not in said
    renamed = table.rename(columns={"id": "movieId"})
    renamed.to_csv(tmp_path / "t.csv", index=False)
    assert ask(*given)[0] == 0


def test_the_script_runs_and_its_help_has_examples():
    command = [sys.executable, "-m", "pyro_pmf.cli", "recommend", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pyro-pmf recommend films.pmf --user 5" in done.stdout
