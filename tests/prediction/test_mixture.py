"""The choice of a predictive distribution, and mixtures that moments make."""

import numpy as np
import pytest
import scipy.stats
import torch
from mixtures import SCALE, STARS, double, of_levels, of_normals
from torch.distributions import Bernoulli, Beta, Laplace, NegativeBinomial, Normal, Poisson

from pyro_pmf.data.transforms import Affine, Log1p
from pyro_pmf.moments.expectations import components
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian
from pyro_pmf.prediction.continuous import ContinuousPredictive
from pyro_pmf.prediction.discrete import DiscretePredictive
from pyro_pmf.prediction.mixture import mixture


def test_the_parts_choose_the_class():
    predictive, ordered = of_normals(), of_levels()
    assert type(predictive) is ContinuousPredictive
    assert type(ordered) is DiscretePredictive
    assert predictive.levels is None
    np.testing.assert_allclose(ordered.levels, STARS)


def family(part):
    return type(part).__name__


HALF = torch.full((2,), 0.5)


@pytest.mark.parametrize(
    "part", [Normal(HALF, 1.0), Laplace(HALF, 1.0), Beta(HALF, 1.0)], ids=family
)
def test_parts_with_a_density_are_continuous(part):
    assert type(mixture([(0.5, part), (0.5, part)], (0, 1))) is ContinuousPredictive


@pytest.mark.parametrize(
    "part", [Bernoulli(HALF), Poisson(HALF), NegativeBinomial(HALF, HALF)], ids=family
)
def test_parts_of_levels_or_counts_are_discrete(part):
    assert type(mixture([(0.5, part), (0.5, part)], (0, 1))) is DiscretePredictive


def test_a_scale_stands_for_the_transform_to_the_unit_scale():
    part = Normal(double(0.2, 0.9), double(0.1))
    by_scale, by_transform = (mixture([(1.0, part)], x) for x in (SCALE, Affine.of_scale(*SCALE)))
    assert by_scale.transform == by_transform.transform
    np.testing.assert_allclose(by_scale.mean, [1.4, 4.55])
    assert torch.equal(by_scale.mean, by_transform.mean)


def test_a_transform_is_used_as_it_is():
    part, transform = Normal(double(0.2), double(0.1)), Log1p(5.0, 1.6)
    assert mixture([(1.0, part)], transform).transform is transform


@pytest.mark.parametrize(("score_sd", "log_sd"), [(0.3, 0.0), (0.8, 0.2)])
def test_quadrature_against_integration(score_sd, log_sd):
    """Compare densities of Normal(sigmoid(score), sigma^2), with score and log sigma Normal."""
    score = Gaussian(double(0.7), double(score_sd**2), frozenset("s"))
    sigma = LogGaussian(double(np.log(0.2)), double(log_sd**2), frozenset("t"))
    predictive = mixture(
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
        given = predictive.log_prob(double(rating)).exp()
        np.testing.assert_allclose(given, density(rating), rtol=0.01)
