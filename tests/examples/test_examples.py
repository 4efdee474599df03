"""Run every example, on little data and for a few steps."""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot

import pyro_pmf
from pyro_pmf import MAP, FitError, Gibbs, fit

EXAMPLES = Path(__file__).parents[2] / "examples"

# By example: flags that make it quick; each test adds --out.
FLAGS = {
    "movies.py": ["--sample", "2000", "--max-steps", "3", "--n-factors", "2", "--no-progress"],
    "music.py": [
        *("--sample", "2000", "--max-steps", "3", "--n-factors", "2", "--no-progress"),
    ],
    "replay.py": [
        *("--users", "6", "--items", "8", "--rounds", "2", "--replications", "2"),
        *("--max-steps", "5"),
    ],
    "new_user.py": ["--sample", "3000", "--max-steps", "5", "--n-factors", "2"],
}
MOVIES = [
    "Global mean",
    "Biases only",
    "MAP, as in the article",
    "MAP",
    "MAP, hierarchical users",
    "MAP, hierarchical users and films",
    "VI",
    "VI, hierarchical users",
    "VI, hierarchical users and films",
    "VI, and noise of users and films",
    "VI, the same with ordered levels",
]
PICTURES = [
    f"{name}.png"
    for name in ("calibration", "elbo", "error_by_sd", "factors", "pit", "scales", "user")
]


@pytest.fixture(autouse=True)
def _agg():
    backend = pyplot.get_backend()
    pyplot.switch_backend("agg")
    yield
    left_open = pyplot.get_fignums()
    pyplot.close("all")
    pyplot.switch_backend(backend)
    assert not left_open


@pytest.fixture(autouse=True)
def _usual_scales(monkeypatch):
    """Make one fit of each model, not four: the choice of scales has tests of its own."""
    monkeypatch.setattr("pyro_pmf.fitting._learn_scales", lambda *_: (None, None))


@pytest.fixture
def run(monkeypatch, capsys):
    def run(name, *flags):
        monkeypatch.setattr(sys, "argv", [name, *FLAGS[name], *map(str, flags)])
        monkeypatch.syspath_prepend(EXAMPLES)  # as Python does for a script: it has helper modules
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def folder(tmp_path):
    """A small MovieLens folder, as GroupLens packs it; one film has no title."""
    random = np.random.default_rng(0)
    cells = random.choice(40 * 30, 600, replace=False)
    user, film = np.divmod(cells, 30)
    taste = np.where((user + film) % 2, 1.0, -1.0)
    ratings = {
        "userId": user + 1,
        "movieId": film + 100,
        "rating": np.clip(np.round(6 + 3 * taste + random.normal(size=600)) / 2, 0.5, 5),
        "timestamp": 1_000_000_000 + cells,
    }
    films = {
        "movieId": range(101, 130),
        "title": [f"A film of some length, {'and more ' * (k % 9)}no. {k}" for k in range(29)],
        "genres": "Drama",
    }
    where = tmp_path / "ml-tiny"
    where.mkdir()
    pd.DataFrame(ratings).to_csv(where / "ratings.csv", index=False)
    pd.DataFrame(films).to_csv(where / "movies.csv", index=False)
    return where


def table(printed):
    """The lines of the table of held-out scores."""
    section = printed.split("Held-out ratings\n")[1].split("\n\n")[0]
    return section.splitlines()[2:]


def test_every_example_is_run_here():
    scripts = [path.name for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text()]
    assert sorted(scripts) == sorted(FLAGS)


@pytest.mark.slow
def test_replay(run):
    printed = run("replay.py")
    assert "6 users, 8 items, 2 rounds, 2 replications, simulated." in printed
    rows = [
        line for line in printed.splitlines() if line.startswith(("all rounds", "second half"))
    ]
    assert [row[28:40].strip() for row in rows] == 2 * ["mean", "ucb", "thompson"]
    for row in rows:
        assert float(row[40:47]) >= 0  # a regret
        assert (" to " in row) == ("mean" not in row)


@pytest.mark.slow
def test_new_user(run):
    printed = run("new_user.py")
    before, rated, after = printed.strip().split("\n\n")
    assert "Blade Runner" in rated
    assert [line.split()[0] for line in before.splitlines()[1:]] == list("12345")
    assert len(after.splitlines()) == 6
    assert before.splitlines()[1:] != after.splitlines()[1:]


@pytest.mark.slow
def test_movies(run, tmp_path):
    out = tmp_path / "pictures"
    printed = run("movies.py", "--out", out)
    assert "2,000 ratings of " in printed
    assert "200 held out (seed 0)" in printed.replace("\n", " ")
    for name, line in zip(MOVIES, table(printed), strict=True):
        assert line[:34].rstrip() == name
        assert len(line[34:].split()) in (1, 8)  # a failed fit has one word
    assert "sigma_Z" in printed
    assert "lie inside" in printed
    assert "\n10  " in printed.split("Ten films")[1]
    assert max(map(len, printed.splitlines()[:-1])) <= 100  # the last names a folder
    assert sorted(path.name for path in out.iterdir()) == PICTURES
    assert all(pyplot.imread(path).std() > 0 for path in out.iterdir())


@pytest.mark.long
def test_movies_of_a_folder(run, folder, tmp_path):
    printed = run("movies.py", "--data", folder, "--sample", 600, "--out", tmp_path, "--seed", 1)
    assert "600 ratings of 30 films by 40 users, 0.5 to 5 stars" in printed
    assert "(seed 1)" in printed
    assert len(table(printed)) == len(MOVIES)
    assert "A film of some length" in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 100  # the last names a folder


@pytest.mark.slow
def test_movies_with_draws(run, folder, tmp_path, monkeypatch):
    def few_draws(model, ratings, method, **options):
        if isinstance(method, Gibbs):
            method = replace(method, n_draws=4, n_warmup=4)
        return fit(model, ratings, method, **options)

    monkeypatch.setattr(pyro_pmf, "fit", few_draws)
    printed = run("movies.py", "--data", folder, "--sample", 600, "--out", tmp_path, "--draws")
    *others, last = table(printed)
    assert len(others) == len(MOVIES)
    assert last.startswith("Gibbs, with ordered levels")
    assert "Not converged after 8 draws" in printed


@pytest.mark.slow
def test_movies_goes_on_after_a_fit_that_fails(run, folder, tmp_path, monkeypatch):
    def fails_as_map(model, ratings, method, **options):
        if isinstance(method, MAP):
            raise FitError("The point estimate collapsed: try something else.")
        return fit(model, ratings, method, **options)

    monkeypatch.setattr(pyro_pmf, "fit", fails_as_map)
    flags = ["--sample", 300, "--max-steps", 2, "--out", tmp_path]
    printed = run("movies.py", "--data", folder, *flags)
    lines = dict(zip(MOVIES, table(printed), strict=True))
    for name, line in lines.items():
        assert (line[34:] == "collapsed") == name.startswith("MAP")
    assert printed.count("try something else.") == 1  # for all four of them
    assert "Pictures: " in printed


MUSIC = [
    "Mean",
    "Mean of log1p",
    "Biases only",
    "The article's recipe",
    "Normal on log1p, biases only",
    "Normal on log1p",
    "Negative binomial, biases only",
    "Negative binomial",
]


def counts_table(printed):
    """The lines of the table of held-out counts."""
    return printed.split("Held-out counts\n")[1].split("\n\n")[0].splitlines()[2:]


@pytest.mark.slow
def test_music_simulated(run, tmp_path):
    printed = run("music.py", "--simulate", "--out", tmp_path / "music")
    assert "SIMULATED" in printed
    for name, line in zip(MUSIC, counts_table(printed), strict=True):
        assert line[:34].rstrip() == name
        assert len(line[34:].split()) == 8
    for words in ("recall@10", "Similar artists", "exploration", "Pictures: "):
        assert words in printed
    lines = [line for line in printed.splitlines() if not line.startswith("Pictures")]
    assert max(map(len, lines)) <= 100
    pictures = sorted(path.name for path in (tmp_path / "music").iterdir())
    assert pictures == [
        f"{name}.png" for name in ("artists", "biases", "calibration", "neighbourhoods")
    ]
    assert all(pyplot.imread(path).std() > 0 for path in (tmp_path / "music").iterdir())


@pytest.mark.long
def test_music_of_a_folder(run, tmp_path):
    random = np.random.default_rng(0)
    cells = random.choice(150 * 80, 1200, replace=False)
    weight = np.exp(random.normal(5, 1.5, 1200)).round().astype(int) + 1
    plays = pd.DataFrame({"userID": cells // 80, "artistID": cells % 80, "weight": weight})
    names = [f"Band{'$' * (k % 2)} with a name of some length {k}" for k in range(80)]
    artists = pd.DataFrame({"id": range(80), "name": names, "url": "u", "pictureURL": "p"})
    plays.to_csv(tmp_path / "user_artists.dat", sep="\t", index=False)
    artists.to_csv(tmp_path / "artists.dat", sep="\t", index=False)
    printed = run("music.py", "--data", tmp_path, "--out", tmp_path / "music", "--seed", 1)
    assert "1,200 counts of 80 artists by 150 users (HetRec 2011" in printed.replace("\n", " ")
    assert len(counts_table(printed)) == len(MUSIC)
    assert "SIMULATED" not in printed
    assert "Band" in printed


@pytest.mark.long
def test_music_without_data_or_network(run, tmp_path, monkeypatch):
    def fail(*args, **settings):
        raise OSError("no route to host")

    monkeypatch.setattr("pooch.retrieve", fail)
    printed = run("music.py", "--out", tmp_path)
    assert "No real data" in printed
    assert "SIMULATED" in printed
