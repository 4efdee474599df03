"""Updates of single numbers have the distributions that they should."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import halfnorm, kstest, lognorm, norm

from pyro_pmf import Fixed, HalfNormal, LogNormal, Normal
from pyro_pmf.inference.mcmc.gibbs.slices import draw_scale, log_prior, slice_sample

N_DRAWS, THIN = 800, 4


@pytest.mark.parametrize(
    ("prior", "scipy"),
    [
        (HalfNormal(0.7), halfnorm(scale=0.7)),
        (LogNormal(0.4, 0.6), lognorm(0.6, scale=0.4)),
        (Normal(0.3, 0.8), norm(0.3, 0.8)),
    ],
)
def test_log_priors_up_to_a_constant(prior, scipy):
    density = log_prior(prior)
    x = np.array([0.1, 0.5, 1.7, 4.0])
    found = np.array([density(a) for a in x])
    np.testing.assert_allclose(np.diff(found), np.diff(scipy.logpdf(x)), atol=1e-9)


def test_a_known_value_has_no_density():
    assert log_prior(Fixed(2.0))(1.0) == log_prior(Fixed(2.0))(5.0)


@pytest.mark.statistical
@pytest.mark.parametrize("width", [0.1, 2.0, 50.0])
def test_slices_of_a_skew_density(width):
    """A false alarm has a probability of 1e-3; a shift of 0.1 sd is found half of the time."""
    generator = np.random.default_rng(0)
    x, drawn = 1.0, []
    for _ in range(N_DRAWS * 10):
        x = slice_sample(
            x, lambda y: 2 * y - math.exp(y) if abs(y) < 50 else -math.inf, width, generator
        )
        drawn.append(x)
    # exp(x) is a gamma variable of shape 2
    assert kstest(np.exp(drawn[9::10]), "gamma", args=(2,)).pvalue > 1e-3


@pytest.mark.statistical
@pytest.mark.parametrize("prior", [HalfNormal(0.5), LogNormal(0.8, 0.3), Fixed(1.0)])
@pytest.mark.parametrize(("count", "sum_of_squares"), [(3, 2.0), (200, 80.0)])
def test_scales_given_their_rows(prior, count, sum_of_squares):
    """Against integrals of the density. `Fixed` stands for a flat prior."""
    density = log_prior(prior)

    def log_density(x: float) -> float:
        return density(x) - count * math.log(x) - sum_of_squares / (2 * x * x)

    peak = max(np.linspace(0.05, 5, 500), key=log_density)
    at = peak * np.exp(np.linspace(-2, 2, 21))
    parts = [
        quad(lambda x: math.exp(log_density(x) - log_density(peak)), a, b)[0]
        for a, b in zip(np.r_[0.0, at], np.r_[at, 200.0], strict=True)
    ]
    below = np.cumsum(parts)[:-1] / np.sum(parts)
    generator = np.random.default_rng(1)
    scale, drawn = 1.0, []
    for _ in range(N_DRAWS * THIN):
        scale = draw_scale(scale, sum_of_squares, count, density, generator)
        drawn.append(scale)
    found = (np.array(drawn[THIN - 1 :: THIN])[:, None] < at).mean(0)
    assert np.abs(found - below).max() < 1.95 / math.sqrt(N_DRAWS)  # Kolmogorov, at 1e-3
