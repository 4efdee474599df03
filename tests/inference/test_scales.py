"""Standard deviations of factors: where they are held, and that learning finds the right ones."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta

from pyro_pmf import (
    MAP,
    PMF,
    VI,
    FitError,
    Fixed,
    NegativeBinomialLog,
    NormalIdentity,
    NormalSigmoid,
    OrderedLogit,
    Priors,
    Ratings,
    fit,
)
from pyro_pmf.data.transforms import COUNT, Affine, Log1p
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.conditions import Conditions
from pyro_pmf.inference.mcmc.gibbs.typical import ShortRun, short_run
from pyro_pmf.inference.scales import (
    _WIDER,
    as_typical,
    candidate_scales,
    factor_scales,
    factors_only,
    holdable,
    learnt_scales,
    map_scales,
    widened,
)
from pyro_pmf.inference.variational.loop import fit_guide
from pyro_pmf.inference.variational.objective import pose, usual_scales
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian
from pyro_pmf.prediction.tables import crps

BOTH = PMF(2, users="hierarchical", items="hierarchical", noise="shared")


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
                VI(max_steps=2, learn_scales=None),
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
    tau = held.pop("tau")
    assert tau.tolist() == [1.0, 1.0]
    assert tau.dtype == dtype
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


# The choice


USUAL = {"sigma_U": 0.3, "sigma_V": 0.3, "sigma_W": 0.2, "sigma": 0.1, "sigma_b": 0.5}
TYPICAL = {
    "sigma_U": 1.0,
    "sigma_V": 0.5,
    "sigma_W": 0.1,
    "sigma": 0.2,
    "sigma_b": 0.7,
    "sigma_c": 0.4,  # which a fit may hold, too
    "tau": [1.5, 0.01],
}


AROUND = (0.65, 0.8, 1.0, 1.25, 1.6, 2.0)


@pytest.mark.parametrize("is_point_estimate", [False, True])
def test_candidates(is_point_estimate):
    terms = PMF(2, users="hierarchical").terms
    ways = candidate_scales(terms, USUAL, TYPICAL, is_point_estimate)
    of_all, of_strongest, *smaller = ways
    assert len(smaller) == is_point_estimate
    expected = [*zip(AROUND, of_all, strict=True), *zip(AROUND, of_strongest, strict=True)]
    for way in smaller:
        expected += zip((0.4, 0.25, 0.1), way, strict=True)
    for factor, scales in expected:
        same = {name: TYPICAL[name] for name in ("sigma", "sigma_b", "sigma_c")}
        assert {name: scales.pop(name) for name in same} == same
        surplus = any(scales is other for other in of_strongest)
        assert scales.pop("tau") == ([1.5, 0.001] if surplus else TYPICAL["tau"])
        of_factors = {name: factor * TYPICAL[name] for name in ("sigma_U", "sigma_V", "sigma_W")}
        assert scales == pytest.approx(of_factors)


def test_a_point_estimate_tries_a_single_factor():
    terms, two = PMF(3).terms, TYPICAL | {"tau": [1.0, 0.2, 0.8]}
    taus = [way[0]["tau"] for way in candidate_scales(terms, USUAL, two, True)]
    assert taus == [[1.0, 0.2, 0.8], [1.0, 0.001, 0.8], [1.0, 0.001, 0.001], [1.0, 0.2, 0.8]]
    taus = [way[0]["tau"] for way in candidate_scales(terms, USUAL, two, False)]
    assert taus == [[1.0, 0.2, 0.8], [1.0, 0.001, 0.8]]


def test_scales_that_the_sampler_has_not_got_stay_as_usual():
    """MAP holds sigma of ordered levels, which have none; a prior may fix others."""
    terms = PMF(2).terms
    found = candidate_scales(terms, USUAL, {"sigma_U": 2.0}, False)
    assert found == [[USUAL | {"sigma_U": 2.0 * x} for x in AROUND]]
    assert candidate_scales(terms, USUAL, {}, True) == [[USUAL]]
    assert candidate_scales(terms, USUAL, {"sigma_c": 1.0}, True) == [[USUAL | {"sigma_c": 1.0}]]
    of_biases = [[USUAL | {"sigma_b": 0.7}]]
    assert candidate_scales(terms, USUAL, {"sigma_b": 0.7}, True) == of_biases


def test_factors_of_about_the_same_scale_all_stay():
    terms, about = PMF(3).terms, TYPICAL | {"tau": [1.0, 0.8, 0.9]}
    assert len(candidate_scales(terms, USUAL, about, False)) == 1
    assert len(candidate_scales(terms, USUAL, about, True)) == 3


@pytest.mark.parametrize(
    ("losses", "best", "n"),
    [
        ([2.0, 0.5, 3.0], 1, 3),
        ([2.0, 1.0, 0.5], 2, 3),
        ([2.0, 2.0, 1.0], 0, 2),
        ([2.0, np.nan, 1.0], 0, 2),
        ([np.inf, np.inf, 7.0], 2, 3),
        ([np.inf, np.nan, np.inf], 0, 3),
    ],
    ids=["lowest", "last", "first of equals", "no number", "only one", "none"],
)
def test_the_best_predictions_decide(losses, best, n):
    asked = []

    def loss(scales):
        asked.append(scales)
        return losses[len(asked) - 1]

    candidates = [{"sigma_U": x} for x in (0.3, 0.2, 0.1)]
    assert learnt_scales([candidates], loss) is candidates[best]
    assert asked == candidates[:n]


@pytest.mark.parametrize(
    ("losses", "best", "asked"),
    [
        ({"a1": 2.0, "a2": 3.0, "b1": 1.9, "b2": 1.0, "b3": 1.5}, "b2", "a1 a2 b1 b2 b3"),
        ({"a1": 2.0, "a2": 1.0, "a3": 3.0, "b1": 2.5}, "a2", "a1 a2 a3 b1"),
        ({"a1": 2.0, "a2": 1.0, "a3": 3.0, "b1": 1.9, "b2": 1.95}, "a2", "a1 a2 a3 b1 b2"),
        ({"a1": 2.0, "a2": 3.0, "b1": 1.9, "b2": 1.901, "b3": 1.5}, "b3", "a1 a2 b1 b2 b3"),
    ],
    ids=[
        "the second is best",
        "it begins worse",
        "it begins better and ends worse",
        "equals go on",
    ],
)
def test_a_second_way_is_followed_if_it_begins_better(losses, best, asked):
    tried = []

    def loss(scales):
        tried.append(scales["name"])
        return losses[tried[-1]]

    ways = [[{"name": f"{way}{i}"} for i in (1, 2, 3)] for way in "ab"]
    assert learnt_scales(ways, loss)["name"] == best
    assert tried == asked.split()


def test_one_candidate_needs_no_fit():
    assert learnt_scales([[USUAL]], lambda scales: pytest.fail("a fit"), dict) is USUAL


@pytest.mark.parametrize(
    ("losses", "best", "asked"),
    [
        ({"a": 2.0, "b": 1.0, "c": 1.5, "b changed": 0.9}, "b changed", "a b c,b changed"),
        ({"a": 2.0, "b": 1.0, "c": 1.5, "b changed": 1.0}, "b", "a b c,b changed"),
        ({"a": 2.0, "b": np.nan, "c": 1.0, "a changed": np.nan}, "a", "a b,a changed"),
    ],
    ids=["better", "equal", "no number"],
)
def test_a_change_to_the_best_is_tried_last(losses, best, asked):
    tried = []

    def loss(scales):
        tried.append(scales["name"])
        return losses[tried[-1]]

    found = learnt_scales(
        [[{"name": name} for name in "abc"]], loss, lambda x: {"name": f"{x['name']} changed"}
    )
    assert found["name"] == best
    first, last = asked.split(",")
    assert tried == [*first.split(), last]


def test_no_change_is_not_tried_again():
    tried = []
    ways = [[{"sigma_U": 1.0}, {"sigma_U": 2.0}]]
    learnt_scales(ways, lambda scales: tried.append(1) or float(len(tried)), dict)
    assert len(tried) == 2


def test_scales_of_noise_are_held_on_a_linear_scale_of_ratings_only():
    terms, noise = PMF(2, noise="user").terms, {"sigma_s": 0.4}
    for transform in (Affine(0.5, 2.0), COUNT):
        assert holdable(terms, transform, TYPICAL | noise) == TYPICAL | noise
    assert holdable(terms, Log1p(3.0, 1.0), TYPICAL | noise) == TYPICAL


def test_scales_of_factors_are_those_that_fits_hold_anyway():
    found = as_typical({"sigma_U": 0.3, "sigma_V": 0.3}, TYPICAL)
    assert found == {name: x for name, x in TYPICAL.items() if name != "sigma"}
    assert factors_only({"sigma_U": 0.3, "sigma_V": 0.3}, found) == {
        name: TYPICAL[name] for name in ("sigma_U", "sigma_V", "tau")
    }
    assert as_typical(USUAL, TYPICAL)["sigma"] == TYPICAL["sigma"]  # of MAP


# Typical values


def of_factors(sd, seed=0, n_ratings=4000):
    """Ratings of three factors of a known standard deviation."""
    known = {"sigma": 0.1, "sigma_U": sd, "sigma_V": sd, "sigma_b": 0.4, "sigma_c": 0.4}
    priors = Priors(mu=Fixed(0.0), tau=Fixed(1.0), **{s: Fixed(x) for s, x in known.items()})
    return simulate(PMF(3, noise="shared", priors=priors), 120, 80, n_ratings, seed=seed)[0]


def product(scales):
    """Root mean square over the factors of sigma_U sigma_V tau."""
    tau = np.sqrt(np.mean(np.square(scales["tau"])))
    return float(scales["sigma_U"]) * float(scales["sigma_V"]) * tau


@pytest.mark.slow
@pytest.mark.statistical
def test_typical_scales_are_those_that_made_the_ratings():
    """Within 25%: with 120 users and 80 items, five standard errors or so of each."""
    found = short_run(PMF(3, noise="shared"), of_factors(0.8), 1, lambda: None).scales
    assert found.keys() == {"sigma", "sigma_U", "sigma_V", "sigma_b", "sigma_c", "tau"}
    assert len(found["tau"]) == 3
    assert product(found) == pytest.approx(0.8**2, rel=0.25)
    assert found["sigma"] == pytest.approx(0.1, rel=0.1)
    for name in ("sigma_b", "sigma_c"):
        assert found[name] == pytest.approx(0.4, rel=0.35)


def test_typical_scales_are_those_that_priors_leave_free_and_a_seed_decides_them(ratings):
    priors = Priors(sigma_U=Fixed(0.5), tau=Fixed(2.0), sigma_b=Fixed(0.3))
    model = PMF(2, noise="shared", likelihood=OrderedLogit(5), priors=priors)
    levels = small_levels()
    counted, before = [], torch.get_rng_state()
    first, again, other = (
        short_run(model, levels, seed, lambda: counted.append(1)).scales for seed in (1, 1, 2)
    )
    assert first.keys() == {"sigma_V", "sigma_c"}
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)
    assert len(counted) % 3 == 0
    assert short_run(lambda ratings: None, levels, 1, counted.append) == ShortRun()


# In a fit


# The noise of a point estimate


ALL = {"sigma": 0.5, "sigma_U": 0.4, "sigma_V": 0.3, "sigma_b": 0.2, "sigma_c": 0.1, "tau": [1.0]}


@pytest.mark.parametrize(("best", "factor"), [(1.0, 1.0), (1.35, 1.35), (1.55, 1.5), (9.0, 4.0)])
def test_sigma_widens_until_held_out_ratings_are_predicted_worse(best, factor):
    model = PMF(1, noise="shared", likelihood=NormalIdentity(rounding=0.0))
    found = widened(model, ALL, lambda wider: abs(np.log(wider / best)))
    assert found.keys() == ALL.keys()
    assert found["tau"] == ALL["tau"]
    for name in ALL.keys() - {"tau"}:
        assert found[name] == pytest.approx(factor * ALL[name])


def test_scales_grow_with_the_sd_of_a_rating_that_is_rounded():
    model = PMF(1, noise="shared", likelihood=NormalSigmoid(rounding=0.25))
    found = widened(model, ALL, lambda wider: abs(np.log(wider / 2.0)))
    before, after = (np.hypot(sigma, 0.25 / 12**0.5) for sigma in (0.5, 1.0))
    assert found["sigma"] == pytest.approx(1.0)
    assert found["sigma_U"] == pytest.approx(0.4 * after / before)


@pytest.mark.parametrize(
    "model",
    [PMF(1, noise="shared", likelihood=OrderedLogit(5)), PMF(1, "hierarchical", noise="shared")],
)
def test_scales_that_cannot_all_grow_stay(model):
    """Of a likelihood whose sigma is no unit; or where the prior fixes one, such as sigma_W."""
    assert widened(model, ALL, lambda wider: pytest.fail("a loss")) is ALL


@pytest.mark.slow
@pytest.mark.statistical
def test_a_point_estimate_is_the_same_and_covers_what_it_should(monkeypatch):
    """With the noise of draws, 79% of 900 held-out ratings are inside; one error is 1 point."""
    priors = Priors(mu=Fixed(0.0), sigma=Fixed(0.5), tau=Fixed(1.0))
    truth = replace(PMF(3, noise="shared"), likelihood=NormalIdentity(), priors=priors)
    frame = simulate(truth, 150, 100, 6_000, seed=1)[0].to_frame()
    train, test = Ratings.from_frame(frame).split(0.15, 0)
    found = fit(PMF(likelihood="auto"), train, "map", progress=False)
    monkeypatch.setattr("pyro_pmf.fitting.widened", lambda model, scales, loss: scales)
    plain = fit(PMF(likelihood="auto"), train, "map", progress=False)
    wide, narrow = (posterior.evaluate(test) for posterior in (found, plain))
    assert narrow["coverage_90"] < 0.86 < wide["coverage_90"] < 0.94
    assert wide["crps"] < narrow["crps"]
    assert wide["rmse"] == pytest.approx(narrow["rmse"], rel=2e-3)


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize(
    ("method", "sd"),
    [
        pytest.param(VI(), 0.6, marks=pytest.mark.long),
        (VI(), 1.2),
        (MAP(), 0.6),
        pytest.param(MAP(), 1.2, marks=pytest.mark.long),
    ],
    ids=["vi-0.6", "vi-1.2", "map-0.6", "map-1.2"],
)
def test_the_strength_of_factors_is_found(sd, method):
    """The candidates are 0.42 to 4 times what is typical, or 0.01 times for a point estimate."""
    model, ratings = PMF(3, noise="shared"), of_factors(sd)
    found = fit(model, ratings, method, progress=False).latents
    held = {name: np.asarray(found[name]) for name in ("sigma_U", "sigma_V", "tau")}
    assert 0.3 < product(held) / sd**2 < 2.5


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.filterwarnings("ignore:The factors have shrunk")
def test_weak_factors_are_not_lost_by_the_default():
    """The ELBO has one strong factor in place of three weak ones, or none, and predicts worse."""
    model = PMF(3, noise="shared")
    train, test = of_factors(0.3, seed=1).split(0.2, seed=0)
    found = fit(model, train, progress=False)
    held = {name: np.asarray(found.latents[name]) for name in ("sigma_U", "sigma_V", "tau")}
    assert 0.2 < product(held) / 0.3**2 < 2
    assert found.factor_norms()["dead"].sum() <= 1
    by_elbo = fit(model, train, VI(learn_scales="elbo"), progress=False)
    assert by_elbo.factor_norms()["dead"].sum() >= 2
    assert crps(found, test) < 0.99 * crps(by_elbo, test)


@pytest.mark.slow
def test_a_fit_holds_what_it_learnt_and_says_so(monkeypatch):
    """The last fit is the one with these scales; the caller's random state is left alone."""
    begun = []

    def watched(model, ratings, method, run, scales, start):
        begun.append(start)
        return fit_guide(model, ratings, method, run, scales, start)

    monkeypatch.setattr("pyro_pmf.fitting.fit_guide", watched)
    train, test = of_factors(1.0, n_ratings=2000).split(0.2)
    model, method = PMF(3, noise="shared"), VI(max_steps=60)
    before = torch.get_rng_state()
    learnt = fit(model, train, method, progress=False)
    held = {name for name, x in learnt.latents.items() if isinstance(x, torch.Tensor)}
    assert {"sigma_U", "sigma_V", "tau"} <= held
    assert held - {"sigma_U", "sigma_V", "tau"} in ({"sigma_b", "sigma_c"}, set())
    assert torch.equal(torch.get_rng_state(), before)
    assert learnt.model == model.for_ratings(train)[0]
    assert isinstance(learnt.latents["U"], Gaussian)
    assert isinstance(learnt.latents["sigma"], LogGaussian)
    scales = {site: learnt.latents[site] for site in held}
    assert float(scales["sigma_U"] * scales["sigma_V"] * scales["tau"].max()) > 0.3
    values = {site: x.tolist() for site, x in scales.items()}
    run = Conditions(0, torch.device("cpu"), None, progress=False)
    fixed = fit_guide(learnt.model, train, method, run, values, begun[-1])
    np.testing.assert_array_equal(fixed.steps["elbo"], learnt.steps["elbo"])
    assert crps(fixed, test) == crps(learnt, test)


def small_levels(n=150):
    rng = np.random.default_rng(0)
    cells = rng.choice(20 * 15, n, replace=False)
    stars = rng.integers(1, 6, n)
    return Ratings.from_frame(
        pd.DataFrame({"user": cells // 15, "item": cells % 15, "rating": stars}), scale=(1, 5)
    )


WAYS = {"vi": (VI(), None), "batches": (VI(batches=2), None), "map": (MAP(), torch.float64)}
LIKELIHOODS = {"sigmoid": NormalSigmoid(), "levels": OrderedLogit(5), "identity": NormalIdentity()}
# Each way of fitting and each likelihood, levels twice: they alone have no sigma.
QUICK = {("vi", "sigmoid"), ("batches", "identity"), ("map", "levels"), ("vi", "levels")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("likelihood", "method", "dtype"),
    [
        pytest.param(
            likelihood,
            *how,
            id=f"{way}-{name}",
            marks=[] if (way, name) in QUICK else pytest.mark.long,
        )
        for way, how in WAYS.items()
        for name, likelihood in LIKELIHOODS.items()
    ],
)
def test_every_likelihood_and_way_of_fitting(likelihood, method, dtype):
    """Holds one of the candidates, which come from nine tenths of the ratings."""
    ratings = small_levels()
    model = replace(BOTH, likelihood=likelihood).for_ratings(ratings)[0]
    short = replace(method, max_steps=4)
    posterior = fit(model, ratings, short, dtype=dtype, progress=False)
    train = ratings.split(0.1, 0)[0].to("cpu", dtype)
    typical = short_run(model, train, 0, lambda: None).scales
    usual, is_map = usual_scales(model, ratings, short), isinstance(method, MAP)
    candidates = candidate_scales(model.terms, usual, typical, is_map)
    found = posterior.latents
    held = {name: np.asarray(x) for name, x in found.items() if isinstance(x, torch.Tensor)}
    held = {name: x for name, x in held.items() if name in candidates[0][0]}
    chosen = [scales for way in candidates for scales in way]
    chosen += [factors_only(usual, scales) for scales in chosen]
    chosen = [scales for scales in chosen if held.keys() <= scales.keys() | {"tau"}]
    if is_map:  # which may widen them
        chosen = [
            widened(model, scales, lambda factor, wanted=wanted: abs(factor - wanted))
            for scales in chosen
            for wanted in (1.0, *_WIDER)
        ]
    assert any(
        all(np.allclose(held[name], scales.get(name, 1.0)) for name in held) for scales in chosen
    )


@pytest.mark.slow
def test_what_a_fit_asks_of_the_choice(monkeypatch):
    """Quicker fits than its own, of nine tenths, without a word where one finds no factors."""
    ratings, model = of_factors(1.0, n_ratings=1500), PMF(3, noise="shared")
    asked = []

    def choice(ways, loss, changed):
        nothing = {"sigma_U": 1e-4, "sigma_V": 1e-4}
        strong = {"sigma_U": 1.0, "sigma_V": 1.0, "tau": [1.0, 1.0, 1.0]}
        asked.append((ways, loss(strong), loss(nothing)))
        return strong

    monkeypatch.setattr("pyro_pmf.fitting.learnt_scales", choice)
    found = fit(model, ratings, VI(max_steps=100), seed=7, progress=False)
    [(ways, strong, nothing)] = asked
    assert {len(way) for way in ways} == {6}
    assert 0 < strong < 0.9 * nothing
    assert float(found.latents["sigma_U"]) == 1.0


def test_scales_with_which_a_fit_collapses_are_not_chosen(monkeypatch):
    """A point estimate with a tiny noise collapses, which other scales need not."""
    known = []

    def choice(ways, loss, changed):
        known.append(loss({"sigma": 1e-6, "sigma_U": 5.0, "sigma_V": 5.0}))
        return ways[0][0]

    def collapse(*_):
        raise FitError("collapsed")

    monkeypatch.setattr("pyro_pmf.fitting.learnt_scales", choice)
    monkeypatch.setattr("pyro_pmf.inference.variational.loop.refuse_collapse", collapse)
    with pytest.raises(FitError, match="collapsed"):  # the last fit, of the usual scales
        fit(PMF(1), small_levels(60), MAP(max_steps=2), progress=False)
    assert known == [np.inf]


@pytest.mark.parametrize(
    ("model", "method", "n"),
    [
        (PMF(2), VI(learn_scales=None, max_steps=2), 60),
        (PMF(2), MAP(learn_scales=None, max_steps=2), 60),
        (PMF(0), VI(max_steps=2), 60),
        (PMF(2), VI(guide=AutoDelta, max_steps=2), 60),
        (PMF(2, priors=Priors(sigma_U=Fixed(0.3), sigma_V=Fixed(0.3))), VI(max_steps=2), 60),
    ],
    ids=["vi", "map", "no factors", "own guide", "fixed"],
)
def test_fits_that_learn_no_scales(monkeypatch, model, method, n):
    def unwanted(*_):
        raise AssertionError("scales are learnt")

    monkeypatch.setattr("pyro_pmf.fitting.short_run", unwanted)
    posterior = fit(model, small_levels(n), method, progress=False)
    if model.n_factors and method != VI(guide=AutoDelta, max_steps=2):
        assert posterior.latents["tau"].tolist() == [1.0, 1.0]


def test_too_few_ratings_to_hold_out_take_what_the_sampler_finds():
    method = VI(max_steps=2)
    model, few = PMF(2).for_ratings(small_levels(19))
    held = fit(model, few, method, progress=False).latents
    typical = short_run(model, few.to(dtype=torch.float32), 0, lambda: None).scales
    assert float(held["sigma_U"]) == pytest.approx(typical["sigma_U"])
    assert held["tau"].tolist() == pytest.approx(typical["tau"])


@pytest.mark.slow
def test_time_counts_from_the_beginning_and_steps_are_those_of_the_last_fit(caplog):
    seen = []
    method = VI(max_steps=5)
    ratings = small_levels()
    with caplog.at_level("INFO", "pyro_pmf"):
        fit(PMF(3), ratings, method, callback=seen.append)
    assert "scales: ended after 60 sweeps" in caplog.text
    caplog.clear()
    assert [progress.step for progress in seen] == list(range(1, 6))
    first = seen[0].seconds
    seen.clear()
    quick = replace(method, learn_scales=None)
    fit(PMF(3), ratings, quick, progress=False, callback=seen.append)
    assert not caplog.records
    assert seen[0].seconds < first


@pytest.mark.parametrize("how", ["held_out", None, "elbo"])
def test_scales_of_no_pmf(how):
    """There are none to hold; only the ELBO cannot do without terms."""

    def model(ratings):
        with pyro.plate("users", ratings.n_users):
            b = pyro.sample("b", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("ratings", len(ratings)):
            pyro.sample("rating", dist.Normal(b[..., ratings.user], 0.3), obs=ratings.value)

    method = VI(learn_scales=how, max_steps=2)
    if how == "elbo":
        with pytest.raises(FitError, match="needs a PMF"):
            fit(model, small_levels(), method, progress=False)
        return
    posterior = fit(model, small_levels(), method, progress=False)
    assert posterior.latents.keys() == {"b"}
