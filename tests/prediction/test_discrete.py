"""The predictive mixture of levels and counts against SciPy and sums over levels."""

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import scoringrules
import torch
from mixtures import MASS, SCALE, STARS, WEIGHTS, Ordered, double, of_levels
from torch.distributions import NegativeBinomial, Poisson

from pyro_pmf.data.transforms import Log1p
from pyro_pmf.errors import PMFError
from pyro_pmf.model.distributions import GammaPoisson, OrderedLogistic
from pyro_pmf.moments.stacking import Mixture, family
from pyro_pmf.prediction.mixture import mixture


@pytest.fixture
def ordered():
    return of_levels()


def counts(sizes, means):
    """Mix a Negative Binomial of each size and its means by WEIGHTS; return SciPy's parts too."""
    torch_parts, scipy_parts = [], []
    for weight, size, mean in zip(WEIGHTS, sizes, means, strict=True):
        mean = torch.tensor(mean, dtype=torch.float64)
        part = NegativeBinomial(torch.full_like(mean, size), logits=(mean / size).log())
        torch_parts.append((weight, part))
        scipy_parts.append(scipy.stats.nbinom(size, size / (size + mean.numpy())))
    return mixture(torch_parts, (0, 1)), scipy_parts


def mixed(method, parts, x):
    return np.einsum("k,kn->n", WEIGHTS, [getattr(part, method)(x) for part in parts])


class TestOrdered:
    RATING = double(0.5, 2.0, 3.5, 5.0)
    LEVEL = np.array([0, 3, 6, 9])

    def test_mean_and_sd(self, ordered):
        mean = MASS @ STARS
        np.testing.assert_allclose(ordered.mean, mean)
        np.testing.assert_allclose(ordered.sd, np.sqrt(MASS @ STARS**2 - mean**2))

    def test_probabilities(self, ordered):
        np.testing.assert_allclose(ordered.probabilities(), MASS)
        np.testing.assert_allclose(ordered.level_probabilities([2.0, 5.0]), MASS[:, [3, 9]])

    @pytest.mark.parametrize(
        ("low", "gap", "n"),
        [(0.5, 0.5, 10), (1, 1, 10), (0, 0.1, 11), (0, 5, 21), (-3e-6, 1e-6, 7)],
    )
    def test_levels_are_as_people_write_them(self, low, gap, n):
        fn = OrderedLogistic(torch.zeros(1), torch.ones(1), torch.linspace(-1, 1, n - 1))
        levels = mixture([(1.0, fn)], (low, low + gap * (n - 1))).levels.tolist()
        assert levels == [float(f"{low + k * gap:.9g}") for k in range(n)]

    def test_levels_of_which_there_are_none(self, ordered):
        with pytest.raises(PMFError, match="other levels than"):
            ordered.level_probabilities([0.7, 2.0])
        with pytest.raises(PMFError, match=r"none of the levels, such as \[3\.4\]"):
            ordered.log_prob_of_level(double(0.5, 3.4, 2.0, 5.0), STARS)

    def test_no_probability_is_negative(self, ordered):
        part = family(ordered.parts)
        weights = 0.5, 0.5 + 2.3e-16  # whose sum is more than 1, as rounding may have it
        assert sum(weights) > 1
        sum_above_one = mixture([(weight, part) for weight in weights], SCALE)
        none = sum_above_one.probability_at_least(5.5)
        assert (none >= 0).all()
        assert (none < 1e-15).all()
        above = [ordered.probability_at_least(float(star)) for star in STARS]
        np.testing.assert_allclose(torch.stack(above, -1), MASS[:, ::-1].cumsum(1)[:, ::-1])

    def test_log_mass(self, ordered):
        expected = np.log(MASS[np.arange(4), self.LEVEL])
        np.testing.assert_allclose(ordered.log_prob(self.RATING), expected)
        np.testing.assert_allclose(ordered.log_prob(self.RATING.float()), expected)
        np.testing.assert_allclose(ordered.log_prob_of_level(self.RATING, STARS), expected)

    def test_a_rating_that_is_no_level_has_no_mass(self, ordered):
        log_prob = ordered.log_prob(double(0.0, 2.01, 5.5, 3.75))
        assert (log_prob == -torch.inf).all()

    def test_cdf_and_tail(self, ordered):
        cdf = MASS.cumsum(-1)
        np.testing.assert_allclose(ordered.cdf(self.RATING), cdf[np.arange(4), self.LEVEL])
        np.testing.assert_allclose(ordered.cdf(3.7), cdf[:, 6])
        np.testing.assert_allclose(ordered.cdf(0.4), 0)
        np.testing.assert_allclose(ordered.cdf(7.0), 1)
        np.testing.assert_allclose(ordered.probability_at_least(4.0), MASS[:, 7:].sum(-1))
        np.testing.assert_allclose(ordered.probability_at_least(3.6), MASS[:, 7:].sum(-1))
        np.testing.assert_allclose(ordered.probability_at_least(0.5), 1)
        np.testing.assert_allclose(ordered.probability_at_least(5.1), 0, atol=1e-15)

    @pytest.mark.parametrize("probability", [0.001, 0.05, 0.3, 0.5, 0.95, 0.999])
    def test_quantile(self, ordered, probability):
        expected = STARS[(MASS.cumsum(-1) >= probability).argmax(-1)]
        np.testing.assert_allclose(ordered.quantile(probability), expected)

    @pytest.mark.parametrize("probability", [0.5, 0.8, 0.9])
    def test_interval_holds_the_probability_or_more(self, ordered, probability):
        lower, upper = (end.numpy()[:, None] for end in ordered.interval(probability))
        inside = np.abs(2 * STARS - lower - upper) < upper - lower + 1e-9
        assert ((MASS * inside).sum(-1) >= probability).all()

    @pytest.mark.parametrize("level", [0, 4, 9])
    def test_crps_by_sum(self, ordered, level):
        rating = torch.full((4,), STARS[level], dtype=torch.float64)
        steps = MASS.cumsum(-1) - (np.arange(10) >= level)
        np.testing.assert_allclose(ordered.crps(rating), 0.5 * (steps**2).sum(-1))

    def test_tiny_mass(self):
        logits = torch.zeros(1, 5, dtype=torch.float64)
        logits[0, 4] = -300.0
        parts = [(0.25, Ordered(logits)), (0.75, Ordered(logits - torch.eye(5)[4:] * 500))]
        log_mass = mixture(parts, (1, 5)).log_prob(double(5.0))
        np.testing.assert_allclose(log_mass, np.log(0.25 / 4) - 300)


class TestBernoulli:
    def test_against_scipy(self):
        p = np.array([0.03, 0.5, 0.97])
        part = dist.Bernoulli(torch.tensor(p))
        predictive = mixture([(0.4, part), (0.6, part)], (0, 1))
        exact = scipy.stats.bernoulli(p)
        np.testing.assert_allclose(predictive.levels, [0, 1])
        np.testing.assert_allclose(predictive.probabilities(), np.stack([1 - p, p], -1))
        np.testing.assert_allclose(predictive.sd, exact.std())
        for rating in (-1.0, 0.0, 0.5, 1.0):
            np.testing.assert_allclose(predictive.cdf(rating), exact.cdf(rating))
        lower, upper = predictive.interval(0.9)
        np.testing.assert_array_equal(lower, exact.ppf(0.05))
        np.testing.assert_array_equal(upper, exact.ppf(0.95))
        brier = (1 - p) ** 2  # of two levels the CRPS is the Brier score
        np.testing.assert_allclose(predictive.crps(torch.ones(3)), brier)


class TestCounts:
    SIZES, MEANS = (0.5, 2.0, 8.0), ([3.0, 0.2], [5.0, 30.0], [1.0, 12.0])

    def test_against_scipy(self):
        predictive, parts = counts(self.SIZES, self.MEANS)
        mean = mixed("mean", [_Constant(part) for part in parts], None)
        square = mixed("square", [_Constant(part) for part in parts], None)
        np.testing.assert_allclose(predictive.mean, mean)
        np.testing.assert_allclose(predictive.sd, np.sqrt(square - mean**2))
        for count in (0.0, 1.0, 7.0, 60.0):
            at = double(count, count)
            np.testing.assert_allclose(predictive.log_prob(at).exp(), mixed("pmf", parts, count))
            np.testing.assert_allclose(predictive.cdf(at), mixed("cdf", parts, count))
            at_least = predictive.probability_at_least(count)
            np.testing.assert_allclose(at_least, mixed("sf", parts, count - 1), atol=1e-12)
        assert (predictive.log_prob(double(-1.0, 0.5)) == -torch.inf).all()

    @pytest.mark.parametrize("probability", [0.001, 0.05, 0.5, 0.95, 0.999])
    def test_quantile(self, probability):
        predictive, parts = counts(self.SIZES, self.MEANS)
        cdf = np.stack([mixed("cdf", parts, count) for count in range(500)], -1)
        expected = (cdf >= probability).argmax(-1)
        np.testing.assert_array_equal(predictive.quantile(probability), expected)

    def test_interval_is_not_clipped(self):
        predictive, _ = counts((5.0, 5.0, 5.0), ([1e4], [1e4], [1e4]))
        exact = scipy.stats.nbinom(5, 5 / (5 + 1e4))
        lower, upper = predictive.interval(0.9)
        assert (lower.item(), upper.item()) == (exact.ppf(0.05), exact.ppf(0.95))

    def test_has_no_highest_level(self):
        predictive, parts = counts(self.SIZES, self.MEANS)
        assert predictive.levels is None
        with pytest.raises(PMFError, match="highest level"):
            predictive.probabilities()
        expected = np.stack([mixed("pmf", parts, count) for count in (0, 3)], -1)
        np.testing.assert_allclose(predictive.level_probabilities([0, 3]), expected)

    @pytest.mark.slow
    @pytest.mark.parametrize("count", [0, 2, 9, 40])
    def test_crps_of_few_by_sum(self, count):
        predictive, parts = counts((2.0, 2.0, 8.0), ([3.0, 0.2], [5.0, 4.0], [1.0, 2.0]))
        cdf = np.stack([mixed("cdf", parts, k) for k in range(2000)], -1)
        expected = ((cdf - (np.arange(2000) >= count)) ** 2).sum(-1)
        np.testing.assert_allclose(predictive.crps(double(count, count)), expected, rtol=1e-6)

    @pytest.mark.parametrize("count", [0.0, 300.0, 2000.0, 2150.0, 10_000.0])
    def test_crps_of_many_in_closed_form(self, count):
        predictive, _ = counts((50.0, 50.0, 50.0), ([2000.0], [2000.0], [2000.0]))
        expected = scoringrules.crps_negbinom(count, 50.0, 50 / 2050)
        np.testing.assert_allclose(predictive.crps(double(count)), expected, rtol=2e-3)

    def test_log_mass_of_many_in_single_precision(self):
        """Take counts whose logarithms of factorials are large and cancel."""
        mean, size = torch.tensor([9e4]), torch.tensor([3.0])
        part = NegativeBinomial(size, logits=(mean / size).log())
        log_mass = mixture([(1.0, part)], (0, 1)).log_prob(torch.tensor([3e5]))
        expected = scipy.stats.nbinom.logpmf(3e5, 3, 3 / (3 + 9e4))
        np.testing.assert_allclose(log_mass, expected, rtol=1e-5)

    def test_a_walk_from_count_to_count_ends_at_the_quantiles(self):
        """Few counts, many, and counts of which 0 is too improbable, against bisection."""
        score = torch.tensor([[-2.0, 0.0, 1.5, 4.0, 9.0, 6.5]] * 2) + torch.tensor([[0.0], [0.7]])
        sigma = torch.tensor([[0.5, 1.0, 0.2, 2.0, 0.4, 0.01]] * 2)
        weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
        counts = mixture(Mixture(weights, GammaPoisson(score, sigma)), (0, 1))
        for tail in (0.001, 0.05, 0.3):
            lower, upper = counts.interval(1 - 2 * tail)
            np.testing.assert_array_equal(lower, counts.quantile(tail))
            np.testing.assert_array_equal(upper, counts.quantile(1 - tail))
        _, rest = counts._walked(torch.tensor([0.5], dtype=torch.float64))
        assert rest.tolist() == [4, 5]

    def test_draws_stand_for_a_distribution_function_that_torch_lacks(self):
        """Quantiles of a Poisson; a count is off by one where draws err by 0.016."""
        lower, upper = mixture([(1.0, Poisson(torch.tensor([4.0, 30.0])))], (0, 1)).interval(0.9)
        for p, ends in ((0.05, lower), (0.95, upper)):
            exact = scipy.stats.poisson.ppf(p, [4.0, 30.0])
            np.testing.assert_allclose(ends, exact, atol=1)

    def test_levels_that_a_transform_leaves_unevenly_spaced(self):
        with pytest.raises(PMFError, match="evenly spaced"):
            mixture([(1.0, Poisson(torch.ones(2)))], Log1p(5.0, 1.6))


class _Constant:
    """Offer moments of a SciPy distribution as methods of one argument, for `mixed`."""

    def __init__(self, part):
        self.mean = lambda _: part.mean()
        self.square = lambda _: part.var() + part.mean() ** 2


@pytest.mark.statistical
class TestRandomisedPIT:
    """Apply Kolmogorov's test, which a right prediction fails with probability 0.001."""

    def test_uniform_for_levels(self):
        generator = np.random.default_rng(2)
        logits = generator.normal(size=(2, 4000, 5))
        parts = [(w, Ordered(torch.tensor(x))) for w, x in zip((0.3, 0.7), logits, strict=True)]
        predictive = mixture(parts, (1, 5))
        steps = predictive.probabilities().numpy().cumsum(-1)
        rating = 1 + (generator.random((4000, 1)) > steps[:, :-1]).sum(-1)
        pit = predictive.pit(torch.tensor(rating, dtype=torch.float64))
        assert scipy.stats.kstest(pit, "uniform").pvalue > 0.001
        opposite = predictive.pit(torch.tensor(6.0 - rating))
        assert scipy.stats.kstest(opposite, "uniform").pvalue < 0.001

    def test_uniform_for_counts(self):
        generator = np.random.default_rng(3)
        mean = generator.gamma(2, 2, size=4000)
        part = NegativeBinomial(torch.ones(4000).double(), logits=torch.tensor(mean).log())
        rating = torch.tensor(generator.negative_binomial(1, 1 / (1 + mean))).double()
        predictive = mixture([(1.0, part)], (0, 1))
        assert scipy.stats.kstest(predictive.pit(rating), "uniform").pvalue > 0.001
        assert scipy.stats.kstest(predictive.pit(rating + 1), "uniform").pvalue < 0.001


def test_pit_lies_between_lower_ratings_and_this_one(ordered):
    rating = double(0.5, 2.0, 3.5, 5.0)
    pit, to = ordered.pit(rating), ordered.cdf(rating)
    assert (pit <= to).all()
    assert (pit >= 1 - ordered.probability_at_least(rating)).all()
    assert torch.equal(pit, ordered.pit(rating))
