"""The pages: their code runs, their links lead somewhere, their lines are short."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyro_pmf import VI, Gibbs
from pyro_pmf.inference import methods

ROOT = Path(__file__).parent.parent
PRINTED = ROOT / "benchmarks" / "results"  # by the benchmarks, tables wider than a page
LONGEST = 120


def pages() -> list[Path]:
    """Return the Markdown files that belong to the project."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.md")]
    return sorted(found)


def code_of(page: Path) -> list[str]:
    """Return the blocks of Python code on a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def films(tmp_path, monkeypatch) -> None:
    """Write a small ratings.csv like MovieLens' into the working directory."""
    generator = np.random.default_rng(0)
    cells = generator.choice(40 * 40, 1300, replace=False)
    user, item = np.divmod(np.sort(cells), 40)
    score = generator.normal(size=40)[user] + generator.normal(size=40)[item]
    stars = (3.25 + 0.7 * score + 0.7 * generator.normal(size=len(user))).clip(0.5, 5)
    frame = pd.DataFrame({"userId": user, "movieId": item, "rating": (2 * stars).round() / 2})
    frame.to_csv(tmp_path / "ratings.csv", index=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["quick", pytest.param("as it is", marks=pytest.mark.long)])
def is_quick(request, monkeypatch) -> bool:
    """Whether fits by name do not choose scales, which takes most of the time, and draw less."""
    if request.param == "quick":
        monkeypatch.setitem(methods._BY_NAME, "vi", VI(learn_scales=None))
        monkeypatch.setitem(methods._BY_NAME, "gibbs", Gibbs(n_draws=20, n_warmup=20, thin=1))
    return request.param == "quick"


@pytest.mark.slow
def test_code_of_the_readme_runs(films, monkeypatch, is_quick):
    """Every block in turn, as a reader types them; progress bars and figures are not looked at."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    blocks = code_of(ROOT / "README.md")
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no factors in so few ratings; high Pareto k
        for block in blocks:
            typed = block
            if is_quick:
                typed = block.replace("for K in (0, 8)", "for K in (2,)")
                typed = typed.replace("max_steps=100", "max_steps=10")
            exec(compile(typed, "README.md", "exec"), names)
    pyplot.close("all")
    assert Path("movies.pmf").is_dir()


@pytest.mark.slow
def test_code_of_the_page_of_answers_runs(tmp_path, monkeypatch, capsys, is_quick):
    """Every block in turn; what the page promises of the results is so."""
    pytest.importorskip("polars")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.chdir(tmp_path)
    if is_quick:  # but finds the factors, as usual scales do not
        monkeypatch.setitem(methods._BY_NAME, "vi", VI(learn_scales="elbo"))
    page = ROOT / "docs" / "how-do-i.md"
    blocks = code_of(page)
    assert len(blocks) == page.read_text(encoding="utf-8").count("\n## ") + 1
    names: dict[str, Any] = {}
    for block in blocks:
        typed = block.replace("k=3", "k=2") if is_quick else block
        exec(compile(typed, page.name, "exec"), names)
    refused = capsys.readouterr().out
    assert "2 of 1,605 rows have a missing or infinite rating in column 'stars'" in refused
    assert len(names["ratings"]) == len(names["reviews"])
    assert names["choice"].index[0] == "two factors"
    assert names["compared"]["rmse"].idxmin() == "model"
    best = names["best"]
    assert (best.groupby("user").size() == 10).all()
    assert not best["item"].isin(names["discontinued"]).any()
    rated = names["train"].to_frame()[["user", "item"]]
    assert not len(best.merge(rated, on=["user", "item"]))
    assert len(names["welcome"]) == 10
    assert not names["welcome"]["item"].isin(names["first"]["product_id"]).any()
    assert not names["posterior"].predict(names["first"])["known_user"].any()
    assert names["welcome"]["known_user"].all()
    assert len(names["why"])
    assert names["found"].loc["model", "recall"] > names["found"].loc["popularity", "recall"]
    assert not len(names["offers"].merge(names["before"], on=["user", "item"]))
    alone = names["served"].recommend(names["train"].user_ids, n=10)
    pd.testing.assert_frame_equal(pd.concat(names["answers"], ignore_index=True), alone)
    assert names["load"]("shop.pmf").predict(names["first"])["known_user"].all()


@pytest.mark.parametrize("page", pages(), ids=name)
def test_lines_are_short(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    long = [(k, len(line)) for k, line in enumerate(lines, 1) if len(line) > LONGEST]
    assert long == []


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), target


def test_every_module_of_the_package_is_where_the_pages_say():
    """Paths below pyro_pmf/ that a page names are there."""
    for page in pages():
        if page.name == "CHANGELOG.md":
            continue
        for path in re.findall(r"`(pyro_pmf/[\w/]+\.py)`", page.read_text(encoding="utf-8")):
            assert (ROOT / path).exists(), f"{name(page)}: {path}"


def test_make_targets_that_the_pages_name():
    """Every `make TARGET` on a page is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in pages():
        for target in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")):
            assert target in targets, f"{name(page)}: make {target}"
