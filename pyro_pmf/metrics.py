"""How good predictions are: accuracy, and whether their uncertainty can be believed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from torch import Tensor

from pyro_pmf.predictive import PosteriorPredictive


def score_each(
    predictive: PosteriorPredictive, rating: Tensor, interval: float = 0.9
) -> pd.DataFrame:
    """Score the prediction of each rating; `summarize` turns the scores into one line.

    Parameters
    ----------
    predictive : PosteriorPredictive
    rating : Tensor, shape (n,)
        What the ratings turned out to be, in rating units.
    interval : float
        Probability of the central interval.

    Returns
    -------
    pandas.DataFrame
        Columns error, sd, crps and width (rating units), nll (nats), covered (by the interval)
        and pit (the predictive probability of a rating at most the observed one).
    """
    lower, upper = predictive.interval(interval)
    return pd.DataFrame(
        {
            "error": (rating - predictive.mean).numpy(),
            "sd": predictive.sd.numpy(),
            "nll": -predictive.log_prob(rating).numpy(),
            "crps": predictive.crps(rating),
            "covered": ((rating >= lower) & (rating <= upper)).numpy(),
            "width": (upper - lower).numpy(),
            "pit": predictive.cdf(rating).numpy(),
        }
    )


def summarize(scores: pd.DataFrame) -> pd.Series:
    """Average the scores of `score_each`.

    Returns
    -------
    pandas.Series
        n; rmse, mae and crps (rating units); nll (minus the mean log predictive density, nats);
        coverage and width of the central interval; error_sd_spearman, the rank correlation of
        absolute error and predictive standard deviation (NaN where one of them is constant).
    """
    error = scores["error"].to_numpy(dtype=float)
    constant = scores["sd"].nunique() < 2 or np.unique(np.abs(error)).size < 2
    return pd.Series(
        {
            "n": len(scores),
            "rmse": np.sqrt(np.mean(error**2)),
            "mae": np.mean(np.abs(error)),
            "nll": scores["nll"].mean(),
            "crps": scores["crps"].mean(),
            "coverage": scores["covered"].mean(),
            "width": scores["width"].mean(),
            "error_sd_spearman": np.nan
            if constant
            else spearmanr(np.abs(error), scores["sd"]).statistic,
        }
    )


def calibration(
    pit: np.ndarray, probabilities: Sequence[float] = tuple(np.linspace(0.05, 0.95, 19))
) -> pd.DataFrame:
    """Share of ratings inside the central interval of each probability.

    Parameters
    ----------
    pit : ndarray, shape (n,)
        Predictive probabilities of a rating at most the observed one, as of `score_each`.
    probabilities : sequence of float
        Of the central intervals.

    Returns
    -------
    pandas.DataFrame
        Columns probability and coverage; equal where the predictions are calibrated.
    """
    distance = 2 * np.abs(np.asarray(pit) - 0.5)
    return pd.DataFrame(
        {
            "probability": list(probabilities),
            "coverage": [float(np.mean(distance <= p)) for p in probabilities],
        }
    )
