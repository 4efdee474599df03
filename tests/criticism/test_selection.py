"""Cross-validation against a loop by hand, and models of which the right one is known."""

import functools

import numpy as np
import pandas as pd
import pytest

from pyro_pmf import MAP, PMF, VI, FitError, Fixed, PMFError, Priors, Ratings, RatingsError, fit
from pyro_pmf.criticism.selection import cross_validate
from pyro_pmf.model.likelihoods import (
    BernoulliLogit,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
)
from pyro_pmf.prediction.metrics import summarize

PRIORS = Priors(tau=Fixed(1.0), sigma_U=Fixed(0.7), sigma_V=Fixed(0.7))
HELD = VI(learn_scales=None)
QUICK = {"method": VI(max_steps=5, learn_scales=None), "progress": False}


def simulated(n_factors, n_users=60, n_items=40, seed=0):
    """Return ratings from 1 to 5 of strong factors and weak biases, of two thirds of all pairs."""
    rng = np.random.default_rng(seed)
    user, item = np.divmod(np.arange(n_users * n_items), n_items)
    U, V = rng.normal(size=(n_users, n_factors)), rng.normal(size=(n_items, n_factors))
    score = 0.3 * rng.normal(size=n_users)[user] + (U[user] * V[item]).sum(1)
    rating = 1 + 4 / (1 + np.exp(-score)) + 0.4 * rng.normal(size=len(score))
    frame = pd.DataFrame({"user": user, "item": item, "rating": np.clip(np.rint(rating), 1, 5)})
    return Ratings.from_frame(frame[rng.random(len(frame)) < 0.65], scale=(1, 5))


def model(n_factors, **options):
    return PMF(n_factors, noise="shared", priors=PRIORS, **options)


# The numbers


@pytest.mark.slow
def test_numbers_are_those_of_a_loop_by_hand():
    ratings, models = simulated(1, 20, 15), {"flat": model(0), "one": model(1)}
    method = MAP(max_steps=30, learn_scales=None)
    table = cross_validate(models, ratings, k=3, seed=5, method=method, progress=False)
    scores = {name: [] for name in models}
    for train, test in ratings.k_fold(3, seed=5):
        for name, one in models.items():
            posterior = fit(one, train, method, progress=False)
            scores[name].append(posterior.scores(test))
    scores = {name: pd.concat(parts) for name, parts in scores.items()}
    assert all(len(each) == len(ratings) for each in scores.values())
    user = pd.concat([test.to_frame()["user"] for _, test in ratings.k_fold(3, seed=5)])
    density = {name: -each["nll"].to_numpy() for name, each in scores.items()}
    best = max(density, key=lambda name: density[name].mean())
    assert table.index.name == "model"
    assert table.index[0] == best
    assert table.columns.tolist() == ["elpd", "difference", "se", "rmse", "coverage"]
    for name, row in table.iterrows():
        behind = density[name] - density[best]
        assert row["elpd"] == pytest.approx(density[name].mean())
        assert row["difference"] == pytest.approx(behind.mean())
        sums = pd.Series(behind - behind.mean()).groupby(user.to_numpy()).sum()
        of_sums = np.sqrt(len(sums)) * sums.std(ddof=1)  # sums within users are independent
        assert row["se"] == pytest.approx(of_sums / len(ratings))
        assert row["rmse"] == pytest.approx(np.sqrt((scores[name]["error"] ** 2).mean()))
        assert row["coverage"] == pytest.approx(summarize(scores[name])["coverage_90"])
    assert table.loc[best, ["difference", "se"]].tolist() == [0.0, 0.0]


@pytest.mark.slow
def test_one_model_is_compared_with_itself():
    table = cross_validate({3: model(0)}, simulated(1, 10, 8), k=2, **QUICK)
    assert table.index.tolist() == [3]
    assert table.loc[3, "difference"] == 0


@pytest.mark.slow
def test_ties_keep_their_order_and_models_may_have_any_name():
    models = {("a", 1): model(0), None: model(0), "c": model(0)}
    table = cross_validate(models, simulated(1, 10, 8), k=2, **QUICK)
    assert table.index.tolist() == list(models)
    assert (table["difference"] == 0).all()


@pytest.mark.parametrize(
    "models", [{("a", 1): 0, ("a", 2): 0}, {("a", 1, 2): 0}, {frozenset(): 0}]
)
def test_all_names_may_be_tuples(models):
    models = {name: model(0) for name in models}
    table = cross_validate(models, simulated(1, 10, 8), k=2, **QUICK)
    assert table.index.tolist() == list(models)
    assert table.index.name == "model"


# The choice


@pytest.mark.slow
@pytest.mark.statistical
def test_too_few_factors_are_behind():
    """Check that of two strong factors, none or one is behind by ten standard errors."""
    models = {k: model(k) for k in (0, 1, 2)}
    table = cross_validate(models, simulated(2), k=3, method=HELD, progress=False)
    assert table.index.tolist() == [2, 1, 0]
    z = table["difference"] / table["se"]
    assert (z[[0, 1]] < -10).all()
    assert table["rmse"].is_monotonic_increasing


@pytest.mark.long
@pytest.mark.statistical
def test_factors_that_are_not_there_gain_nothing():
    """Check that four factors are not ahead of the one there is by three standard errors."""
    models = {k: model(k) for k in (0, 1, 4)}
    table = cross_validate(models, simulated(1), k=3, method=HELD, progress=False)
    assert table.index[-1] == 0
    lead = table.loc[4, "elpd"] - table.loc[1, "elpd"]
    assert lead < 3 * table["se"][[1, 4]].max() + 1e-9


@pytest.mark.slow
@pytest.mark.statistical
def test_models_of_levels_are_compared_by_log_mass():
    models = {
        "biases": PMF(0, noise="shared", likelihood=OrderedLogit(5)),
        "factors": model(2, likelihood=OrderedLogit(5)),
    }
    table = cross_validate(models, simulated(2), k=2, method=HELD, progress=False)
    assert table.index.tolist() == ["factors", "biases"]
    assert table.loc["biases", "difference"] < -10 * table.loc["biases", "se"]
    assert table.loc["factors", "elpd"] > -np.log(5)  # of levels that are equally likely


def half_stars(ratings):
    frame = ratings.to_frame()
    generator = np.random.default_rng(0)
    frame["rating"] = (frame["rating"] - 0.5 * generator.integers(0, 2, len(frame))).clip(0.5, 5)
    return Ratings.from_frame(frame, scale=(0.5, 5))


@pytest.mark.slow
def test_levels_compare_a_density_with_a_mass():
    """Compare by the log loss over levels half a star apart, which is no density."""
    ratings, levels = half_stars(simulated(2, 30, 20)), tuple(np.arange(0.5, 5.1, 0.5))
    models = {"continuous": model(2), "levels": model(2, likelihood=OrderedLogit(10))}
    options = {"method": VI(max_steps=30, learn_scales=None), "progress": False}
    table = cross_validate(models, ratings, k=2, levels=levels, **options)
    for name, one in models.items():
        parts = [
            fit(one, train, **options).scores(test, levels=levels)
            for train, test in ratings.k_fold(2, 0)
        ]
        loss = pd.concat(parts)["log_loss"].mean()
        assert table.loc[name, "elpd"] == pytest.approx(-loss)
        if name == "continuous":
            assert abs(pd.concat(parts)["nll"].mean() - loss) > 0.5


# Errors


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["unit", "count"])
def test_a_density_and_a_mass_without_levels(transform):
    """Refuse them as soon as both have been fitted once."""
    ratings = simulated(1, 20, 15)
    likelihoods = OrderedLogit(5), NormalSigmoid()
    if transform == "count":
        frame = ratings.to_frame().astype({"rating": int})
        ratings = Ratings.from_frame(frame, transform="count")
        likelihoods = NegativeBinomialLog(), NormalIdentity()
    models = {str(x): PMF(0, noise="shared", likelihood=x) for x in likelihoods}
    seen = []
    with pytest.raises(PMFError, match=r"give levels=\(1, 2"):
        cross_validate(models, ratings, k=5, callback=seen.append, **QUICK)
    assert len(seen) == 10


def test_no_models():
    with pytest.raises(PMFError, match="no models to compare"):
        cross_validate({}, simulated(1, 10, 8))


@pytest.mark.parametrize("k", [0, 1, 10_000])
def test_parts_that_cannot_be(k):
    with pytest.raises(RatingsError, match=f"k(=| must be .*){k}"):
        cross_validate({1: model(0)}, simulated(1, 10, 8), k=k, progress=False)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"models": [PMF(0)]}, "not as a list"),
        ({"models": PMF(0)}, "not as a PMF"),
        ({"models": {"a": PMF(0), "b": 5}}, "Model 'b': The model must be a PMF"),
        ({"ratings": pd.DataFrame()}, "Model 'a': Give Ratings"),
        ({"k": 1}, "k must be"),
        ({"seed": -1}, "seed must be"),
        ({"levels": ()}, "levels must be"),
        ({"method": "delta"}, "method must be"),
        ({"device": "abacus"}, "abacus"),
        ({"dtype": "float32"}, "dtype must be"),
        ({"steps": 5}, "takes no steps"),
        ({"checkpoint": "x"}, "takes no checkpoint"),
        ({"rated": True, "models": {"a": lambda ratings, history=None: None}}, "Model 'a'"),
    ],
)
def test_a_wrong_argument_is_found_before_the_first_fit(monkeypatch, change, problem):
    @functools.wraps(fit)
    def no_fit(*given, **options):
        raise AssertionError("a fit has begun")

    monkeypatch.setattr("pyro_pmf.criticism.selection.fit", no_fit)
    given = {"models": {"a": PMF(0)}, "ratings": simulated(1, 10, 8), "k": 2} | change
    with pytest.raises(PMFError, match=problem):
        cross_validate(**given)


def test_the_model_that_is_fitted_is_named(caplog):
    models = {"good": model(0), ("bad", 1): model(0, likelihood=BernoulliLogit())}
    with (
        caplog.at_level("INFO", "pyro_pmf"),
        pytest.raises(PMFError, match=r"Model \('bad', 1\): .*neither the lowest"),
    ):
        cross_validate(models, simulated(1, 10, 8), k=2, **QUICK)
    assert "Part 1 of 2: fitting the model 'good'." in caplog.text
    assert "fitting the model ('bad', 1)." in caplog.text


def test_errors_of_a_fit_come_through():
    ratings = simulated(1, 10, 8)
    with pytest.raises(PMFError, match="neither the lowest nor the highest"):
        cross_validate({1: model(0, likelihood=BernoulliLogit())}, ratings, progress=False)
    with pytest.raises(FitError, match="method must be"):
        cross_validate({1: model(0)}, ratings, method="delta", progress=False)


def test_levels_of_a_generator():
    ratings, models = simulated(1, 12, 8), {"flat": model(0)}
    options = {"k": 2, "method": MAP(max_steps=3, learn_scales=None), "progress": False}
    levels = (1, 2, 3, 4, 5)
    table = cross_validate(models, ratings, levels=levels, **options)
    again = cross_validate(models, ratings, levels=(x for x in levels), **options)
    pd.testing.assert_frame_equal(table, again)
