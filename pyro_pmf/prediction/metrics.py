"""How good predictions are: accuracy, and whether their uncertainty can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.stats import chisquare, kstest, pearsonr, spearmanr
from torch import Tensor

from pyro_pmf.arguments import require_integer
from pyro_pmf.prediction.predictive import PosteriorPredictive

_ROUNDING = 1e-6  # of a rating and of an interval's end, as a share of the rating scale
_INTERVALS = 50, 80, 90, 95  # percent: central ones whose coverage is always told


def score_each(
    predictive: PosteriorPredictive,
    rating: Tensor,
    interval: float = 0.9,
    levels: Sequence[float] | Tensor | None = None,
    generator: np.random.Generator | None = None,
) -> pd.DataFrame:
    """Score the prediction of each rating; `summarize` turns the scores into one line.

    Parameters
    ----------
    predictive : PosteriorPredictive
    rating : Tensor, shape (n,)
        What the ratings turned out to be, in rating units.
    interval : float
        Probability of the central interval.
    levels : sequence of float or Tensor, optional
        The ratings that can be given, ascending, in rating units. With them a continuous
        prediction gets a log loss too, as if rounded to the nearest level.
    generator : numpy.random.Generator, optional
        Of `PosteriorPredictive.pit`.

    Returns
    -------
    pandas.DataFrame
        Columns error, sd, crps and width (rating units), nll (nats; of a level minus the log of
        its mass), covered (by the interval) and pit (see `PosteriorPredictive.pit`); log_loss
        (minus the log probability of the observed level, nats) where the levels are known.

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

    Returns
    -------
    pandas.Series
        n; rmse, mae and crps (rating units); nll (minus the mean log predictive density or mass,
        nats); log_loss, where there is one; coverage and mean width of the central interval;
        coverage_50, coverage_80, coverage_90 and coverage_95, as of `calibration`; pit_distance,
        the largest between the distribution of pit and the uniform one; sharpness, the mean
        standard deviation. Gneiting, Balabdaoui & Raftery (2007) call sharp what is
        concentrated, and measure it by the width. An interval of levels is made of whole ones,
        and its coverage is above its probability; those of `calibration` are right for levels too.

        Then how far the standard deviation tells large errors from small ones:
        error_sd_spearman and error_sd_pearson, its rank and linear correlation with the absolute
        error, and rpi (see `reliability_prediction_index`); NaN where one of the two is constant.
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
            "pit_distance": kstest(scores["pit"], "uniform").statistic,
            "sharpness": np.mean(sd),
            "error_sd_spearman": spearmanr(size, sd).statistic if vary else np.nan,
            "error_sd_pearson": pearsonr(size, sd).statistic if vary else np.nan,
            "rpi": reliability_prediction_index(error, sd) if vary else np.nan,
        }
    )


def summarize_by(
    scores: pd.DataFrame,
    counts: np.ndarray | pd.Series,
    edges: Sequence[int] = (0, 5, 10, 20, 50, 100, 200),
) -> pd.DataFrame:
    """Summarize predictions by how many training ratings the user or the item had.

    Parameters
    ----------
    scores : pandas.DataFrame
        As of `score_each`.
    counts : array-like of int, shape (n,)
        Training ratings of each score's user, or of its item, in the same order.
    edges : sequence of int
        Where bins begin; 0, without training ratings, has a bin of its own.

    Returns
    -------
    pandas.DataFrame
        The columns of `summarize`, a row for each bin that holds scores: "0", "1-4", ...,
        ">= 200".
    """
    starts = sorted({0, 1, *edges})
    names = [f"{a}" if b == a + 1 else f"{a}-{b - 1}" for a, b in pairwise(starts)]
    names.append(f">= {starts[-1]}")
    bins = np.digitize(np.asarray(counts), starts) - 1
    return pd.DataFrame(
        {names[k]: summarize(scores[bins == k]) for k in np.unique(bins)}
    ).T.rename_axis("training_ratings")


def reliability_prediction_index(error: np.ndarray, sd: np.ndarray) -> float:
    """Reliability Prediction Index: whether the surest predictions are the most accurate.

    The covariance of absolute error and standard deviation, in which large errors weigh more, over
    the mean absolute error and the mean absolute deviations of both:

        mean(e (e - mean e) (s - mean s)) / (mean e  mean|e - mean e|  mean|s - mean s|).

    Bobadilla, Gutierrez, Ortega & Zhu (2018) score reliabilities, which are high where errors are
    small. The reliability here is minus the standard deviation; mapped linearly to [0, 1] it would
    give the same. The divisors are those of the public code of Coscrato (Coscrato & Bridge 2023).
    That of Ortega, Lara-Cabrera, Gonzalez-Prieto & Bobadilla (2021) has others, such as the
    standard deviation of the errors, and values that cannot be compared with these.

    Parameters
    ----------
    error, sd : ndarray, shape (n,)
        Neither of constant size.

    Returns
    -------
    float
        Without unit; 0 where the standard deviation tells nothing of the error, and the higher the
        better.
    """
    size = np.abs(error)
    error_deviation, sd_deviation = size - size.mean(), sd - sd.mean()
    spread = np.abs(error_deviation).mean() * np.abs(sd_deviation).mean()
    return float((size * error_deviation * sd_deviation).mean() / (size.mean() * spread))


def calibration(
    pit: np.ndarray, probabilities: Sequence[float] = tuple(np.linspace(0.05, 0.95, 19))
) -> pd.DataFrame:
    """Share of ratings inside the central interval of each probability.

    Of levels the share comes out right too, since their `pit` is randomised: an interval takes
    part of the level at each of its ends.

    Parameters
    ----------
    pit : ndarray, shape (n,)
        As of `score_each`.
    probabilities : sequence of float
        Of the central intervals.

    Returns
    -------
    pandas.DataFrame
        Columns probability and coverage; equal where the predictions are calibrated.
    """
    return pd.DataFrame(
        {
            "probability": list(probabilities),
            "coverage": [float(_inside(pit, p).mean()) for p in probabilities],
        }
    )


def _inside(pit: np.ndarray | pd.Series, probability: float) -> np.ndarray:
    """Whether probability integral transforms are within a central interval."""
    return 2 * np.abs(np.asarray(pit) - 0.5) <= probability


def pit_histogram(pit: np.ndarray, n_bins: int = 10) -> pd.DataFrame:
    """Count the probability integral transforms in bins of equal width.

    A flat histogram is calibrated, one shaped like a U too sure, like a hump not sure enough
    (Gneiting, Balabdaoui & Raftery 2007).

    Parameters
    ----------
    pit : ndarray, shape (n,)
        As of `score_each`.
    n_bins : int

    Returns
    -------
    pandas.DataFrame
        A row for each bin: its ends low and high, count, and the count expected of a uniform.
    """
    require_integer("n_bins", n_bins)
    # A mixture's probabilities may add up to a little more than 1.
    count, ends = np.histogram(np.clip(pit, 0, 1), bins=n_bins, range=(0, 1))
    return pd.DataFrame(
        {"low": ends[:-1], "high": ends[1:], "count": count, "expected": len(pit) / n_bins}
    )


def pit_uniformity(pit: np.ndarray, n_bins: int = 10) -> pd.Series:
    """Test whether the probability integral transforms are uniform.

    Ratings of one user or item share what was learnt of them, so that the transforms are not quite
    independent and p-values are too small; and among many ratings any small fault is significant.

    Parameters
    ----------
    pit : ndarray, shape (n,)
        As of `score_each`.
    n_bins : int
        Of `pit_histogram`, for the chi-square test.

    Returns
    -------
    pandas.Series
        chi_square and its p-value; kolmogorov, the largest distance from the uniform distribution
        function, and its p-value.
    """
    chi_square = chisquare(pit_histogram(pit, n_bins)["count"])
    kolmogorov = kstest(pit, "uniform")
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
    """Score lists of the n items with the highest scores, one list a user.

    Parameters
    ----------
    score : ndarray, shape (n_users, n_items)
        Of any unit; of equal ones the first item comes first.
    relevant : ndarray, bool, shape (n_users, n_items)
        The items that a list should find, such as those held out.
    seen : ndarray, bool, shape (n_users, n_items), optional
        Items that are left out of the lists, such as those of training.
    n : int

    Returns
    -------
    pandas.DataFrame
        A row for each user, by number, who has a relevant item that is not seen. n_relevant, how
        many; recall, the share of them in the list; ndcg, the discounted cumulative gain of the
        list, sum of 1 / log2(1 + rank) over the ranks of relevant items, over that of the best
        list (Jarvelin & Kekalainen 2002).

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
    hit, n_relevant = hit[users], n_relevant[users]
    gain = 1 / np.log2(2 + np.arange(hit.shape[1]))
    ideal = gain.cumsum()[np.minimum(n_relevant, len(gain)) - 1]
    table = {
        "n_relevant": n_relevant,
        "recall": hit.sum(1) / n_relevant,
        "ndcg": hit @ gain / ideal,
    }
    return pd.DataFrame(table, index=pd.Index(users, name="user"))
