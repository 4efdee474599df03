"""Models of listening counts, their fits, and their scores; `music.py` runs them."""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy.stats import kstest, spearmanr
from torch import Tensor
from tqdm import tqdm

from pyro_pmf import (
    MAP,
    PMF,
    VI,
    BernoulliLogit,
    NegativeBinomialLog,
    Normal,
    NormalIdentity,
    Posterior,
    Priors,
    Ratings,
    fit,
)
from pyro_pmf.data import with_sampled_negatives
from pyro_pmf.prediction.discrete import DiscretePredictive
from pyro_pmf.prediction.located import LocatedPairs
from pyro_pmf.prediction.metrics import ranking_scores
from pyro_pmf.prediction.mixture import mixture
from pyro_pmf.prediction.predictive import PosteriorPredictive

RECIPE = "The article's recipe"
POOLED = "Normal on log1p, biases only"
BEST = "Normal on log1p"
COUNTS = "Negative binomial"
LISTED = 10  # items of a list of recommendations that is scored
NEGATIVES = 4  # pairs sampled as a no, for each observed pair


def models(n_factors: int, max_steps: int) -> dict[str, tuple[str, PMF, MAP | VI]]:
    """Name each model; return the transform of its counts, the model, and its method."""
    normal, count = NormalIdentity(), NegativeBinomialLog()
    level = Priors(mu=Normal(5.0, 2.0))  # log of a typical count
    shared = PMF(n_factors=0, noise="shared", likelihood=normal)
    both = PMF(
        n_factors, users="hierarchical", items="hierarchical", noise="user", likelihood=normal
    )
    counts = {"likelihood": count, "priors": level}
    recipe = replace(shared, n_factors=4 * n_factors, means=False)
    vi = VI(max_steps=max_steps)
    article = MAP(batches=20, max_steps=max_steps, learn_scales=None)
    return {
        "Biases only": ("standardize", shared, vi),
        RECIPE: ("standardize", recipe, article),
        POOLED: ("log1p", shared, vi),
        BEST: ("log1p", both, vi),
        f"{COUNTS}, biases only": ("count", replace(shared, **counts), vi),
        COUNTS: ("count", replace(both, **counts), vi),
    }


def fit_and_score(
    pair: dict[str, tuple[Ratings, Ratings]],
    counts: pd.Series,
    options: argparse.Namespace,
    clock: Clock,
) -> tuple[dict[str, Posterior], pd.DataFrame, dict[str, np.ndarray]]:
    """Fit each model to the training counts and score it on the held-out counts.

    Parameters
    ----------
    pair : dict of str to (Ratings, Ratings)
        The training and the test side, by transform.
    counts : pandas.Series
        All counts.
    options : argparse.Namespace
        n_factors, max_steps, seed and no_progress.
    clock : Clock

    Returns
    -------
    posteriors : dict of str to Posterior
    table : pandas.DataFrame
        Scores, one row for each model.
    pits : dict of str to ndarray
        Probability integral transforms of the held-out counts.
    """
    posteriors, scores, pits = {}, {}, {}
    variance = counts.var(ddof=0)
    for name, transform in {"Mean": "standardize", "Mean of log1p": "log1p"}.items():
        train, test = pair[transform]
        normal = torch.distributions.Normal(train.value.mean(), train.value.std())
        predictive = mixture([(1.0, normal.expand([len(test)]))], train.transform)
        score = score_counts(predictive, torch.from_numpy(test.rating))
        scores[name], pits[name] = summarize(score, variance), score["pit"].to_numpy()
    named = models(options.n_factors, options.max_steps)
    with tqdm(total=len(named), leave=False, disable=options.no_progress or None) as bar:
        for name, (transform, model, method) in named.items():
            bar.set_description(name)
            train, test = pair[transform]
            with clock("fits"), quiet():
                started = time.perf_counter()
                # There is one bar for all fits.
                posterior = fit(model, train, method, seed=options.seed, progress=False)
                seconds = time.perf_counter() - started
            with clock("scores"):
                score = predictions(posterior, test)
            effort = {"seconds": seconds, "steps": len(posterior.steps)}
            scores[name] = summarize(score, variance) | effort
            posteriors[name], pits[name] = posterior, score["pit"].to_numpy()
            bar.update()
    table = pd.DataFrame(scores).T
    table["of_mean"] = table["mse"] / table.loc["Mean", "mse"]
    return posteriors, table, pits


def predictions(posterior: Posterior, test: Ratings) -> pd.DataFrame:
    """Score the prediction of each held-out count."""
    rating = torch.from_numpy(test.rating)
    parts = [
        score_counts(predictive, rating[rows]).set_index(rows)
        for rows, predictive in LocatedPairs.of(posterior, test).predictives()
    ]
    return pd.concat(parts).sort_index()


def score_counts(predictive: PosteriorPredictive, count: Tensor) -> pd.DataFrame:
    """Score predictions of counts by their probabilities, for models of any kind.

    A count lies outside the 90% interval if it and all lower counts together have less than 5%, or
    it and all higher counts. The randomised PIT is uniform between the probability of lower counts
    and the probability of this count or a lower one.
    """
    half = 0.0 if isinstance(predictive, DiscretePredictive) else 0.5
    below, to = predictive.cdf(count - 1 + half), predictive.cdf(count + half)
    uniform = np.random.default_rng(0).random(len(count))
    return pd.DataFrame(
        {
            "count": count.numpy(),
            "mean": predictive.mean.numpy(),
            "median": predictive.quantile(0.5).numpy(),
            "log_mass": predictive.log_mass(count).numpy(),
            "covered": ((to >= 0.05) & (below <= 0.95)).numpy(),
            "pit": (below + torch.from_numpy(uniform) * (to - below)).numpy(),
        }
    )


def summarize(score: pd.DataFrame, variance: float) -> dict[str, float]:
    """Average the scores of `score_counts`; the MSE is in units of the variance."""
    constant = score["median"].nunique() == 1
    return {
        "log_mass": score["log_mass"].mean(),
        "rank": np.nan if constant else spearmanr(score["median"], score["count"]).statistic,
        "coverage": score["covered"].mean(),
        "pit": kstest(score["pit"], "uniform").statistic,
        "mse": ((score["mean"] - score["count"]) ** 2).mean() / variance,
    }


# Scores of every pair, shape (n_users, n_items), and seconds of the fit.
Scored = tuple[np.ndarray, float]


def who_listens(
    train: Ratings, test: Ratings, options: argparse.Namespace
) -> tuple[Posterior, pd.DataFrame]:
    """Fit who listens to whom at all; score lists of artists, beside methods of others."""
    shape = train.n_users, train.n_items
    seen, relevant = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    held_out = test.aligned_to(train)
    seen[train.user, train.item] = relevant[held_out.user, held_out.item] = True
    popularity = train.item_counts.numpy().astype(float)
    scores: dict[str, Scored] = {"Most listeners": (np.broadcast_to(popularity, shape), 0.0)}
    for weight, words in (("popularity", "drawn by popularity"), ("uniform", "drawn evenly")):
        table = with_sampled_negatives(train, NEGATIVES, options.seed, weight)
        started = time.perf_counter()
        posterior = fit_listening(table, options)
        score = expected_scores(posterior)
        scores[f"Bernoulli, negatives {words}"] = score, time.perf_counter() - started
    scores |= other_methods(train, options.seed)
    rows = {}
    for name, (score, seconds) in scores.items():
        ranked = ranking_scores(score, relevant, seen, LISTED)
        rows[name] = {**ranked[["recall", "ndcg"]].mean(), "seconds": seconds}
    return posterior, pd.DataFrame(rows).T


def fit_listening(table: pd.DataFrame, options: argparse.Namespace) -> Posterior:
    """Fit the probability of a 1 in a table of observed pairs, 1, and sampled negatives, 0."""
    model = PMF(
        2 * options.n_factors,
        users="hierarchical",
        items="hierarchical",
        noise="shared",
        likelihood=BernoulliLogit(),
    )
    method = VI(max_steps=options.max_steps)
    with quiet():
        return fit(model, Ratings.from_frame(table), method, seed=options.seed, progress=False)


def expected_scores(posterior: Posterior) -> np.ndarray:
    """Return the expected score of every pair, shape (n_users, n_items)."""
    U, V, b, c = (posterior.latents[site].mean.numpy() for site in "UVbc")
    return U @ V.T + b[:, None] + c


def other_methods(train: Ratings, seed: int) -> dict[str, Scored]:
    """Score every pair by methods of the package implicit, if it is installed."""
    try:
        from implicit.als import AlternatingLeastSquares  # optional
        from implicit.bpr import BayesianPersonalizedRanking
        from scipy.sparse import csr_matrix
    except ImportError:
        return {}
    ones = np.ones(len(train), dtype=np.float32)
    shape = train.n_users, train.n_items
    matrix = csr_matrix((ones, (train.user.numpy(), train.item.numpy())), shape=shape)
    common = {"random_state": seed, "num_threads": 1}
    fitted = {}
    for name, family, options in (
        ("implicit ALS, its defaults", AlternatingLeastSquares, {}),
        (
            "implicit ALS, best of three tried",
            AlternatingLeastSquares,
            {"factors": 32, "alpha": 10, "regularization": 5},
        ),
        ("implicit BPR, its defaults", BayesianPersonalizedRanking, {}),
    ):
        started = time.perf_counter()
        with quiet():  # it warns of OpenBLAS having threads
            method = family(**options, **common)
            method.fit(matrix, show_progress=False)
        seconds = time.perf_counter() - started
        fitted[name] = np.asarray(method.user_factors @ method.item_factors.T), seconds
    return fitted


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings: of fits that --max-steps stopped, and of other packages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Clock:
    """Adds up seconds by activity."""

    def __init__(self) -> None:
        self.started, self.seconds = time.perf_counter(), {}

    @contextmanager
    def __call__(self, activity: str) -> Iterator[None]:
        """Count the time inside."""
        started = time.perf_counter()
        yield
        self.seconds[activity] = self.seconds.get(activity, 0.0) + time.perf_counter() - started

    def print(self) -> None:
        """Print the seconds of each activity."""
        total = time.perf_counter() - self.started
        spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())
        print(f"{total:.1f} seconds: {spent}.")
