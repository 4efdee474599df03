"""Which model to take: the one that gives held-out ratings the highest density."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError
from pyro_pmf.fitting import fit
from pyro_pmf.prediction.metrics import summarize
from pyro_pmf.prediction.tables import is_discrete


def cross_validate(
    models: Mapping[Any, Callable[..., Any]],
    ratings: Ratings,
    k: int = 5,
    seed: int = 0,
    levels: Sequence[float] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Compare models by the density that they give to ratings held out, the best first.

    An honest way to choose n_factors, a likelihood or a prior: the ELBO is none, since its
    distance from the evidence grows with what a mean-field guide leaves out. For n_factors, give
    ``learn_scales="held_out"`` too: held at the same values, more factors are also stronger ones.

    Parameters
    ----------
    models : mapping of name to model
        For instance ``{K: PMF(K) for K in (5, 10, 20)}``.
    ratings : Ratings
        Only the training ratings, if there are others to test on at the end.
    k : int
        Parts that the ratings are cut into: each is held out once.
    seed : int
        Of the parts.
    levels : sequence of float, optional
        The ratings that there can be. With them, models are compared by the probability of the
        observed level, continuous ones as if rounded to the nearest.
    **options
        Of `fit`.

    Returns
    -------
    pandas.DataFrame
        By model: elpd, the mean log predictive density of a held-out rating (nats; the log mass
        of discrete ones); difference from the best model and its standard error, from the same
        ratings under both, as if these were independent; rmse; coverage of 90% intervals, as of
        `metrics.calibration`.

    Raises
    ------
    PMFError
        If there are no models, or some give a rating a density and others a level a probability,
        and there are no ``levels``.
    RatingsError
        If ``k`` is not from 2 to the number of ratings.
    """
    if not models:
        raise PMFError("There are no models to compare: give at least one.")
    scores: dict[Any, list[pd.DataFrame]] = {name: [] for name in models}
    for train, test in ratings.k_fold(k, seed):
        discrete = set()
        for name, model in models.items():
            posterior = fit(model, train, **options)
            discrete.add(is_discrete(posterior))
            if levels is None and len(discrete) > 1:
                raise PMFError(
                    "Some of these models give a rating a density, others a level a probability, "
                    "and the two cannot be compared: give levels=(1, 2, ...), the ratings that "
                    "there can be."
                )
            scores[name].append(posterior.scores(test, levels=levels))
    loss = "nll" if levels is None else "log_loss"
    density = {name: -pd.concat(parts)[loss].to_numpy() for name, parts in scores.items()}
    best = max(density, key=lambda name: density[name].mean())
    rows = {}
    for name, parts in scores.items():
        behind = density[name] - density[best]
        found = summarize(pd.concat(parts))
        rows[name] = {
            "elpd": density[name].mean(),
            "difference": behind.mean(),
            "se": behind.std() / np.sqrt(len(behind)),
            "rmse": found["rmse"],
            "coverage": found["coverage_90"],
        }
    table = pd.DataFrame(rows).T.rename_axis("model")
    return table.sort_values("elpd", ascending=False, kind="stable")
