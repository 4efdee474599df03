"""Scores of predictions whose truth is known."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from torch.distributions import Normal

from pyro_pmf.metrics import calibration, score_each, summarize
from pyro_pmf.predictive import PosteriorPredictive

MEAN, SD = np.array([2.0, 3.0, 4.0, 3.0]), np.array([0.5, 1.0, 0.25, 0.75])
RATING = np.array([2.5, 1.0, 4.0, 3.2])


@pytest.fixture
def scores():
    low, high = 0.5, 5.0
    unit = torch.tensor((MEAN - low) / (high - low)), torch.tensor(SD / (high - low))
    predictive = PosteriorPredictive([(1.0, Normal(*unit))], (low, high))
    return score_each(predictive, torch.tensor(RATING))


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
        "error_sd_spearman": scipy.stats.spearmanr(np.abs(error), SD).statistic,
    }
    pd.testing.assert_series_equal(summary, pd.Series(expected), rtol=1e-4)


def test_spearman_of_constant_sd_is_nan(scores):
    assert np.isnan(summarize(scores.assign(sd=1.0))["error_sd_spearman"])


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
