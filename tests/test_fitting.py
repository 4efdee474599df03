"""`fit`: reproducible, isolated, honest about failure, and right where the truth is known."""

from __future__ import annotations

import math
import random
import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import AutoDelta, AutoLowRankMultivariateNormal, AutoNormal
from scipy import optimize, special, stats

from pyro_pmf import PMF, FitError, Fixed, Priors, Progress, Ratings, datasets, fit
from pyro_pmf.inference.variational.elbo import GaussianELBO
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian
from pyro_pmf.inference.variational.guides import NormalGuide, initial_value
from pyro_pmf.model.likelihoods import Likelihood
from pyro_pmf.inference.scales import MAP_SCALES, factor_scales

BOTH = {"n_factors": 2, "users": "hierarchical", "items": "hierarchical"}
# With scales under which MAP, too, finds factors in `tiny`.
WIDE = Priors(sigma=Fixed(0.1), sigma_U=Fixed(1.0), sigma_V=Fixed(1.0))
HIERARCHICAL = PMF(**BOTH, priors=WIDE)
TRUE_SD = {"sigma": 0.05, "sigma_U": 0.8, "sigma_V": 0.8, "sigma_b": 0.3, "sigma_c": 0.3}
KNOWN = Priors(mu=Fixed(0.2), **{name: Fixed(sd) for name, sd in TRUE_SD.items()})
# Biases only, with known scales: its posterior is nearly Gaussian, its mode unique.
ABOUT_BIASES = Priors(sigma=Fixed(0.1), sigma_b=Fixed(0.5), sigma_c=Fixed(0.5))
BIASES = PMF(0, noise="shared", priors=ABOUT_BIASES)


def quick(model, ratings, guide="normal", **options):
    return fit(model, ratings, guide, **{"progress": False, "max_steps": 50} | options)


def all_cells(n_users, n_items) -> pd.DataFrame:
    user, item = np.divmod(np.arange(n_users * n_items), n_items)
    return pd.DataFrame({"user": user, "item": item})


def tensors(posterior) -> dict[str, torch.Tensor]:
    """Everything that was learnt, as named tensors."""
    found = {}
    for site, value in posterior.latents.items():
        parts = {"": value} if isinstance(value, torch.Tensor) else vars(value)
        found |= {f"{site}.{k}": v for k, v in parts.items() if isinstance(v, torch.Tensor)}
    return found


def assert_equal(a, b):
    a, b = tensors(a), tensors(b)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def tiny() -> Ratings:
    """Few ratings of strong factors: 12 users, 10 items, 1 to 5 stars and a little beyond."""
    strong = Priors(sigma=Fixed(0.05), sigma_U=Fixed(1.5), sigma_V=Fixed(1.5))
    model = PMF(2, noise="shared", priors=strong)
    return datasets.simulate(model, 12, 10, 100, seed=2, scale=(1.0, 5.0))[0]


@pytest.fixture(scope="module")
def noise() -> Ratings:
    rating = np.random.default_rng(0).uniform(size=180)
    return Ratings.from_frame(all_cells(15, 12).assign(rating=rating), scale=(0.0, 1.0))


# --- user models ---


def plain_model(ratings):
    one = torch.ones(2, dtype=ratings.dtype)
    with pyro.plate("users", ratings.n_users):
        U = pyro.sample("U", dist.Normal(0 * one, one).to_event(1))
    with pyro.plate("items", ratings.n_items):
        V = pyro.sample("V", dist.Normal(0 * one, one).to_event(1))
    score = (U[ratings.user] * V[ratings.item]).sum(-1)
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample("rating", dist.Normal(score.sigmoid(), 0.1), obs=ratings.value)


def model_with_history(ratings, history=None):
    """b_i scaled by how often the user was seen in training: 0 for whom it was not."""
    seen = ratings if history is None else history
    zero = torch.zeros((), dtype=ratings.dtype)
    with pyro.plate("users", ratings.n_users):
        b = pyro.sample("b", dist.Normal(zero, 1 + zero))
    score = (b * seen.user_counts)[ratings.user]
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample("rating", dist.Normal(score.sigmoid(), 0.1), obs=ratings.value)


def model_without_rating(ratings):
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample("stars", dist.Normal(torch.zeros(()), 1.0), obs=ratings.value)


def model_with_prior_only(ratings):
    with pyro.plate("ratings", len(ratings)):
        return pyro.sample("rating", dist.Normal(torch.zeros(()), 1.0))


def model_with_impossible_site(ratings):
    pyro.factor("impossible", torch.tensor(-math.inf))
    return BIASES(ratings)


# --- the same again, and nothing else touched ---


@pytest.mark.parametrize("guide", ["normal", "delta"])
def test_a_seed_decides_everything(tiny, guide):
    first, again, other = (quick(HIERARCHICAL, tiny, guide, seed=seed) for seed in (1, 1, 2))
    assert_equal(first, again)
    pd.testing.assert_frame_equal(
        first.history.drop(columns="seconds"), again.history.drop(columns="seconds")
    )
    a, b = tensors(first), tensors(other)
    free = [name for name, value in a.items() if value.dim() and value.any()]
    assert free
    assert not any(torch.equal(a[name], b[name]) for name in free if name.endswith("mean"))


def test_a_seed_decides_the_draws_of_a_sampled_posterior(tiny):
    def run(seed):
        with pytest.warns(UserWarning, match="Trace_ELBO"):
            return quick(PMF(1), tiny, AutoNormal(PMF(1)), seed=seed, num_draws=3)

    first, other = run(1), run(2)
    assert_equal(first, run(1))
    assert not torch.equal(first.latents["U"], other.latents["U"])


@pytest.mark.parametrize("fails", [False, True])
def test_the_callers_state_is_untouched(tiny, fails):
    pyro.param("mine", torch.tensor([1.5, 2.5]))
    settings = pyro.settings.get()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002

    def callback(progress):
        if fails and progress.step == 3:
            raise KeyboardInterrupt

    try:
        quick(HIERARCHICAL, tiny, callback=callback)
    except KeyboardInterrupt:
        assert fails
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == random.getstate()
    assert set(pyro.get_param_store().keys()) == {"mine"}
    assert pyro.param("mine").tolist() == [1.5, 2.5]
    assert pyro.settings.get() == settings


@pytest.mark.parametrize("guide", ["normal", "delta"])
def test_posteriors_do_not_disturb_each_other(tiny, noise, guide):
    first = quick(HIERARCHICAL, tiny, guide)
    before, learnt = first.predict(tiny), {k: v.clone() for k, v in tensors(first).items()}
    second = quick(PMF(3, priors=WIDE), noise, guide)
    assert second.latents["U"].shape == (15, 3)
    pd.testing.assert_frame_equal(first.predict(tiny), before)
    assert all(torch.equal(value, learnt[name]) for name, value in tensors(first).items())


def test_num_draws_of_a_closed_form_changes_nothing(tiny):
    assert_equal(quick(HIERARCHICAL, tiny, num_draws=3), quick(HIERARCHICAL, tiny, num_draws=7))


# --- guides ---


def function_guide(ratings):
    """Normal mu, b and c of BIASES."""

    def normal(name, *shape):
        loc = pyro.param(f"{name}_loc", torch.zeros(shape))
        scale = pyro.param(f"{name}_scale", torch.full(shape, 0.1), dist.constraints.positive)
        pyro.sample(name, dist.Normal(loc, scale))

    normal("mu")
    with pyro.plate("users", ratings.n_users):
        normal("b", ratings.n_users)
    with pyro.plate("items", ratings.n_items):
        normal("c", ratings.n_items)


@pytest.mark.parametrize(
    "guide", ["normal", "delta", NormalGuide(BIASES), AutoDelta(BIASES), function_guide]
)
def test_guides_in_closed_form(tiny, guide):
    posterior = quick(BIASES, tiny, guide)
    assert posterior.num_draws is None
    point = guide == "delta" or isinstance(guide, AutoDelta)
    for site, shape in {"mu": (), "b": (12,), "c": (10,)}.items():
        value = posterior.latents[site]
        assert isinstance(value, Gaussian)
        assert value.shape == shape
        assert (value.var == 0).all() if point else (value.var > 0).all()


def test_scales_are_log_normal_where_learnt_and_known_where_held(simulated):
    train, model = simulated[0], PMF(**BOTH, noise="shared")
    learnt = quick(model, train, learn_scales="elbo").latents
    normal, delta = (quick(model, train, guide).latents for guide in ("normal", "delta"))
    assert set(learnt) == set(normal) == set(delta)
    held = factor_scales(model)
    assert set(held) == {"sigma_U", "sigma_V", "sigma_W", "sigma_Z"}
    for name, value in MAP_SCALES.items():
        assert isinstance(learnt[name], LogGaussian)
        assert float(delta[name]) == pytest.approx(value)
        if name in held:
            assert float(normal[name]) == pytest.approx(held[name])
        else:
            assert isinstance(normal[name], LogGaussian)


def noisy_and_exact_users():
    """Ratings about 1/2, with a noise of 0.02 or 0.2 a user, and an item or two's more."""
    generator = np.random.default_rng(0)
    user, item = np.divmod(np.arange(60 * 40), 40)
    sd = np.where(np.arange(60) % 2, 0.02, 0.2) * 1.0
    rating = 0.5 + sd[user] * generator.standard_normal(len(user))
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return Ratings.from_frame(frame, scale=(-1.0, 2.0)), sd / 3


@pytest.mark.statistical
def test_noise_of_users_is_found():
    """40 ratings tell a log standard deviation to 1/sqrt(80) = 0.11: four times that for each."""
    ratings, sd = noisy_and_exact_users()
    posterior = fit(PMF(0, noise="user"), ratings, progress=False)
    sigma, s = posterior.latents["sigma"], posterior.latents["s"]
    log_sd = (sigma.log_mean + s.mean).numpy()
    np.testing.assert_allclose(log_sd, np.log(sd), atol=0.45)
    assert np.abs(log_sd - np.log(sd)).mean() < 0.15
    predicted = posterior.predict(ratings)
    narrow, wide = (predicted["sd"][ratings.to_frame()["user"] % 2 == k].mean() for k in (1, 0))
    assert narrow == pytest.approx(0.02, rel=0.2)
    assert wide == pytest.approx(0.2, rel=0.2)
    unknown = posterior.predict(pd.DataFrame({"user": [999], "item": [0]}))
    assert narrow < unknown["sd"].item() < 3 * wide


@pytest.mark.parametrize("guide", ["normal", "delta"])
def test_learnt_standard_deviations_wait_for_the_factors(simulated, guide):
    """L-BFGS holds them at first; MAP, which is given all of them, has none to hold."""
    seen = {}

    def callback(progress):
        if progress.step in (1, 30, 60):
            sigma = progress.posterior().latents["sigma"]
            seen[progress.step] = float(sigma.mean if guide == "normal" else sigma)

    quick(PMF(2), simulated[0], guide, max_steps=60, tolerance=1e-9, callback=callback)
    assert seen[1] == seen[30]
    assert (seen[30] != seen[60]) == (guide == "normal")


@pytest.mark.parametrize("noise", ["user", "item", "user_and_item"])
def test_a_point_estimate_is_of_shared_noise(noise):
    ratings, _ = noisy_and_exact_users()
    differing, shared = (
        quick(PMF(0, noise=noise), ratings, "delta") for noise in (noise, "shared")
    )
    assert differing.model == shared.model == PMF(0, noise="shared")
    assert not {"s", "t", "sigma_s", "sigma_t"} & set(differing.latents)
    assert_equal(differing, shared)
    assert differing.history["elbo"].tolist() == shared.history["elbo"].tolist()


@pytest.mark.parametrize("guide", ["normal", "delta"])
def test_priors_fix_a_scale(simulated, guide):
    fixed = quick(PMF(2, priors=Priors(sigma_U=Fixed(0.7))), simulated[0], guide)
    assert "sigma_U" not in fixed.latents


@pytest.mark.parametrize(
    ("options", "sd_U", "sd_V"),
    [
        ({}, 0.3, 0.3),
        ({"users": "hierarchical"}, (0.25**2 + 0.2**2) ** 0.5, 0.3),
        (BOTH, (0.25**2 + 0.2**2) ** 0.5, (0.25**2 + 0.2**2) ** 0.5),
    ],
)
def test_held_scales_give_the_factors_like_standard_deviations(simulated, options, sd_U, sd_V):
    """Of draws of U and V from the prior; within 10%: their standard error is 2%."""
    model = PMF(20, **{k: v for k, v in options.items() if k != "n_factors"})
    known = pyro.poutine.condition(
        model, {name: torch.tensor(x) for name, x in factor_scales(model).items()}
    )
    trace = pyro.poutine.trace(known).get_trace(simulated[0])
    for name, sd in (("U", sd_U), ("V", sd_V)):
        assert trace.nodes[name]["value"].std().item() == pytest.approx(sd, rel=0.1)


@pytest.mark.parametrize("autoguide", [AutoNormal, AutoLowRankMultivariateNormal])
def test_guides_that_are_sampled(tiny, autoguide):
    with pytest.warns(UserWarning, match="Trace_ELBO") as caught:
        posterior = quick(HIERARCHICAL, tiny, autoguide(HIERARCHICAL), num_draws=6)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert posterior.num_draws == 6
    assert posterior.latents["W"].shape == (6, 10, 2)
    assert posterior.latents["sigma_b"].shape == (6,)
    assert len(posterior.latents["sigma_b"].unique()) == 6
    assert np.isfinite(posterior.predict(tiny).iloc[:, 2:6]).all(axis=None)


@pytest.mark.statistical
def test_auto_normal_agrees_with_normal(tiny):
    """One family, one target: only the noise of Trace_ELBO and of 200 draws lies between them.

    Predictive sds are 0.4 to 0.6 rating units here, so 0.1 is a fifth of one.
    """
    with pytest.warns(UserWarning, match="Trace_ELBO"):
        sampled = quick(BIASES, tiny, AutoNormal(BIASES), max_steps=600, num_draws=200)
    exact, sampled = (p.predict(tiny) for p in (quick(BIASES, tiny, max_steps=600), sampled))
    for column in ("mean", "sd", "lower", "upper"):
        np.testing.assert_allclose(sampled[column], exact[column], atol=0.1)
    assert np.corrcoef(sampled["mean"], exact["mean"])[0, 1] > 0.99


@pytest.mark.parametrize("guide", ["normal", "delta"])
@pytest.mark.parametrize("model", [plain_model, model_with_history])
def test_a_users_own_model(tiny, model, guide):
    options = {"max_steps": 150, "num_draws": 20}
    if guide == "normal":
        with pytest.warns(UserWarning, match="Trace_ELBO"):
            posterior = quick(model, tiny, guide, **options)
    else:
        posterior = quick(model, tiny, guide, **options)
    assert posterior.num_draws == 20
    assert posterior.evaluate(tiny)["rmse"] < np.std(tiny.rating)
    unknown = pd.DataFrame({"user": [0, 99, 0, 98], "item": [0, 0, 77, 77]})
    prediction = posterior.predict(unknown)
    assert prediction["known_user"].tolist() == [True, False, True, False]
    assert prediction["known_item"].tolist() == [True, True, False, False]
    assert np.isfinite(prediction.iloc[:, 2:6]).all(axis=None)
    if model is model_with_history:  # a user without history is exactly average
        assert prediction["mean"][[1, 3]].tolist() == pytest.approx([3.0, 3.0])
        assert abs(prediction["mean"][0] - 3.0) > 0.01
    assert np.isfinite(posterior.evaluate(unknown.assign(rating=3.0))["nll"])


class Tanh(Likelihood):
    """A likelihood that needs tensors."""

    def __call__(self, score, sigma, **own):
        return dist.Normal(0.5 + 0.5 * score.tanh(), sigma)


def test_map_with_a_likelihood_that_needs_tensors(tiny):
    """Held scales and point estimates then are draws, all the same."""
    posterior = quick(PMF(0, likelihood=Tanh()), tiny, "delta", num_draws=3)
    assert posterior.num_draws == 3
    assert posterior.latents["sigma_b"].tolist() == pytest.approx([MAP_SCALES["sigma_b"]] * 3)
    mu, b, c = (posterior.latents[name][0] for name in ("mu", "b", "c"))
    expected = 3 + 2 * torch.tanh(mu + b[tiny.user] + c[tiny.item])
    np.testing.assert_allclose(posterior.predict(tiny)["mean"], expected, rtol=1e-5)


def model_with_sites_in_modules(ratings):
    """Site names as those of a PyroModule."""
    zero = torch.zeros((), dtype=ratings.dtype)
    sigma = pyro.sample("noise.sigma", dist.HalfNormal(zero + 0.5))
    with pyro.plate("users", ratings.n_users):
        b = pyro.sample("net.b", dist.Normal(zero, zero + 1.0))
    with pyro.plate("ratings", len(ratings)):
        mean = torch.sigmoid(b[..., ratings.user])
        return pyro.sample("rating", dist.Normal(mean, sigma), obs=ratings.value)


def model_with_a_parameter(ratings):
    mu = pyro.param("mu", torch.zeros((), dtype=ratings.dtype))
    zero = torch.zeros((), dtype=ratings.dtype)
    with pyro.plate("users", ratings.n_users):
        b = pyro.sample("b", dist.Normal(zero, zero + 1.0))
    with pyro.plate("ratings", len(ratings)):
        mean = torch.sigmoid(mu + b[..., ratings.user])
        return pyro.sample("rating", dist.Normal(mean, 0.1), obs=ratings.value)


@pytest.mark.parametrize("guide", ["normal", "delta"])
@pytest.mark.parametrize("model", [model_with_sites_in_modules, model_with_a_parameter])
def test_sites_and_parameters_of_a_users_own_model_may_have_any_name(tiny, model, guide):
    elbo = quick(model, tiny, guide).history["elbo"]
    assert elbo.iloc[-1] > elbo.iloc[0]


# --- batches ---


@pytest.mark.parametrize("guide", ["normal", "delta"])
def test_batches_reach_nearly_the_elbo_of_all_ratings_at_once(simulated, guide):
    """The guide is a module, and so can be asked for its ELBO after the fit."""
    model, train = PMF(2, "hierarchical", priors=KNOWN), simulated[0]
    family = NormalGuide if guide == "normal" else AutoDelta

    def elbo(**options):
        own = family(model, init_loc_fn=initial_value)
        options = {"max_steps": 500, "learning_rate": 0.05} | options
        start = quick(model, train, own, **options).history["elbo"].iloc[0]
        return start, -GaussianELBO().loss(model, own, train)

    (start, best), (_, got) = elbo(), elbo(batches=4)
    assert best > start + 1000
    assert got > best - 0.01 * (best - start)


@pytest.mark.parametrize("guide", ["normal", "delta"])
def test_a_seed_decides_a_fit_in_batches(tiny, guide):
    first, again, other = (
        quick(HIERARCHICAL, tiny, guide, seed=seed, batches=3) for seed in (1, 1, 2)
    )
    assert_equal(first, again)
    assert first.history["elbo"].tolist() == again.history["elbo"].tolist()
    assert first.history["elbo"].tolist() != other.history["elbo"].tolist()


@pytest.mark.parametrize("guide", ["normal", "delta"])
@pytest.mark.parametrize("model", [plain_model, model_with_history])
def test_batches_of_a_users_own_model(tiny, model, guide):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Falling back to Trace_ELBO")
        posterior = quick(model, tiny, guide, batches=3, max_steps=150, num_draws=20)
    assert posterior.evaluate(tiny)["rmse"] < np.std(tiny.rating)


def test_each_step_of_a_fit_in_batches_looks_at_one_block(tiny):
    """Each block once, in an order drawn anew, until all were seen."""
    seen = []

    def model(ratings, history=None):
        seen.append((len(ratings), None if history is None else len(history)))
        return BIASES(ratings, history)

    steps = []
    quick(model, tiny, "delta", batches=3, max_steps=9, callback=lambda p: steps.append(len(seen)))
    sizes = [len(block) for block in tiny.user_blocks(3)]
    assert len(set(sizes)) == 3
    looked_at = [seen[n - 1] for n in steps]
    assert {history for _, history in looked_at} == {len(tiny)}
    for epoch in range(3):
        assert sorted(n for n, _ in looked_at[3 * epoch : 3 * epoch + 3]) == sorted(sizes)


def test_more_batches_than_users(tiny):
    posterior = quick(BIASES, tiny, "delta", batches=1000)
    assert posterior.history["elbo"].map(math.isfinite).all()


def test_a_fit_in_batches_of_one_block_is_a_fit(tiny):
    """All ratings are of one user."""
    frame = tiny.to_frame().query("user == user.mode()[0]")
    one = Ratings.from_frame(frame, scale=(1.0, 5.0))
    assert_equal(quick(BIASES, one, batches=5), quick(BIASES, one))


# --- the truth is known ---


@pytest.fixture(scope="module")
def simulated():
    """Train and test ratings, and the true mean of every cell."""
    ratings, sites = datasets.simulate(PMF(2, noise="shared", priors=KNOWN), 80, 60, 3000, seed=5)
    b, c, U, V = (sites[name].numpy() for name in "bcUV")
    truth = special.expit(0.2 + b[:, None] + c + U @ V.T).ravel()
    return *ratings.split(test_fraction=0.2, seed=0), truth


@pytest.fixture(scope="module")
def error_of_biases(simulated):
    train, _, truth = simulated
    mean = quick(PMF(0), train, max_steps=1000).predict(all_cells(80, 60))["mean"]
    return np.sqrt(np.mean((mean - truth) ** 2))


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("model", "guide"),
    [
        (PMF(2), "normal"),
        (PMF(2, users="hierarchical"), "normal"),
        (PMF(2, priors=KNOWN), "delta"),
    ],
)
def test_recovery_of_the_truth(simulated, error_of_biases, model, guide):
    """30 ratings of sd 0.05 a user leave an error of about 0.02 in a cell; biases leave 0.15.

    Coverage of 600 held-out ratings has a standard error of 0.012: four of those, and 0.02 for
    what a mean-field posterior misses.
    """
    train, test, truth = simulated
    posterior = quick(model, train, guide, max_steps=1500)
    assert posterior.converged
    mean = posterior.predict(all_cells(80, 60))["mean"]
    error = np.sqrt(np.mean((mean - truth) ** 2))
    assert np.corrcoef(mean, truth)[0, 1] > 0.97
    assert error < 0.04
    assert error < 0.3 * error_of_biases
    if guide == "normal":
        sigma = posterior.latents["sigma"]
        assert float(sigma.mean) == pytest.approx(TRUE_SD["sigma"], rel=0.1)
        cover = posterior.evaluate(test)["coverage"]
        assert cover == pytest.approx(0.9, abs=4 * 0.012 + 0.02)


@pytest.mark.parametrize("prior_sd", [0.2, 0.5])
def test_map_is_the_mode(tiny, prior_sd):
    """With biases only the log joint has one maximum, found here by L-BFGS."""
    model = PMF(0, noise="shared", priors=Priors(sigma_b=Fixed(prior_sd)))
    posterior = quick(model, tiny.to(dtype=torch.float64), "delta", max_steps=2000, tolerance=1e-5)
    held = {name: float(posterior.latents[name]) for name in ("sigma", "sigma_c")}
    user, item, value = tiny.user.numpy(), tiny.item.numpy(), (tiny.rating - 1) / 4

    def split(x):
        return x[0], x[1:13], x[13:]

    def loss(x):
        mu, b, c = split(x)
        log_prior = stats.norm.logpdf(mu) + stats.norm(0, prior_sd).logpdf(b).sum()
        log_prior += stats.norm(0, held["sigma_c"]).logpdf(c).sum()
        mean = special.expit(mu + b[user] + c[item])
        log_prior += stats.halfnorm(0, [0.5, 1.0]).logpdf([held["sigma"], held["sigma_c"]]).sum()
        return -log_prior - stats.norm(mean, held["sigma"]).logpdf(value).sum()

    best = optimize.minimize(loss, np.zeros(23), method="L-BFGS-B", options={"ftol": 1e-14})
    mu, b, c = split(best.x)
    unit_mean = (posterior.predict(all_cells(12, 10))["mean"] - 1) / 4
    score = special.logit(unit_mean.to_numpy()).reshape(12, 10)
    np.testing.assert_allclose(score, mu + b[:, None] + c, atol=1e-2)
    assert posterior.history["elbo"].iloc[-1] == pytest.approx(-best.fun, abs=1e-2)


@pytest.mark.slow
@pytest.mark.statistical
def test_normal_is_the_best_mean_field_approximation_of_nuts(tiny):
    """Of a nearly Gaussian posterior: the same mean, and the sds of its precision's diagonal.

    800 draws estimate a mean to about 0.04 sd and, in 23 dimensions, the root of a precision
    to 0.03: tolerances are five of those.
    """
    ratings = tiny.to(dtype=torch.float64)
    kernel = NUTS(BIASES, jit_compile=True, ignore_jit_warnings=True)
    mcmc = MCMC(kernel, num_samples=800, warmup_steps=200, disable_progbar=True)
    mcmc.run(ratings)
    sites = ("mu", "b", "c")
    draws = mcmc.get_samples()
    x = np.concatenate([draws[name].reshape(800, -1).numpy() for name in sites], 1)
    precision = np.diag(np.linalg.inv(np.cov(x.T)))
    posterior = quick(BIASES, ratings, max_steps=2000, tolerance=1e-5)
    mean, var = (
        np.concatenate([getattr(posterior.latents[s], k).reshape(-1) for s in sites])
        for k in ("mean", "var")
    )
    assert (np.abs(mean - x.mean(0)) / x.std(0) < 0.2).all()
    np.testing.assert_allclose(np.sqrt(var), precision**-0.5, rtol=0.15)


def test_double_precision(tiny):
    single, double = (
        quick(HIERARCHICAL, tiny, max_steps=200, dtype=dtype) for dtype in (None, torch.float64)
    )
    assert {value.dtype for value in tensors(single).values()} == {torch.float32}
    assert {value.dtype for value in tensors(double).values()} == {torch.float64}
    a, b = (
        quick(BIASES, tiny, max_steps=600, dtype=d).predict(tiny) for d in (None, torch.float64)
    )
    np.testing.assert_allclose(a["mean"], b["mean"], atol=5e-3)
    np.testing.assert_allclose(a["sd"], b["sd"], atol=5e-3)


# --- history, stopping, callback, progress bar ---


@pytest.mark.parametrize(("guide", "least", "most"), [("normal", 10, 150), ("delta", 200, 2000)])
def test_history_and_convergence(tiny, guide, least, most):
    posterior = fit(BIASES, tiny, guide, progress=False)
    history = posterior.history
    assert posterior.converged
    assert list(history) == ["step", "elbo", "seconds"]
    assert history["step"].tolist() == list(range(1, len(history) + 1))
    assert least < len(history) < most
    assert history["elbo"].iloc[-5:].mean() > history["elbo"].iloc[:5].mean() + 10
    assert history["elbo"].iloc[-1] > history["elbo"].max() - 0.1
    assert (history["seconds"].diff().dropna() > 0).all()


def test_the_step_limit(tiny):
    posterior = quick(BIASES, tiny, max_steps=5)
    assert not posterior.converged
    assert len(posterior.history) == 5


def test_callback_sees_each_step(tiny):
    seen: list[Progress] = []
    predictions = []

    def callback(progress):
        seen.append(progress)
        torch.rand(1)
        predictions.append(progress.posterior().predict(tiny)["mean"])

    watched = quick(HIERARCHICAL, tiny, max_steps=6, callback=callback)
    assert [p.step for p in seen] == watched.history["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert [p.elbo for p in seen] == watched.history["elbo"].tolist()
    assert [p.seconds for p in seen] == watched.history["seconds"].tolist()
    assert all((a != b).any() for a, b in pairwise(predictions))
    pd.testing.assert_series_equal(predictions[-1], watched.predict(tiny)["mean"])
    assert_equal(watched, quick(HIERARCHICAL, tiny, max_steps=6))


def test_a_callback_that_draws_does_not_change_the_fit(tiny):
    def run(callback):
        with pytest.warns(UserWarning, match="Trace_ELBO"):
            return quick(BIASES, tiny, AutoNormal(BIASES), max_steps=4, callback=callback)

    assert_equal(run(None), run(lambda progress: progress.posterior()))


def test_the_progress_bar(tiny, capsys):
    quick(BIASES, tiny, max_steps=5)
    assert capsys.readouterr() == ("", "")
    quick(BIASES, tiny, max_steps=5, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "5/5" in err
    assert "ELBO" in err


# --- refusals ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps must be .*not 0"),
        ({"max_steps": 2.5}, "max_steps must be .*not 2.5"),
        ({"learning_rate": -1.0}, "learning_rate must be a positive number, not -1"),
        ({"learning_rate": math.nan}, "learning_rate must be a positive number, not nan"),
        ({"tolerance": 0.0}, "tolerance must be a positive number"),
        ({"num_draws": 0}, "num_draws must be .*not 0"),
        ({"batches": 0}, "batches must be .*not 0"),
        ({"batches": 2.0}, "batches must be .*not 2.0"),
        ({"batches": "2"}, "batches must be .*not '2'"),
        ({"guide": "laplace"}, "guide must be.*not 'laplace'"),
        ({"guide": None}, "guide must be.*not None"),
        pytest.param(
            {"device": "cuda"},
            "finds no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_impossible_arguments(tiny, options, message):
    with pytest.raises(FitError, match=message):
        quick(BIASES, tiny, **options)


@pytest.mark.parametrize("spoil", [Ratings.without_values, Ratings.to_frame])
def test_ratings_without_values(tiny, spoil):
    with pytest.raises(FitError, match="Ratings with values"):
        quick(BIASES, spoil(tiny))


@pytest.mark.parametrize("model", [model_without_rating, model_with_prior_only])
def test_a_model_without_an_observed_rating(tiny, model):
    with pytest.raises(FitError, match="site 'rating'"):
        quick(model, tiny)


def test_an_impossible_site_is_named(tiny):
    with pytest.raises(FitError, match="-inf at step 1, because of the sites impossible:"):
        quick(model_with_impossible_site, tiny)


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize(("guide", "batches"), [("delta", 1), ("delta", 3), ("normal", 3)])
def test_a_diverging_fit_names_step_and_site(tiny, guide, batches, validate):
    with (
        pyro.validation_enabled(validate),
        pytest.raises(FitError, match=r"at step 2, because of the sites .*U.*learning_rate"),
    ):
        quick(PMF(2), tiny, guide, learning_rate=1e30, batches=batches)


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize(
    ("name", "site"), [("sigma_U", "U"), ("sigma_c", "c"), ("sigma", "rating")]
)
def test_variational_inference_names_the_site_of_an_infinite_elbo(tiny, name, site, validate):
    """The square of 10^-30 is zero in single precision."""
    model = PMF(2, priors=Priors(**{name: Fixed(1e-30)}))
    with (
        pyro.validation_enabled(validate),
        pytest.raises(FitError, match=f"at step 1, because of the sites {site}: "),
    ):
        quick(model, tiny)


@pytest.mark.parametrize(
    ("options", "guide"),
    [({}, "delta"), ({}, AutoDelta), ({"users": "hierarchical"}, AutoDelta)],
)
def test_a_point_estimate_without_factors_is_refused(noise, options, guide):
    model = PMF(2, **options)
    guide = guide if guide == "delta" else guide(model)
    with pytest.raises(FitError, match=r"collapsed: U_i \. V_j is zero"):
        quick(model, noise, guide, max_steps=1500)


def test_a_point_estimate_that_interpolates_is_refused():
    """One rating a user, and a bias for each: sigma has no reason to stop above zero."""
    rating = np.linspace(0.2, 0.8, 10)
    ratings = Ratings.from_frame(
        pd.DataFrame({"user": range(10), "item": 0, "rating": rating}), scale=(0.0, 1.0)
    )
    priors = Priors(sigma_b=Fixed(3.0), sigma_c=Fixed(3.0))
    model = PMF(0, noise="shared", priors=priors)
    with pytest.raises(FitError, match=r"collapsed: sigma is"):
        quick(model, ratings, AutoDelta(model), max_steps=3000, tolerance=1e-9)


def test_variational_inference_says_that_noise_is_noise(noise):
    with pytest.warns(UserWarning, match="shrunk to zero") as caught:
        posterior = quick(PMF(2), noise, max_steps=1000)
    assert caught[0].filename == __file__
    assert posterior.converged
    assert posterior.predict(noise)["mean"].between(0.2, 0.8).all()


def test_a_callback_that_uses_the_random_state_does_not_change_the_fit(tiny):
    def losses(callback):
        with pytest.warns(UserWarning, match="Trace_ELBO"):
            posterior = fit(
                BIASES, tiny, AutoNormal(BIASES), max_steps=5, progress=False, callback=callback
            )
        return posterior.history["elbo"].tolist()

    assert losses(lambda state: torch.rand(1)) == losses(None)


def test_predictions_from_draws_leave_the_random_state_alone(tiny):
    with pytest.warns(UserWarning, match="Trace_ELBO"):
        posterior = fit(BIASES, tiny, AutoNormal(BIASES), max_steps=5, progress=False)
    unknown = pd.DataFrame({"user": [-1], "item": [-1]})
    state = torch.get_rng_state()
    first, second = posterior.predict(unknown), posterior.predict(unknown)
    pd.testing.assert_frame_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_that_chooses_by_a_latent_is_sampled(tiny):
    def model(ratings):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(0.5))
        with pyro.plate("ratings", len(ratings)):
            mean = torch.where(mu > 0, mu, 0.1 * mu).sigmoid()
            pyro.sample("rating", dist.Normal(mean, sigma), obs=ratings.value)

    with pytest.warns(UserWarning, match="Trace_ELBO"):
        posterior = fit(model, tiny, max_steps=3, progress=False)
    assert posterior.num_draws == 100


def test_a_guide_without_path_wise_gradients_is_sampled(tiny):
    def model(ratings):
        high = pyro.sample("high", dist.Bernoulli(0.5))
        with pyro.plate("ratings", len(ratings)):
            pyro.sample("rating", dist.Normal(0.3 + 0.4 * high, 0.2), obs=ratings.value)

    def guide(ratings):
        q = pyro.param("q", torch.tensor(0.5), constraint=dist.constraints.unit_interval)
        pyro.sample("high", dist.Bernoulli(q))

    with pytest.warns(UserWarning, match="path-wise"):
        fit(model, tiny, guide, max_steps=3, progress=False)


def test_a_model_that_cannot_predict_is_refused_before_the_fit(tiny):
    def model(ratings):
        mu = pyro.sample("mu", dist.Normal(ratings.value.mean(), 1.0))
        with pyro.plate("ratings", len(ratings)):
            pyro.sample("rating", dist.Normal(mu, 0.2), obs=ratings.value)

    with pytest.raises(FitError, match="new pairs"):
        fit(model, tiny, progress=False)


@pytest.mark.parametrize("guide", ["normal", "delta"])
def test_ratings_that_do_not_differ_are_refused(guide):
    frame = pd.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1], "rating": [3.0, 3.0, 4.0]})
    ratings = Ratings.from_frame(frame, scale=(1, 5))
    constant = next(train for train, _ in ratings.k_fold(3) if len(set(train.rating)) == 1)
    with pytest.raises(FitError, match="do not differ"):
        fit(PMF(1), constant, guide, progress=False)


def test_a_last_step_into_nowhere_is_refused(tiny):
    with pytest.raises(FitError, match="at step 2"):
        fit(BIASES, tiny, "delta", max_steps=1, learning_rate=1e30, progress=False)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"device": "gpu"}, "device"),
        ({"dtype": torch.float16}, "float32 or torch.float64"),
        ({"learning_rate": "0.1"}, "learning_rate"),
        ({"guide": AutoNormal}, "guide must be"),
    ],
)
def test_more_arguments_that_cannot_be_used(tiny, argument, message):
    with pytest.raises(FitError, match=message):
        fit(BIASES, tiny, progress=False, **argument)


def test_a_collapsed_point_estimate_is_refused_whatever_the_model():
    """A model of one's own, and a likelihood that needs tensors, whose posterior is draws."""
    frame = datasets.simulate(PMF(2), 30, 25, 300, seed=2)[0].to_frame()
    rating = np.random.default_rng(0).uniform(1, 5, len(frame))
    noise = Ratings.from_frame(frame.assign(rating=rating))

    def own(ratings, history=None):
        return PMF(2, noise="shared")(ratings, history)

    model = PMF(2, noise="shared", likelihood=Tanh())
    with pytest.raises(FitError, match="collapsed"):
        fit(own, noise, "delta", progress=False)
    with pytest.raises(FitError, match="collapsed"):
        fit(model, noise, AutoDelta(model), progress=False)
