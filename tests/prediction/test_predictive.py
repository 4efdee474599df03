"""What every predictive distribution has, by SciPy: moments, intervals, levels by name."""

import numpy as np
import pytest
import scipy.stats
import torch
from mixtures import LOCS, SCALE, SDS, STARS, WEIGHTS, double, of_levels, of_normals
from torch.distributions import Beta, Normal

from pyro_pmf.data.transforms import Affine
from pyro_pmf.errors import PMFError
from pyro_pmf.prediction.mixture import mixture
from pyro_pmf.prediction.predictive import PosteriorPredictive, locate_levels


@pytest.fixture
def predictive():
    return of_normals()


@pytest.fixture
def ordered():
    return of_levels()


QUESTIONS = {
    "log_prob",
    "log_prob_of_level",
    "log_mass",
    "cdf",
    "probability_at_least",
    "quantile",
    "crps",
    "pit",
}


class TestAbstract:
    PARTS = torch.ones(1).double(), Normal(torch.zeros(1, 2), 1.0)

    def test_cannot_be_instantiated(self):
        with pytest.raises(TypeError, match="abstract"):
            PosteriorPredictive(*self.PARTS, Affine.of_scale(*SCALE))

    def test_asks_a_class_for_every_answer(self):
        assert PosteriorPredictive.__abstractmethods__ == QUESTIONS

    @pytest.mark.parametrize("missing", sorted(QUESTIONS))
    def test_refuses_a_class_without_one(self, missing):
        answers = {name: lambda self, *_: None for name in QUESTIONS - {missing}}
        incomplete = type("Incomplete", (PosteriorPredictive,), answers)
        with pytest.raises(TypeError, match=missing):
            incomplete(*self.PARTS, Affine.of_scale(*SCALE))

    def test_gives_moments_to_a_class_that_answers(self):
        answers = {name: lambda self, *_: None for name in QUESTIONS}
        complete = type("Complete", (PosteriorPredictive,), answers)
        distribution = complete(*self.PARTS, Affine.of_scale(*SCALE))
        np.testing.assert_allclose(distribution.mean, 0.5)
        np.testing.assert_allclose(distribution.sd, 4.5)


def test_mean_and_sd(predictive):
    mean = np.einsum("k,kn->n", WEIGHTS, 0.5 + 4.5 * LOCS)
    square = np.einsum("k,kn->n", WEIGHTS, (0.5 + 4.5 * LOCS) ** 2 + (4.5 * SDS[:, None]) ** 2)
    np.testing.assert_allclose(predictive.mean, mean)
    np.testing.assert_allclose(predictive.sd, np.sqrt(square - mean**2))


def test_interval_is_central_and_clipped(predictive):
    lower, upper = predictive.interval(0.9)
    np.testing.assert_allclose(lower, predictive.quantile(0.05).clamp(*SCALE))
    np.testing.assert_allclose(upper, predictive.quantile(0.95).clamp(*SCALE))
    lower, upper = predictive.interval(0.9999)
    assert lower.min() == 0.5
    assert upper.max() == 5.0


@pytest.mark.parametrize("probability", [0.0, 1.0, -1.0, float("nan")])
def test_interval_outside_0_1(predictive, ordered, probability):
    for distribution in (predictive, ordered):
        with pytest.raises(PMFError, match="between 0 and 1"):
            distribution.interval(probability)


@pytest.mark.statistical
def test_draws_stand_for_quantiles_that_torch_lacks():
    """Of 1000 draws with a fixed seed; their distribution function errs by 0.016, at one sd."""
    a = torch.tensor([2.0, 3.0])
    distribution = mixture([(1.0, Beta(a, a + 1))], (0, 1))
    lower, upper = distribution.interval(0.9)
    for p, ends in ((0.05, lower), (0.95, upper)):
        np.testing.assert_allclose(scipy.stats.beta.cdf(ends, a, a + 1), p, atol=0.03)
    middle = torch.tensor([0.4, 0.5])
    exact = scipy.stats.beta.cdf(middle, a, a + 1)
    np.testing.assert_allclose(distribution.cdf(middle), exact, atol=0.06)
    at_least = distribution.probability_at_least(middle)
    np.testing.assert_allclose(at_least, 1 - exact, atol=0.06)
    levels = distribution.level_probabilities([0.0, 0.5, 1.0])
    np.testing.assert_allclose(levels.sum(-1), 1)
    assert torch.equal(lower, mixture([(1.0, Beta(a, a + 1))], (0, 1)).interval(0.9)[0])


@pytest.mark.parametrize(
    "levels", [(), 5, "12345", [[1, 2]], (2, 1), (1, None), ("a",), (1, np.inf)]
)
def test_levels_that_are_none(predictive, levels):
    with pytest.raises(PMFError, match="levels must be all possible ratings, ascending"):
        predictive.level_probabilities(levels)


def test_far_from_zero_no_digits_are_lost():
    parts = [(1.0, Normal(torch.tensor([0.5]), torch.tensor([0.1])))]
    near, far = mixture(parts, (1, 5)), mixture(parts, (1e7 + 1, 1e7 + 5))
    rating = torch.tensor([3.3], dtype=torch.float64)
    np.testing.assert_allclose(far.mean - 1e7, near.mean, atol=1e-6)
    np.testing.assert_allclose(far.log_prob(rating + 1e7), near.log_prob(rating), rtol=1e-6)


def test_the_highest_rating_is_inside_an_interval_clipped_there():
    part = Normal(torch.tensor([1.2]).double(), torch.tensor([0.1]).double())
    _, upper = mixture([(1.0, part)], (-2.0, -0.6)).interval(0.9)
    assert upper.item() == -0.6


@pytest.mark.parametrize("levels", [[1, 3, 2], [1, 1, 2], [1, np.nan], [1, np.inf], []])
def test_levels_that_do_not_ascend(predictive, ordered, levels):
    for distribution in (predictive, ordered):
        with pytest.raises(PMFError, match="ascend"):
            distribution.log_prob_of_level(torch.tensor([1.0]), levels)


class TestLocateLevels:
    def test_finds_each_rating(self):
        levels, level = locate_levels(double(0.5, 5.0, 2.0004, 1.9996), STARS)
        np.testing.assert_array_equal(levels, STARS)
        assert levels.dtype == torch.float64
        assert level.tolist() == [0, 9, 3, 3]

    def test_refuses_ratings_that_are_none(self):
        """Allow a thousandth of the narrowest gap, and name at most five wrong ratings."""
        with pytest.raises(PMFError, match=r"such as \[0\.498, 2\.1\]"):
            locate_levels(double(0.498, 0.4996, 2.1), STARS)
        with pytest.raises(PMFError, match=r"such as \[6\.0, 7\.0, 8\.0, 9\.0, 10\.0\]: add"):
            locate_levels(torch.arange(6, 20), STARS)

    def test_of_a_single_level(self):
        assert locate_levels(double(3.0, 3.0005), [3.0])[1].tolist() == [0, 0]
        with pytest.raises(PMFError, match=r"3\.01"):
            locate_levels(double(3.01), [3.0])
