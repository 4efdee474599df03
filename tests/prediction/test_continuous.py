"""The predictive mixture of continuous ratings against SciPy and numerical integration."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import scoringrules
import torch
from mixtures import LOCS, SCALE, SDS, STARS, WEIGHTS, dense, double, of_normals
from torch.distributions import Laplace, Normal

from pyro_pmf.data.transforms import Affine, Log1p
from pyro_pmf.errors import PMFError
from pyro_pmf.moments.stacking import Mixture
from pyro_pmf.prediction.mixture import mixture


@pytest.fixture
def predictive():
    return of_normals()


@pytest.mark.parametrize("rating", [0.5, 2.0, 3.7, 6.0])
def test_density_and_cdf(predictive, rating):
    at = torch.full((2,), rating, dtype=torch.float64)
    np.testing.assert_allclose(predictive.log_prob(at).exp(), dense("pdf", rating))
    np.testing.assert_allclose(predictive.cdf(at), dense("cdf", rating))


@pytest.mark.parametrize("probability", [0.001, 0.05, 0.5, 0.95, 0.999])
def test_quantile_inverts_the_cdf(predictive, probability):
    x = predictive.quantile(probability)
    np.testing.assert_allclose(dense("cdf", x.numpy()), probability, atol=1e-4)


def crps_by_integration(cdf, rating):
    def integrand(x):
        return (cdf(x) - (x >= rating)) ** 2

    return sum(
        scipy.integrate.quad(integrand, *ends, limit=200)[0]
        for ends in ((-10, rating), (rating, 15))
    )


@pytest.mark.slow
@pytest.mark.parametrize("rating", [0.5, 3.0, 5.0])
def test_crps_by_integration(predictive, rating):
    at = torch.full((2,), rating, dtype=torch.float64)
    expected = [crps_by_integration(lambda x, n=n: dense("cdf", x)[n], rating) for n in range(2)]
    np.testing.assert_allclose(predictive.crps(at), expected, rtol=1e-5)


def test_crps_of_other_families_from_draws():
    part = Laplace(torch.tensor([0.4, 0.6]), torch.tensor(0.1))
    predictive = mixture([(1.0, part)], SCALE)
    rating = torch.tensor([2.0, 4.0])
    laplace = scipy.stats.laplace([2.3, 3.2], 0.45)
    expected = [
        crps_by_integration(lambda x, n=n: laplace.cdf(x)[n], rating[n].item()) for n in range(2)
    ]
    np.testing.assert_allclose(predictive.crps(rating), expected, rtol=0.15)  # 200 draws


class TestLevelsOfContinuous:
    CUTS = np.concatenate([[-np.inf], (STARS[1:] + STARS[:-1]) / 2, [np.inf]])

    def recorded(self, predictive):
        """Return the same, of ratings that were recorded in half stars."""
        parts = Mixture(predictive.weights, predictive.parts)
        return mixture(parts, SCALE, gap=0.5)

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
        predictive = mixture([(1.0, part)], SCALE)
        loc, sd = part.loc.double().numpy(), part.scale.double().numpy()
        above = scipy.stats.norm.sf((4.25 / 4.5 - loc) / sd)
        np.testing.assert_allclose(predictive.level_probabilities(STARS)[:, -1], above)
        np.testing.assert_allclose(predictive.probability_at_least(4.75), above)
        below = scipy.stats.norm.cdf((0.25 / 4.5 - loc) / sd)
        np.testing.assert_allclose(predictive.level_probabilities(STARS)[:, 0], below)

    def test_other_families(self):
        part = Laplace(torch.tensor([0.4, 0.6]), torch.tensor(0.1))
        predictive = mixture([(1.0, part)], SCALE)
        laplace = scipy.stats.laplace(np.array([[2.3], [3.2]]), 0.45)
        probabilities = predictive.level_probabilities(STARS)
        np.testing.assert_allclose(probabilities, np.diff(laplace.cdf(self.CUTS)), atol=1e-6)
        at_least = predictive.probability_at_least(4.0)
        np.testing.assert_allclose(at_least, laplace.sf(4.0)[:, 0], rtol=1e-5)

    @pytest.mark.parametrize("star", STARS)
    @pytest.mark.parametrize("below", [0.0, 0.2, 0.49])
    def test_of_at_least_a_recorded_one(self, predictive, star, below):
        """A rating between levels is reached by the next level."""
        recorded = self.recorded(predictive)
        expected = recorded.level_probabilities(STARS)[:, star <= STARS].sum(-1)
        np.testing.assert_allclose(recorded.probability_at_least(star - below), expected)

    def test_of_a_recorded_one_beyond_the_scale(self, predictive):
        recorded = self.recorded(predictive)
        assert (recorded.probability_at_least(5.2) == 0).all()
        assert (recorded.probability_at_least(0.2) == 1).all()

    def test_of_at_least_a_recorded_one_on_a_scale_without_ends(self):
        normal = Normal(torch.tensor([0.3, -1.2], dtype=torch.float64), 0.7)
        recorded = mixture([(1.0, normal)], Affine(50.0, 10.0), 2.0)  # every second number
        expected = scipy.stats.norm.sf(59, [53, 38], 7)
        np.testing.assert_allclose(recorded.probability_at_least(60.0), expected)

    def test_a_single_level_is_certain(self, predictive):
        np.testing.assert_allclose(predictive.level_probabilities([3.0]), 1)

    def test_far_in_the_tail(self):
        """Compare the log of a probability that no float holds with SciPy's log survival."""
        part = Normal(torch.tensor([0.1]), torch.tensor([0.01]))
        predictive = mixture([(1.0, part)], (1.0, 5.0))
        loss = predictive.log_prob_of_level(torch.tensor([5.0]), [1, 2, 3, 4, 5])
        z = (3.5 / 4 - part.loc.double()) / part.scale.double()
        np.testing.assert_allclose(loss, scipy.stats.norm.logsf(z), rtol=1e-9)
        assert float(loss) < -2000

    def test_a_rating_that_is_no_level(self, predictive):
        with pytest.raises(PMFError, match=r"2\.5"):
            predictive.log_prob_of_level(torch.tensor([1.0, 2.5]), [1, 2, 3, 4, 5])


def test_pit_of_continuous_is_the_cdf(predictive):
    rating = double(2.0, 3.7)
    assert torch.equal(predictive.pit(rating), predictive.cdf(rating))


class TestLog1p:
    """Make log(1 + rating), standardized, a mixture of Normals."""

    TRANSFORM = Log1p(5.0, 1.6)
    COUNTS = (0.0, 3.0, 150.0, 4000.0)

    @pytest.fixture
    def log_normals(self):
        parts = [
            (weight, Normal(torch.tensor(3 * loc - 1), torch.tensor(4 * sd).expand(2)))
            for weight, loc, sd in zip(WEIGHTS, LOCS, SDS, strict=True)
        ]
        return mixture(parts, self.TRANSFORM)

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
        rating = torch.expm1(log_rating)[:, None].expand(-1, 2)
        density = log_normals.log_prob(rating).exp() * log_rating.exp()[:, None]
        total = torch.trapezoid(density, log_rating, dim=0)
        np.testing.assert_allclose(total, 1, rtol=1e-6)

    @pytest.mark.parametrize("probability", [0.001, 0.05, 0.5, 0.95, 0.999])
    def test_quantile_inverts_the_cdf(self, log_normals, probability):
        x = log_normals.quantile(probability).numpy()
        np.testing.assert_allclose(self.mixed("cdf", x), probability, atol=1e-4)

    def test_interval_is_not_clipped(self, log_normals):
        lower, upper = log_normals.interval(0.999)
        torch.testing.assert_close(lower, log_normals.quantile(0.0005))
        torch.testing.assert_close(upper, log_normals.quantile(0.9995))

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
        predictive = mixture([(1.0, part)], self.TRANSFORM)
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


class TestUnbounded:
    TRANSFORM = Affine(800.0, 4000.0)

    def test_standardized_against_scipy(self):
        part = Normal(double(0.1, -0.2), double(0.9, 1.1))
        predictive = mixture([(1.0, part)], self.TRANSFORM)
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
        predictive = mixture([(1.0, part)], Log1p(4.0, 1.5))
        exact = scipy.stats.lognorm(0.75, -1, np.exp(4.45))
        for count in (0.0, 10.0, 90.0):
            expected = np.log(exact.cdf(count + 0.5) - exact.cdf(count - 0.5))
            np.testing.assert_allclose(predictive.log_mass(double(count)), expected)

    @pytest.mark.slow
    def test_sums_to_one(self):
        part = Normal(torch.tensor([0.3]).double(), torch.tensor([0.5]).double())
        predictive = mixture([(1.0, part)], Log1p(4.0, 1.5))
        total = sum(predictive.log_mass(double(k)).exp().item() for k in range(5000))
        below = predictive.cdf(double(-0.5)).item()
        assert total + below == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize("z", [-90.0, -30.0, 30.0, 90.0])
    def test_far_out_in_the_tails(self, z):
        """Compare with the density at the middle, where no float holds the probability."""
        part = Normal(torch.zeros(1).double(), torch.ones(1).double())
        predictive = mixture([(1.0, part)], Affine(0.0, 1.0))
        given = predictive.log_prob_between(double(z - 1e-4), double(z + 1e-4))
        expected = scipy.stats.norm.logpdf(z) + np.log(2e-4)
        np.testing.assert_allclose(given, expected, rtol=1e-6)

    def test_of_other_families(self):
        part = Laplace(double(0.4, 0.6), double(0.1))
        predictive = mixture([(1.0, part)], SCALE)
        laplace = scipy.stats.laplace([2.3, 3.2], 0.45)
        expected = np.log(laplace.cdf(3.5) - laplace.cdf(2.5))
        np.testing.assert_allclose(predictive.log_mass(double(3.0, 3.0)), expected)


@pytest.mark.statistical
def test_crps_of_many_parts_is_not_biased():
    """150 equal parts are one Normal, whose CRPS is known: the mean of 20,000 within 0.15%.

    The estimate of one pair is off by 7%, so the mean by 0.05%: three standard errors. Without the
    fair normalization, 200 draws make it 0.5% too large. The seed is fixed.
    """
    n = 20_000
    rating = torch.from_numpy(np.random.default_rng(0).normal(3.0, 0.8, n))
    part = Normal(torch.full((n,), 0.5, dtype=torch.float64), 0.2)  # 3 stars, of 1 to 5
    predictive = mixture([(1 / 150, part)] * 150, (1, 5))
    exact = scoringrules.crps_normal(rating.numpy(), 3.0, 0.8)
    assert predictive.crps(rating).mean() == pytest.approx(exact.mean(), rel=1.5e-3)
