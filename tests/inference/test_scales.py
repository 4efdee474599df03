"""Standard deviations of factors: where they are held, and that learning finds the right ones."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from pyro.infer.autoguide import AutoDelta
from scipy import optimize, stats

from pyro_pmf import (
    HMC,
    MAP,
    NUTS,
    PMF,
    VI,
    FitError,
    Fixed,
    HalfNormal,
    LogNormal,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    Priors,
    Ratings,
    RatingsError,
    fit,
)
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.scales import (
    _climb,
    _is_gain,
    factor_scales,
    learnt_scales,
    map_scales,
)
from pyro_pmf.inference.variational.objective import pose
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian
from pyro_pmf.prediction.effects import factor_norms
from pyro_pmf.prediction.tables import log_prob as log_prob_of

BOTH = PMF(2, users="hierarchical", items="hierarchical", noise="shared")
STEP = 1.4
HELD_OUT = VI(learn_scales="held_out")


@pytest.fixture(scope="module")
def ratings():
    return simulate(PMF(2), 12, 8, 60)[0]


# Where they are held


def test_factors_are_measured_against_the_noise():
    value = torch.tensor([0.0, 1.0, 3.0, 4.0])
    identity = PMF(2, likelihood=NormalIdentity())
    scales = factor_scales(identity, value)
    assert scales["sigma_U"] == pytest.approx(0.3 * (0.8 * float(value.std())) ** 0.5)
    wider = factor_scales(identity, 4 * value)
    assert wider["sigma_U"] == pytest.approx(2 * scales["sigma_U"])
    assert factor_scales(identity)["sigma_U"] == pytest.approx(0.3 * 0.2**0.5)


@pytest.mark.parametrize("likelihood", [NormalSigmoid(), NegativeBinomialLog()])
def test_of_other_links_the_ratings_do_not_matter(likelihood):
    model = PMF(2, likelihood=likelihood)
    assert factor_scales(model, torch.arange(9.0)) == factor_scales(model)
    assert factor_scales(model)["sigma_U"] == 0.3


@pytest.mark.parametrize(
    ("model", "sites"),
    [
        (PMF(0), set()),
        (PMF(2), {"sigma_U", "sigma_V"}),
        (PMF(2, users="hierarchical"), {"sigma_U", "sigma_V", "sigma_W"}),
        (PMF(2, items="hierarchical"), {"sigma_U", "sigma_V", "sigma_Z"}),
        (PMF(2, priors=Priors(sigma_U=Fixed(0.1), sigma_W=Fixed(0.2))), {"sigma_V"}),
    ],
)
def test_the_sites_are_those_of_the_model_that_priors_leave_free(model, sites):
    assert set(factor_scales(model)) == sites


@pytest.mark.slow
def test_a_fit_follows_the_unit_of_the_values():
    generator = np.random.default_rng(0)
    cells = generator.choice(40 * 30, 700, replace=False)
    frame = pd.DataFrame({"user": cells // 30, "item": cells % 30})
    frame["rating"] = np.exp(generator.normal(5, 1, 700)).round()
    model = PMF(2, noise="shared", likelihood=NormalIdentity())
    held = {
        name: float(
            fit(
                model,
                Ratings.from_frame(frame, transform=name),
                VI(max_steps=2),
                progress=False,
            ).latents["sigma_U"]
        )
        for name in ("unit", "standardize")
    }
    assert held["standardize"] == pytest.approx(0.3 * 0.8**0.5, rel=1e-3)
    assert held["unit"] < held["standardize"]


# MAP's


MAP_SCALES = {
    "sigma_U": 0.25,
    "sigma_V": 0.25,
    "sigma_W": 0.15,
    "sigma_Z": 0.15,
    "sigma_b": 0.5,
    "sigma_c": 0.5,
}


def test_map_scales_are_those_of_shrunken_means(ratings):
    frame = pd.DataFrame(
        {
            "user": ratings.user.numpy(),
            "item": ratings.item.numpy(),
            "residual": ratings.value.double().numpy(),
        }
    )
    frame["residual"] -= frame["residual"].mean()
    for column in ("item", "user"):
        groups = frame.groupby(column)["residual"]
        frame["residual"] -= groups.transform("sum") / (groups.transform("size") + 5)
    scales = map_scales(BOTH, ratings)
    assert scales.pop("sigma") == pytest.approx(frame["residual"].std(), rel=1e-5)
    assert scales == pytest.approx(MAP_SCALES)


@pytest.mark.parametrize(
    ("model", "without"),
    [
        (PMF(2, users="hierarchical"), {"sigma_Z"}),
        (PMF(2, items="hierarchical", biases="user"), {"sigma_W", "sigma_c"}),
        (PMF(0), {"sigma_U", "sigma_V", "sigma_W", "sigma_Z"}),
    ],
)
def test_map_scales_are_those_of_the_terms_of_the_model(ratings, model, without):
    found = map_scales(model, ratings)
    assert found.keys() == {"sigma", *MAP_SCALES} - without
    assert found["sigma"] == map_scales(BOTH, ratings)["sigma"]
    assert {site: x for site, x in found.items() if site != "sigma"} == {
        site: x for site, x in MAP_SCALES.items() if site not in without
    }


def test_map_scales_are_measured_in_noise():
    """Biases in the noise of the score, products of two factors in its square root."""
    frame = pd.DataFrame({"user": [0, 0, 1, 1], "item": [0, 1, 0, 1], "rating": [0, 1, 3, 4]})
    ratings = Ratings.from_frame(frame, transform="count")
    found = map_scales(replace(BOTH, likelihood=NormalIdentity()), ratings)
    unit = 0.8 * float(ratings.value.std())
    for site, scale in MAP_SCALES.items():
        of_bias = site in ("sigma_b", "sigma_c")
        assert found[site] == pytest.approx(scale * (unit if of_bias else unit**0.5))


def test_a_model_that_states_no_terms_has_no_scales(ratings):
    def model(ratings):
        return BOTH(ratings)

    assert map_scales(model, ratings) == factor_scales(model, ratings.value) == {}


@pytest.mark.parametrize("method", [MAP(), VI()], ids=["map", "vi"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_held_scales_have_the_type_of_the_ratings(ratings, dtype, method):
    ratings = ratings.to(dtype=dtype)
    held = pose(BOTH, ratings, method).held
    wanted = map_scales(BOTH, ratings) if isinstance(method, MAP) else factor_scales(BOTH)
    assert {site: float(scale) for site, scale in held.items()} == pytest.approx(wanted)
    assert {scale.dtype for scale in held.values()} == {dtype}
    assert all(scale > 0 and scale.shape == () for scale in held.values())


def test_map_noise_of_counts_is_that_of_their_logarithms():
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.choice(30 * 20, 300, replace=False), 20)
    counts = rng.poisson(np.exp(rng.normal(3, 1, 30))[user])
    frame = pd.DataFrame({"user": user, "item": item, "rating": counts})
    logs = Ratings.from_frame(frame.assign(rating=np.log1p(counts)))
    low, high = logs.scale
    counted = Ratings.from_frame(frame, transform="count")
    given = map_scales(PMF(2, likelihood=NegativeBinomialLog()), counted)["sigma"]
    assert given == pytest.approx(map_scales(PMF(2), logs)["sigma"] * (high - low), rel=1e-5)


# The search


def test_how_much_the_prior_counts(ratings):
    """Against a density of known curvature: with none, or twice over, the top is elsewhere."""
    priors = Priors(sigma_U=Fixed(1.0), sigma_V=LogNormal(0.3 * STEP**6, 0.15))
    model = PMF(2, noise="shared", priors=priors)
    places = np.arange(-8, 9)
    values = 0.3 * STEP**places

    def log_density(scales):
        return -24 * (np.log(scales["sigma_V"]) - np.log(0.3)) ** 2

    prior = stats.lognorm(0.15, scale=0.3 * STEP**6).logpdf(values)
    density = np.array([log_density({"sigma_V": value}) for value in values])
    tops = [places[np.argmax(density + times * prior)] for times in (0, 1, 2)]
    assert len(set(tops)) == 3
    found, _ = learn(model, ratings, log_density)
    assert found["sigma_V"] == pytest.approx(0.3 * STEP ** tops[1])


@pytest.mark.parametrize("top", [(0, 0), (3, -2), (-4, 1)])
def test_the_search_finds_the_top_of_a_hill(top):
    def height(at):
        x, y = at[0] - top[0], at[1] - top[1]
        return -(x * x + 0.5 * x * y + y * y)

    assert _climb(lambda new, old: height(new) > height(old), 2) == top


def test_the_search_tells_new_from_old():
    asked = []
    assert _climb(lambda new, old: asked.append((new, old)), 1) == (0,)
    assert asked == [((1,), (0,)), ((-1,), (0,))]


@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("prior", [0.0, 3.0])
def test_a_gain_is_more_than_two_standard_errors_of_the_pairs(factor, prior):
    """As SciPy's paired test has it, where the prior says nothing; the prior counts as it is."""
    generator = np.random.default_rng(0)
    old, change = generator.normal(-1.5, 0.8, 500), generator.normal(0.0, 0.1, 500)
    error = change.std() * 500**0.5
    change += (factor * 2 * error - change.sum() - prior) / 500
    new = old + change
    assert _is_gain((prior - 7.0, new), (-7.0, old)) == (factor > 1)
    if not prior:
        t = stats.ttest_rel(new, old).statistic
        assert t == pytest.approx(2 * factor, rel=0.01)
    assert not _is_gain((-7.0, old), (prior - 7.0, new))


def test_a_density_that_is_no_number_is_no_gain():
    known, other = np.zeros(3), np.array([np.nan, 0.0, 0.0])
    nothing = np.full(3, -np.inf)
    for new, old in ((other, known), (nothing, known), (nothing, nothing), (known, nothing)):
        assert not _is_gain((0.0, new), (0.0, old))


# What is learnt, of a density of held-out ratings that is known


def learn(model, ratings, log_density, **options):
    """The scales learnt where held-out ratings have this log density; and those tried."""
    tried = []

    def of_each(train, test, scales):
        tried.append((scales, train, test))
        return np.full(len(test), log_density(scales) / len(test))

    return learnt_scales(model, ratings, of_each, **options), tried


def test_scales_are_those_of_the_highest_posterior_density(ratings):
    """On the lattice, next to the maximum that SciPy finds of prior times density."""
    priors = Priors(sigma_U=HalfNormal(0.1), sigma_V=LogNormal(0.7, 0.1), sigma_W=HalfNormal(0.2))
    model = PMF(2, users="hierarchical", noise="shared", priors=priors)
    usual = factor_scales(model)

    def log_density(scales):
        product = np.log(scales["sigma_U"] * scales["sigma_V"])
        return -40 * (product - np.log(0.5)) ** 2 - 25 * (np.log(scales["sigma_W"]) + 0.3) ** 2

    def minus_log_posterior(logs):  # of the multiples of sigma_U and sigma_V, and of sigma_W
        U, V = (usual[site] * np.exp(logs[0]) for site in ("sigma_U", "sigma_V"))
        W = usual["sigma_W"] * np.exp(logs[1])
        log_prior = stats.halfnorm(scale=0.1).logpdf(U) + stats.halfnorm(scale=0.2).logpdf(W)
        log_prior += stats.lognorm(0.1, scale=0.7).logpdf(V)
        return -log_prior - log_density({"sigma_U": U, "sigma_V": V, "sigma_W": W})

    best = optimize.minimize(minus_log_posterior, [0.0, 0.0]).x / np.log(STEP)
    found, _ = learn(model, ratings, log_density)
    assert set(found) == {"sigma_U", "sigma_V", "sigma_W"}
    steps = {site: np.log(found[site] / usual[site]) / np.log(STEP) for site in found}
    assert steps["sigma_U"] == pytest.approx(steps["sigma_V"])
    assert abs(steps["sigma_U"] - best[0]) < 1
    assert abs(steps["sigma_W"] - best[1]) < 1
    assert abs(best).min() > 1  # neither is where the search begins
    for site in found:
        assert steps[site] == pytest.approx(round(steps[site]))


def test_each_fit_sees_the_same_nine_tenths_and_none_is_made_twice(ratings):
    target = np.log(0.9)
    _, tried = learn(
        BOTH, ratings, lambda scales: -9 * sum((np.log(x) - target) ** 2 for x in scales.values())
    )
    trains, tests = ({id(side) for side in sides} for sides in list(zip(*tried, strict=True))[1:])
    assert len(trains) == len(tests) == 1
    _, train, test = tried[0]
    assert len(test) == 6
    both = pd.concat([train.to_frame(), test.to_frame()]).sort_values(["user", "item"])
    whole = ratings.to_frame().sort_values(["user", "item"])
    pd.testing.assert_frame_equal(both.reset_index(drop=True), whole.reset_index(drop=True))
    keys = [tuple(scales.values()) for scales, _, _ in tried]
    assert len(keys) == len(set(keys)) > 10
    other = learn(BOTH, ratings, lambda _: 0.0, seed=1)[1][0][2]
    assert not np.array_equal(other.to_frame().to_numpy(), test.to_frame().to_numpy())


def test_what_priors_fix_stays_and_nothing_may_be_left(ratings):
    fixed = Priors(sigma_U=Fixed(0.5), sigma_W=Fixed(0.5), sigma_Z=Fixed(0.5))
    model = PMF(2, users="hierarchical", items="hierarchical", priors=fixed)
    found, tried = learn(model, ratings, lambda scales: 20 * np.log(scales["sigma_V"]))
    assert set(found) == {"sigma_V"}
    assert all(set(scales) == {"sigma_V"} for scales, _, _ in tried)
    assert found["sigma_V"] > 0.25
    assert learn(PMF(0), ratings, lambda _: 0.0) == ({}, [])


def test_progress_counts_the_fits(ratings, capsys):
    learn(BOTH, ratings, lambda _: 0.0)
    assert capsys.readouterr() == ("", "")
    _, tried = learn(BOTH, ratings, lambda _: 0.0, progress=True)
    assert f"scales: {len(tried)}fit" in capsys.readouterr().err


# In a fit


def of_factors(sd, seed=0):
    """4,000 ratings of three factors of a known standard deviation."""
    known = {"sigma": 0.1, "sigma_U": sd, "sigma_V": sd, "sigma_b": 0.4, "sigma_c": 0.4}
    priors = Priors(mu=Fixed(0.0), **{site: Fixed(x) for site, x in known.items()})
    return simulate(PMF(3, noise="shared", priors=priors), 120, 80, 4000, seed=seed)[0]


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("sd", [0.3, 0.6, 1.2])
def test_the_strength_of_factors_is_found(sd):
    """sigma_U sigma_V within a factor of 2.8, three steps; the ELBO loses weak ones."""
    model, ratings = PMF(3, noise="shared"), of_factors(sd)
    found = fit(model, ratings, HELD_OUT, progress=False).latents
    product = float(found["sigma_U"] * found["sigma_V"])
    assert abs(np.log(product / sd**2)) < 3 * np.log(STEP)
    if sd == 0.3:
        with pytest.warns(UserWarning, match="no more than biases"):
            by_elbo = fit(model, ratings, VI(learn_scales="elbo"), progress=False).latents
        assert float(by_elbo["sigma_U"].mean * by_elbo["sigma_V"].mean) < 0.2 * sd**2


@pytest.mark.slow
def test_a_fit_holds_what_it_learnt_and_says_so():
    train, test = of_factors(1.0).split(0.2)
    model = PMF(3, noise="shared")
    before = torch.get_rng_state()
    learnt = fit(model, train, HELD_OUT, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert learnt.model == model
    scales = {site: float(learnt.latents[site]) for site in ("sigma_U", "sigma_V")}
    assert scales["sigma_U"] > 0.5
    assert isinstance(learnt.latents["U"], Gaussian)
    assert isinstance(learnt.latents["sigma"], LogGaussian)
    found = learnt.predict(test)
    known = replace(model, priors=Priors(**{site: Fixed(x) for site, x in scales.items()}))
    fixed = fit(known, train, progress=False).predict(test)
    assert (found["mean"] - fixed["mean"]).abs().mean() < 0.003  # of ratings of sd 0.2
    again = fit(model, train, HELD_OUT, progress=False)
    pd.testing.assert_frame_equal(again.predict(test), found)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", [NormalSigmoid(), OrderedLogit(5), NormalIdentity()])
@pytest.mark.parametrize(("batches", "dtype"), [(1, None), (2, None), (1, torch.float64)], ids=str)
def test_every_likelihood_and_way_of_fitting(likelihood, batches, dtype):
    ratings = small_levels()
    model = replace(BOTH, likelihood=likelihood)
    method = replace(HELD_OUT, max_steps=20, batches=batches)
    posterior = fit(model, ratings, method, dtype=dtype, progress=False)
    usual = factor_scales(model, ratings.value)
    for site, scale in usual.items():
        steps = np.log(float(posterior.latents[site]) / scale) / np.log(STEP)
        assert steps == pytest.approx(round(steps), abs=1e-4)


def small_levels():
    rng = np.random.default_rng(0)
    cells = rng.choice(20 * 15, 150, replace=False)
    stars = rng.integers(1, 6, 150)
    return Ratings.from_frame(
        pd.DataFrame({"user": cells // 15, "item": cells % 15, "rating": stars}), scale=(1, 5)
    )


@pytest.mark.slow
def test_what_a_fit_asks_of_the_search(monkeypatch):
    """The seed, quicker fits than its own, and no word where one of them finds no factors."""
    ratings, model = of_factors(1.0), PMF(3, noise="shared")
    train, test = ratings.split(0.1)
    asked = []

    def search(model, ratings, log_density, seed, progress):
        nothing = {"sigma_U": 1e-4, "sigma_V": 1e-4}
        alike = {"sigma_U": 1.0, "sigma_V": 1.0}
        of_each = [log_density(train, test, scales) for scales in (nothing, alike)]
        of_each.append(log_density(ratings, test, alike))
        asked.append((ratings, seed, progress, of_each))
        return alike

    def log_prob(learned, pairs):
        assert pairs is test
        return SimpleNamespace(learned=learned, log_prob=log_prob_of(learned, pairs))

    monkeypatch.setattr("pyro_pmf.fitting.learnt_scales", search)
    monkeypatch.setattr("pyro_pmf.fitting.log_prob", log_prob)
    found = fit(model, ratings, HELD_OUT, seed=7, progress=False)
    [(searched, seed, progress, (nothing, alike, rough))] = asked
    assert searched is ratings
    assert (seed, progress) == (7, False)
    assert factor_norms(nothing.learned)["dead"].all()
    assert float(found.latents["sigma_U"]) == float(rough.learned.latents["sigma_U"]) == 1.0
    assert len(rough.learned.steps) < len(found.steps)
    first = len(rough.learned.steps) // 2
    np.testing.assert_allclose(rough.learned.steps["elbo"][:first], found.steps["elbo"][:first])
    for held, asked_of in ((1e-4, nothing), (1.0, alike)):  # the fits are of the nine tenths
        assert len(asked_of.learned.ratings) == len(train)
        assert asked_of.learned.ratings is not train
        assert asked_of.log_prob.shape == (len(test),)
        assert float(asked_of.learned.latents["sigma_U"]) == pytest.approx(held)
    assert alike.log_prob.mean() > nothing.log_prob.mean() + 0.1


@pytest.mark.slow
def test_time_counts_from_the_beginning_and_steps_are_those_of_the_last_fit():
    seen = []
    method = replace(HELD_OUT, max_steps=20)
    options = {"progress": False, "callback": seen.append}
    ratings = of_factors(0.5)
    fit(PMF(3), ratings, method, **options)
    assert [progress.step for progress in seen] == list(range(1, 21))
    first = seen[0].seconds
    seen.clear()
    fit(PMF(3), ratings, replace(method, learn_scales=None), **options)
    assert seen[0].seconds < first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda: VI(learn_scales=True), "learn_scales must be .*not True"),
        (lambda: VI(learn_scales="always"), "learn_scales must be .*not 'always'"),
        (lambda: VI(learn_scales="held_out", guide=AutoDelta), "needs the default guide"),
        (lambda: VI(learn_scales="elbo", guide=AutoDelta), "needs the default guide"),
        (lambda: HMC(start=VI(learn_scales="elbo")), "held scales"),
        (lambda: HMC(start=VI(learn_scales="held_out")), "held scales"),
    ],
)
def test_scales_that_cannot_be_learnt_so(options, message):
    """MAP and NUTS have no option of this name."""
    with pytest.raises(FitError, match=message):
        options()
    assert not {"learn_scales", "guide"} & {*vars(MAP()), *vars(NUTS()), *vars(HMC())}


@pytest.mark.parametrize("how", ["held_out", "elbo"])
def test_scales_of_no_pmf(ratings, how):
    with pytest.raises(FitError, match="a PMF"):
        fit(lambda ratings: None, ratings, VI(learn_scales=how), progress=False)


def test_too_few_ratings_to_hold_some_out():
    frame = pd.DataFrame({"user": [0, 1], "item": [0, 1], "rating": [1, 5]})
    with pytest.raises(RatingsError, match="held out"):
        fit(PMF(2), Ratings.from_frame(frame, scale=(1, 5)), HELD_OUT)
