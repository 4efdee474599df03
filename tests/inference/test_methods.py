"""Options of each kind of inference: checked when stated, and only those that belong to it."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal

from pyro_pmf import MAP, NUTS, PMF, VI, FitError, Gibbs, fit
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.methods import as_method


@pytest.fixture(scope="module")
def ratings():
    return simulate(PMF(0), 12, 8, 60)[0]


# --- what they are ---


def test_defaults():
    ascent = {
        "max_steps": 2000,
        "learning_rate": 0.03,
        "tolerance": 3e-4,
        "batches": 1,
        "n_draws": 100,
        "learn_scales": "held_out",
    }
    assert asdict(MAP()) == ascent
    assert asdict(VI()) == ascent | {"guide": None}
    chains = {"n_chains": 2, "n_jobs": 1}
    assert asdict(NUTS()) == {"n_draws": 500, "n_warmup": 500, "thin": 1} | chains
    chosen = {"n_warmup": None, "thin": None}
    assert asdict(Gibbs()) == {"n_draws": 100, "track": None} | chosen | chains


@pytest.mark.parametrize(
    ("name", "method"), [("map", MAP()), ("vi", VI()), ("nuts", NUTS()), ("gibbs", Gibbs())]
)
def test_a_name_stands_for_the_defaults(name, method):
    assert as_method(name) == method
    assert as_method(method) is method


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (MAP(), "max_steps"),
        (VI(), "guide"),
        (VI(), "learn_scales"),
        (NUTS(), "n_draws"),
        (Gibbs(), "thin"),
    ],
)
def test_they_are_frozen(method, name):
    with pytest.raises(FrozenInstanceError):
        setattr(method, name, 7)


def test_they_are_equal_where_their_options_are():
    assert VI(max_steps=5) == VI(max_steps=5) == replace(VI(), max_steps=5)
    assert len({MAP(), MAP(), VI(), VI(tolerance=1.0)}) == 3
    assert MAP() != VI()
    assert Gibbs(thin=2) != Gibbs()
    assert Gibbs(n_draws=500, n_warmup=500) != NUTS()


@pytest.mark.parametrize(
    ("n_ratings", "n_rows", "sweeps"),
    [
        (10_000, 100, 30),
        (10_000, 1_000, 30),
        (10_000, 2_000, 60),
        (8_570, 4_000, 140),
        (5, 9, 150),
    ],
)
def test_chains_have_more_sweeps_before_draws_where_rows_have_few_ratings(
    n_ratings, n_rows, sweeps
):
    assert Gibbs().warmup_of(n_ratings, n_rows) == sweeps
    assert Gibbs(n_warmup=7).warmup_of(n_ratings, n_rows) == 7
    assert NUTS().warmup_of(n_ratings, n_rows) == 500
    with pytest.raises(FitError, match=r"n_warmup must be .*not None"):
        NUTS(n_warmup=None)


@pytest.mark.parametrize(
    ("n_ratings", "thin"), [(1, 4), (12_500, 4), (12_501, 3), (25_000, 2), (25_001, 1), (10**7, 1)]
)
def test_draws_are_further_apart_where_there_are_few_ratings(n_ratings, thin):
    assert Gibbs().thin_of(n_ratings) == thin
    assert Gibbs(thin=7).thin_of(n_ratings) == 7
    assert NUTS().thin_of(n_ratings) == 1
    with pytest.raises(FitError, match=r"thin must be .*not None"):
        NUTS(thin=None)


@pytest.mark.parametrize("method", [MAP, VI])
def test_what_an_ascent_may_be_given(method):
    chosen = method(max_steps=1, learning_rate=1, tolerance=1e-9, batches=7, n_draws=1)
    assert (chosen.max_steps, chosen.learning_rate, chosen.batches) == (1, 1, 7)


@pytest.mark.parametrize("guide", [AutoDelta, AutoNormal(PMF(0)), lambda ratings: None])
def test_guides(guide):
    assert VI(guide=guide).guide is guide


@pytest.mark.parametrize(
    ("method", "learn_scales"),
    [(VI, "held_out"), (VI, "elbo"), (VI, None), (MAP, "held_out"), (MAP, None)],
)
def test_ways_to_learn_scales(method, learn_scales):
    assert method(learn_scales=learn_scales).learn_scales == learn_scales


# --- options that cannot be ---


@pytest.mark.parametrize("method", [MAP, VI])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps must be .*not 0"),
        ({"max_steps": 2.5}, "max_steps must be .*not 2.5"),
        ({"max_steps": True}, "max_steps must be .*not True"),
        ({"learning_rate": -1.0}, "learning_rate must be a positive number, not -1"),
        ({"learning_rate": math.nan}, "learning_rate must be a positive number, not nan"),
        ({"learning_rate": math.inf}, "learning_rate must be a positive number, not inf"),
        ({"learning_rate": "0.1"}, "learning_rate must be a positive number, not '0.1'"),
        ({"tolerance": 0.0}, "tolerance must be a positive number"),
        ({"tolerance": None}, "tolerance must be a positive number, not None"),
        ({"n_draws": 0}, "n_draws must be .*not 0"),
        ({"batches": 0}, "batches must be .*not 0"),
        ({"batches": 2.0}, "batches must be .*not 2.0"),
        ({"batches": "2"}, "batches must be .*not '2'"),
    ],
)
def test_impossible_options_of_an_ascent(method, options, message):
    with pytest.raises(FitError, match=message):
        method(**options)
    with pytest.raises(FitError, match=message):
        replace(method(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide": "laplace"}, "guide must be.*not 'laplace'"),
        ({"guide": "delta"}, "guide must be.*not 'delta'"),
        ({"guide": 3}, "guide must be.*not 3"),
        ({"learn_scales": "always"}, 'learn_scales must be "held_out", "elbo" or None'),
        ({"learn_scales": True}, "learn_scales must be .*not True"),
        ({"learn_scales": "elbo", "guide": AutoDelta}, "leave out either guide or learn_scales"),
    ],
)
def test_impossible_options_of_variational_inference(options, message):
    with pytest.raises(FitError, match=message):
        VI(**options)


@pytest.mark.parametrize("bad", ["elbo", "always", True])
def test_impossible_options_of_a_point_estimate(bad):
    with pytest.raises(FitError, match='learn_scales must be "held_out" or None, not'):
        MAP(learn_scales=bad)


@pytest.mark.parametrize("method", [NUTS, Gibbs])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_draws": 3}, r"n_draws must be 4, 5, 6, \.\.\., not 3"),
        ({"n_draws": 20.0}, "n_draws must be .*not 20.0"),
        ({"n_warmup": 0}, "n_warmup must be .*not 0"),
        ({"n_warmup": "5"}, "n_warmup must be .*not '5'"),
        ({"n_chains": 0}, "n_chains must be .*not 0"),
        ({"n_chains": True}, "n_chains must be .*not True"),
        ({"thin": 0}, "thin must be .*not 0"),
        ({"thin": 1.0}, "thin must be .*not 1.0"),
        ({"n_jobs": 0}, r"n_jobs \(unless it is -1\) must be 1, 2, .*not 0"),
        ({"n_jobs": -2}, "n_jobs .* must be .*not -2"),
        ({"n_jobs": True}, "n_jobs .* must be .*not True"),
        ({"n_jobs": None}, "n_jobs .* must be .*not None"),
    ],
)
def test_impossible_options_of_chains(method, options, message):
    with pytest.raises(FitError, match=message):
        method(**options)


@pytest.mark.parametrize(
    ("method", "option"),
    [
        (MAP, "guide"),
        (MAP, "n_chains"),
        (VI, "n_warmup"),
        (VI, "n_chains"),
        (VI, "thin"),
        (NUTS, "max_steps"),
        (NUTS, "tolerance"),
        (NUTS, "guide"),
        (NUTS, "start"),
        (Gibbs, "max_steps"),
        (Gibbs, "learning_rate"),
        (Gibbs, "batches"),
        (Gibbs, "guide"),
        (Gibbs, "learn_scales"),
        (Gibbs, "start"),
    ],
)
def test_options_of_one_method_are_none_of_another(method, option):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
        method(**{option: 3})


# --- what `fit` takes ---


@pytest.mark.parametrize("method", ["nonsense", "hmc", "VI", "normal", "svi", "", None, 3, ["vi"]])
def test_what_is_no_method(ratings, method):
    with pytest.raises(FitError, match='method must be one of "map", "vi", "gibbs", "nuts"'):
        fit(PMF(0), ratings, method, progress=False)


@pytest.mark.parametrize("method", [VI, AutoNormal, AutoDelta(PMF(0)), torch.optim.Adam])
def test_a_class_or_a_guide_is_no_method(ratings, method):
    with pytest.raises(FitError, match="method must be one of"):
        fit(PMF(0), ratings, method=method, progress=False)


@pytest.mark.parametrize(
    "option",
    ["max_steps", "tolerance", "guide", "learn_scales", "batches", "n_draws", "inference"],
)
def test_fit_has_no_options_of_a_method(ratings, option):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
        fit(PMF(0), ratings, **{option: 3})


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), [("vi", VI()), ("map", MAP())])
def test_a_fit_by_name_is_that_of_the_defaults(ratings, name, method):
    by_name, by_options = (fit(PMF(0), ratings, m, progress=False) for m in (name, method))
    assert by_name.steps["elbo"].tolist() == by_options.steps["elbo"].tolist()
    assert len(by_name.steps) > 1
