"""The predictive mixture against SciPy and numerical integration."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch.distributions import Beta, Laplace, Normal

from pyro_pmf.errors import PMFError
from pyro_pmf.gaussian import Gaussian, LogGaussian, components
from pyro_pmf.predictive import PosteriorPredictive

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
