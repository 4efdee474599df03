"""Model selection by the density of held-out ratings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError
from pyro_pmf.fitting import fit
from pyro_pmf.prediction.metrics import clustered_error, summarize
from pyro_pmf.prediction.tables import is_discrete


def cross_validate(
    models: Mapping[Any, Callable[..., Any]],
    ratings: Ratings,
    k: int = 5,
    seed: int = 0,
    levels: Sequence[float] | None = None,
    rated: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Compare models by the predictive density of held-out ratings, the best first.

    This is a sound way to choose n_factors, a likelihood or a prior. The ELBO is not: its distance
    from the evidence grows with the dependence that a mean-field guide leaves out. For n_factors,
    also give ``method=VI(learn_scales="held_out")``: with held scales, more factors are also
    stronger factors.

    Parameters
    ----------
    models : mapping of name to model
        For instance ``{K: PMF(K) for K in (5, 10, 20)}``.
    ratings : Ratings
        The training ratings. Keep ratings for a final test out of them.
    k : int
        Number of parts that the ratings are cut into; each is held out once.
    seed : int
        Seed of the parts.
    levels : sequence of float, optional
        Possible ratings, ascending, in rating units. With them, models are compared by the
        probability of the observed level; continuous ratings count as rounded to the nearest
        level.
    rated : bool
        Whether held-out pairs count as rated, each by itself: see `Posterior.predict`. The models
        compared then have to be told the same.
    **options
        Further arguments of `fit`.

    Returns
    -------
    pandas.DataFrame
        One row per model: elpd, the mean log predictive density of a held-out rating (nats; log
        mass for discrete ratings); difference from the best model, and se, its standard error,
        paired over ratings and clustered by user (`metrics.clustered_error`); rmse (rating
        units); coverage of 90% intervals, see `metrics.calibration`.

    Raises
    ------
    PMFError
        If there are no models; ``rated`` is refused as by `Posterior.predict`; or some models have
        densities and others probabilities, and there are no ``levels``.
    RatingsError
        If ``k`` is not from 2 to the number of ratings.
    FitError
        As for `fit`.
    """
    if not models:
        raise PMFError("There are no models to compare: give at least one.")
    scores: dict[Any, list[pd.DataFrame]] = {name: [] for name in models}
    users = []
    for train, test in ratings.k_fold(k, seed):
        users.append(test.to_frame()["user"].to_numpy())
        discrete = set()
        for name, model in models.items():
            posterior = fit(model, train, **options)
            discrete.add(is_discrete(posterior))
            if levels is None and len(discrete) > 1:
                raise PMFError(
                    "Some of these models have the density of a rating, others the probability of "
                    "a level. These are not comparable: give levels=(1, 2, ...), all possible "
                    "ratings."
                )
            scores[name].append(posterior.scores(test, levels=levels, rated=rated))
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
            "se": clustered_error(behind, np.concatenate(users)),
            "rmse": found["rmse"],
            "coverage": found["coverage_90"],
        }
    table = pd.DataFrame(rows).T.rename_axis("model")
    return table.sort_values("elpd", ascending=False, kind="stable")
