"""The ceiling of the mean of a count: its link, its expectations, and fits that need it."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import quad

from pyro_pmf import (
    PMF,
    VI,
    Gibbs,
    NegativeBinomialLog,
    PMFError,
    Priors,
    Ratings,
    fit,
)
from pyro_pmf.datasets import simulate
from pyro_pmf.model.distributions import GammaPoisson
from pyro_pmf.moments.ceiling import below_ceiling, score_of_log_mean
from pyro_pmf.moments.expectations import expected_log_prob
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, NoClosedForm
from pyro_pmf.moments.stacking import mixture_of

SCORES = torch.linspace(-20, 20, 81, dtype=torch.float64)
SIGMA = torch.tensor(0.8, dtype=torch.float64)


def table(counts):
    counts = np.asarray(counts)
    pairs = {"user": np.arange(len(counts)), "item": np.arange(len(counts)) % 3}
    return Ratings.from_frame(pd.DataFrame(pairs | {"rating": counts}), transform="count")


class TestLink:
    def test_is_the_formula(self):
        mean = NegativeBinomialLog(ceiling=30.0)(SCORES, SIGMA).mean
        np.testing.assert_allclose(mean, 30 * SCORES.exp() / (30 + SCORES.exp()), rtol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_is_bounded_and_rises(self, dtype):
        score = torch.cat([SCORES, torch.tensor([-1e4, 90.0, 1e4])]).to(dtype).sort().values
        fn = NegativeBinomialLog(ceiling=30.0)(score, SIGMA.to(dtype))
        assert fn.mean.max() <= 30 * (1 + 4 * torch.finfo(dtype).eps)
        assert fn.variance.isfinite().all()
        assert (fn.mean.diff() >= 0).all()

    def test_is_a_tenth_below_the_exponential_at_a_tenth_of_the_ceiling(self):
        """So the largest count of a table is within this, which the default says."""
        score = torch.tensor(math.log(50.0), dtype=torch.float64)
        mean = float(NegativeBinomialLog(ceiling=500.0)(score[None], SIGMA).mean)
        assert mean == pytest.approx(50 / 1.1)

    @pytest.mark.parametrize("likelihood", [NegativeBinomialLog(), NegativeBinomialLog(math.inf)])
    def test_without_a_ceiling_is_the_exponential(self, likelihood):
        fn = likelihood(SCORES, SIGMA)
        assert torch.equal(fn.mean, SCORES.exp())
        count = torch.full_like(SCORES, 3.0)
        assert torch.equal(fn.log_prob(count), GammaPoisson(SCORES, SIGMA).log_prob(count))

    def test_a_high_ceiling_changes_nothing(self):
        high, none = (NegativeBinomialLog(c)(SCORES, SIGMA) for c in (1e30, math.inf))
        count = torch.full_like(SCORES, 3.0)
        np.testing.assert_allclose(high.log_prob(count), none.log_prob(count), rtol=1e-12)
        np.testing.assert_allclose(high.cdf(count), none.cdf(count), rtol=1e-12)

    def test_can_be_undone(self):
        below = SCORES[SCORES < 12]
        again = score_of_log_mean(below_ceiling(below, 3.0), 3.0)
        np.testing.assert_allclose(again, below, rtol=1e-9, atol=1e-9)
        assert score_of_log_mean(torch.tensor([3.0, 3.1]), 3.0).isfinite().all()

    @pytest.mark.statistical
    def test_draws_have_its_mean(self):
        """Five standard errors, so that one of 2 million runs fails by chance."""
        torch.manual_seed(0)
        fn = NegativeBinomialLog(ceiling=5.0)(torch.tensor([0.0, 2.0, 9.0]), torch.tensor(0.7))
        draws = fn.sample((40_000,))
        error = 5 * (fn.variance / len(draws)).sqrt()
        assert ((draws.mean(0) - fn.mean).abs() < error).all()

    @pytest.mark.parametrize("ceiling", [0.0, -1.0, math.nan, "10"])
    def test_refuses_what_is_no_ceiling(self, ceiling):
        with pytest.raises(PMFError, match=r"math\.inf for no ceiling"):
            NegativeBinomialLog(ceiling=ceiling)


class TestTable:
    @pytest.mark.parametrize(
        ("counts", "ceiling"),
        [([0, 3, 57], 570.0), ([0, 0, 1], 10.0), ([0, 1, 1234567], 12345700.0)],
    )
    def test_gives_ten_times_the_largest_count(self, counts, ceiling):
        assert NegativeBinomialLog().for_ratings(table(counts)).ceiling == ceiling

    def test_leaves_a_ceiling_that_was_given(self):
        for given in (3.0, math.inf):
            assert NegativeBinomialLog(given).for_ratings(table([0, 5, 9])).ceiling == given

    def test_of_a_model(self):
        model, _ = PMF(1, likelihood="auto").for_ratings(table([0, 2, 9, 0, 0, 40]))
        assert model.likelihood == NegativeBinomialLog(ceiling=400.0)


class TestExpectation:
    """Against adaptive integrals over the score; seven nodes are within a hundredth."""

    MEAN = torch.tensor([-2.0, 0.0, 1.5, 3.0], dtype=torch.float64)
    VAR = torch.tensor([0.5, 0.3, 0.2, 0.1], dtype=torch.float64)

    def integral(self, function, k):
        mean, sd = float(self.MEAN[k]), float(self.VAR[k].sqrt())

        def weighted(x):
            return function(mean + sd * x) * math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)

        return quad(weighted, -9, 9, epsabs=1e-10)[0]

    @pytest.mark.parametrize("count", [0.0, 2.0, 40.0])
    @pytest.mark.parametrize("ceiling", [4.0, 400.0, math.inf])
    def test_of_the_log_mass(self, count, ceiling):
        likelihood = NegativeBinomialLog(ceiling=ceiling)
        fn = likelihood(Gaussian(self.MEAN, self.VAR), SIGMA.expand(4))
        value = torch.full((4,), count, dtype=torch.float64)
        found = expected_log_prob(fn, value)

        def log_prob(score):
            return float(likelihood(torch.tensor([score]).double(), SIGMA).log_prob(value[:1]))

        expected = [self.integral(log_prob, k) for k in range(4)]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)

    def test_of_the_log_mass_over_a_random_sigma(self):
        """A sigma that hardly varies gives what a known one gives."""
        likelihood, zero = NegativeBinomialLog(ceiling=9.0), torch.zeros(()).double()
        score, value = Gaussian(self.MEAN, self.VAR), torch.ones(4).double()
        known = expected_log_prob(likelihood(score, SIGMA.expand(4)), value)
        random = likelihood(score, LogGaussian(SIGMA.log(), zero).expand(4))
        torch.testing.assert_close(expected_log_prob(random, value), known)

    def test_of_the_mean(self):
        likelihood = NegativeBinomialLog(ceiling=6.0)
        weights, parts = mixture_of(likelihood(Gaussian(self.MEAN, self.VAR), SIGMA.expand(4)))
        expected = [
            self.integral(lambda s: 6 * math.exp(s) / (6 + math.exp(s)), k) for k in range(4)
        ]
        np.testing.assert_allclose(weights @ parts.mean, expected, rtol=1e-4)

    def test_far_below_every_number(self):
        """Value and gradient are those of the score itself, also where exp(-score) overflows."""
        mean = torch.tensor([-200.0, -50.0, 150.0], requires_grad=True)
        fn = NegativeBinomialLog(ceiling=9.0)(Gaussian(mean, torch.ones(3)), torch.ones(3))
        found = expected_log_prob(fn, torch.tensor([2.0, 2.0, 2.0]))
        (slope,) = torch.autograd.grad(found.sum(), mean)
        assert found.isfinite().all()
        np.testing.assert_allclose(found[:2].detach(), 2 * mean[:2].detach(), rtol=1e-5)
        np.testing.assert_allclose(slope, [2.0, 2.0, 0.0], atol=1e-5)

    def test_of_a_score_of_any_size(self):
        """A step that goes too far gives no gain by rounding: a log mass is at most 0."""
        var = torch.tensor([1e8, 1e20, 1e30])
        for mean in (-1e10, 0.0, 1e10):
            fn = NegativeBinomialLog(ceiling=9.0)(Gaussian(0 * var + mean, var), torch.ones(3))
            for count in (0.0, 2.0):
                assert (expected_log_prob(fn, torch.full((3,), count)) < 1e-4).all()

    def test_of_what_has_no_closed_form(self):
        one = torch.ones(2)
        with pytest.raises(NoClosedForm, match="ceiling of a LogGaussian"):
            below_ceiling(LogGaussian(one, one), 1.0)


def zero_inflated(seed):
    """Return counts of which most are 0, and the few others large."""
    rng = np.random.default_rng([seed, 1])
    n_users, n_items = rng.integers(20, 60), rng.integers(4, 40)
    cells = rng.choice(n_users * n_items, rng.integers(60, 300), replace=n_users * n_items < 300)
    frame = pd.DataFrame({"user": cells // n_items, "item": cells % n_items}).drop_duplicates()
    counts = rng.negative_binomial(0.5, rng.uniform(0.005, 0.1), len(frame))
    return frame.assign(rating=np.where(rng.random(len(frame)) < 0.8, 0, counts))


# Draws of these have such sds without a ceiling; all twenty tables take minutes.
QUICK = {"vi": (), "gibbs": (2, 5, 8)}
METHODS = {"vi": VI(learn_scales=None), "gibbs": Gibbs(n_draws=60, n_chains=2, thin=1)}
TABLES = [
    pytest.param(
        method,
        seed,
        id=f"{name}-{seed}",
        marks=[] if seed in QUICK[name] else pytest.mark.long,
    )
    for name, method in METHODS.items()
    for seed in range(10)
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This fit predicts its own ratings")  # they are noise
@pytest.mark.filterwarnings("ignore:The factors have shrunk")
@pytest.mark.filterwarnings("ignore:The prediction of")  # noise of a pair may be 20 times its mean
@pytest.mark.parametrize(("method", "seed"), TABLES)
def test_unknown_users_and_items_of_zero_inflated_counts_are_predicted(seed, method):
    """Without a ceiling, their sds were 25 to 500,000 times the range of the counts."""
    frame = zero_inflated(seed)
    ratings = Ratings.from_frame(frame, transform="count")
    model, ratings = PMF(2, likelihood="auto").for_ratings(ratings)
    posterior = fit(model, ratings, method, progress=False)
    pairs = {"user": [-1, *frame["user"][:5], -1], "item": [-1, *[-1] * 5, frame["item"][0]]}
    predicted = posterior.predict(pd.DataFrame(pairs))
    assert np.isfinite(predicted[["mean", "sd", "lower", "upper"]].to_numpy()).all()
    assert predicted["mean"].max() <= model.likelihood.ceiling
    assert predicted["sd"].max() < 30 * frame["rating"].max()


def test_a_fit_finds_the_ceiling_and_is_recorded():
    """No fallback to sampling, which would warn."""
    drawn, _ = simulate(PMF(1, noise="shared", likelihood=NegativeBinomialLog()), 20, 15, 150)
    ratings = Ratings.from_frame(drawn.to_frame(), transform="count")
    model = PMF(1, noise="shared", likelihood=NegativeBinomialLog(), priors=Priors())
    posterior = fit(model, ratings, VI(max_steps=30, learn_scales=None), progress=False)
    largest = float(ratings.value.max())
    assert posterior.model.likelihood.ceiling == pytest.approx(10 * largest)
