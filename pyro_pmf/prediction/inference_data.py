"""Draws of a posterior as ArviZ data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_pmf.arguments import require_integer
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings, as_frame, observed
from pyro_pmf.errors import PMFError
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.running import Site, is_latent, run
from pyro_pmf.prediction import arviz_versions
from pyro_pmf.prediction.arviz_versions import Groups
from pyro_pmf.prediction.located import LocatedPairs
from pyro_pmf.prediction.mixture import predictive_of
from pyro_pmf.random_state import isolated_random_state

_LEAST_OF_CHAIN = 4  # draws, of which ArviZ computes R-hat
_DIMS = {"users": "user", "items": "item"}

Draws = Sequence[Mapping[str, Tensor]]


def to_arviz(
    learned: Learned,
    pairs: Ratings | pd.DataFrame | None = None,
    sites: Sequence[str] | None = None,
    n_draws: int | None = None,
    seed: int = 0,
    prior: bool = False,
) -> Any:
    """Return draws as ArviZ data, see `Posterior.to_arviz`.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    pairs, sites, n_draws, seed, prior
        As for `Posterior.to_arviz`.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        The groups of `Posterior.to_arviz`.

    Raises
    ------
    RatingsError, PMFError
        As for `Posterior.to_arviz`.
    """
    with isolated_random_state(seed):
        draws = chosen_draws(learned, n_draws)
        values, dims = _posterior(learned, draws, sites)
        groups = {"posterior": values}
        if pairs is not None:
            groups |= predictions(learned, draws, pairs)
            dims |= {name: ["pair"] for name in ("rating", "user_id", "item_id")}
        if prior:
            groups |= prior_predictions(learned, len(draws), pairs)
    train = learned.ratings
    used = {dim for names in dims.values() for dim in names}
    ids = {"user": train.user_ids, "item": train.item_ids}
    coords = {name: index.to_numpy() for name, index in ids.items() if name in used}
    return arviz_versions.from_dict(groups, coords=coords, dims=dims)


def summary(learned: Learned, n_draws: int | None = None, seed: int = 0) -> pd.DataFrame:
    """Summarize the scalar sites: mean, standard deviation, 90% highest-density interval.

    ArviZ's diagnostics are for chains: R-hat, effective sample sizes and Monte Carlo standard
    errors are left out for a posterior that is not from chains.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    n_draws : int, optional
        Number of draws, as for `Posterior.to_arviz`.
    seed : int
        Seed of the draws.

    Returns
    -------
    pandas.DataFrame
        ArviZ's summary, one row per site: sigma on the model scale of the ratings, the others on
        the scale of the score.

    Raises
    ------
    PMFError
        As for `Posterior.summary`.
    """
    n_chains = learned.n_chains or 1
    least = _LEAST_OF_CHAIN * n_chains if learned.n_chains else 2
    if n_draws is not None and require_integer("n_draws", n_draws) < least:
        aim = "a standard deviation"
        if learned.n_chains is not None:
            aim = f"R-hat, which needs {_LEAST_OF_CHAIN} draws of each of {n_chains} chains"
        raise PMFError(f"n_draws={n_draws} is too few for {aim}: give at least {least}.")
    data = to_arviz(learned, n_draws=n_draws, seed=seed)
    kind = "stats" if learned.n_chains is None else "all"
    return arviz_versions.summary(data, kind)


def chosen_draws(learned: Learned, n_draws: int | None) -> Draws:
    """Return draws chain by chain, equally many of each chain.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    n_draws : int or None
        Number of draws; None means 1000 for a posterior in closed form. A posterior that consists
        of draws gives each at most once, and all of them for None.

    Returns
    -------
    list of dict of str to Tensor
        Draws of all latent sites. Those of a closed form come from torch's random state.

    Raises
    ------
    PMFError
        If ``n_draws`` is not a positive integer.
    """
    if n_draws is not None:
        require_integer("n_draws", n_draws)
    if learned.n_draws is None:
        return list(learned.draws(n_draws or 1000))
    draws = list(learned.draws())
    chains = learned.n_chains or 1
    length = len(draws) // chains
    wanted = min(length, max(1, (n_draws or len(draws)) // chains))
    chosen = np.linspace(0, length - 1, wanted).round().astype(int)
    return [draws[chain * length + k] for chain in range(chains) for k in chosen]


def _posterior(
    learned: Learned, draws: Draws, names: Sequence[str] | None
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Return draws of sites, (n_chains, n_draws, ...), and the names of further dimensions."""
    if names is None:
        names = [name for name, value in draws[0].items() if value.dim() == 0]
        return {name: _stack(learned, [draw[name] for draw in draws]) for name in names}, {}
    if isinstance(names, str):
        names = [names]
    runs = [run_at_first(learned, draw) for draw in draws]
    # a plate is a site as well, whose value is no random variable
    known = [
        name
        for name, site in runs[0].items()
        if name != "rating" and isinstance(site.get("fn"), Distribution)
    ]
    if missing := set(names) - set(known):
        raise PMFError(f"The model has no latent site {sorted(missing)}; it has {known}.")
    dims = {}
    for name in names:
        site = runs[0][name]
        plates = sorted(site["cond_indep_stack"], key=lambda frame: frame.dim)
        event = [f"{name}_dim_{k}" for k in range(site["fn"].event_dim)]
        dims[name] = [_DIMS.get(frame.name, frame.name) for frame in plates]
        dims[name] += ["factor"] if plates and len(event) == 1 else event
    return {
        name: _stack(learned, [sites[name]["value"] for sites in runs]) for name in names
    }, dims


def predictions(learned: Learned, draws: Draws, pairs: Ratings | pd.DataFrame) -> Groups:
    """Return the groups about ratings, in rating units.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    draws : sequence of mapping of str to Tensor
        Draws of the latents, see `chosen_draws`.
    pairs : Ratings or pandas.DataFrame
        Pairs to predict, with or without ratings.

    Returns
    -------
    dict of str to dict of str to ndarray
        Groups posterior_predictive and constant_data; with ratings also observed_data and
        log_likelihood.

    Raises
    ------
    RatingsError
        If a column is missing, all ids of a column are unknown because of their type, or a rating
        is not a finite number.
    """
    train = learned.ratings
    where = LocatedPairs.of(learned, pairs)
    has_ratings = pairs.value is not None if isinstance(pairs, Ratings) else "rating" in pairs
    frame = as_frame(pairs)
    rating = torch.from_numpy(observed(pairs)) if has_ratings else None
    predicted = torch.empty(len(draws), len(where), dtype=torch.float64)
    log_prob = torch.empty_like(predicted)
    for rows, chunk in where.chunks():
        for k, draw in enumerate(draws):
            fn = where.rating_distribution(draw, chunk)
            predicted[k, rows] = train.to_rating(fn.sample().double())
            if rating is not None:
                given = predictive_of(learned, [(1.0, fn)])
                log_prob[k, rows] = given.log_prob(rating[rows]).double()
    groups: Groups = {
        "posterior_predictive": {"rating": _stack(learned, predicted)},
        "constant_data": {f"{name}_id": np.asarray(frame[name]) for name in ("user", "item")},
    }
    if rating is not None:
        groups["observed_data"] = {"rating": rating.numpy()}
        groups["log_likelihood"] = {"rating": _stack(learned, log_prob)}
    return groups


def prior_predictions(
    learned: Learned, n_draws: int, pairs: Ratings | pd.DataFrame | None
) -> Groups:
    """Return the groups of the model's prior, given only the pairs of the training ratings.

    Parameters
    ----------
    learned : Learned
        Result of a fit, of which only the model and the training pairs are used.
    n_draws : int
        Number of draws, from torch's random state.
    pairs : Ratings or pandas.DataFrame, optional
        Pairs to predict.

    Returns
    -------
    dict of str to dict of str to ndarray
        Group prior, of the scalar sites; with pairs also prior_predictive, in rating units.

    Raises
    ------
    RatingsError
        If a column is missing, or all ids of a column are unknown because of their type.
    """
    train = learned.ratings
    first = train.user[:1], train.item[:1]
    where = LocatedPairs(learned, *first) if pairs is None else LocatedPairs.of(learned, pairs)
    rating = np.empty((1, n_draws, len(where)))
    scalars: dict[str, list[Tensor]] = {}
    for rows, chunk in where.chunks(max(1, len(where))):  # one chunk: a draw gives all ratings
        for k in range(n_draws):
            sites = run(learned.model, {}, chunk, where.history)
            latents = {name: site["value"] for name, site in sites.items() if is_latent(site)}
            fn = where.rating_distribution(latents, chunk)
            rating[0, k, rows] = train.to_rating(fn.sample().double().numpy())
            for name, site in sites.items():
                if is_latent(site) and name != "rating" and site["value"].dim() == 0:
                    scalars.setdefault(name, []).append(site["value"])
    groups = {"prior": {name: torch.stack(x).numpy()[None] for name, x in scalars.items()}}
    return groups if pairs is None else groups | {"prior_predictive": {"rating": rating}}


def run_at_first(learned: Learned, latents: Mapping[str, Tensor]) -> dict[str, Site]:
    """Run the model at the first training pair, for sites that do not depend on pairs.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    latents : mapping of str to Tensor
        Values of the latents by site.

    Returns
    -------
    dict of str to dict
        Pyro's sites by name.
    """
    train = learned.ratings
    first = Pairs(train.user[:1], train.item[:1], train.n_users, train.n_items, dtype=train.dtype)
    return run(learned.model, latents, first, learned.seen)


def _stack(learned: Learned, draws: Sequence[Tensor] | Tensor) -> np.ndarray:
    """Stack consecutive draws as an array of shape (n_chains, n_draws, ...)."""
    stacked = torch.stack(list(draws)) if not isinstance(draws, Tensor) else draws
    return stacked.unflatten(0, (learned.n_chains or 1, -1)).numpy()
