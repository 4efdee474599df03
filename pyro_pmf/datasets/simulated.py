"""Ratings simulated from the prior of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_pmf.arguments import require_integer, require_seed
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
    """Draw ratings from the prior of a model, at pairs drawn uniformly without replacement.

    Parameters
    ----------
    model : callable
        A `PMF`, or any Pyro model of ratings. Give a parameter a `Fixed` prior to choose it.
    n_users, n_items : int
        Shape of the rating matrix.
    n_ratings : int
        Number of ratings, at most ``n_users * n_items``.
    seed : int
        Seed of pairs and ratings. The caller's random state is left as it was.
    scale : tuple of float
        The ratings at 0 and at 1 of the unit scale. Normal ratings may lie outside.

    Returns
    -------
    ratings : Ratings
        The ratings; ids are indices.
    sites : dict of str to Tensor
        The values of all other sites of the model, not rescaled to rating units.

    Raises
    ------
    PMFError
        If a number is not a positive integer, or ``n_ratings`` is more than the number of pairs.

    Examples
    --------
    >>> from pyro_pmf import PMF, Fixed, Priors
    >>> model = PMF(n_factors=1, priors=Priors(sigma=Fixed(0.1)))
    >>> ratings, sites = simulate(model, n_users=4, n_items=3, n_ratings=6)
    >>> ratings.n_users, len(ratings), tuple(sites["U"].shape)
    (4, 6, (4, 1))
    """
    for name, value in {"n_users": n_users, "n_items": n_items, "n_ratings": n_ratings}.items():
        require_integer(name, value)
    require_seed(seed)
    if n_ratings > n_users * n_items:
        raise PMFError(
            f"n_ratings must be at most n_users * n_items = {n_users * n_items}, not {n_ratings}."
        )
    generator = np.random.default_rng(seed)
    cells = np.sort(generator.choice(n_users * n_items, n_ratings, replace=False, shuffle=False))
    user, item = (torch.from_numpy(index) for index in np.divmod(cells, n_items))
    with isolated_random_state(seed):
        sites = sites_of(model, Pairs(user, item, n_users, n_items))
    values = {name: site["value"] for name, site in sites.items() if site["type"] == "sample"}
    rating = scale[0] + (scale[1] - scale[0]) * values.pop("rating").double().numpy()
    ids = pd.Index(np.arange(n_users)), pd.Index(np.arange(n_items))
    return Ratings(user, item, *ids, scale, rating), values
