"""The noise of rounded ratings against fine numerical integration."""

import numpy as np
import pytest
import torch
from integrals import expectation, number
from torch.distributions import Normal

from pyro_pmf.moments.expectations import expected_log_prob
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian, NoClosedForm
from pyro_pmf.moments.rounding import rounded


# The bounds are the errors of five nodes, for sigma from far below to far above the rounding.
@pytest.mark.parametrize(("sd", "error"), [(0.0, 1e-12), (0.1, 1e-9), (0.5, 3e-4), (1.0, 3e-2)])
def test_both_expectations_are_those_of_the_integral(sd, error):
    for mean in np.linspace(-4, 4, 17):
        log_mean, log_var = rounded(number(mean), number(sd**2), 1.0)

        def square(x):
            return np.exp(2 * x) + 1

        mean_log = expectation(lambda x: 0.5 * np.log(square(x)), mean, sd)
        mean_precision = expectation(lambda x: 1 / square(x), mean, sd)
        assert abs(float(log_mean) - mean_log) < error
        assert abs(float(2 * (log_var - log_mean)) - np.log(mean_precision)) < error


def test_the_variance_is_that_of_the_log_where_sigma_varies_little():
    _, log_var = rounded(number(-0.3), number(0.04), 0.5)
    logs = [lambda x, k=k: (0.5 * np.log(np.exp(2 * x) + 0.25)) ** k for k in (1, 2)]
    first, second = (expectation(log, -0.3, 0.2) for log in logs)
    assert float(log_var) == pytest.approx(second - first**2, rel=0.05)


def test_gradients_are_those_of_finite_differences():
    mean = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    var = torch.linspace(0.01, 1, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, v: rounded(m, v, 0.7), (mean, var))
    assert torch.autograd.gradcheck(lambda m, v: rounded(m, v, 0.7)[1], (mean, var))


@pytest.mark.parametrize("log_mean", [-80.0, 4.0, 30.0])
def test_noise_that_is_almost_nothing_or_enormous_stays_finite(log_mean):
    mean = torch.tensor(log_mean, requires_grad=True)
    var = torch.tensor(0.1, requires_grad=True)
    moments = rounded(mean, var, 0.1)
    assert all(x.isfinite() for x in (*moments, *torch.autograd.grad(sum(moments), (mean, var))))
    assert moments[0].item() == pytest.approx(max(log_mean, np.log(0.1)), abs=1e-4)


def test_a_random_sigma_keeps_its_sites_and_its_shape():
    sigma = LogGaussian(number(-1.0), number(0.1), frozenset({"sigma"})).expand(5)
    noise = torch.hypot(sigma, number(0.3))
    assert noise.sites == {"sigma"}
    assert noise.shape == (5,)
    assert noise.log_mean.shape == ()  # still computed once


def test_the_expected_density_of_a_rounded_rating_is_that_of_the_integral():
    score, sigma = Gaussian(number([0.2]), number([0.3])), LogGaussian(number(-1.2), number(0.09))
    value, sd = number([0.5]), 0.4
    rating = Normal(score, torch.hypot(sigma, number(sd)), validate_args=False)
    found = expected_log_prob(rating, value)
    square = 0.3**2 + 0.3
    truth = expectation(
        lambda x: (
            -0.5 * np.log(2 * np.pi * (np.exp(2 * x) + sd**2))
            - square / (2 * (np.exp(2 * x) + sd**2))
        ),
        -1.2,
        0.3,
    )
    assert float(found) == pytest.approx(truth, abs=1e-4)


def test_other_hypotenuses_have_no_closed_form():
    with pytest.raises(NoClosedForm, match="hypotenuse of a Tensor and a Gaussian"):
        torch.hypot(Gaussian(number([0.0]), number([1.0])), number(1.0))
