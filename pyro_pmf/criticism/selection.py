"""Model selection by the density of held-out ratings."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyro_pmf.arguments import require_bool, require_levels
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError
from pyro_pmf.fitting import check_arguments, fit
from pyro_pmf.inference.conditions import as_device
from pyro_pmf.inference.methods import as_method
from pyro_pmf.prediction.metrics import clustered_error, summarize
from pyro_pmf.prediction.rated import require_rateable
from pyro_pmf.prediction.tables import is_discrete

_logger = logging.getLogger("pyro_pmf")
_NOT_HERE = {"model", "ratings", "seed", "checkpoint", "resume"}  # of each fit, not of all


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
        For instance ``{K: PMF(K) for K in (5, 10, 20)}``. A name may be any key of a dict.
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
        Further arguments of `fit`, but for seed, checkpoint and resume.

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
        If there are no models; an option is not one of `fit`; ``levels`` are not ascending
        numbers; ``rated`` is refused as by `Posterior.predict`; or some models have densities and
        others probabilities, and there are no ``levels``. All but the last are found before the
        first fit.
    RatingsError
        If ``k`` is not from 2 to the number of ratings.
    FitError
        As for `fit`; the message names the model.
    """
    levels, rated = require_levels(levels), require_bool("rated", rated)
    _check_arguments(models, ratings, rated, options)
    scores: dict[Any, list[pd.DataFrame]] = {name: [] for name in models}
    users = []
    for fold, (train, test) in enumerate(ratings.k_fold(k, seed), 1):
        users.append(test.to_frame()["user"].to_numpy())
        discrete = set()
        for name, model in models.items():
            _logger.info("Part %d of %d: fitting the model %r.", fold, k, name)
            posterior = _named(name, fit, model, train, **options)
            discrete.add(is_discrete(posterior))
            if levels is None and len(discrete) > 1:
                raise PMFError(
                    "Some of these models have the density of a rating, others the probability of "
                    "a level. These are not comparable: give levels=(1, 2, ...), all possible "
                    "ratings."
                )
            score = _named(name, posterior.scores, test, levels=levels, rated=rated)
            scores[name].append(score)
    loss = "nll" if levels is None else "log_loss"
    density = {name: -pd.concat(parts)[loss].to_numpy() for name, parts in scores.items()}
    best = max(density, key=lambda name: density[name].mean())
    rows = []
    for name, parts in scores.items():
        behind = density[name] - density[best]
        found = summarize(pd.concat(parts))
        rows.append(
            {
                "elpd": density[name].mean(),
                "difference": behind.mean(),
                "se": clustered_error(behind, np.concatenate(users)),
                "rmse": found["rmse"],
                "coverage": found["coverage_90"],
            }
        )
    table = pd.DataFrame(rows, pd.Index(list(scores), tupleize_cols=False, name="model"))
    return table.sort_values("elpd", ascending=False, kind="stable")


def _check_arguments(models: Any, ratings: Any, rated: bool, options: dict[str, Any]) -> None:
    """Refuse what the first fit would refuse, or what would fail after it."""
    if not isinstance(models, Mapping):
        raise PMFError(
            f"Give the models by name, as in {{5: PMF(5), 10: PMF(10)}}, not as a "
            f"{type(models).__name__}."
        )
    if not models:
        raise PMFError("There are no models to compare: give at least one.")
    known = [name for name in inspect.signature(fit).parameters if name not in _NOT_HERE]
    if unknown := [name for name in options if name not in known]:
        raise PMFError(
            f"cross_validate takes no {', '.join(unknown)}: give arguments of fit that hold for "
            f"each of these fits: {', '.join(known)}."
        )
    as_method(options.get("method", "vi"))
    as_device(options.get("device", "auto"))
    given = {name: options.get(name) for name in ("dtype", "callback")}
    for name, model in models.items():
        _named(name, check_arguments, model, ratings, **given)
        if rated:
            _named(name, require_rateable, model)


def _named(name: Any, ask: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """Call a function for a model; an error names the model."""
    try:
        return ask(*given, **options)
    except PMFError as error:
        raise type(error)(f"Model {name!r}: {error}") from error
