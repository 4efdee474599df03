"""Ratings simulated from a model's own prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.arguments import require_integer
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError
from pyro_pmf.model.running import sites_of
from pyro_pmf.random_state import isolated_random_state


def simulate(
    model: Callable[..., Any],
    n_users: int,
    n_items: int,
    n_ratings: int,
    seed: int = 0,
    scale: tuple[float, float] = (0.0, 1.0),
) -> tuple[Ratings, dict[str, Tensor]]:
    """Draw ratings from a model's own prior, at pairs drawn uniformly without replacement.

    Parameters
    ----------
    model : callable
        A `PMF`, or any Pyro model of ratings. Fix the priors of what shall be known.
    n_users, n_items, n_ratings : int
    seed : int
        The caller's random state is left as it was.
    scale : tuple of float
        What 0 and 1 of the unit scale are called. Normal ratings may lie outside.

    Returns
    -------
    ratings : Ratings
    sites : dict of str to Tensor
        The values of all other sites of the model, unit scale.

    Raises
    ------
    PMFError
        If there are not that many pairs.
    """
    for name, value in {"n_users": n_users, "n_items": n_items, "n_ratings": n_ratings}.items():
        require_integer(name, value)
    if n_ratings > n_users * n_items:
        raise PMFError(f"n_ratings={n_ratings} is outside 1 to {n_users * n_items}, all pairs.")
    generator = np.random.default_rng(seed)
    cells = np.sort(generator.choice(n_users * n_items, n_ratings, replace=False, shuffle=False))
    user, item = (torch.from_numpy(index) for index in np.divmod(cells, n_items))
    with isolated_random_state(seed):
        sites = sites_of(model, Pairs(user, item, n_users, n_items))
    values = {name: site["value"] for name, site in sites.items() if site["type"] == "sample"}
    rating = scale[0] + (scale[1] - scale[0]) * values.pop("rating").double().numpy()
    ids = pd.Index(np.arange(n_users)), pd.Index(np.arange(n_items))
    return Ratings(user, item, *ids, scale, rating), values
