"""What VI and MAP find, where the truth is known or another method tells it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro.infer import MCMC
from pyro.infer import NUTS as Kernel
from pyro.infer.autoguide import AutoNormal
from scipy import optimize, special, stats

from pyro_pmf import MAP, PMF, VI, Fixed, Priors, Ratings, fit
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.scales import factor_scales, map_scales
from pyro_pmf.moments.gaussian import LogGaussian

BOTH = {"n_factors": 2, "users": "hierarchical", "items": "hierarchical"}
TRUE_SD = {"sigma": 0.05, "sigma_U": 0.8, "sigma_V": 0.8, "sigma_b": 0.3, "sigma_c": 0.3}
KNOWN = Priors(mu=Fixed(0.2), tau=Fixed(1.0), **{name: Fixed(sd) for name, sd in TRUE_SD.items()})
# Biases only, with known scales: its posterior is nearly Gaussian, its mode unique.
ABOUT_BIASES = Priors(sigma=Fixed(0.1), sigma_b=Fixed(0.5), sigma_c=Fixed(0.5))
BIASES = PMF(0, noise="shared", priors=ABOUT_BIASES)
HELD_BY_MAP = {
    "sigma_U": 0.25,
    "sigma_V": 0.25,
    "sigma_W": 0.15,
    "sigma_Z": 0.15,
    "sigma_b": 0.5,
    "sigma_c": 0.5,
}

each_method = pytest.mark.parametrize("method", [VI, MAP])


def quick(model, ratings, method=VI, **options):
    """Fit in at most 50 steps with the usual scales, if nothing else is said."""
    chosen = method(**{"max_steps": 50, "learn_scales": None} | options)
    return fit(model, ratings, chosen, progress=False)


def all_cells(n_users, n_items) -> pd.DataFrame:
    user, item = np.divmod(np.arange(n_users * n_items), n_items)
    return pd.DataFrame({"user": user, "item": item})


@pytest.fixture(scope="module")
def tiny() -> Ratings:
    """Few ratings of strong factors: 12 users, 10 items, 1 to 5 stars and a little beyond."""
    sd = Fixed(1.5)
    strong = Priors(sigma=Fixed(0.05), tau=Fixed(1.0), sigma_U=sd, sigma_V=sd)
    model = PMF(2, noise="shared", priors=strong)
    return simulate(model, 12, 10, 100, seed=2, scale=(1.0, 5.0))[0]


@pytest.fixture(scope="module")
def simulated():
    """Train and test ratings, and the true mean of every cell."""
    ratings, sites = simulate(PMF(2, noise="shared", priors=KNOWN), 80, 60, 3000, seed=5)
    b, c, U, V = (sites[name].numpy() for name in "bcUV")
    truth = special.expit(0.2 + b[:, None] + c + U @ V.T).ravel()
    return *ratings.split(test_fraction=0.2, seed=0), truth


@pytest.fixture(scope="module")
def error_of_biases(simulated):
    train, _, truth = simulated
    mean = quick(PMF(0), train, max_steps=1000).predict(all_cells(80, 60))["mean"]
    return np.sqrt(np.mean((mean - truth) ** 2))


# --- standard deviations: held, learnt, fixed ---


@pytest.mark.slow
def test_scales_are_log_normal_where_learnt_and_known_where_held(simulated):
    train, model = simulated[0], PMF(**BOTH, noise="shared")
    learnt = quick(model, train, learn_scales="elbo", max_steps=5).latents
    normal, delta = (quick(model, train, method, max_steps=5).latents for method in (VI, MAP))
    assert set(learnt) == set(normal) == set(delta)
    held, of_map = factor_scales(model), map_scales(model, train)
    assert set(held) == {"sigma_U", "sigma_V", "sigma_W", "sigma_Z"}
    assert of_map == pytest.approx(HELD_BY_MAP | {"sigma": of_map["sigma"]})
    assert isinstance(learnt["tau"], LogGaussian)
    assert normal["tau"].tolist() == delta["tau"].tolist() == [1.0, 1.0]
    for name, value in of_map.items():
        assert isinstance(learnt[name], LogGaussian)
        assert float(delta[name]) == pytest.approx(value)
        if name in held:
            assert float(normal[name]) == pytest.approx(held[name])
        else:
            assert isinstance(normal[name], LogGaussian)


@pytest.mark.slow
@each_method
def test_priors_fix_a_scale(simulated, method):
    fixed = quick(PMF(2, priors=Priors(sigma_U=Fixed(0.7))), simulated[0], method)
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
    model = PMF(20, means=False, **{k: v for k, v in options.items() if k != "n_factors"})
    held = factor_scales(model) | {"tau": [1.0] * 20}
    known = pyro.poutine.condition(model, {name: torch.tensor(x) for name, x in held.items()})
    trace = pyro.poutine.trace(known).get_trace(simulated[0])
    for name, sd in (("U", sd_U), ("V", sd_V)):
        assert trace.nodes[name]["value"].std().item() == pytest.approx(sd, rel=0.1)


# --- noise of users ---


def noisy_and_exact_users():
    """Ratings about 1/2, with a noise of 0.02 or 0.2 a user, and an item or two's more."""
    generator = np.random.default_rng(0)
    user, item = np.divmod(np.arange(60 * 40), 40)
    sd = np.where(np.arange(60) % 2, 0.02, 0.2) * 1.0
    rating = 0.5 + sd[user] * generator.standard_normal(len(user))
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return Ratings.from_frame(frame, scale=(-1.0, 2.0)), sd / 3


@cache
def fit_of_noise(seed):
    return fit(PMF(0, noise="user"), noisy_and_exact_users()[0], seed=seed, progress=False)


@pytest.mark.slow
@pytest.mark.statistical
def test_noise_of_users_is_found():
    """40 ratings tell a log standard deviation to 1/sqrt(80) = 0.11: four times that for each."""
    ratings, sd = noisy_and_exact_users()
    posterior = fit_of_noise(0)
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


@pytest.mark.slow
@pytest.mark.statistical
def test_noise_of_an_unknown_user_does_not_depend_on_the_start():
    """sigma times exp(s_i) is what ratings see; the prior of s_i says how it is shared out."""
    _, sd = noisy_and_exact_users()
    fits = [fit_of_noise(seed) for seed in range(3)]
    elbos = [posterior.steps["elbo"].iloc[-1] for posterior in fits]
    assert np.ptp(elbos) < 1
    for posterior in fits:
        assert abs(posterior.latents["s"].mean.mean()) < 0.05
        assert posterior.latents["sigma"].log_mean.item() == pytest.approx(
            np.log(sd).mean(), abs=0.1
        )


@pytest.mark.parametrize("noise", ["user", "item", "user_and_item"])
def test_a_point_estimate_is_of_shared_noise(noise):
    ratings, _ = noisy_and_exact_users()
    differing, shared = (quick(PMF(0, noise=n), ratings, MAP) for n in (noise, "shared"))
    stated = PMF(0, noise="shared").for_ratings(ratings)[0]
    assert differing.model == shared.model == stated
    assert not {"s", "t", "sigma_s", "sigma_t"} & set(differing.latents)
    assert differing.latents.keys() == shared.latents.keys()
    for name, value in differing.latents.items():
        other = shared.latents[name]
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other)
        else:
            assert torch.equal(value.mean, other.mean)
            assert torch.equal(value.var, other.var)
    assert differing.steps["elbo"].tolist() == shared.steps["elbo"].tolist()


# --- the truth ---


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize(
    ("model", "method"),
    [
        (PMF(2), VI),
        (PMF(2, users="hierarchical"), VI),
        (PMF(2, priors=KNOWN), MAP),
    ],
)
def test_recovery_of_the_truth(simulated, error_of_biases, model, method):
    """30 ratings of sd 0.05 a user leave an error of about 0.02 in a cell; biases leave 0.15.

    Coverage of 600 held-out ratings has a standard error of 0.012: four of those, and 0.02 for
    what a mean-field posterior misses.
    """
    train, test, truth = simulated
    posterior = quick(model, train, method, max_steps=1500)
    assert posterior.converged
    mean = posterior.predict(all_cells(80, 60))["mean"]
    error = np.sqrt(np.mean((mean - truth) ** 2))
    assert np.corrcoef(mean, truth)[0, 1] > 0.97
    assert error < 0.04
    assert error < 0.3 * error_of_biases
    if method is VI:
        sigma = posterior.latents["sigma"]
        assert float(sigma.mean) == pytest.approx(TRUE_SD["sigma"], rel=0.1)
        cover = posterior.evaluate(test)["coverage"]
        assert cover == pytest.approx(0.9, abs=4 * 0.012 + 0.02)


@pytest.mark.long
@pytest.mark.parametrize("prior_sd", [0.2, 0.5])
def test_map_is_the_mode(tiny, prior_sd):
    """With biases only the log joint has one maximum, found here by L-BFGS."""
    model = PMF(0, noise="shared", priors=Priors(sigma_b=Fixed(prior_sd)))
    posterior = quick(model, tiny.to(dtype=torch.float64), MAP, max_steps=2000, tolerance=1e-5)
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
    assert posterior.steps["elbo"].iloc[-1] == pytest.approx(-best.fun, abs=1e-2)


@pytest.mark.slow
@pytest.mark.statistical
def test_auto_normal_agrees_with_normal(tiny):
    """One family, one target: only the noise of Trace_ELBO and of 200 draws lies between them.

    Predictive sds are 0.4 to 0.6 rating units here, so 0.1 is a fifth of one.
    """
    with pytest.warns(UserWarning, match="Trace_ELBO"):
        sampled = quick(BIASES, tiny, guide=AutoNormal(BIASES), max_steps=600, n_draws=200)
    exact, sampled = (p.predict(tiny) for p in (quick(BIASES, tiny, max_steps=600), sampled))
    for column in ("mean", "sd", "lower", "upper"):
        np.testing.assert_allclose(sampled[column], exact[column], atol=0.1)
    assert np.corrcoef(sampled["mean"], exact["mean"])[0, 1] > 0.99


@pytest.mark.long
@pytest.mark.statistical
def test_normal_is_the_best_mean_field_approximation_of_nuts(tiny):
    """Of a nearly Gaussian posterior: the same mean, and the sds of its precision's diagonal.

    800 draws estimate a mean to about 0.04 sd and, in 23 dimensions, the root of a precision
    to 0.03: tolerances are five of those.
    """
    ratings = tiny.to(dtype=torch.float64)
    kernel = Kernel(BIASES, jit_compile=True, ignore_jit_warnings=True)
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
