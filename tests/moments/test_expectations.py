"""Expectations and mixtures of random quantities against numerical integration."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from integrals import KINDS, expectation, number, quantity
from scipy import integrate, stats
from scipy.special import expit

from pyro_pmf.moments.expectations import (
    components,
    expected_softplus,
    is_random,
    mean_square_distance,
    unwrapped,
)
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, NoClosedForm

# Expectations


@pytest.mark.parametrize("mean", [-40.0, -3.0, 0.0, 0.8, 25.0])
@pytest.mark.parametrize(
    ("sd", "error"), [(0.1, 1e-10), (0.5, 1e-6), (1.0, 1e-3), (1.5, 6e-3), (2.0, 2e-2)]
)
def test_expected_softplus(mean, sd, error):
    """By integration; far from zero it is max(0, x), of which the mean is exact."""
    x = Gaussian(number([mean]), number([sd**2]))
    truth, _ = integrate.quad(
        lambda z: np.logaddexp(0, mean + sd * z) * stats.norm.pdf(z), -12, 12, epsabs=1e-13
    )
    assert expected_softplus(x).item() == pytest.approx(truth, abs=error)
    known = expected_softplus(number([mean]))
    assert known.item() == pytest.approx(np.logaddexp(0, mean), rel=1e-12)


def test_expected_softplus_of_other_quantities():
    for kind in KINDS:
        x, over = quantity(kind)
        truth = over(lambda u: np.logaddexp(0, u))
        torch.testing.assert_close(expected_softplus(x), number([truth]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("b", KINDS)
@pytest.mark.parametrize("a", KINDS)
def test_mean_square_distance(a, b):
    (x, over_x), (y, over_y) = quantity(a), quantity(b)
    truth = over_x(lambda u: over_y(lambda v: (u - v) ** 2))
    torch.testing.assert_close(mean_square_distance(x, y), number([truth]), rtol=1e-7, atol=1e-7)


# Mixtures


@pytest.mark.parametrize(
    ("log_sd", "n", "error", "density_error"),
    [(0.003, 1, 2e-5, 1e-4), (0.2, 3, 1e-4, 3e-3), (0.6, 7, 1e-5, 1e-2)],
)
def test_a_standard_deviation_takes_as_few_nodes_as_it_needs(log_sd, n, error, density_error):
    """The mean square of the mixture and its density, against exact and numerical integrals."""
    sigma = LogGaussian(number([-1.5]), number([log_sd**2]))
    mixture = dist.Normal(number([0.0]), sigma, validate_args=False)
    weights, parts = zip(*components(mixture), strict=True)
    assert len(parts) == n
    square = sum(w * part.variance.item() for w, part in zip(weights, parts, strict=True))
    assert square == pytest.approx(np.exp(-3 + 2 * log_sd**2), rel=error)
    got = sum(
        w * part.log_prob(number([0.3])).exp().item()
        for w, part in zip(weights, parts, strict=True)
    )
    density = expectation(lambda s: stats.norm(0, np.exp(s)).pdf(0.3), -1.5, log_sd)
    assert got == pytest.approx(density, rel=density_error)


@pytest.mark.slow
def test_components_of_a_normal_with_random_mean_and_standard_deviation():
    """Against two-dimensional numerical integration."""
    score, sigma = (0.5, 0.6), (-1.5, 0.3)
    fn = dist.Normal(
        torch.sigmoid(Gaussian(number(score[0]), number(score[1] ** 2), frozenset({"U"}))),
        LogGaussian(number(sigma[0]), number(sigma[1] ** 2), frozenset({"sigma"})),
        validate_args=False,
    )
    weights, parts = zip(*components(fn), strict=True)
    assert sum(weights) == pytest.approx(1.0)

    def truth(f):
        return expectation(lambda s: expectation(lambda x: f(expit(x), np.exp(s)), *score), *sigma)

    def mixture(f):
        return sum(w * f(part) for w, part in zip(weights, parts, strict=True)).numpy()

    mean, square = truth(lambda m, s: np.array([m, m**2 + s**2]))
    assert mixture(lambda p: p.mean) == pytest.approx(mean, abs=1e-6)
    assert mixture(lambda p: p.mean**2 + p.variance) == pytest.approx(square, abs=1e-6)
    values = np.array([-0.3, 0.2, 0.6, 1.1])
    density = truth(lambda m, s: np.exp(-0.5 * ((values - m) / s) ** 2) / (s * (2 * np.pi) ** 0.5))
    got = mixture(lambda part: part.log_prob(number(values)).exp())
    np.testing.assert_allclose(np.log(got), np.log(density), atol=1e-3)


def test_components_of_a_distribution_without_random_parameters_is_itself():
    ((weight, part),) = components(dist.Normal(number([0.2]), number([0.4])))
    assert weight == 1.0
    assert (part.mean, part.stddev) == (0.2, 0.4)


@pytest.mark.parametrize("mean", [0.0, 1.0, 100.0])
def test_components_keep_the_variance_of_a_location_wherever_it_is(mean):
    fn = dist.Normal(Gaussian(number([mean]), number([0.36])), number([0.1]), validate_args=False)
    second = sum(w * (p.variance + (p.mean - mean) ** 2) for w, p in components(fn))
    assert second.item() == pytest.approx(0.37)


def test_components_of_dependent_parameters_are_refused():
    x = Gaussian(number([0.3, -1.0]), number([0.5, 0.2]), frozenset({"x"}))
    fn = dist.Normal(x, LogGaussian(x.mean, x.var, x.sites), validate_args=False)
    with pytest.raises(NoClosedForm, match="dependent"):
        components(fn)


# Distributions with random parameters


def test_a_distribution_is_random_by_any_of_its_parameters():
    one, x = number([1.0]), Gaussian(number([0.3]), number([0.5]))
    assert not is_random(dist.Normal(one, one))
    assert is_random(dist.Normal(x, one, validate_args=False))
    assert is_random(dist.Normal(one, torch.exp(x), validate_args=False))


def test_unwrapping_goes_as_deep_as_the_wrappers():
    inner = dist.Normal(torch.zeros(2, 3), 1.0)
    assert unwrapped(inner) is inner
    assert unwrapped(inner.to_event(1).to_event(1)) is inner
    vectors = dist.MultivariateNormal(torch.zeros(2, 3), torch.eye(3))
    assert unwrapped(vectors.to_event(1)) is vectors
