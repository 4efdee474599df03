"""Posterior draws as ArviZ data; the only file that knows ArviZ and its versions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.errors import PMFError
from pyro_pmf.learned import Learned
from pyro_pmf.pairs import Pairs
from pyro_pmf.prediction import LocatedPairs, observed, run
from pyro_pmf.random_state import isolated_random_state
from pyro_pmf.ratings import Ratings

with warnings.catch_warnings():
    # ArviZ 0.23 announces ArviZ 1 when it is imported; both work here.
    warnings.filterwarnings("ignore", "\\s*ArviZ is undergoing", FutureWarning)
    import arviz

_IS_ARVIZ_1 = int(arviz.__version__.split(".")[0]) >= 1
_DIMS = {"users": "user", "items": "item"}

Draws = Sequence[Mapping[str, Tensor]]


def to_arviz(
    learned: Learned,
    pairs: Ratings | pd.DataFrame | None = None,
    sites: Sequence[str] | None = None,
    num_samples: int | None = None,
    seed: int = 0,
) -> Any:
    """Implement `Posterior.to_arviz`."""
    num_samples = num_samples or learned.num_draws or 1000
    with isolated_random_state(seed):
        draws = list(learned.draws(num_samples))
        values, dims = _posterior(learned, draws, sites)
        groups = {"posterior": values}
        if pairs is not None:
            groups |= _predictions(learned, draws, pairs)
            dims |= {name: ["pair"] for name in ("rating", "user_id", "item_id")}
    train = learned.ratings
    used = {dim for names in dims.values() for dim in names}
    ids = {"user": train.users, "item": train.items}
    coords = {name: index.to_numpy() for name, index in ids.items() if name in used}
    if _IS_ARVIZ_1:
        return arviz.from_dict(groups, coords=coords, dims=dims)
    return arviz.from_dict(**groups, coords=coords, dims=dims)


def scale_summary(learned: Learned, num_samples: int | None = None, seed: int = 0) -> pd.DataFrame:
    """Mean, standard deviation and 90% highest-density interval of the scalar sites.

    Convergence diagnostics are left out: they are for Markov chains, and these are none.

    Returns
    -------
    pandas.DataFrame
        ArviZ's summary, one row a site; sigma on the unit scale, the others on the logit scale.
    """
    data = to_arviz(learned, num_samples=num_samples, seed=seed)
    if _IS_ARVIZ_1:
        return arviz.summary(data, kind="stats", ci_prob=0.9, ci_kind="hdi", round_to=4)
    return arviz.summary(data, kind="stats", hdi_prob=0.9, round_to=4)


def _posterior(
    learned: Learned, draws: Draws, names: Sequence[str] | None
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Draws of sites, shape (1, n_draws, ...): ArviZ's first axis is the chain; and their dims."""
    if names is None:
        names = [name for name, value in draws[0].items() if value.dim() == 0]
        return {name: _stack([draw[name] for draw in draws]) for name in names}, {}
    if isinstance(names, str):
        names = [names]
    train = learned.ratings
    first = Pairs(train.user[:1], train.item[:1], train.n_users, train.n_items, dtype=train.dtype)
    runs = [run(learned.model, draw, first, train) for draw in draws]
    known = [name for name, site in runs[0].items() if site["type"] == "sample"]
    if missing := set(names) - set(known) | {"rating"} & set(names):
        raise PMFError(f"The model has no latent site {sorted(missing)}; it has {known}.")
    dims = {}
    for name in names:
        site = runs[0][name]
        plates = sorted(site["cond_indep_stack"], key=lambda frame: frame.dim)
        event = [f"{name}_dim_{k}" for k in range(site["fn"].event_dim)]
        dims[name] = [_DIMS.get(frame.name, frame.name) for frame in plates]
        dims[name] += ["factor"] if len(event) == 1 else event
    return {name: _stack([sites[name]["value"] for sites in runs]) for name in names}, dims


def _predictions(
    learned: Learned, draws: Draws, pairs: Ratings | pd.DataFrame
) -> dict[str, dict[str, np.ndarray]]:
    """The groups about ratings, in rating units."""
    train = learned.ratings
    where = LocatedPairs.of(learned, pairs)
    has_ratings = pairs.value is not None if isinstance(pairs, Ratings) else "rating" in pairs
    frame = pairs.to_frame() if isinstance(pairs, Ratings) else pairs
    predicted = np.empty((1, len(draws), len(where)))
    density = np.empty_like(predicted)
    rating = torch.from_numpy(observed(pairs)) if has_ratings else None
    for rows, chunk in where.chunks():
        for k, draw in enumerate(draws):
            fn = where.rating_distribution(draw, chunk)
            predicted[0, k, rows] = train.to_rating(fn.sample().numpy())
            if rating is not None:
                log_prob = fn.log_prob(train.to_unit(rating[rows].to(train.dtype)))
                density[0, k, rows] = log_prob.numpy() - math.log(np.diff(train.scale).item())
    groups: dict[str, dict[str, np.ndarray]] = {
        "posterior_predictive": {"rating": predicted},
        "constant_data": {f"{name}_id": np.asarray(frame[name]) for name in ("user", "item")},
    }
    if rating is not None:
        groups["observed_data"] = {"rating": rating.numpy()}
        groups["log_likelihood"] = {"rating": density}
    return groups


def _stack(values: Sequence[Tensor]) -> np.ndarray:
    return torch.stack(list(values)).numpy()[None]
