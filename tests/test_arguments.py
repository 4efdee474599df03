"""Arguments that cannot be, and how that is said."""

import math
from fractions import Fraction

import numpy as np
import pytest

from pyro_pmf import PMF, VI, FitError, PMFError, fit
from pyro_pmf.arguments import (
    require_bool,
    require_integer,
    require_levels,
    require_probability,
    require_rating,
)
from pyro_pmf.criticism import cross_validate, plot_ppc
from pyro_pmf.datasets import simulate


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_integers(value):
    require_integer("n", value)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None, np.float64(2)])
def test_what_is_no_positive_integer(value):
    with pytest.raises(PMFError, match=r"n must be 1, 2, 3, \.\.\., not"):
        require_integer("n", value)


def test_the_least_integer_and_the_error():
    require_integer("n", 0, least=0)
    with pytest.raises(FitError, match=r"draws must be 4, 5, 6, \.\.\., not 3"):
        require_integer("draws", 3, least=4, error=FitError)


@pytest.mark.parametrize("value", [0.01, 0.5, np.float32(0.9)])
def test_probabilities(value):
    require_probability("interval", value)


@pytest.mark.parametrize("value", [0.0, 1.0, 90, float("nan"), "0.9", [0.5, 0.9], None])
def test_what_is_no_probability(value):
    with pytest.raises(PMFError, match="interval must lie strictly between 0 and 1, not"):
        require_probability("interval", value)


@pytest.fixture(scope="module")
def fitted():
    ratings, _ = simulate(PMF(2, noise="shared"), 12, 8, 60)
    return fit(
        PMF(2, noise="shared"), ratings, VI(max_steps=5, learn_scales=None), progress=False
    ), ratings


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda p, pairs: p.predict(pairs, interval=[0.5, 0.9]), "interval must lie"),
        (lambda p, pairs: p.sample(pairs, n_draws=-1), "n_draws must be 1, 2, 3"),
        (lambda p, pairs: p.sample(pairs, seed=-1), "seed must be 0, 1, 2"),
        (lambda p, pairs: p.to_arviz(n_draws=0), "n_draws must be 1, 2, 3"),
        (lambda p, pairs: p.recommend(0, n=True), "n must be 1, 2, 3"),
    ],
)
def test_a_posterior_refuses_them(fitted, ask, message):
    with pytest.raises(PMFError, match=message):
        ask(*fitted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be 0, 1, 2"),
        ({"seed": "a"}, "seed must be .*not 'a'"),
        ({"seed": 1.5}, "seed must be .*not 1.5"),
    ],
)
def test_a_fit_refuses_them(fitted, options, message):
    with pytest.raises(FitError, match=message):
        fit(PMF(2), fitted[1], progress=False, **options)


@pytest.mark.parametrize("value", [True, "4", None, math.nan, math.inf, 10**400, 1j])
def test_what_is_no_rating(value):
    with pytest.raises(PMFError, match="at_least must be a rating, a finite number"):
        require_rating("at_least", value)


@pytest.mark.parametrize("value", [4, 3.5, np.float32(0.5), np.int64(-2), Fraction(1, 3)])
def test_ratings(value):
    require_rating("at_least", value)


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_booleans(value):
    assert require_bool("rated", value) is bool(value)


@pytest.mark.parametrize("value", ["no", "", 0, 1, None, np.int64(1), [True], np.array([True])])
def test_what_is_no_boolean(value):
    with pytest.raises(PMFError, match="rated must be True or False, not"):
        require_bool("rated", value)


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("rated", lambda p, r, x: p.predict(r, rated=x)),
        ("mcse", lambda p, r, x: p.predict(r, mcse=x)),
        ("rated", lambda p, r, x: p.predict_levels(r, [0, 1], rated=x)),
        ("rated", lambda p, r, x: p.scores(r, rated=x)),
        ("rated", lambda p, r, x: p.evaluate(r, rated=x)),
        ("baselines", lambda p, r, x: p.evaluate(r, baselines=x)),
        ("rated", lambda p, r, x: p.sample(r, rated=x)),
        ("prior", lambda p, r, x: p.to_arviz(prior=x)),
        ("prior", lambda p, r, x: plot_ppc(p, r, prior=x)),
        ("overwrite", lambda p, r, x: p.save("nowhere", overwrite=x)),
        ("training_ratings", lambda p, r, x: p.save("nowhere", training_ratings=x)),
        ("rated", lambda p, r, x: cross_validate({"flat": PMF(0)}, r, rated=x)),
        ("exclude_seen", lambda p, r, x: p.recommend(0, exclude_seen=x)),
    ],
)
def test_every_door_takes_booleans_only(fitted, name, ask):
    for value in ("no", 1):
        with pytest.raises(PMFError, match=f"{name} must be True"):
            ask(*fitted, value)


@pytest.mark.parametrize("name", ["progress", "resume"])
def test_a_fit_takes_booleans_only(fitted, name, tmp_path):
    options = {"progress": False, "checkpoint": tmp_path / "state", name: "no"}
    with pytest.raises(FitError, match=f"{name} must be True or False, not 'no'"):
        fit(PMF(2), fitted[1], **options)


def test_booleans_of_numpy_are_taken(fitted):
    posterior, ratings = fitted
    assert posterior.predict(ratings, rated=np.False_).attrs["rated"] is False
    seen = posterior.recommend(0, n=8, exclude_seen=np.False_)
    assert seen.equals(posterior.recommend(0, n=8, exclude_seen=False))


def test_levels_that_can_be_asked_once(fitted):
    posterior, ratings = fitted
    levels = sorted({*ratings.rating, 0.5})
    given = require_levels(iter(levels))
    assert given == levels
    assert require_levels(levels) is levels
    for ask in (posterior.predict_levels, posterior.scores, posterior.evaluate):
        assert ask(ratings, levels=iter(levels)).equals(ask(ratings, levels=levels))
    both = [posterior.evaluate(ratings, levels=x, baselines=True) for x in (levels, iter(levels))]
    assert both[0].equals(both[1])
    with pytest.raises(PMFError, match=r"levels must be all possible ratings.*not \[2, 1\]"):
        posterior.predict_levels(ratings, iter([2, 1]))


def test_a_callback_that_is_no_function(fitted):
    for value in ("x", 0):
        with pytest.raises(FitError, match="callback must be a function of a Progress, not"):
            fit(PMF(2), fitted[1], progress=False, callback=value)
    with pytest.raises(FitError, match="Model 'flat': callback must be"):
        cross_validate({"flat": PMF(0)}, fitted[1], callback="x")
