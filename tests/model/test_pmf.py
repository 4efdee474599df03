"""The model: its equations, computed densely, and every Pyro tool on it unchanged."""

from __future__ import annotations

from itertools import product

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoLowRankMultivariateNormal, AutoNormal
from pyro.infer.inspect import get_dependencies
from pyro.infer.mcmc.util import initialize_model
from pyro.optim import Adam
from pyro.poutine.util import prune_subsample_sites
from scipy import stats

from pyro_pmf import PMF, Fixed, HalfNormal, LogNormal, Normal, NormalSigmoid, PMFError, Priors
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.model.likelihoods import Likelihood, NormalIdentity

# User 4 and item 3 have no rating.
USER = [0, 0, 0, 1, 1, 2, 3, 3]
ITEM = [0, 1, 2, 0, 2, 1, 0, 1]
VALUE = [0.1, 0.9, 0.4, 0.7, 0.2, 1.0, 0.5, 0.0]
N_USERS, N_ITEMS = 5, 4
N_FACTORS = 2  # of each model that has some
OF_FACTORS = 1 / N_FACTORS**0.25  # so that the variance of U_i . V_j does not depend on n_factors
DEFAULT_SCALES = {
    "sigma": 0.5,
    "tau": 1.0,
    "sigma_U": OF_FACTORS,
    "sigma_V": OF_FACTORS,
    "sigma_W": OF_FACTORS,
    "sigma_Z": OF_FACTORS,
    "sigma_b": 1.0,
    "sigma_c": 1.0,
    "sigma_s": 0.5,
    "sigma_t": 0.5,
}
CONFIGURATIONS = [
    {
        "n_factors": k,
        "users": users,
        "items": items,
        "biases": biases,
        "divisor": divisor,
        "noise": "shared",
    }
    for k, users, items, biases, divisor in product(
        (0, 2),
        ("independent", "hierarchical"),
        ("independent", "hierarchical"),
        (True, False),
        ("sqrt_count", "count"),
    )
    if k or biases
]
CONFIGURATIONS += [
    CONFIGURATIONS[-1] | {"n_factors": k, "biases": True, "noise": noise}
    for k, noise in product((0, 2), ("user", "item", "user_and_item"))
]
CONFIGURATIONS += [
    CONFIGURATIONS[-1] | {"n_factors": k, "biases": biases, "noise": "shared"}
    for k, biases in product((0, 2), ("user", "item"))
]
CONFIGURATIONS += [
    CONFIGURATIONS[-1] | {"n_factors": 2, "items": items, "means": False}
    for items in ("independent", "hierarchical")
]
BOTH = {"n_factors": 2, "users": "hierarchical", "items": "hierarchical", "noise": "shared"}
AUTOGUIDES = (AutoDelta, AutoNormal, AutoLowRankMultivariateNormal)

every_configuration = pytest.mark.parametrize(
    "options", CONFIGURATIONS, ids=lambda options: "-".join(map(str, options.values()))
)
both_divisors = pytest.mark.parametrize("divisor", ["sqrt_count", "count"])


def training(dtype=torch.float64) -> Pairs:
    value = torch.tensor(VALUE, dtype=dtype)
    return Pairs(torch.tensor(USER), torch.tensor(ITEM), N_USERS, N_ITEMS, value)


def test_pairs() -> Pairs:
    """Pairs of the same matrix that were not rated, of user 4 and item 3 too."""
    user, item = torch.tensor([[1, 2, 4, 4], [3, 0, 0, 3]])
    return Pairs(user, item, N_USERS, N_ITEMS, dtype=torch.float64)


test_pairs.__test__ = False


def expected_shapes(options) -> dict[str, tuple[int, ...]]:
    k = options["n_factors"]
    user_rows, item_rows = (N_USERS, k), (N_ITEMS, k)
    shapes = {"sigma": (), "mu": (), "rating": (len(VALUE),)}
    if options["biases"] in (True, "user"):
        shapes |= {"sigma_b": (), "b": (N_USERS,)}
    if options["biases"] in (True, "item"):
        shapes |= {"sigma_c": (), "c": (N_ITEMS,)}
    if k:
        shapes |= {"sigma_U": (), "sigma_V": (), "U": user_rows, "V": item_rows, "tau": (k,)}
        if options.get("means", True):
            shapes |= {"mu_U": (k,), "mu_V": (k,)}
        if options["users"] == "hierarchical":
            shapes |= {"sigma_W": (), "W": item_rows}
        if options["items"] == "hierarchical":
            shapes |= {"sigma_Z": (), "Z": user_rows}
    noise = options["noise"]
    if noise in ("user", "user_and_item"):
        shapes |= {"sigma_s": (), "s": (N_USERS,)}
    if noise in ("item", "user_and_item"):
        shapes |= {"sigma_t": (), "t": (N_ITEMS,)}
    return shapes


def dense_means(model: PMF, value, seen: Pairs) -> dict[str, np.ndarray]:
    """Prior means of U and V, from the indicator matrix I of the pairs that were seen."""
    indicator = np.zeros((seen.n_users, seen.n_items))
    indicator[seen.user, seen.item] = 1
    power = {"sqrt_count": 0.5, "count": 1.0}[model.divisor]

    def mean_of_seen(seen, W):
        return seen @ W / np.maximum(seen.sum(1), 1)[:, None] ** power

    users, items = model.users == "hierarchical", model.items == "hierarchical"
    sums = {
        "U": mean_of_seen(indicator, value["W"]) if users else 0.0,
        "V": mean_of_seen(indicator.T, value["Z"]) if items else 0.0,
    }
    return {name: value.get(f"mu_{name}", 0.0) + sum_ for name, sum_ in sums.items()}


def dense_score(model: PMF, value, pairs: Pairs) -> np.ndarray:
    score = np.full((pairs.n_users, pairs.n_items), value["mu"])
    if model.biases in (True, "user"):
        score = score + value["b"][:, None]
    if model.biases in (True, "item"):
        score = score + value["c"]
    if model.n_factors:
        score = score + value["U"] @ value["V"].T
    return score[pairs.user, pairs.item]


def dense_log_joint(model: PMF, value, ratings: Pairs) -> float:
    """The log density of everything under the default priors, by SciPy."""
    total = stats.norm(0, 1).logpdf(value["mu"])
    total += sum(
        stats.halfnorm(0, s).logpdf(value[k]).sum()
        for k, s in DEFAULT_SCALES.items()
        if k in value
    )
    means = dense_means(model, value, ratings) if model.n_factors else {}
    tau = {"U": value.get("tau", 1.0), "W": value.get("tau", 1.0)}
    total += sum(
        stats.norm(0.0, value[f"sigma_{name}"] * tau.get(name, 1.0))
        .logpdf(value[f"mu_{name}"])
        .sum()
        for name in "UV"
        if f"mu_{name}" in value
    )
    total += sum(
        stats.norm(means.get(name, 0.0), value[f"sigma_{name}"] * tau.get(name, 1.0))
        .logpdf(value[name])
        .sum()
        for name in "UVWZbcst"
        if name in value
    )
    mean = 1 / (1 + np.exp(-dense_score(model, value, ratings)))
    log_noise = value.get("s", np.zeros(N_USERS))[USER] + value.get("t", np.zeros(N_ITEMS))[ITEM]
    sigma = value["sigma"] * np.exp(log_noise)
    return total + stats.norm(mean, sigma).logpdf(ratings.value).sum()


def sample_sites(trace):
    """The sites that pyro.sample and pyro.deterministic made, without those of plates."""
    nodes = prune_subsample_sites(trace).nodes.items()
    return {name: site for name, site in nodes if site["type"] == "sample"}


def values(trace) -> dict[str, np.ndarray]:
    return {name: site["value"].numpy() for name, site in sample_sites(trace).items()}


def prior_draws(model, ratings, n, **options) -> dict[str, torch.Tensor]:
    return Predictive(model, num_samples=n, **options)(ratings.without_values())


# --- trace ---


@every_configuration
def test_trace_has_the_sites_shapes_and_plates_of_the_equations(options):
    trace = poutine.trace(PMF(**options)).get_trace(training())
    sites = sample_sites(trace)
    assert {name: tuple(s["value"].shape) for name, s in sites.items()} == expected_shapes(options)
    plates = {
        name: [(frame.name, frame.size, frame.dim) for frame in site["cond_indep_stack"]]
        for name, site in sites.items()
    }
    of_plate = {"users": "bUZs", "items": "cVWt"}
    for name, stack in plates.items():
        if name == "rating":
            assert stack == [("ratings", len(VALUE), -1)]
        elif name in of_plate["users"]:
            assert stack == [("users", N_USERS, -1)]
        elif name in of_plate["items"]:
            assert stack == [("items", N_ITEMS, -1)]
        else:
            assert stack == []
    latent = {name for name, site in sites.items() if not site["is_observed"]}
    assert latent == set(sites) - {"rating"}


@every_configuration
def test_log_joint_is_that_of_the_equations(options):
    model, ratings = PMF(**options), training()
    trace = poutine.trace(model).get_trace(ratings)
    expected = dense_log_joint(model, values(trace), ratings)
    assert trace.log_prob_sum().item() == pytest.approx(expected, rel=1e-12)


def test_log_joint_with_other_priors():
    priors = Priors(
        mu=Normal(0.5, 0.2), sigma=Fixed(0.3), sigma_b=LogNormal(0.4, 0.7), sigma_c=HalfNormal(2.0)
    )
    ratings = training()
    trace = poutine.trace(PMF(0, noise="shared", priors=priors)).get_trace(ratings)
    value = values(trace)
    assert value["sigma"] == 0.3
    mean = 1 / (1 + np.exp(-(value["mu"] + value["b"][USER] + value["c"][ITEM])))
    expected = (
        stats.norm(0.5, 0.2).logpdf(value["mu"])
        + stats.lognorm(0.7, scale=0.4).logpdf(value["sigma_b"])
        + stats.halfnorm(0, 2.0).logpdf(value["sigma_c"])
        + stats.norm(0, value["sigma_b"]).logpdf(value["b"]).sum()
        + stats.norm(0, value["sigma_c"]).logpdf(value["c"]).sum()
        + stats.norm(mean, 0.3).logpdf(VALUE).sum()
    )
    assert trace.log_prob_sum().item() == pytest.approx(expected, rel=1e-12)


@every_configuration
def test_rows_without_ratings_have_the_mean_of_all_rows(options):
    sites = sample_sites(poutine.trace(PMF(**options)).get_trace(training()))
    assert all(site["value"].isfinite().all() for site in sites.values())
    for name, rows, row in (("U", "users", 4), ("V", "items", 3)):
        if name in sites:
            mean = sites[name]["fn"].mean
            of_all = sites[f"mu_{name}"]["value"] if f"mu_{name}" in sites else 0 * mean[row]
            assert bool(of_all.any()) == options.get("means", True)
            assert (mean[row] == of_all).all()
            assert (mean[:row] != of_all).all() == (options[rows] == "hierarchical")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_site_has_the_type_of_the_ratings(dtype):
    trace = poutine.trace(PMF(**BOTH)).get_trace(training(dtype))
    assert {site["value"].dtype for site in sample_sites(trace).values()} == {dtype}
    assert trace.log_prob_sum().dtype == dtype


# --- history ---


@both_divisors
def test_history_says_what_was_seen(divisor):
    model, train, test = PMF(**BOTH, divisor=divisor), training(), test_pairs()
    trace = poutine.trace(model).get_trace(test, history=train)
    value = values(trace)
    means, others = dense_means(model, value, train), dense_means(model, value, test)
    for site, mean in means.items():
        np.testing.assert_allclose(trace.nodes[site]["fn"].mean, mean, rtol=1e-12)
        assert np.abs(mean - others[site]).max() > 0.01
    mean = 1 / (1 + np.exp(-dense_score(model, value, test)))
    np.testing.assert_allclose(trace.nodes["rating"]["fn"].mean, mean, rtol=1e-12)


def test_history_defaults_to_the_ratings():
    model, test = PMF(**BOTH), test_pairs()
    trace = poutine.trace(model).get_trace(test)
    replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(test, history=test)
    assert trace.log_prob_sum() == replayed.log_prob_sum()


@pytest.mark.parametrize("shape", [(N_USERS + 1, N_ITEMS), (N_USERS, N_ITEMS - 1)])
def test_history_of_another_shape_is_refused(shape):
    history = Pairs(torch.tensor([0]), torch.tensor([0]), *shape)
    with pytest.raises(PMFError, match=rf"{shape[0]} x {shape[1]}.*{N_USERS} x {N_ITEMS}"):
        PMF(**BOTH)(training(), history=history)


# --- Predictive ---


@pytest.mark.parametrize("parallel", [False, True])
@every_configuration
def test_posterior_predictive_follows_the_given_draws(options, parallel):
    model = PMF(**options, priors=Priors(sigma=Fixed(1e-9)))
    train, test = training(), test_pairs()
    draws = prior_draws(model, train, 3)
    latent = {k: v for k, v in draws.items() if k != "rating"}
    predictive = Predictive(model, posterior_samples=latent, parallel=parallel)
    rating = predictive(test, history=train)["rating"]
    assert rating.shape == (3, len(test))
    for k in range(3):
        value = {name: draw[k].squeeze(0).numpy() for name, draw in latent.items()}
        value = {name: v.reshape(expected_shapes(options)[name]) for name, v in value.items()}
        mean = 1 / (1 + np.exp(-dense_score(model, value, test)))
        np.testing.assert_allclose(rating[k], mean, atol=1e-7)


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize(
    ("divisor", "parallel"), [("sqrt_count", True), ("count", True), ("count", False)]
)
def test_prior_predictive_moments(divisor, parallel):
    """With all scales fixed and an identity link the variance of each rating is known.

    The relative error of a variance of n draws is sqrt((kurtosis - 1) / n), with a kurtosis under
    6 here: tolerances are five of those.
    """
    n = 4_000 if parallel else 1_000
    sd = {"sigma": 0.2, "sigma_U": 0.9, "sigma_V": 0.7, "sigma_W": 0.8, "sigma_Z": 0.6}
    sd |= {"sigma_b": 0.5, "sigma_c": 0.4, "tau": 0.8}
    priors = Priors(mu=Normal(0.3, 0.6), **{name: Fixed(value) for name, value in sd.items()})
    model = PMF(**BOTH, divisor=divisor, priors=priors, likelihood=NormalIdentity())
    draws = prior_draws(model, training(), n, parallel=parallel)
    var = {name: value**2 for name, value in sd.items()}

    def rows(own, shared, index, n_rows):
        count = np.bincount(index, minlength=n_rows)
        sum_of_seen = np.minimum(count, 1) if divisor == "sqrt_count" else 1 / np.maximum(count, 1)
        return own + shared * np.where(count > 0, sum_of_seen, 0)

    # the mean of all rows has the variance of a row
    var_U = var["tau"] * rows(2 * var["sigma_U"], var["sigma_W"], USER, N_USERS)
    var_V = rows(2 * var["sigma_V"], var["sigma_Z"], ITEM, N_ITEMS)
    expected = 0.6**2 + var["sigma_b"] + var["sigma_c"] + var["sigma"]
    expected = expected + 2 * var_U[USER] * var_V[ITEM]
    rtol = 5 * np.sqrt(5 / n)
    U, V = (draws[name].reshape(n, -1, 2).var(0).numpy() for name in "UV")
    np.testing.assert_allclose(U, np.stack([var_U] * 2, 1), rtol=rtol)
    np.testing.assert_allclose(V, np.stack([var_V] * 2, 1), rtol=rtol)
    np.testing.assert_allclose(draws["rating"].var(0), expected, rtol=rtol)
    np.testing.assert_allclose(draws["rating"].mean(0), 0.3, atol=5 * np.sqrt(expected.max() / n))


@pytest.mark.parametrize(
    "hide", [lambda m, r: (m, r.without_values()), lambda m, r: (poutine.uncondition(m), r)]
)
def test_prior_predictive_ignores_the_data(hide):
    model, ratings = hide(PMF(**BOTH), training())
    draws = Predictive(model, num_samples=4)(ratings)["rating"]
    assert draws.shape == (4, len(VALUE))
    assert (draws != torch.tensor(VALUE)).all()
    assert (draws[0] != draws[1]).all()


def test_predictive_of_an_observed_site_returns_the_data():
    draws = Predictive(PMF(**BOTH), num_samples=2)(training())["rating"]
    assert (draws == torch.tensor(VALUE, dtype=torch.float64)).all()


# --- SVI ---


@pytest.mark.slow
@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("autoguide", AUTOGUIDES)
def test_svi_lowers_the_loss(autoguide, vectorized):
    model, ratings = PMF(**BOTH), training()
    guide = autoguide(model)
    nesting = {"max_plate_nesting": 1, "vectorize_particles": vectorized}
    svi = SVI(model, guide, Adam({"lr": 0.05}), Trace_ELBO(num_particles=2, **nesting))
    judge = Trace_ELBO(num_particles=200, max_plate_nesting=1, vectorize_particles=True)
    before = judge.loss(model, guide, ratings)
    for _ in range(40):
        svi.step(ratings)
    after = judge.loss(model, guide, ratings)
    assert np.isfinite(after)
    assert after < before - 5


@every_configuration
def test_vectorized_particles_are_what_single_ones_are(options):
    """AutoDelta has no noise: any number of particles has one loss, the dense log joint's."""
    model, ratings = PMF(**options), training()
    guide = AutoDelta(model)
    vectorized = Trace_ELBO(num_particles=3, max_plate_nesting=1, vectorize_particles=True)
    loss = vectorized.loss(model, guide, ratings)
    with torch.no_grad():
        value = {name: v.double().numpy() for name, v in guide(ratings).items()}
    assert loss == pytest.approx(-dense_log_joint(model, value, ratings), rel=1e-6)


# --- NUTS ---


@pytest.mark.parametrize("jit", [False, True])
@every_configuration
def test_nuts_potential_is_that_of_the_equations(options, jit):
    model, ratings = PMF(**options), training()
    parameters, potential, transforms, _ = initialize_model(
        model, (ratings,), jit_compile=jit, skip_jit_warnings=True
    )
    for _ in range(2):  # the second time at other values than those that jit saw
        parameters = {name: torch.randn_like(z) for name, z in parameters.items()}
        value = {n: transforms[n].inv(z) if n in transforms else z for n, z in parameters.items()}
        value = {name: v.numpy() for name, v in value.items()}
        volume = sum(float(z.sum()) for name, z in parameters.items() if name in DEFAULT_SCALES)
        expected = -dense_log_joint(model, value, ratings) - volume
        assert potential(parameters).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_nuts_runs(jit):
    model, ratings = PMF(**BOTH), training()
    kernel = NUTS(model, jit_compile=jit, ignore_jit_warnings=True, max_tree_depth=4)
    mcmc = MCMC(kernel, num_samples=6, warmup_steps=6, disable_progbar=True)
    mcmc.run(ratings)
    draws = mcmc.get_samples()
    latent = expected_shapes({**BOTH, "biases": True})
    del latent["rating"]
    assert {name: tuple(draw.shape[1:]) for name, draw in draws.items()} == latent
    assert all(draw.isfinite().all() and len(draw.unique(dim=0)) > 1 for draw in draws.values())


# --- other tools ---


def test_render_model_draws_every_site_and_its_parents():
    graph = pyro.render_model(PMF(**BOTH), model_args=(training(),), render_distributions=True)
    edges = {tuple(x.strip() for x in line.split("->")) for line in graph.body if "->" in line}
    for child, parents in {
        "W": {"sigma_W", "tau"},
        "mu_U": {"sigma_U", "tau"},
        "U": {"W", "mu_U", "sigma_U", "tau"},
        "Z": {"sigma_Z"},
        "mu_V": {"sigma_V"},
        "V": {"Z", "mu_V", "sigma_V"},
        "rating": {"sigma", "mu", "b", "c", "U", "V"},
    }.items():
        assert {parent for parent, of in edges if of == child} == parents
    assert "W ~ Normal" in graph.source
    assert "sigma ~ HalfNormal" in graph.source
    plates = [name for name in ("users", "items", "ratings") if f"label={name}" in graph.source]
    assert plates == ["users", "items", "ratings"]


def test_get_dependencies_finds_the_parents():
    found = get_dependencies(PMF(**BOTH), (training(),))["prior_dependencies"]
    parents = {child: set(of) - {child} for child, of in found.items()}
    assert parents["rating"] == {"sigma", "mu", "b", "c", "U", "V"}
    assert parents["W"] == {"sigma_W", "tau"}
    assert parents["U"] == {"sigma_U", "W", "tau", "mu_U"}
    assert parents["V"] == {"sigma_V", "Z", "mu_V"}
    assert parents["mu_U"] == {"sigma_U", "tau"}
    assert parents["mu_V"] == {"sigma_V"}
    assert parents["Z"] == {"sigma_Z"}
    assert parents["mu"] == parents["sigma"] == set()


def test_condition_fixes_a_site():
    model, ratings = PMF(**BOTH), training()
    W = torch.ones(N_ITEMS, 2, dtype=torch.float64)
    conditioned = poutine.condition(model, data={"W": W, "sigma": torch.tensor(0.7)})
    trace = poutine.trace(conditioned).get_trace(ratings)
    value = values(trace)
    np.testing.assert_array_equal(value["W"], W)
    expected = dense_log_joint(model, value, ratings)
    assert trace.log_prob_sum().item() == pytest.approx(expected, rel=1e-6)
    assert {"W", "sigma", "rating"} <= set(trace.observation_nodes)


def test_scale_scales_every_log_density():
    model, ratings = PMF(**BOTH), training()
    trace = poutine.trace(poutine.scale(model, 0.25)).get_trace(ratings)
    expected = 0.25 * dense_log_joint(model, values(trace), ratings)
    assert trace.log_prob_sum().item() == pytest.approx(expected, rel=1e-12)


# --- options ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"users": "nested"}, "users must be one of.*not 'nested'"),
        ({"items": None}, "items must be one of.*not None"),
        ({"divisor": "n"}, "divisor must be one of.*'sqrt_count', 'count'.*not 'n'"),
        ({"means": "both"}, "means must be True or False, not 'both'"),
        ({"n_factors": -1}, "n_factors must be .*not -1"),
        ({"n_factors": 2.0}, "n_factors must be .*not 2.0"),
        ({"n_factors": 0, "biases": False}, "leave nothing to learn"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(PMFError, match=message):
        PMF(**options)


def test_repr_says_everything():
    priors = Priors(sigma_W=Fixed(0.123), mu=Normal(0.5, 2.0), sigma=LogNormal(0.2, 0.9))
    model = PMF(3, users="hierarchical", biases=False, divisor="count", priors=priors)
    for part in (
        "n_factors=3",
        "users='hierarchical'",
        "items='independent'",
        "biases=False",
        "divisor='count'",
        "mu=Normal(loc=0.5, scale=2.0)",
        "sigma=LogNormal(median=0.2, scale=0.9)",
        "sigma_W=Fixed(value=0.123)",
        *(f"{name}=FactorHalfNormal" for name in ("sigma_U", "sigma_V", "sigma_Z")),
        *(f"{name}=HalfNormal" for name in ("tau", "sigma_b", "sigma_c")),
        "likelihood=NormalSigmoid(rounding=None)",
    ):
        assert part in repr(model)


class HeavyTails(Likelihood):
    def __call__(self, score, sigma, **own):
        return dist.StudentT(3.0, score, sigma)


@pytest.mark.parametrize(
    ("likelihood", "link", "family"),
    [
        (NormalSigmoid(), lambda s: 1 / (1 + np.exp(-s)), stats.norm),
        (NormalIdentity(), lambda s: s, stats.norm),
        (HeavyTails(), lambda s: s, stats.t),
    ],
)
def test_any_likelihood_may_be_given(likelihood, link, family):
    model, ratings = PMF(**BOTH, likelihood=likelihood), training()
    trace = poutine.trace(model).get_trace(ratings)
    trace.compute_log_prob()
    value = values(trace)
    shape = (3.0,) if family is stats.t else ()
    center = link(dense_score(model, value, ratings))
    expected = family.logpdf(VALUE, *shape, center, value["sigma"])
    np.testing.assert_allclose(trace.nodes["rating"]["log_prob"], expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"priors": {"sigma_U": Fixed(0.3)}}, "priors"),
        ({"likelihood": "normal"}, "likelihood"),
        ({"likelihood": dist.Normal}, "likelihood"),
        ({"biases": "no"}, "biases"),
        ({"n_factors": True}, "n_factors"),
    ],
)
def test_options_of_the_wrong_type(option, message):
    with pytest.raises(PMFError, match=message):
        PMF(**option)
