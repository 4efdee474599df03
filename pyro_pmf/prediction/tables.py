"""Tables of predictions: one row per pair, with the caller's ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from pyro_pmf.arguments import require_integer, require_rating
from pyro_pmf.data.merging import refuse_impossible
from pyro_pmf.data.ratings import Ratings, as_frame, observed
from pyro_pmf.data.table import outside, refuse
from pyro_pmf.errors import PMFError, RatingsError
from pyro_pmf.model.learned import Learned
from pyro_pmf.prediction.diagnostics import require_chains
from pyro_pmf.prediction.discrete import DiscretePredictive
from pyro_pmf.prediction.located import LocatedPairs
from pyro_pmf.prediction.metrics import score_each
from pyro_pmf.prediction.predictive import as_levels
from pyro_pmf.random_state import isolated_random_state


def predict(
    learned: Learned,
    pairs: Ratings | pd.DataFrame,
    interval: float = 0.9,
    at_least: float | None = None,
    rated: bool = False,
    mcse: bool = False,
) -> pd.DataFrame:
    """Return mean, sd and central interval of each pair's rating.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    pairs, interval, at_least, rated, mcse
        As for `Posterior.predict`.

    Returns
    -------
    pandas.DataFrame
        The table of `Posterior.predict`.

    Raises
    ------
    RatingsError, PMFError
        As for `Posterior.predict`.
    """
    if at_least is not None:
        require_rating("at_least", at_least)
    n_chains = require_chains(learned, "Monte Carlo standard errors") if mcse else 0
    where = LocatedPairs.of(learned, pairs, rated)
    names = ["mean", "sd", "lower", "upper"] + ["p_at_least"] * (at_least is not None)
    names += ["mcse"] * mcse
    columns = {name: np.empty(len(where)) for name in names}
    for rows, predictive in where.predictives():
        lower, upper = predictive.interval(interval)
        values = {"mean": predictive.mean, "sd": predictive.sd, "lower": lower, "upper": upper}
        if at_least is not None:
            values["p_at_least"] = predictive.probability_at_least(at_least)
        for name, value in values.items():
            columns[name][rows] = value.numpy()
        if mcse:
            columns["mcse"][rows] = predictive.mcse(n_chains)
    known = {"known_user": where.known_user, "known_item": where.known_item}
    return _beside_ids(pairs, columns | known, rated)


def predict_levels(
    learned: Learned,
    pairs: Ratings | pd.DataFrame,
    levels: Sequence[float] | None = None,
    rated: bool = False,
) -> pd.DataFrame:
    """Return the probability of each possible rating of each pair.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    pairs, levels, rated
        As for `Posterior.predict_levels`.

    Returns
    -------
    pandas.DataFrame
        The table of `Posterior.predict_levels`.

    Raises
    ------
    RatingsError, PMFError
        As for `Posterior.predict_levels`.
    """
    given = None if levels is None else as_levels(levels)
    where = LocatedPairs.of(learned, pairs, rated)
    parts = []
    for rows, predictive in where.predictives():
        chosen = predictive.levels if given is None else given
        if chosen is None:
            raise PMFError(
                "These ratings have no levels of their own: give the possible ratings, as in "
                "levels=(1, 2, 3, 4, 5)."
            )
        chances = predictive.level_probabilities(chosen).numpy()
        parts.append(pd.DataFrame(chances, index=rows, columns=chosen.tolist()))
    if not parts:
        raise RatingsError("There are no pairs: give at least one.")
    table = pd.concat(parts).sort_index()
    return _beside_ids(pairs, {level: table[level].to_numpy() for level in table}, rated)


def _beside_ids(
    pairs: Ratings | pd.DataFrame, columns: Mapping[Any, np.ndarray], rated: bool
) -> pd.DataFrame:
    frame = as_frame(pairs)
    ids = {"user": frame["user"], "item": frame["item"]}
    return _saying(pd.DataFrame(ids | dict(columns), index=frame.index), rated)


def _saying(table: pd.DataFrame, rated: bool) -> pd.DataFrame:
    """Note in a table which question its predictions answer."""
    table.attrs["rated"] = rated
    return table


def scores(
    learned: Learned,
    pairs: Ratings | pd.DataFrame,
    interval: float = 0.9,
    levels: Sequence[float] | None = None,
    rated: bool = False,
) -> pd.DataFrame:
    """Return the scores of the prediction of each rating.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    pairs, interval, levels, rated
        As for `Posterior.scores`.

    Returns
    -------
    pandas.DataFrame
        The table of `Posterior.scores`.

    Raises
    ------
    RatingsError, PMFError
        As for `Posterior.scores`.
    """
    rating = torch.from_numpy(observed(pairs))
    _refuse_foreign(learned.ratings, as_frame(pairs), rating.numpy())
    levels = None if levels is None else as_levels(levels).tolist()
    where = LocatedPairs.of(learned, pairs, rated)
    generator = np.random.default_rng(0)
    parts = [
        score_each(predictive, rating[rows], interval, levels, generator).set_index(rows)
        for rows, predictive in where.predictives()
    ]
    if not parts:
        raise RatingsError("There are no ratings to score: give at least one.")
    table = pd.concat(parts).sort_index().set_axis(as_frame(pairs).index)
    training = learned.ratings.within(where.n_users, where.n_items)
    table["n_user"] = training.user_counts[where.user].numpy()
    table["n_item"] = training.item_counts[where.item].numpy()
    return _saying(table, rated)


def _refuse_foreign(train: Ratings, table: pd.DataFrame, rating: np.ndarray) -> None:
    """Refuse ratings in another unit than the training ratings.

    Ratings a little outside the scale may be draws of a likelihood without bounds. Those that are
    farther from it, and from the training ratings, than half its width are in other units.
    """
    if train.transform.bounds is None:
        refuse_impossible(train, table, rating)
        return
    low, high = train.transform.bounds
    slack = (high - low) / 2
    if train.rating is not None:
        low, high = min(low, train.rating.min()), max(high, train.rating.max())
    refuse(
        table,
        outside(rating, (low - slack, high + slack)),
        f"a rating far outside the scale of the training ratings, {train.scale}",
        "Bring them into the unit of the training ratings, or drop these rows.",
    )


def crps(learned: Learned, pairs: Ratings | pd.DataFrame) -> float:
    """Return the mean continuous ranked probability score of ratings.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    pairs : Ratings or pandas.DataFrame
        Observed ratings, at least one.

    Returns
    -------
    float
        In rating units; smaller is better.

    Raises
    ------
    RatingsError
        If the pairs have no ratings, a column is missing, or all ids of a column are unknown
        because of their type.
    """
    rating = torch.from_numpy(observed(pairs))
    parts = LocatedPairs.of(learned, pairs).predictives()
    return float(np.concatenate([each.crps(rating[rows]) for rows, each in parts]).mean())


def is_discrete(learned: Learned) -> bool:
    """Return whether ratings have probabilities, as levels and counts do, instead of a density.

    Parameters
    ----------
    learned : Learned
        Result of a fit.

    Returns
    -------
    bool
        Whether they do.
    """
    first = learned.ratings.to_frame().head(1)
    _, predictive = next(LocatedPairs.of(learned, first).predictives())
    return isinstance(predictive, DiscretePredictive)


def sample(
    learned: Learned,
    pairs: Ratings | pd.DataFrame,
    n_draws: int = 100,
    seed: int = 0,
    rated: bool = False,
) -> np.ndarray:
    """Draw ratings from the joint posterior predictive distribution.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    pairs, n_draws, seed, rated
        As for `Posterior.sample`.

    Returns
    -------
    ndarray, shape (n_draws, n_pairs)
        Draws, in rating units.

    Raises
    ------
    RatingsError, PMFError
        As for `Posterior.sample`.
    """
    require_integer("n_draws", n_draws)
    where = LocatedPairs.of(learned, pairs, rated)
    samples = np.empty((n_draws, len(where)))
    every_pair = list(where.chunks(max(1, len(where))))
    with isolated_random_state(seed):
        for k, draw in enumerate(learned.draws(n_draws)):
            for rows, pairs_ in every_pair:
                rating = where.rating_distribution(draw, pairs_).sample()
                samples[k, rows] = learned.ratings.to_rating(rating.numpy())
    return samples
