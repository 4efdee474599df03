"""Scores of predictions whose truth is known."""

from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from torch.distributions import Bernoulli, Distribution, NegativeBinomial, Normal, constraints

from pyro_pmf.errors import PMFError
from pyro_pmf.prediction.metrics import (
    calibration,
    clustered_error,
    pit_histogram,
    pit_uniformity,
    ranking_scores,
    reliability_prediction_index,
    score_each,
    summarize,
    summarize_by,
)
from pyro_pmf.prediction.mixture import mixture

MEAN, SD = np.array([2.0, 3.0, 4.0, 3.0]), np.array([0.5, 1.0, 0.25, 0.75])
RATING = np.array([2.5, 1.0, 4.0, 3.2])


STARS = np.arange(1, 11) / 2


@pytest.fixture
def predictive():
    low, high = 0.5, 5.0
    unit = torch.tensor((MEAN - low) / (high - low)), torch.tensor(SD / (high - low))
    return mixture([(1.0, Normal(*unit))], (low, high))


@pytest.fixture
def scores(predictive):
    return score_each(predictive, torch.tensor(RATING))


def rpi_by_hand(size, sd):
    mean, mean_sd, n = sum(size) / len(size), sum(sd) / len(sd), len(size)
    total = sum(e * (e - mean) * (s - mean_sd) for e, s in zip(size, sd, strict=True))
    spread = sum(abs(e - mean) for e in size) / n * sum(abs(s - mean_sd) for s in sd) / n
    return total / (n * mean * spread)


def test_summary_in_rating_units(scores):
    summary = summarize(scores)
    error = RATING - MEAN
    half = 1.6448536 * SD
    width = np.minimum(MEAN + half, 5.0) - np.maximum(MEAN - half, 0.5)
    z = error / SD
    crps = SD * (
        z * (2 * scipy.stats.norm.cdf(z) - 1) + 2 * scipy.stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    )
    expected = {
        "n": 4,
        "rmse": np.sqrt(np.mean(error**2)),
        "mae": np.mean(np.abs(error)),
        "nll": -scipy.stats.norm.logpdf(RATING, MEAN, SD).mean(),
        "crps": crps.mean(),
        "coverage": 0.75,
        "width": width.mean(),
        **{
            f"coverage_{p}": np.mean(np.abs(z) <= scipy.stats.norm.ppf((1 + p / 100) / 2))
            for p in (50, 80, 90, 95)
        },
        "pit_distance": max(
            np.abs(scipy.stats.norm.cdf(np.sort(z)) - k / 4).max()
            for k in (np.arange(4), np.arange(1, 5))
        ),
        "sharpness": SD.mean(),
        "error_sd_spearman": scipy.stats.spearmanr(np.abs(error), SD).statistic,
        "error_sd_pearson": np.corrcoef(np.abs(error), SD)[0, 1],
        "rpi": rpi_by_hand(np.abs(error), SD),
    }
    pd.testing.assert_series_equal(summary, pd.Series(expected), rtol=1e-4)


def test_correlations_of_constant_sd_are_nan(scores):
    summary = summarize(scores.assign(sd=1.0))
    assert summary[["error_sd_spearman", "error_sd_pearson", "rpi"]].isna().all()
    assert summary.drop(["error_sd_spearman", "error_sd_pearson", "rpi"]).notna().all()


def test_log_loss_of_a_continuous_prediction_rounded_to_levels(predictive):
    rating = np.array([2.5, 0.5, 4.0, 5.0])
    scores = score_each(predictive, torch.tensor(rating), levels=STARS)
    lower = np.where(rating == 0.5, -np.inf, rating - 0.25)
    upper = np.where(rating == 5.0, np.inf, rating + 0.25)
    cdf = scipy.stats.norm(MEAN, SD).cdf
    np.testing.assert_allclose(scores["log_loss"], -np.log(cdf(upper) - cdf(lower)))
    assert summarize(scores)["log_loss"] == pytest.approx(scores["log_loss"].mean())


def test_log_loss_needs_ratings_that_are_levels(predictive):
    with pytest.raises(PMFError, match=r"3\.2"):
        score_each(predictive, torch.tensor(RATING), levels=STARS)


def test_scores_of_levels():
    p = np.array([0.2, 0.5, 0.97, 0.5])
    predictive = mixture([(1.0, Bernoulli(torch.tensor(p)))], (1, 2))
    scores = score_each(predictive, torch.tensor([1.0, 2.0, 1.0, 1.0]))
    mass = np.array([0.8, 0.5, 0.03, 0.5])
    np.testing.assert_allclose(scores["log_loss"], -np.log(mass))
    np.testing.assert_allclose(scores["nll"], scores["log_loss"])
    np.testing.assert_allclose(scores["crps"], (1 - mass) ** 2)
    np.testing.assert_allclose(scores["sd"], np.sqrt(p * (1 - p)))
    assert scores["covered"].tolist() == [True, True, False, True]
    assert scores["width"].tolist() == [1.0, 1.0, 0.0, 1.0]


def test_scores_of_counts():
    part = NegativeBinomial(torch.tensor([2.0, 2.0]), logits=torch.tensor([1.0, 3.0]))
    scores = score_each(mixture([(1.0, part)], (0, 1)), torch.tensor([4.0, 500.0]))
    assert "log_loss" not in scores
    assert scores["covered"].tolist() == [True, False]
    assert (scores["width"] > 5).all()


class OneLevel(Distribution):
    """Put all mass on one of the levels 0, 1/7, ..., 1."""

    arg_constraints: ClassVar[dict] = {}
    support = constraints.boolean  # discrete; values are not validated
    n_levels, spacing = 8, 1 / 7

    def __init__(self, at):
        self.mean, self.variance = at, torch.zeros_like(at)
        super().__init__(at.shape, validate_args=False)

    def log_prob(self, x):
        return torch.zeros_like(x).masked_fill((x - self.mean).abs() > 1e-3, -torch.inf)

    def cdf(self, x):
        return (x > self.mean - 1e-3).double()

    mean = variance = None  # in place of properties


def test_a_level_at_the_end_of_an_interval_is_inside_it():
    """Allow for the rounding of 0.1 + 0.7 (k / 7), and of a rating in single precision."""
    rating = (torch.arange(8) + 1) / 10
    predictive = mixture([(1.0, OneLevel(torch.arange(8) / 7))], (0.1, 0.8))
    scores = score_each(predictive, rating)
    assert scores["covered"].all()
    np.testing.assert_allclose(scores[["width", "nll", "crps"]], 0, atol=1e-12)
    assert not score_each(predictive, rating.flip(0))["covered"].any()


class TestReliabilityPredictionIndex:
    ERROR = np.random.default_rng(0).normal(size=500) * np.linspace(0.5, 1.5, 500)

    def test_is_high_if_sure_predictions_are_accurate(self):
        informed = reliability_prediction_index(self.ERROR, np.linspace(0.5, 1.5, 500))
        oracle = reliability_prediction_index(self.ERROR, np.abs(self.ERROR))
        opposite = reliability_prediction_index(self.ERROR, -np.abs(self.ERROR))
        assert 0 < informed < oracle
        assert opposite == pytest.approx(-oracle)

    def test_does_not_depend_on_units(self):
        sd = np.linspace(0.5, 1.5, 500)
        index = reliability_prediction_index(self.ERROR, sd)
        assert reliability_prediction_index(5 * self.ERROR, 2 + 3 * sd) == pytest.approx(index)


class TestSummarizeBy:
    COUNTS = np.array([0, 1, 4, 5, 9, 10, 199, 200, 5000])

    @pytest.fixture
    def scores(self):
        rating = torch.arange(9) / 3 + 1
        part = Normal(torch.full((9,), 0.5), torch.linspace(0.1, 0.3, 9))
        return score_each(mixture([(1.0, part)], (0.5, 5)), rating)

    def test_bins(self, scores):
        table = summarize_by(scores, self.COUNTS)
        assert table.index.tolist() == ["0", "1-4", "5-9", "10-19", "100-199", ">= 200"]
        assert table["n"].tolist() == [1, 2, 2, 1, 1, 2]

    def test_each_is_the_summary_of_its_scores(self, scores):
        table = summarize_by(scores, pd.Series(self.COUNTS, index=range(10, 19)), edges=[0, 10])
        assert table.index.tolist() == ["0", "1-9", ">= 10"]
        expected = summarize(scores[1:5])
        pd.testing.assert_series_equal(table.loc["1-9"], expected, check_names=False)

    def test_edges_a_step_apart(self, scores):
        table = summarize_by(scores, np.arange(9) % 4, edges=[1, 2, 3])
        assert table.index.tolist() == ["0", "1", "2", ">= 3"]


def test_calibration_of_uniform_probabilities():
    cdf = (np.arange(1000) + 0.5) / 1000
    table = calibration(cdf)
    np.testing.assert_allclose(table["coverage"], table["probability"], atol=1e-3)


def test_calibration_of_too_narrow_predictions():
    z = scipy.stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
    table = calibration(scipy.stats.norm.cdf(2 * z), [0.9])
    assert table["coverage"].item() == pytest.approx(
        2 * scipy.stats.norm.cdf(1.645 / 2) - 1, abs=2e-3
    )


def test_calibration_of_levels():
    """Allow 4 binomial standard deviations: one of 19 is further off with probability 0.001."""
    generator = np.random.default_rng(4)
    p = generator.random(5000)
    rating = torch.tensor((generator.random(5000) < p).astype(float))
    predictive = mixture([(1.0, Bernoulli(torch.tensor(p)))], (0, 1))
    table = calibration(score_each(predictive, rating)["pit"].to_numpy())
    error = np.sqrt(table["probability"] * (1 - table["probability"]) / 5000)
    assert ((table["coverage"] - table["probability"]).abs() < 4 * error).all()


def test_pit_histogram():
    table = pit_histogram(np.array([0.0, 0.1, 0.3, 0.6, 0.99, 1 + 1e-7]), n_bins=4)
    assert table["count"].tolist() == [2, 1, 1, 2]
    np.testing.assert_allclose(table["expected"], 1.5)
    np.testing.assert_allclose(table["low"], [0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(table["high"], [0.25, 0.5, 0.75, 1])


def test_pit_uniformity():
    even = (np.arange(1000) + 0.5) / 1000
    tests = pit_uniformity(even)
    assert tests["chi_square"] == 0
    assert tests["kolmogorov"] == pytest.approx(0.0005)
    assert (tests[["chi_square_p_value", "kolmogorov_p_value"]] > 0.999).all()
    tests = pit_uniformity(even**2, n_bins=4)
    count = np.diff([0, 500, 707, 866, 1000])
    assert tests["chi_square"] == pytest.approx(((count - 250) ** 2 / 250).sum())
    assert tests["kolmogorov"] == pytest.approx(0.25, abs=1e-3)
    assert (tests[["chi_square_p_value", "kolmogorov_p_value"]] < 1e-6).all()


def ranked_by_hand(score, relevant, seen, n):
    """Return recall and NDCG of each user, by sorting lists."""
    rows = {}
    for user in range(len(score)):
        wanted = [i for i in range(score.shape[1]) if relevant[user, i] and not seen[user, i]]
        allowed = [i for i in range(score.shape[1]) if not seen[user, i]]
        shown = sorted(allowed, key=lambda i, user=user: (-score[user, i], i))[:n]
        if wanted:
            gain = sum(1 / np.log2(shown.index(i) + 2) for i in wanted if i in shown)
            best = sum(1 / np.log2(rank + 2) for rank in range(min(n, len(wanted))))
            rows[user] = len(wanted), len(set(wanted) & set(shown)) / len(wanted), gain / best
    return pd.DataFrame(rows, index=["n_relevant", "recall", "ndcg"]).T


@pytest.mark.parametrize("n", [1, 3, 10, 50])
def test_ranking_by_hand(n):
    generator = np.random.default_rng(0)
    score = generator.integers(0, 6, (30, 20)).astype(float)  # with ties
    seen, relevant = generator.random((30, 20)) < 0.3, generator.random((30, 20)) < 0.1
    table = ranking_scores(score, relevant, seen, n)
    expected = ranked_by_hand(score, relevant, seen, n)
    pd.testing.assert_frame_equal(table, expected, check_dtype=False, check_names=False)
    assert len(table) < 30  # some have nothing to find


def test_ranking_of_the_best_and_the_worst_list():
    relevant = np.array([[True, True, False, False, False]])
    best = ranking_scores(np.array([[2.0, 3.0, 1.0, 0.0, 0.0]]), relevant, n=2)
    assert best.loc[0, ["recall", "ndcg"]].tolist() == [1, 1]
    worst = ranking_scores(np.array([[0.0, 0.0, 1.0, 2.0, 3.0]]), relevant, n=2)
    assert worst.loc[0, ["recall", "ndcg"]].tolist() == [0, 0]
    half = ranking_scores(np.array([[3.0, 0.0, 4.0, 0.0, 0.0]]), relevant, n=2)
    assert half.loc[0, "recall"] == 0.5
    np.testing.assert_allclose(half.loc[0, "ndcg"], (1 / np.log2(3)) / (1 + 1 / np.log2(3)))


@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_ranking_of_no_list(n):
    with pytest.raises(PMFError, match="n must be"):
        ranking_scores(np.zeros((2, 3)), np.ones((2, 3), dtype=bool), n=n)


@pytest.mark.statistical
def test_the_clustered_error_is_that_of_repeated_tables():
    """Residuals with strong effects of 100 users of 1 to 40 ratings: 500 tables, within 10%.

    The error of the mean is the same for every table, and the mean of its estimates is compared
    with the spread of 500 means, which is known within 3.2%. The usual standard error is less than
    half of it. The seed is fixed.
    """
    generator = np.random.default_rng(0)
    user = np.repeat(np.arange(100), generator.integers(1, 41, 100))
    tables = generator.normal(size=(500, 100))[:, user] + generator.normal(size=(500, len(user)))
    spread = tables.mean(1).std(ddof=1)
    errors = [clustered_error(table, user) for table in tables]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.1)
    assert tables[0].std() / np.sqrt(len(user)) < 0.5 * spread


def test_the_clustered_error_of_single_ratings_is_the_usual_one():
    values = np.random.default_rng(0).normal(size=50)
    usual = values.std(ddof=1) / np.sqrt(50)
    assert clustered_error(values, np.arange(50)) == pytest.approx(usual)
    assert clustered_error(values, np.arange(50).astype(str)[::-1]) == pytest.approx(usual)


def test_one_user_has_no_clustered_error():
    assert np.isnan(clustered_error(np.array([1.0, 2.0]), np.array(["ann", "ann"])))
