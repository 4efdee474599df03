"""Which model to take, and which standard deviations of its factors: held-out density."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from pyro_pmf.errors import PMFError
from pyro_pmf.guides import factor_scales
from pyro_pmf.inference import fit
from pyro_pmf.metrics import summarize
from pyro_pmf.models import PMF
from pyro_pmf.priors import Fixed
from pyro_pmf.ratings import Ratings

_TOGETHER = ("sigma_U", "sigma_V"), ("sigma_W", "sigma_Z")


def cross_validate(
    models: Mapping[Any, Callable[..., Any]],
    ratings: Ratings,
    k: int = 5,
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Compare models by the density that they give to ratings held out, the best first.

    An honest way to choose n_factors, a likelihood or a prior: the ELBO is none, since its
    distance from the evidence grows with what a mean-field guide leaves out.

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
    **options
        Of `fit`.

    Returns
    -------
    pandas.DataFrame
        By model: elpd, the mean log predictive density of a held-out rating (nats; of discrete
        ratings the log mass: compare either with its own kind); difference from the best model
        and its standard error, from the same ratings under both; rmse, coverage (of 90%
        intervals).

    Raises
    ------
    PMFError
        If there are no models.
    RatingsError
        If ``k`` is not from 2 to the number of ratings.
    """
    if not models:
        raise PMFError("There are no models to compare: give at least one.")
    scores: dict[Any, list[pd.DataFrame]] = {name: [] for name in models}
    for train, test in ratings.k_fold(k, seed):
        for name, model in models.items():
            scores[name].append(fit(model, train, **options).scores(test))
    density = {name: -pd.concat(parts)["nll"].to_numpy() for name, parts in scores.items()}
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
            "coverage": found["coverage"],
        }
    table = pd.DataFrame(rows).T.rename_axis("model")
    return table.sort_values("elpd", ascending=False, kind="stable")


def choose_scales(
    model: PMF,
    ratings: Ratings,
    multiples: Sequence[float] = (0.7, 1.0, 1.4, 2.0),
    test_fraction: float = 0.1,
    seed: int = 0,
    **options: Any,
) -> PMF:
    """Choose the standard deviations of a model's factors by the density of held-out ratings.

    Those of U and V, and those of W and Z, are the same multiples of `guides.factor_scales`: the
    two are searched in turn, until neither changes. It takes some ten fits.

    Parameters
    ----------
    model : PMF
        Standard deviations that its priors fix stay as they are.
    ratings : Ratings
        The training ratings, of which a part is held out to choose by.
    multiples : sequence of float
    test_fraction : float
    seed : int
        Of the split.
    **options
        Of `fit`.

    Returns
    -------
    PMF
        The model with these standard deviations fixed, to be fitted to all training ratings.

    Raises
    ------
    PMFError
        If ``multiples`` are not positive.
    """
    if not multiples or not all(0 < multiple < np.inf for multiple in multiples):
        raise PMFError(f"multiples must be positive numbers, not {multiples!r}")
    train, test = ratings.split(test_fraction, seed)
    usual = factor_scales(model, train.value)
    free = [site for site in usual if not isinstance(getattr(model.priors, site), Fixed)]
    groups = [[site for site in free if site in pair] for pair in _TOGETHER]

    def with_scales(chosen: tuple[float, ...]) -> PMF:
        fixed = {
            site: Fixed(multiple * usual[site])
            for sites, multiple in zip(groups, chosen, strict=True)
            for site in sites
        }
        return replace(model, priors=replace(model.priors, **fixed))

    @cache
    def density(chosen: tuple[float, ...]) -> float:
        posterior = fit(with_scales(chosen), train, **options)
        return -float(posterior.scores(test)["nll"].mean())

    best = tuple(min(multiples, key=lambda x: abs(np.log(x))) for _ in groups)
    before = None
    while best != before:
        before = best
        for place, sites in enumerate(groups):
            if sites:
                others = ((*best[:place], x, *best[place + 1 :]) for x in multiples)
                best = max(others, key=density)
    return with_scales(best)
