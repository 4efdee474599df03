"""The predictive mixture against SciPy, sums over levels and numerical integration."""

from typing import ClassVar

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import scoringrules
import torch
from torch.distributions import (
    Beta,
    Distribution,
    Laplace,
    NegativeBinomial,
    Normal,
    Poisson,
    constraints,
)

from pyro_pmf.errors import PMFError
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, components
from pyro_pmf.prediction.predictive import ContinuousPredictive, DiscretePredictive, PosteriorPredictive
from pyro_pmf.data.transforms import Affine, Log1p

SCALE = (0.5, 5.0)
WEIGHTS = [0.2, 0.5, 0.3]
LOCS = np.array([[0.2, 0.9], [0.5, 0.5], [0.6, 0.1]])
SDS = np.array([0.1, 0.2, 0.05])


@pytest.fixture
def predictive():
    parts = [
        (weight, Normal(torch.tensor(loc), torch.tensor(sd).expand(2)))
        for weight, loc, sd in zip(WEIGHTS, LOCS, SDS, strict=True)
    ]
    return PosteriorPredictive(parts, SCALE)


def dense(method, rating):
    """The same mixture in rating units, from SciPy."""
    parts = [
        getattr(scipy.stats.norm(0.5 + 4.5 * loc, 4.5 * sd), method)(rating)
        for loc, sd in zip(LOCS, SDS, strict=True)
    ]
    return np.einsum("k,kn->n", WEIGHTS, parts)


def test_mean_and_sd(predictive):
    mean = np.einsum("k,kn->n", WEIGHTS, 0.5 + 4.5 * LOCS)
    square = np.einsum("k,kn->n", WEIGHTS, (0.5 + 4.5 * LOCS) ** 2 + (4.5 * SDS[:, None]) ** 2)
    np.testing.assert_allclose(predictive.mean, mean)
    np.testing.assert_allclose(predictive.sd, np.sqrt(square - mean**2))


@pytest.mark.parametrize("rating", [0.5, 2.0, 3.7, 6.0])
def test_density_and_cdf(predictive, rating):
    at = torch.full((2,), rating, dtype=torch.float64)
    np.testing.assert_allclose(predictive.log_prob(at).exp(), dense("pdf", rating))
    np.testing.assert_allclose(predictive.cdf(at), dense("cdf", rating))


@pytest.mark.parametrize("probability", [0.001, 0.05, 0.5, 0.95, 0.999])
def test_quantile_inverts_the_cdf(predictive, probability):
    x = predictive.quantile(probability)
    np.testing.assert_allclose(dense("cdf", x.numpy()), probability, atol=1e-4)


def test_interval_is_central_and_clipped(predictive):
    lower, upper = predictive.interval(0.9)
    np.testing.assert_allclose(lower, predictive.quantile(0.05).clamp(*SCALE))
    np.testing.assert_allclose(upper, predictive.quantile(0.95).clamp(*SCALE))
    lower, upper = predictive.interval(0.9999)
    assert lower.min() == 0.5
    assert upper.max() == 5.0


@pytest.mark.parametrize("probability", [0.0, 1.0, -1.0, float("nan")])
def test_interval_outside_0_1(predictive, probability):
    with pytest.raises(PMFError, match="between 0 and 1"):
        predictive.interval(probability)


def crps_by_integration(cdf, rating):
    def integrand(x):
        return (cdf(x) - (x >= rating)) ** 2

    return sum(
        scipy.integrate.quad(integrand, *ends, limit=200)[0]
        for ends in ((-10, rating), (rating, 15))
    )


@pytest.mark.parametrize("rating", [0.5, 3.0, 5.0])
def test_crps_by_integration(predictive, rating):
    at = torch.full((2,), rating, dtype=torch.float64)
    expected = [crps_by_integration(lambda x, n=n: dense("cdf", x)[n], rating) for n in range(2)]
    np.testing.assert_allclose(predictive.crps(at), expected, rtol=1e-5)


def test_crps_of_other_families_from_draws():
    part = Laplace(torch.tensor([0.4, 0.6]), torch.tensor(0.1))
    predictive = PosteriorPredictive([(1.0, part)], SCALE)
    rating = torch.tensor([2.0, 4.0])
    laplace = scipy.stats.laplace([2.3, 3.2], 0.45)
    expected = [
        crps_by_integration(lambda x, n=n: laplace.cdf(x)[n], rating[n].item()) for n in range(2)
    ]
    np.testing.assert_allclose(predictive.crps(rating), expected, rtol=0.15)  # 200 draws


def test_family_without_quantiles_says_so():
    part = Beta(torch.tensor([2.0]), torch.tensor([3.0]))
    with pytest.raises(PMFError, match="Beta"):
        PosteriorPredictive([(1.0, part)], SCALE).interval(0.9)


@pytest.mark.parametrize(("score_sd", "log_sd"), [(0.3, 0.0), (0.8, 0.2)])
def test_quadrature_against_integration(score_sd, log_sd):
    """Density of Normal(sigmoid(score), sigma^2), score and log sigma Normal."""
    double = torch.float64
    score = Gaussian(
        torch.tensor([0.7], dtype=double),
        torch.tensor([score_sd**2], dtype=double),
        frozenset("s"),
    )
    sigma = LogGaussian(
        torch.tensor([np.log(0.2)], dtype=double),
        torch.tensor([log_sd**2], dtype=double),
        frozenset("t"),
    )
    predictive = PosteriorPredictive(
        components(Normal(torch.sigmoid(score), sigma, validate_args=False)), SCALE
    )

    def density(rating):
        def given(log_sigma, score):
            loc = 0.5 + 4.5 / (1 + np.exp(-score))
            return scipy.stats.norm.pdf(rating, loc, 4.5 * np.exp(log_sigma))

        grid = scipy.stats.norm.ppf((np.arange(400) + 0.5) / 400)
        scores, logs = 0.7 + score_sd * grid, np.log(0.2) + log_sd * grid
        return given(logs[:, None], scores[None, :]).mean()

    for rating in (1.0, 3.0, 4.5):
        at = torch.tensor([rating], dtype=double)
        np.testing.assert_allclose(predictive.log_prob(at).exp(), density(rating), rtol=0.01)


def test_far_from_zero_no_digits_are_lost():
    parts = [(1.0, Normal(torch.tensor([0.5]), torch.tensor([0.1])))]
    near, far = PosteriorPredictive(parts, (1, 5)), PosteriorPredictive(parts, (1e7 + 1, 1e7 + 5))
    rating = torch.tensor([3.3], dtype=torch.float64)
    np.testing.assert_allclose(far.mean - 1e7, near.mean, atol=1e-6)
    np.testing.assert_allclose(far.log_prob(rating + 1e7), near.log_prob(rating), rtol=1e-6)


def test_the_highest_rating_is_inside_an_interval_clipped_there():
    part = Normal(torch.tensor([1.2]).double(), torch.tensor([0.1]).double())
    _, upper = PosteriorPredictive([(1.0, part)], (-2.0, -0.6)).interval(0.9)
    assert upper.item() == -0.6


class Ordered(Distribution):
    """Levels 0, 1 / (L - 1), ..., 1 with given logits, shape (n, L)."""

    arg_constraints: ClassVar[dict] = {}
    support = constraints.integer_interval(0, 1)  # discrete; values are not validated

    def __init__(self, logits):
        self.logs = torch.log_softmax(logits, -1)
        self.n_levels = logits.shape[-1]
        self.spacing = 1 / (self.n_levels - 1)
        self.at = torch.arange(self.n_levels) * self.spacing
        super().__init__(logits.shape[:-1], validate_args=False)

    def _gather(self, table, x):
        index = (x / self.spacing).round().long().expand(self.batch_shape)
        return table.gather(-1, index[..., None]).squeeze(-1)

    def log_prob(self, x):
        return self._gather(self.logs, x)

    def cdf(self, x):
        return self._gather(self.logs.exp().cumsum(-1), x)

    @property
    def mean(self):
        return (self.logs.exp() * self.at).sum(-1)

    @property
    def variance(self):
        return (self.logs.exp() * self.at**2).sum(-1) - self.mean**2


STARS = np.arange(1, 11) / 2
LOGITS = np.random.default_rng(1).normal(size=(3, 4, 10))  # parts, pairs, levels
MASS = np.einsum("k,knl->nl", WEIGHTS, np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True))


@pytest.fixture
def ordered():
    parts = [(w, Ordered(torch.tensor(x))) for w, x in zip(WEIGHTS, LOGITS, strict=True)]
    return PosteriorPredictive(parts, SCALE)


def counts(sizes, means):
    """One Negative Binomial with these means a size, mixed with WEIGHTS, and SciPy's of each."""
    torch_parts, scipy_parts = [], []
    for weight, size, mean in zip(WEIGHTS, sizes, means, strict=True):
        mean = torch.tensor(mean, dtype=torch.float64)
        part = NegativeBinomial(torch.full_like(mean, size), logits=(mean / size).log())
        torch_parts.append((weight, part))
        scipy_parts.append(scipy.stats.nbinom(size, size / (size + mean.numpy())))
    return PosteriorPredictive(torch_parts, (0, 1)), scipy_parts


def mixed(method, parts, x):
    return np.einsum("k,kn->n", WEIGHTS, [getattr(part, method)(x) for part in parts])


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_the_parts_choose_the_class(predictive, ordered):
    assert type(predictive) is ContinuousPredictive
    assert type(ordered) is DiscretePredictive
    assert predictive.levels is None
    np.testing.assert_allclose(ordered.levels, STARS)


class TestLevelsOfContinuous:
    CUTS = np.concatenate([[-np.inf], (STARS[1:] + STARS[:-1]) / 2, [np.inf]])

    def test_rounds_to_the_nearest(self, predictive):
        expected = np.diff([dense("cdf", cut) for cut in self.CUTS], axis=0).T
        probabilities = predictive.level_probabilities(STARS)
        np.testing.assert_allclose(probabilities, expected, atol=1e-7)
        np.testing.assert_allclose(probabilities.sum(-1), 1)

    def test_of_the_observed_one(self, predictive):
        expected = predictive.level_probabilities(STARS)[[0, 1], [2, 9]].log()
        log_prob = predictive.log_prob_of_level(torch.tensor([1.5, 5.0]), STARS)
        np.testing.assert_allclose(log_prob, expected)

    def test_tails_keep_their_digits(self):
        part = Normal(torch.tensor([0.1, 0.9]), torch.tensor(0.05).expand(2))  # float32
        predictive = PosteriorPredictive([(1.0, part)], SCALE)
        loc, sd = part.loc.double().numpy(), part.scale.double().numpy()
        above = scipy.stats.norm.sf((4.25 / 4.5 - loc) / sd)
        np.testing.assert_allclose(predictive.level_probabilities(STARS)[:, -1], above)
        np.testing.assert_allclose(predictive.probability_at_least(4.75), above)
        below = scipy.stats.norm.cdf((0.25 / 4.5 - loc) / sd)
        np.testing.assert_allclose(predictive.level_probabilities(STARS)[:, 0], below)

    def test_other_families(self):
        part = Laplace(torch.tensor([0.4, 0.6]), torch.tensor(0.1))
        predictive = PosteriorPredictive([(1.0, part)], SCALE)
        laplace = scipy.stats.laplace(np.array([[2.3], [3.2]]), 0.45)
        probabilities = predictive.level_probabilities(STARS)
        np.testing.assert_allclose(probabilities, np.diff(laplace.cdf(self.CUTS)), atol=1e-6)
        at_least = predictive.probability_at_least(4.0)
        np.testing.assert_allclose(at_least, laplace.sf(4.0)[:, 0], rtol=1e-5)

    def test_a_single_level_is_certain(self, predictive):
        np.testing.assert_allclose(predictive.level_probabilities([3.0]), 1)

    @pytest.mark.parametrize("levels", [[1, 3, 2], [1, 1, 2], [1, np.nan], [1, np.inf], []])
    def test_levels_that_do_not_ascend(self, predictive, ordered, levels):
        for distribution in (predictive, ordered):
            with pytest.raises(PMFError, match="ascend"):
                distribution.log_prob_of_level(torch.tensor([1.0]), levels)

    def test_far_in_the_tail(self):
        """The log of a probability that no float holds, from SciPy's log survival function."""
        part = Normal(torch.tensor([0.1]), torch.tensor([0.01]))
        predictive = PosteriorPredictive([(1.0, part)], (1.0, 5.0))
        loss = predictive.log_prob_of_level(torch.tensor([5.0]), [1, 2, 3, 4, 5])
        z = (3.5 / 4 - part.loc.double()) / part.scale.double()
        np.testing.assert_allclose(loss, scipy.stats.norm.logsf(z), rtol=1e-9)
        assert float(loss) < -2000

    def test_a_rating_that_is_no_level(self, predictive):
        with pytest.raises(PMFError, match=r"2\.5"):
            predictive.log_prob_of_level(torch.tensor([1.0, 2.5]), [1, 2, 3, 4, 5])


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

    def test_levels_of_which_there_are_none(self, ordered):
        with pytest.raises(PMFError, match="other levels than"):
            ordered.level_probabilities([0.7, 2.0])
        with pytest.raises(PMFError, match=r"none of the levels, such as \[3\.4\]"):
            ordered.log_prob_of_level(double(0.5, 3.4, 2.0, 5.0), STARS)

    def test_no_probability_is_negative(self, ordered):
        part = ordered.parts[0][1]
        weights = 0.5, 0.5 + 2.3e-16  # whose sum is more than 1, as rounding may have it
        assert sum(weights) > 1
        sum_above_one = PosteriorPredictive([(weight, part) for weight in weights], SCALE)
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
        log_mass = PosteriorPredictive(parts, (1, 5)).log_prob(double(5.0))
        np.testing.assert_allclose(log_mass, np.log(0.25 / 4) - 300)


class TestBernoulli:
    def test_against_scipy(self):
        p = np.array([0.03, 0.5, 0.97])
        part = dist.Bernoulli(torch.tensor(p))
        predictive = PosteriorPredictive([(0.4, part), (0.6, part)], (0, 1))
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
        """Where the logarithms of factorials are large and cancel."""
        mean, size = torch.tensor([9e4]), torch.tensor([3.0])
        part = NegativeBinomial(size, logits=(mean / size).log())
        log_mass = PosteriorPredictive([(1.0, part)], (0, 1)).log_prob(torch.tensor([3e5]))
        expected = scipy.stats.nbinom.logpmf(3e5, 3, 3 / (3 + 9e4))
        np.testing.assert_allclose(log_mass, expected, rtol=1e-5)

    def test_family_without_cdf_says_so(self):
        with pytest.raises(PMFError, match="Poisson"):
            PosteriorPredictive([(1.0, Poisson(torch.ones(2)))], (0, 1)).interval(0.9)


class _Constant:
    """Moments of a SciPy distribution as methods of one argument, for `mixed`."""

    def __init__(self, part):
        self.mean = lambda _: part.mean()
        self.square = lambda _: part.var() + part.mean() ** 2


@pytest.mark.statistical
class TestRandomisedPIT:
    """Kolmogorov's test, which a right prediction fails with probability 0.001."""

    def test_uniform_for_levels(self):
        generator = np.random.default_rng(2)
        logits = generator.normal(size=(2, 4000, 5))
        parts = [(w, Ordered(torch.tensor(x))) for w, x in zip((0.3, 0.7), logits, strict=True)]
        predictive = PosteriorPredictive(parts, (1, 5))
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
        predictive = PosteriorPredictive([(1.0, part)], (0, 1))
        assert scipy.stats.kstest(predictive.pit(rating), "uniform").pvalue > 0.001
        assert scipy.stats.kstest(predictive.pit(rating + 1), "uniform").pvalue < 0.001


def test_pit_lies_between_lower_ratings_and_this_one(ordered):
    rating = double(0.5, 2.0, 3.5, 5.0)
    pit, to = ordered.pit(rating), ordered.cdf(rating)
    assert (pit <= to).all()
    assert (pit >= 1 - ordered.probability_at_least(rating)).all()
    assert torch.equal(pit, ordered.pit(rating))


def test_pit_of_continuous_is_the_cdf(predictive):
    rating = double(2.0, 3.7)
    assert torch.equal(predictive.pit(rating), predictive.cdf(rating))


class TestLog1p:
    """Where log(1 + rating), standardized, is a mixture of Normals."""

    TRANSFORM = Log1p(5.0, 1.6)
    COUNTS = (0.0, 3.0, 150.0, 4000.0)

    @pytest.fixture
    def log_normals(self):
        parts = [
            (weight, Normal(torch.tensor(3 * loc - 1), torch.tensor(4 * sd).expand(2)))
            for weight, loc, sd in zip(WEIGHTS, LOCS, SDS, strict=True)
        ]
        return PosteriorPredictive(parts, self.TRANSFORM)

    @staticmethod
    def parts():
        return [
            scipy.stats.lognorm(1.6 * 4 * sd, -1, np.exp(5 + 1.6 * (3 * loc - 1)))
            for loc, sd in zip(LOCS, SDS, strict=True)
        ]

    def mixed(self, method, *x):
        values = [getattr(part, method)(*x) for part in self.parts()]
        return np.einsum("k,kn->n", WEIGHTS, values)

    def test_mean_and_sd(self, log_normals):
        mean = self.mixed("mean")
        square = np.einsum(
            "k,kn->n", WEIGHTS, [part.var() + part.mean() ** 2 for part in self.parts()]
        )
        np.testing.assert_allclose(log_normals.mean, mean)
        np.testing.assert_allclose(log_normals.sd, np.sqrt(square - mean**2))

    @pytest.mark.parametrize("count", COUNTS)
    def test_density_cdf_and_tail(self, log_normals, count):
        at = double(count, count)
        np.testing.assert_allclose(log_normals.log_prob(at).exp(), self.mixed("pdf", count))
        np.testing.assert_allclose(log_normals.cdf(at), self.mixed("cdf", count))
        np.testing.assert_allclose(log_normals.probability_at_least(at), self.mixed("sf", count))
        assert torch.equal(log_normals.pit(at), log_normals.cdf(at))

    def test_density_integrates_to_one(self, log_normals):
        log_rating = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
        density = [
            log_normals.log_prob(torch.expm1(x).expand(2)).exp() * x.exp() for x in log_rating
        ]
        total = torch.trapezoid(torch.stack(density), log_rating, dim=0)
        np.testing.assert_allclose(total, 1, rtol=1e-6)

    @pytest.mark.parametrize("probability", [0.001, 0.05, 0.5, 0.95, 0.999])
    def test_quantile_inverts_the_cdf(self, log_normals, probability):
        x = log_normals.quantile(probability).numpy()
        np.testing.assert_allclose(self.mixed("cdf", x), probability, atol=1e-4)

    def test_interval_is_not_clipped(self, log_normals):
        lower, upper = log_normals.interval(0.999)
        assert torch.equal(lower, log_normals.quantile(0.0005))
        assert torch.equal(upper, log_normals.quantile(0.9995))

    @pytest.mark.parametrize("count", COUNTS)
    def test_crps_by_integration(self, log_normals, count):
        def integrand(log, n):
            x = np.expm1(log)
            return (self.mixed("cdf", x)[n] - (x >= count)) ** 2 * np.exp(log)

        expected = [
            sum(
                scipy.integrate.quad(integrand, *ends, args=(n,), limit=400)[0]
                for ends in ((-15, np.log1p(count)), (np.log1p(count), 14))
            )
            for n in range(2)
        ]
        np.testing.assert_allclose(log_normals.crps(double(count, count)), expected, rtol=1e-5)

    def test_crps_of_one_part(self):
        part = Normal(torch.tensor([0.2, -0.4]).double(), torch.tensor([0.5, 0.9]).double())
        predictive = PosteriorPredictive([(1.0, part)], self.TRANSFORM)
        expected = scoringrules.crps_lognormal(
            np.array([8.0, 501.0]), 5 + 1.6 * part.loc.numpy(), 1.6 * part.scale.numpy()
        )
        np.testing.assert_allclose(predictive.crps(double(7.0, 500.0)), expected)

    def test_impossible_ratings(self, log_normals):
        at = double(-1.0, -3.0)
        assert (log_normals.log_prob(at) == -torch.inf).all()
        assert (log_normals.cdf(at) == 0).all()
        # Each step below -1 adds one to the score.
        crps = log_normals.crps(at) - log_normals.crps(double(-1.0, -1.0))
        np.testing.assert_allclose(crps, [0, 2])

    def test_levels_are_not_evenly_spaced(self):
        with pytest.raises(PMFError, match="evenly spaced"):
            PosteriorPredictive([(1.0, Poisson(torch.ones(2)))], self.TRANSFORM)


class TestUnbounded:
    TRANSFORM = Affine(800.0, 4000.0)

    def test_standardized_against_scipy(self):
        part = Normal(double(0.1, -0.2), double(0.9, 1.1))
        predictive = PosteriorPredictive([(1.0, part)], self.TRANSFORM)
        normal = scipy.stats.norm([1200.0, 0.0], [3600.0, 4400.0])
        at = double(287.0, 60_000.0)
        np.testing.assert_allclose(predictive.mean, normal.mean(), atol=1e-9)
        np.testing.assert_allclose(predictive.sd, normal.std())
        np.testing.assert_allclose(predictive.log_prob(at), normal.logpdf(at))
        np.testing.assert_allclose(predictive.cdf(at), normal.cdf(at))
        lower, upper = predictive.interval(0.9)
        np.testing.assert_allclose(lower, normal.ppf(0.05), atol=0.1)
        np.testing.assert_allclose(upper, normal.ppf(0.95), atol=0.1)
        crps = scoringrules.crps_normal(at.numpy(), normal.mean(), normal.std())
        np.testing.assert_allclose(predictive.crps(at), crps)


class TestMassOfCounts:
    def test_against_scipy(self, predictive):
        expected = dense("cdf", 3.5) - dense("cdf", 2.5)
        given = predictive.log_prob_between(2.5, 3.5)
        np.testing.assert_allclose(given, np.log(expected), rtol=1e-6)
        assert torch.equal(predictive.log_mass(double(3.0, 3.0)), given)

    def test_under_log1p(self):
        part = Normal(torch.tensor([0.3]).double(), torch.tensor([0.5]).double())
        predictive = PosteriorPredictive([(1.0, part)], Log1p(4.0, 1.5))
        exact = scipy.stats.lognorm(0.75, -1, np.exp(4.45))
        for count in (0.0, 10.0, 90.0):
            expected = np.log(exact.cdf(count + 0.5) - exact.cdf(count - 0.5))
            np.testing.assert_allclose(predictive.log_mass(double(count)), expected)

    def test_sums_to_one(self):
        part = Normal(torch.tensor([0.3]).double(), torch.tensor([0.5]).double())
        predictive = PosteriorPredictive([(1.0, part)], Log1p(4.0, 1.5))
        total = sum(predictive.log_mass(double(k)).exp().item() for k in range(5000))
        below = predictive.cdf(double(-0.5)).item()
        assert total + below == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize("z", [-90.0, -30.0, 30.0, 90.0])
    def test_far_out_in_the_tails(self, z):
        """Where the probability itself is no float, by the density at the middle."""
        part = Normal(torch.zeros(1).double(), torch.ones(1).double())
        predictive = PosteriorPredictive([(1.0, part)], Affine(0.0, 1.0))
        given = predictive.log_prob_between(double(z - 1e-4), double(z + 1e-4))
        expected = scipy.stats.norm.logpdf(z) + np.log(2e-4)
        np.testing.assert_allclose(given, expected, rtol=1e-6)

    def test_of_other_families(self):
        part = Laplace(double(0.4, 0.6), double(0.1))
        predictive = PosteriorPredictive([(1.0, part)], SCALE)
        laplace = scipy.stats.laplace([2.3, 3.2], 0.45)
        expected = np.log(laplace.cdf(3.5) - laplace.cdf(2.5))
        np.testing.assert_allclose(predictive.log_mass(double(3.0, 3.0)), expected)
