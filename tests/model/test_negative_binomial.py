"""Counts: their distribution against SciPy and draws, and fits of `NegativeBinomialLog`."""

import numpy as np
import pandas as pd
import pyro
import pytest
import scipy.stats
import torch
from pyro.infer import Trace_ELBO

from pyro_pmf import (
    MAP,
    PMF,
    VI,
    FitError,
    Fixed,
    NegativeBinomialLog,
    Normal,
    Priors,
    Ratings,
    fit,
)
from pyro_pmf.datasets import simulate
from pyro_pmf.inference.initialization import initial_value
from pyro_pmf.inference.variational.elbo import GaussianELBO
from pyro_pmf.inference.variational.guides import NormalGuide
from pyro_pmf.model.distributions import GammaPoisson
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, NoClosedForm
from pyro_pmf.prediction.mixture import mixture

SCORE = np.array([-1.0, 0.0, 3.0, 6.0, 12.0])
SIGMA = np.array([0.3, 2.0, 1.0, 0.7, 1.2])
COUNTS = [0.0, 1.0, 7.0, 400.0, 300_000.0]
HELD = VI(learn_scales=None)
LEVEL = Priors(mu=Normal(5.0, 2.0))


def exact(score=SCORE, sigma=SIGMA):
    size = np.asarray(sigma) ** -2.0
    return scipy.stats.nbinom(size, size / (size + np.exp(score)))


@pytest.fixture
def counts():
    return GammaPoisson(torch.tensor(SCORE), torch.tensor(SIGMA))


class TestGammaPoisson:
    def test_moments(self, counts):
        np.testing.assert_allclose(counts.mean, exact().mean())
        np.testing.assert_allclose(counts.variance, exact().var())

    @pytest.mark.parametrize("count", COUNTS)
    def test_mass_and_cdf(self, counts, count):
        value = torch.full((5,), count, dtype=torch.float64)
        np.testing.assert_allclose(counts.log_prob(value), exact().logpmf(count), rtol=1e-7)
        np.testing.assert_allclose(counts.cdf(value), exact().cdf(count), rtol=1e-10)
        np.testing.assert_allclose(counts.cdf(value + 0.5), exact().cdf(count), rtol=1e-10)

    def test_cdf_where_a_zero_is_too_rare_for_a_float(self):
        """A few counts are summed from the mass of 0, which is exp(-650) at one of these."""
        score, sigma, count = np.array([0.5, np.log(700.0)]), np.array([0.5, 0.015]), [3.0, 24.0]
        fn = GammaPoisson(torch.tensor(score), torch.tensor(sigma))
        found = fn.cdf(torch.tensor(count, dtype=torch.float64))
        assert found[1] > 0
        np.testing.assert_allclose(found, exact(score, sigma).cdf(count), rtol=1e-10)

    def test_cdf_below_zero(self, counts):
        assert (counts.cdf(torch.full((5,), -1.0)) == 0).all()

    @pytest.mark.parametrize("count", COUNTS)
    def test_mass_in_single_precision(self, counts, count):
        single = GammaPoisson(counts.score.float(), counts.sigma.float())
        log_mass = single.log_prob(torch.full((5,), count))
        np.testing.assert_allclose(log_mass, exact().logpmf(count), rtol=2e-5, atol=2e-5)

    @pytest.mark.parametrize("sigma", [3e-4, 1e-5, 1e-7, 1e-12, 1e-30])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_as_good_as_poisson(self, sigma, dtype):
        """Masses of sizes up to 1e60, whose logarithms are differences of enormous numbers."""
        mean, count = np.array([0.1, 2.7, 20.0, 2980.0]), np.array([2.0, 3.0, 25.0, 2950.0])
        score = torch.tensor(mean, dtype=dtype).log()
        fn = GammaPoisson(score, torch.full((4,), sigma, dtype=dtype), False)
        value = torch.tensor(count, dtype=dtype)
        poisson = scipy.stats.poisson(mean)
        np.testing.assert_allclose(fn.log_prob(value), poisson.logpmf(count), rtol=2e-5)
        slope = torch.func.grad(lambda x: GammaPoisson(x, fn.sigma, False).log_prob(value).sum())
        np.testing.assert_allclose(slope(score), count - mean, rtol=1e-3)
        np.testing.assert_allclose(fn.cdf(value), poisson.cdf(count), atol=1e-4)
        torch.manual_seed(0)
        drawn = fn.sample((4000,)).double().mean(0).numpy()
        assert (abs(drawn - mean) < 5 * np.sqrt(mean / 4000)).all()

    @pytest.mark.statistical
    def test_draws(self):
        torch.manual_seed(0)
        fn = GammaPoisson(torch.tensor([0.5, 3.0]), torch.tensor([0.4, 1.0]))
        draws = fn.sample((20_000,)).numpy()
        for k, one in enumerate(([0.5, 0.4], [3.0, 1.0])):
            cells = np.arange(12)
            expected = exact(*one).pmf(cells)
            observed = np.array([(draws[:, k] == cell).mean() for cell in cells])
            np.testing.assert_allclose(observed, expected, atol=0.01)

    def test_shapes(self, counts):
        wide = counts.expand((3, 5))
        assert wide.sample().shape == (3, 5)
        assert wide.log_prob(torch.ones(5)).shape == (3, 5)
        one = GammaPoisson(torch.tensor(SCORE), torch.tensor(0.5))
        assert one.sample((2,)).shape == (2, 5)

    def test_validation(self, counts):
        with pytest.raises(ValueError, match="sigma"):
            GammaPoisson(torch.zeros(2), -torch.ones(2), validate_args=True)
        checked = GammaPoisson(torch.zeros(2), torch.ones(2), validate_args=True)
        for wrong in (-1.0, 0.5):
            with pytest.raises(ValueError, match="support"):
                checked.log_prob(torch.full((2,), wrong))


class TestExpectation:
    @pytest.mark.statistical
    @pytest.mark.parametrize("count", [0.0, 2.0, 150.0])
    @pytest.mark.parametrize("log_var", [None, 0.0, 0.04])
    def test_against_draws(self, count, log_var):
        torch.manual_seed(1)
        mean = torch.tensor([0.5, 4.0], dtype=torch.float64)
        var = torch.tensor([0.3, 0.1], dtype=torch.float64)
        score, n = Gaussian(mean, var, frozenset({"a"})), 200_000
        drawn = mean + var.sqrt() * torch.randn(n, 2, dtype=torch.float64)
        log_mean = torch.tensor(-0.3, dtype=torch.float64)
        sigma, sigmas = log_mean.exp(), log_mean.exp().expand(n, 2)
        if log_var is not None:
            spread = torch.tensor(log_var, dtype=torch.float64)
            sigma = LogGaussian(log_mean, spread, frozenset({"b"}))
            sigmas = (log_mean + spread.sqrt() * torch.randn(n, 1).double()).exp().expand(n, 2)
        value = torch.full((2,), count, dtype=torch.float64)
        expected = GammaPoisson(score, sigma, False).expected_log_prob(value)
        logs = GammaPoisson(drawn, sigmas).log_prob(value)
        error = 5 * logs.std(0) / n**0.5 + 1e-3
        assert ((expected - logs.mean(0)).abs() < error).all()

    def test_is_the_log_mass_where_nothing_is_random(self, counts):
        value = torch.tensor(COUNTS, dtype=torch.float64)
        known = Gaussian(counts.score, torch.zeros(5).double())
        given = GammaPoisson(known, counts.sigma, False).expected_log_prob(value)
        torch.testing.assert_close(given, counts.log_prob(value))

    def test_of_what_shares_a_site(self):
        site = frozenset({"a"})
        one = torch.ones(2)
        fn = GammaPoisson(Gaussian(one, one, site), LogGaussian(one, one, site), False)
        with pytest.raises(NoClosedForm, match="dependent"):
            fn.expected_log_prob(one)


def simulated(noise="user", n=3000, **fixed):
    priors = Priors(
        **{
            "mu": Fixed(4.0),
            "sigma": Fixed(0.7),
            "tau": Fixed(1.0),
            "sigma_U": Fixed(0.5),
            "sigma_V": Fixed(0.5),
            "sigma_b": Fixed(0.8),
            "sigma_c": Fixed(0.4),
            "sigma_s": Fixed(0.3),
            "sigma_t": Fixed(0.3),
        }
        | fixed
    )
    model = PMF(2, noise=noise, priors=priors, likelihood=NegativeBinomialLog())
    drawn, sites = simulate(model, 60, 80, n, seed=3)
    return Ratings.from_frame(drawn.to_frame(), transform="count"), sites, model


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("noise", ["shared", "user_and_item"])
def test_elbo_against_sampling(noise):
    ratings = simulated(noise, 200)[0].to(dtype=torch.float64)
    model = PMF(2, noise=noise, priors=LEVEL, likelihood=NegativeBinomialLog())
    with pyro.get_param_store().scope():
        guide = NormalGuide(model, init_loc_fn=initial_value)
        guide(ratings)
        exact_loss = GaussianELBO().loss(model, guide, ratings)
        many = Trace_ELBO(20, max_plate_nesting=1, vectorize_particles=True)
        losses = [many.loss(model, guide, ratings) for _ in range(30)]
    error = np.std(losses) / len(losses) ** 0.5
    assert abs(np.mean(losses) - exact_loss) < 5 * error + 1e-3 * abs(exact_loss)


@pytest.mark.filterwarnings("ignore:The factors have shrunk")  # a prior of tau has weak ones
class TestFit:
    @pytest.mark.slow
    def test_recovers_what_made_the_counts(self):
        ratings, sites, _ = simulated("shared")
        model = PMF(2, noise="shared", priors=LEVEL, likelihood=NegativeBinomialLog())
        posterior = fit(model, ratings, HELD, progress=False)
        assert posterior.converged
        assert float(posterior.latents["sigma"].mean) == pytest.approx(0.7, rel=0.15)
        assert np.corrcoef(posterior.latents["b"].mean, sites["b"])[0, 1] > 0.95

    @pytest.mark.slow
    def test_predictions_are_calibrated_and_in_counts(self):
        whole, _, model = simulated("user")
        train, test = whole.split(0.3, seed=0)
        posterior = fit(model, train, HELD, progress=False)
        table = posterior.predict(test, at_least=50)
        assert (table[["lower", "upper"]] % 1 == 0).all(axis=None)
        assert (table["mean"] > 0).all()
        summary = posterior.evaluate(test)
        assert 0.86 < summary["coverage"] < 0.96
        pit = posterior.scores(test)["pit"]
        assert scipy.stats.kstest(pit, "uniform").statistic < 0.08
        assert np.isfinite(posterior.predict(pd.DataFrame({"user": [-1], "item": [-1]}))["sd"][0])

    @pytest.mark.long
    def test_user_noise_beats_shared_noise_where_it_is_so(self):
        train, test = simulated("user", 4000, sigma_s=Fixed(0.6))[0].split(0.3, seed=0)
        nll = {}
        for noise in ("shared", "user"):
            model = PMF(2, noise=noise, priors=LEVEL, likelihood=NegativeBinomialLog())
            posterior = fit(model, train, HELD, progress=False)
            nll[noise] = posterior.scores(test)["nll"].mean()
        assert nll["user"] < nll["shared"] - 0.01

    @pytest.mark.slow
    def test_map_takes_sigma_from_logarithms(self):
        ratings, _, _ = simulated("shared")
        posterior = fit(
            PMF(2, priors=LEVEL, likelihood=NegativeBinomialLog()),
            ratings,
            MAP(learn_scales=None),
            progress=False,
        )
        assert 0.5 < float(posterior.latents["sigma"]) < 1.3
        scores = posterior.scores(ratings)
        assert np.isfinite(scores["nll"]).all()

    @pytest.mark.parametrize("transform", ["unit", "standardize", "log1p"])
    def test_refuses_what_is_no_count(self, transform):
        frame = simulated("shared", 100)[0].to_frame()
        with pytest.raises(FitError, match='transform="count"'):
            fit(
                PMF(2, likelihood=NegativeBinomialLog()),
                Ratings.from_frame(frame, transform=transform),
                progress=False,
            )


def test_draws_of_the_posterior_predictive_are_counts():
    ratings, _, model = simulated("shared", 500)
    posterior = fit(model, ratings, VI(max_steps=30, learn_scales=None), progress=False)
    draws = posterior.sample(ratings.to_frame().head(50), 20)
    assert (draws % 1 == 0).all()
    assert (draws >= 0).all()


@pytest.mark.slow
def test_predictive_mixture_against_scipy():
    score, sigma = np.array([[1.0, 6.0], [2.0, 5.0]]), np.array([[0.5, 1.0], [0.8, 0.9]])
    parts = [
        (weight, GammaPoisson(torch.tensor(m), torch.tensor(s)))
        for weight, m, s in zip((0.3, 0.7), score, sigma, strict=True)
    ]
    predictive = mixture(parts, (0, 1))
    of = [exact(m, s) for m, s in zip(score, sigma, strict=True)]

    def mixed(method, x):
        return 0.3 * getattr(of[0], method)(x) + 0.7 * getattr(of[1], method)(x)

    for count in (0, 5, 200):
        at = torch.full((2,), float(count), dtype=torch.float64)
        np.testing.assert_allclose(predictive.log_prob(at), np.log(mixed("pmf", count)))
        assert torch.equal(predictive.log_mass(at), predictive.log_prob(at))
        np.testing.assert_allclose(predictive.cdf(at), mixed("cdf", count))
    table = np.stack([mixed("cdf", k) for k in range(6000)], -1)
    np.testing.assert_array_equal(predictive.quantile(0.9), (table >= 0.9).argmax(-1))
    crps = ((table - (np.arange(6000) >= 30)) ** 2).sum(-1)
    np.testing.assert_allclose(predictive.crps(torch.full((2,), 30.0)), crps, rtol=0.01)


@pytest.mark.slow
def test_a_mean_out_of_reach_of_the_prior_is_said_and_the_remedy_works():
    """Counts of ten million under Normal(0, 1) of the log mean; predictions were infinite."""
    rng = np.random.default_rng(0)
    user, item = np.divmod(np.arange(400), 20)
    rating = rng.poisson(1e7 * np.exp(0.5 * rng.normal(size=20))[user])
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    ratings = Ratings.from_frame(frame, transform="count")
    model = PMF(0, noise="shared", likelihood=NegativeBinomialLog())
    method = MAP(max_steps=5, learn_scales=None)
    with pytest.warns(UserWarning, match="prior of mu") as said:
        fit(model, ratings, method, progress=False)
    remedy = str(said[0].message).rpartition("give ")[2].rstrip(".")
    priors = eval(remedy, {"Priors": Priors, "Normal": Normal})
    better = PMF(0, noise="shared", likelihood=NegativeBinomialLog(), priors=priors)
    stranger = pd.DataFrame({"user": [99], "item": [99]})
    posterior = fit(better, ratings, VI(max_steps=200, learn_scales=None), progress=False)
    assert np.isfinite(posterior.predict(stranger)["sd"]).all()
