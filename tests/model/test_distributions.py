"""Distributions of ratings against SciPy, Pyro, exact decimals and numerical integration."""

from decimal import Decimal, localcontext

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.special import log_expit

from pyro_pmf.model.distributions import OrderedLogistic
from pyro_pmf.moments.expectations import components, expected_log_prob
from pyro_pmf.moments.gaussian import Gaussian, LogGaussian

CUTS = np.array([-2.0, -0.8, 0.3, 1.6])
LEVELS = np.linspace(0, 1, 5)
SCORES = np.array([-3.0, -0.4, 0.0, 1.1, 4.0])
SIGMAS = np.array([0.5, 1.0, 1.4, 0.8, 2.0])
DRAWS = 100_000


def double(x):
    return torch.as_tensor(x, dtype=torch.float64)


def ordered(score=SCORES, sigma=SIGMAS, cuts=CUTS):
    return OrderedLogistic(double(score), double(sigma), double(cuts))


def level_probabilities(score, sigma, cuts=CUTS):
    """The probability of each level, from SciPy's logistic distribution."""
    response = stats.logistic(np.asarray(score)[..., None], np.asarray(sigma)[..., None])
    below = response.cdf(cuts)
    ends = np.zeros((*below.shape[:-1], 1))
    return np.diff(np.concatenate([ends, below, ends + 1], -1))


def exact_log_prob(level, score, sigma, cuts=CUTS):
    """Log of a difference of logistic functions, with 400 digits."""
    with localcontext() as context:
        context.prec = 400

        def below(k):
            if k in (0, len(cuts) + 1):
                return Decimal(k > 0)
            z = (Decimal(float(cuts[k - 1])) - Decimal(float(score))) / Decimal(float(sigma))
            return 1 / (1 + (-z).exp())

        return float((below(level + 1) - below(level)).ln())


# Probabilities


def test_probabilities_are_differences_of_logistic_distribution_functions():
    fn = ordered()
    expected = level_probabilities(SCORES, SIGMAS)
    np.testing.assert_allclose(fn.probs, expected, atol=1e-15)
    np.testing.assert_allclose(fn.probs.sum(-1), 1.0)
    values = double(LEVELS)[:, None].expand(5, 5)
    np.testing.assert_allclose(fn.log_prob(values).exp(), expected.T, atol=1e-15)
    np.testing.assert_allclose(fn.cdf(values), expected.cumsum(-1).T)
    assert (fn.n_levels, fn.spacing, fn.batch_shape) == (5, 0.25, (5,))


@pytest.mark.parametrize("n_levels", [2, 3, 5, 10])
def test_at_sigma_1_it_is_pyros_own(n_levels):
    score, cuts = torch.randn(50).double(), torch.randn(n_levels - 1).double().sort().values
    value = torch.randint(n_levels, (50,))
    got = OrderedLogistic(score, torch.ones_like(score), cuts).log_prob(value / (n_levels - 1))
    expected = dist.OrderedLogistic(score, cuts).log_prob(value)
    torch.testing.assert_close(got, expected, check_dtype=False)


def test_moments():
    fn, p = ordered(), level_probabilities(SCORES, SIGMAS)
    mean = p @ LEVELS
    np.testing.assert_allclose(fn.mean, mean)
    np.testing.assert_allclose(fn.variance, p @ LEVELS**2 - mean**2)


@pytest.mark.parametrize(
    ("dtype", "scores", "rtol"),
    [
        (torch.float64, [-300.0, -40.0, -5.0, 0.0, 5.0, 40.0, 300.0], 1e-12),
        (torch.float32, [-300.0, -40.0, -5.0, 0.0, 5.0, 40.0, 300.0], 3e-6),
    ],
)
@pytest.mark.parametrize("sigma", [0.5, 1.0, 8.0])
def test_log_prob_in_the_tails(dtype, scores, rtol, sigma):
    """Where a probability is 10^-260, and where the difference of two is lost in a float."""
    cuts = torch.tensor([-2.0, -0.75, 0.25, 0.25 + 2**-10, 1.5], dtype=dtype)
    score = torch.tensor(scores, dtype=dtype)
    fn = OrderedLogistic(score, torch.full_like(score, sigma), cuts)
    for level in range(6):
        got = fn.log_prob(torch.full_like(score, level / 5))
        expected = [exact_log_prob(level, x, sigma, cuts.tolist()) for x in scores]
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol)


def test_gradients():
    score, sigma = double(SCORES).requires_grad_(), double(SIGMAS).requires_grad_()
    cuts = double(CUTS).requires_grad_()

    def log_prob(*parameters):
        return OrderedLogistic(*parameters).log_prob(double(LEVELS))

    assert torch.autograd.gradcheck(log_prob, (score, sigma, cuts))
    assert torch.autograd.gradcheck(lambda *x: OrderedLogistic(*x).mean, (score, sigma, cuts))


def test_gradients_are_finite_far_out():
    score = torch.tensor([-300.0, 300.0] * 3, requires_grad=True)
    sigma, cuts = torch.ones(6, requires_grad=True), torch.tensor(CUTS).float().requires_grad_()
    value = torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0, 1.0])
    OrderedLogistic(score, sigma, cuts).log_prob(value).sum().backward()
    for x in (score, sigma, cuts):
        assert x.grad.isfinite().all()


# Draws, shapes, support


@pytest.mark.statistical
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sample_frequencies(dtype):
    """Chi-square tests of five rows: a false alarm in 10^-6 of them by Bonferroni's bound."""
    parameters = (torch.tensor(x, dtype=dtype) for x in (SCORES, SIGMAS, CUTS))
    draws = OrderedLogistic(*parameters).sample((DRAWS,))
    assert draws.shape == (DRAWS, 5)
    assert draws.dtype == dtype
    level = (draws * 4).round().long()
    torch.testing.assert_close(draws, level.to(dtype) / 4)
    for n, probability in enumerate(level_probabilities(SCORES, SIGMAS)):
        counts = torch.bincount(level[:, n], minlength=5)
        assert stats.chisquare(counts, DRAWS * probability).pvalue > 1e-6 / 5


def test_cut_points_of_particles():
    """One row of cut points for each particle, and ratings that know of no particles."""
    n, n_particles = 7, 3
    score, sigma = torch.randn(n_particles, n).double(), torch.rand(n_particles, n).double() + 0.5
    cuts = torch.randn(n_particles, 1, 4).double().sort(-1).values
    value = torch.randint(5, (n,)).double() / 4
    fn = OrderedLogistic(score, sigma, cuts)
    alone = [OrderedLogistic(score[k], sigma[k], cuts[k, 0]) for k in range(n_particles)]
    assert fn.batch_shape == (n_particles, n)
    assert fn.sample().shape == (n_particles, n)
    for method in ("log_prob", "cdf"):
        expected = torch.stack([getattr(one, method)(value) for one in alone])
        torch.testing.assert_close(getattr(fn, method)(value), expected)
        many = value.expand(n_particles, n)
        torch.testing.assert_close(getattr(fn, method)(many), expected)
    for moment in ("probs", "mean", "variance"):
        expected = torch.stack([getattr(one, moment) for one in alone])
        torch.testing.assert_close(getattr(fn, moment), expected)


def test_expand():
    fn, value = ordered(), double(LEVELS)
    wide = fn.expand([3, 5])
    assert wide.batch_shape == (3, 5)
    assert wide.sample((2,)).shape == (2, 3, 5)
    torch.testing.assert_close(wide.log_prob(value), fn.log_prob(value).expand(3, 5))
    scalar = OrderedLogistic(double(0.3), double(1.0), double(CUTS))
    torch.testing.assert_close(scalar.expand([5]).mean, scalar.mean.expand(5))


def test_support_is_the_levels():
    support = ordered().support
    assert support.is_discrete
    assert support.check(double(LEVELS)).all()
    assert support.check(torch.tensor(LEVELS).float()).all()
    assert not support.check(double([-0.25, 0.1, 0.6, 1.25])).any()
    with pytest.raises(ValueError, match="sigma"):
        OrderedLogistic(double([0.0]), double([-1.0]), double(CUTS), validate_args=True)


# Expectations over the score and sigma


def random_parameters(score_mean, score_sd, log_sigma, log_sd):
    """A score and a sigma for each of the five levels; sigma is known where it does not vary."""
    five = torch.ones(5, dtype=torch.float64)
    score = Gaussian(five * score_mean, five * score_sd**2, frozenset({"U"}))
    if not log_sd:
        return score, (five * log_sigma).exp()
    return score, LogGaussian(five * log_sigma, five * log_sd**2, frozenset({"sigma"}))


# The trapezoid rule on two independent standard normals.
Z = np.linspace(-9, 9, 181)
WEIGHTS = np.outer(stats.norm.pdf(Z), stats.norm.pdf(Z)) * (Z[1] - Z[0]) ** 2


def integrated_log_prob(score_mean, score_sd, log_sigma, log_sd):
    """E log p of each level, by the trapezoid rule in two dimensions."""
    score = score_mean + score_sd * Z[:, None]
    sigma = np.exp(log_sigma + log_sd * Z)
    found = []
    for k in range(5):
        log_prob = np.zeros((len(Z), len(Z)))
        if k < 4:
            log_prob += log_expit((CUTS[k] - score) / sigma)
        if k > 0:
            log_prob += log_expit((score - CUTS[k - 1]) / sigma)
        if 0 < k < 4:
            log_prob += np.log(-np.expm1(-(CUTS[k] - CUTS[k - 1]) / sigma))
        found.append((WEIGHTS * log_prob).sum())
    return np.array(found)


CENTRES = [
    (score, log_sigma) for score in (-3.0, -1.0, 0.0, 1.0, 3.0) for log_sigma in (-0.5, 0.5)
]


@pytest.mark.parametrize(
    ("score_sd", "log_sd", "error"),
    [
        (0.1, 0.0, 1e-6),
        (0.5, 0.0, 1e-5),
        (1.0, 0.0, 2e-3),
        (1.5, 0.0, 1e-2),
        (0.1, 0.2, 3e-5),
        (0.5, 0.2, 3e-5),
        (1.0, 0.2, 3e-3),
        (1.5, 0.2, 1e-2),
        (0.1, 0.4, 1e-3),
        (0.5, 0.4, 1e-3),
        (1.0, 0.4, 1e-2),
        (1.5, 0.4, 2e-2),
    ],
)
def test_expected_log_prob_against_integration(score_sd, log_sd, error):
    """All levels, over locations; the error is that of so few nodes, in nats per rating."""
    for score_mean, log_sigma in CENTRES:
        score, sigma = random_parameters(score_mean, score_sd, log_sigma, log_sd)
        with pyro.validation_enabled(False):
            fn = OrderedLogistic(score, sigma, double(CUTS))
        got = expected_log_prob(fn, double(LEVELS))
        truth = integrated_log_prob(score_mean, score_sd, log_sigma, log_sd)
        np.testing.assert_allclose(got, truth, atol=error, rtol=0)


@pytest.mark.parametrize("log_sd", [0.2, 0.6, 1.0])
def test_there_is_no_cut_point_past_the_ends(log_sd):
    """However widely sigma varies: far from all cut points an end level is certain."""
    score, sigma = random_parameters(torch.tensor([-80.0, 0, 0, 0, 80.0]), 0.1, 0.0, log_sd)
    with pyro.validation_enabled(False):
        fn = OrderedLogistic(score, sigma, double(CUTS))
    ends = expected_log_prob(fn, double(LEVELS))[[0, 4]]
    np.testing.assert_allclose(ends, 0.0, atol=0.02)


def test_expected_log_prob_of_a_known_score():
    fn = ordered()
    value = double(LEVELS)
    torch.testing.assert_close(expected_log_prob(fn, value), fn.log_prob(value))
    still, sigma = random_parameters(0.4, 0.0, 0.2, 0.0)
    with pyro.validation_enabled(False):
        got = OrderedLogistic(still, sigma, double(CUTS)).expected_log_prob(value)
    known = OrderedLogistic(still.mean, sigma, double(CUTS))
    torch.testing.assert_close(got, known.log_prob(value))


def test_gradients_of_expected_log_prob():
    moments = [double(SCORES), double(SIGMAS), double(SIGMAS).log(), double(SIGMAS) / 10]
    parameters = [x.requires_grad_() for x in (*moments, double(CUTS))]

    def expected(mean, var, log_mean, log_var, cuts):
        score = Gaussian(mean, var, frozenset({"U"}))
        sigma = LogGaussian(log_mean, log_var, frozenset({"sigma"}))
        fn = OrderedLogistic(score, sigma, cuts, validate_args=False)
        return fn.expected_log_prob(double(LEVELS))

    assert torch.autograd.gradcheck(expected, parameters)


def test_one_sigma_of_all_ratings_counts_for_each():
    score, _ = random_parameters(0.3, 0.5, 0.0, 0.0)
    moments = double([0.1, 0.04])
    one = LogGaussian(*moments, frozenset({"sigma"})).expand(5)
    written = LogGaussian(*(x.expand(5) for x in moments), frozenset({"sigma"}))
    with pyro.validation_enabled(False):
        got, expected = (
            expected_log_prob(OrderedLogistic(score, sigma, double(CUTS)), double(LEVELS))
            for sigma in (one, written)
        )
    torch.testing.assert_close(got, expected)


def test_components_are_the_mixture_over_score_and_sigma():
    score, sigma = random_parameters(0.4, 0.7, 0.1, 0.25)
    with pyro.validation_enabled(False):
        fn = OrderedLogistic(score, sigma, double(CUTS))
        got = sum(weight * part.probs[0] for weight, part in components(fn)).numpy()
    z = Z[:, None]
    p = level_probabilities(*np.broadcast_arrays(0.4 + 0.7 * z, np.exp(0.1 + 0.25 * Z)))
    np.testing.assert_allclose(got, np.einsum("ij,ijk->k", WEIGHTS, p), atol=1e-4)
