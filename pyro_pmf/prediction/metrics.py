"""Metrics of predictions: accuracy, and calibration of their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import scipy
from torch import Tensor

from pyro_pmf.arguments import require_integer
from pyro_pmf.prediction.predictive import PosteriorPredictive

_ROUNDING = 1e-6  # of a rating and of an interval's end, as a share of the rating scale
_INTERVALS = 50, 80, 90, 95  # percent: central intervals whose coverage is always reported


def score_each(
    predictive: PosteriorPredictive,
    rating: Tensor,
    interval: float = 0.9,
    levels: Sequence[float] | Tensor | None = None,
    generator: np.random.Generator | None = None,
) -> pd.DataFrame:
    """Score the prediction of each rating; `summarize` averages the scores.

    Parameters
    ----------
    predictive : PosteriorPredictive
        Predictive distribution of the ratings.
    rating : Tensor, shape (n,)
        Observed ratings, in rating units.
    interval : float
        Probability of the central interval.
    levels : sequence of float or Tensor, optional
        Possible ratings, ascending, in rating units. With them a continuous prediction also gets a
        log loss, as if rounded to the nearest level.
    generator : numpy.random.Generator, optional
        Source of randomization, see `PosteriorPredictive.pit`.

    Returns
    -------
    pandas.DataFrame
        Columns error, sd, crps and width (rating units); nll (minus the log density, or minus the
        log mass of a level, nats); covered (by the interval); pit (see `PosteriorPredictive.pit`);
        log_loss (minus the log probability of the observed level, nats) if the levels are known.

    Raises
    ------
    PMFError
        If ``interval`` is not inside (0, 1), or a rating is none of the levels.
    """
    lower, upper = predictive.interval(interval)
    slack = _ROUNDING * predictive.width
    scores = pd.DataFrame(
        {
            "error": (rating - predictive.mean).numpy(),
            "sd": predictive.sd.numpy(),
            "nll": -predictive.log_prob(rating).numpy(),
            "crps": predictive.crps(rating),
            "covered": ((rating >= lower - slack) & (rating <= upper + slack)).numpy(),
            "width": (upper - lower).numpy(),
            "pit": predictive.pit(rating, generator).numpy(),
        }
    )
    levels = predictive.levels if levels is None else levels
    if levels is not None:
        scores["log_loss"] = -predictive.log_prob_of_level(rating, levels).numpy()
    return scores


def summarize(scores: pd.DataFrame) -> pd.Series:
    """Average the scores of `score_each`.

    Parameters
    ----------
    scores : pandas.DataFrame
        Scores of `score_each`, one row per rating.

    Returns
    -------
    pandas.Series
        n; rmse, mae and crps (rating units); nll (minus the mean log predictive density or mass,
        nats); log_loss, if the scores have it; coverage and mean width of the central interval;
        coverage_50, coverage_80, coverage_90 and coverage_95, see `calibration`; pit_distance, the
        largest distance between the distribution functions of pit and of a uniform; sharpness, the
        mean standard deviation. (Gneiting, Balabdaoui & Raftery 2007 call concentrated predictions
        sharp, and measure sharpness by the width.) An interval of levels consists of whole levels,
        so its coverage is above its probability. The coverages of `calibration` are right for
        levels too.

        Three entries say how well the standard deviation tells large errors from small ones:
        error_sd_spearman and error_sd_pearson, its rank and linear correlation with the absolute
        error, and rpi, see `reliability_prediction_index`. They are NaN if the standard deviation
        or the absolute error is constant.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Normal
    >>> from pyro_pmf.prediction.metrics import score_each, summarize
    >>> from pyro_pmf.prediction.mixture import mixture
    >>> predictive = mixture([(1.0, Normal(torch.tensor([0.5, 0.25]), 0.1))], (1, 5))
    >>> scores = score_each(predictive, torch.tensor([3.0, 4.0]))
    >>> scores["covered"].tolist()
    [True, False]
    >>> summary = summarize(scores)
    >>> float(summary["coverage"]), round(float(summary["mae"]), 6)
    (0.5, 1.0)
    """
    error, sd = scores["error"].to_numpy(float), scores["sd"].to_numpy(float)
    size = np.abs(error)
    vary = np.unique(sd).size > 1 and np.unique(size).size > 1
    summary = {"n": len(scores), "rmse": np.sqrt(np.mean(error**2)), "mae": np.mean(size)}
    summary |= {name: scores[name].mean() for name in ("nll", "log_loss") if name in scores}
    return pd.Series(
        summary
        | {
            "crps": scores["crps"].mean(),
            "coverage": scores["covered"].mean(),
            "width": scores["width"].mean(),
            **{f"coverage_{p}": _inside(scores["pit"], p / 100).mean() for p in _INTERVALS},
            "pit_distance": scipy.stats.kstest(scores["pit"], "uniform").statistic,
            "sharpness": np.mean(sd),
            "error_sd_spearman": scipy.stats.spearmanr(size, sd).statistic if vary else np.nan,
            "error_sd_pearson": scipy.stats.pearsonr(size, sd).statistic if vary else np.nan,
            "rpi": reliability_prediction_index(error, sd) if vary else np.nan,
        }
    )


def summarize_by(
    scores: pd.DataFrame,
    counts: np.ndarray | pd.Series,
    edges: Sequence[int] = (0, 5, 10, 20, 50, 100, 200),
) -> pd.DataFrame:
    """Summarize scores by the number of training ratings of the user or the item.

    Parameters
    ----------
    scores : pandas.DataFrame
        Scores of `score_each`, one row per rating.
    counts : array-like of int, shape (n,)
        Number of training ratings of each score's user, or of its item, in the same order.
    edges : sequence of int
        Lower ends of the bins. 0, without training ratings, has a bin of its own.

    Returns
    -------
    pandas.DataFrame
        Columns of `summarize`, one row for each bin that holds scores: "0", "1-4", ..., ">= 200".
    """
    starts = sorted({0, 1, *edges})
    names = [f"{a}" if b == a + 1 else f"{a}-{b - 1}" for a, b in pairwise(starts)]
    names.append(f">= {starts[-1]}")
    bins = np.digitize(np.asarray(counts), starts) - 1
    return pd.DataFrame(
        {names[k]: summarize(scores[bins == k]) for k in np.unique(bins)}
    ).T.rename_axis("training_ratings")


def reliability_prediction_index(error: np.ndarray, sd: np.ndarray) -> float:
    """Reliability Prediction Index: whether the most certain predictions are the most accurate.

    It is the covariance of absolute error e and standard deviation s, in which large errors weigh
    more, over the mean absolute error and the mean absolute deviations of both:

        mean(e (e - mean e) (s - mean s)) / (mean e  mean|e - mean e|  mean|s - mean s|).

    Bobadilla, Gutierrez, Ortega & Zhu (2018) score reliabilities, which are high for small errors.
    The reliability here is minus the standard deviation; a linear map of it to [0, 1] would give
    the same index. The divisors are as in the public code of Coscrato (Coscrato & Bridge 2023).
    Ortega, Lara-Cabrera, Gonzalez-Prieto & Bobadilla (2021) use other divisors, such as the
    standard deviation of the errors, so their values are not comparable with these.

    Parameters
    ----------
    error, sd : ndarray, shape (n,)
        Errors and predicted standard deviations, in rating units. Neither absolute errors nor
        standard deviations are constant.

    Returns
    -------
    float
        Dimensionless; 0 if the standard deviation is uninformative about the error. Higher is
        better.
    """
    size = np.abs(error)
    error_deviation, sd_deviation = size - size.mean(), sd - sd.mean()
    spread = np.abs(error_deviation).mean() * np.abs(sd_deviation).mean()
    return float((size * error_deviation * sd_deviation).mean() / (size.mean() * spread))


def clustered_error(values: np.ndarray, cluster: np.ndarray | pd.Series) -> float:
    """Return the standard error of a mean whose values are alike within clusters.

    Ratings of one user share an estimate, and its error. The sums of residuals within users are
    independent, so the squares of these sums replace the squares of the residuals (Liang & Zeger
    1986), with the factor G / (G - 1) for G clusters. With one value a cluster, this is the usual
    standard error.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Values, such as differences between the scores of two methods.
    cluster : array-like, shape (n,)
        The cluster of each value, such as its user.

    Returns
    -------
    float
        In the unit of ``values``; NaN with fewer than two clusters.

    Examples
    --------
    >>> import numpy as np
    >>> from pyro_pmf.prediction.metrics import clustered_error
    >>> values = np.array([1.0, 1.0, 3.0, 3.0])
    >>> clustered_error(values, ["ann", "ann", "bob", "bob"])  # two facts, not four
    1.0
    """
    values = np.asarray(values, dtype=float)
    codes, clusters = pd.factorize(np.asarray(cluster), use_na_sentinel=False)
    if len(clusters) < 2:
        return float("nan")
    sums = np.bincount(codes, weights=values - values.mean())
    factor = len(clusters) / (len(clusters) - 1)
    return float(np.sqrt(factor * np.sum(sums**2)) / len(values))


def calibration(
    pit: np.ndarray, probabilities: Sequence[float] = tuple(np.linspace(0.05, 0.95, 19))
) -> pd.DataFrame:
    """Return the share of ratings inside the central interval of each probability.

    The share is right for levels too, since their `pit` is randomized: an interval takes a part of
    the level at each of its ends.

    Parameters
    ----------
    pit : ndarray, shape (n,)
        Probability integral transforms of `score_each`.
    probabilities : sequence of float
        Probabilities of the central intervals.

    Returns
    -------
    pandas.DataFrame
        Columns probability and coverage, which are equal for calibrated predictions.

    Examples
    --------
    >>> import numpy as np
    >>> from pyro_pmf.prediction.metrics import calibration
    >>> pit = (np.arange(100) + 0.5) / 100  # evenly spread: calibrated
    >>> calibration(pit, [0.5, 0.9]).to_numpy().tolist()
    [[0.5, 0.5], [0.9, 0.9]]
    """
    return pd.DataFrame(
        {
            "probability": list(probabilities),
            "coverage": [float(_inside(pit, p).mean()) for p in probabilities],
        }
    )


def _inside(pit: np.ndarray | pd.Series, probability: float) -> np.ndarray:
    """Return whether probability integral transforms are within a central interval."""
    return 2 * np.abs(np.asarray(pit) - 0.5) <= probability


def pit_histogram(pit: np.ndarray, n_bins: int = 10) -> pd.DataFrame:
    """Count the probability integral transforms in bins of equal width.

    A flat histogram is calibrated. A U shape means too certain, a hump not certain enough
    (Gneiting, Balabdaoui & Raftery 2007).

    Parameters
    ----------
    pit : ndarray, shape (n,)
        Probability integral transforms of `score_each`.
    n_bins : int
        Number of bins.

    Returns
    -------
    pandas.DataFrame
        One row per bin: its ends low and high, count, and expected, the count of a uniform.

    Raises
    ------
    PMFError
        If ``n_bins`` is not a positive integer.
    """
    require_integer("n_bins", n_bins)
    # By rounding, a mixture's probabilities may add up to a little more than 1.
    count, ends = np.histogram(np.clip(pit, 0, 1), bins=n_bins, range=(0, 1))
    return pd.DataFrame(
        {"low": ends[:-1], "high": ends[1:], "count": count, "expected": len(pit) / n_bins}
    )


def pit_uniformity(pit: np.ndarray, n_bins: int = 10) -> pd.Series:
    """Test whether the probability integral transforms are uniform.

    Ratings of one user or item share an estimate, so their transforms are not quite independent
    and p-values are too small. Among many ratings, any small fault is significant.

    Parameters
    ----------
    pit : ndarray, shape (n,)
        Probability integral transforms of `score_each`.
    n_bins : int
        Number of bins of `pit_histogram`, for the chi-square test.

    Returns
    -------
    pandas.Series
        chi_square and chi_square_p_value; kolmogorov, the largest distance from the uniform
        distribution function, and kolmogorov_p_value.

    Raises
    ------
    PMFError
        If ``n_bins`` is not a positive integer.
    """
    chi_square = scipy.stats.chisquare(pit_histogram(pit, n_bins)["count"])
    kolmogorov = scipy.stats.kstest(pit, "uniform")
    return pd.Series(
        {
            "chi_square": chi_square.statistic,
            "chi_square_p_value": chi_square.pvalue,
            "kolmogorov": kolmogorov.statistic,
            "kolmogorov_p_value": kolmogorov.pvalue,
        }
    )


def ranking_scores(
    score: np.ndarray, relevant: np.ndarray, seen: np.ndarray | None = None, n: int = 10
) -> pd.DataFrame:
    """Score each user's list of the n items with the highest scores.

    Parameters
    ----------
    score : ndarray, shape (n_users, n_items)
        Scores of any unit. Of equal scores, the first item comes first.
    relevant : ndarray, bool, shape (n_users, n_items)
        Items that a list should find, such as held-out ones.
    seen : ndarray, bool, shape (n_users, n_items), optional
        Items that the lists leave out, such as training items.
    n : int
        Length of a list.

    Returns
    -------
    pandas.DataFrame
        One row per user, by number, for users with a relevant item that is not seen. Columns:
        n_relevant, the number of these items; recall, the share of them in the list; ndcg, the
        discounted cumulative gain of the list, sum of 1 / log2(1 + rank) over the ranks of
        relevant items, divided by the gain of the best list (Jarvelin & Kekalainen 2002).

    Raises
    ------
    PMFError
        If ``n`` is not a positive integer.
    """
    require_integer("n", n)
    if seen is not None:
        score, relevant = np.where(seen, -np.inf, score), relevant & ~seen
    best = np.argsort(-score, axis=1, kind="stable")[:, :n]
    hit = np.take_along_axis(relevant, best, axis=1)
    n_relevant = relevant.sum(1)
    users = np.flatnonzero(n_relevant)
    scores = score_lists(hit[users], n_relevant[users])
    return scores.set_index(pd.Index(users, name="user"))


def score_lists(hit: np.ndarray, n_relevant: np.ndarray) -> pd.DataFrame:
    """Score lists by the ranks of the relevant items in them.

    Parameters
    ----------
    hit : ndarray, bool, shape (n_users, n)
        Whether the item at each rank of a user's list is relevant, the best rank first.
    n_relevant : ndarray of int, shape (n_users,)
        Number of relevant items of each user, at least 1.

    Returns
    -------
    pandas.DataFrame
        The columns of `ranking_scores`, one row per list.
    """
    gain = 1 / np.log2(2 + np.arange(hit.shape[1]))
    ideal = gain.cumsum()[np.minimum(n_relevant, len(gain)) - 1]
    return pd.DataFrame(
        {
            "n_relevant": n_relevant,
            "recall": hit.sum(1) / n_relevant,
            "ndcg": hit @ gain / ideal,
        }
    )
