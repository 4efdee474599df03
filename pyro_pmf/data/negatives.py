"""Sampled negatives, for tables of observed pairs without ratings."""

from __future__ import annotations

from collections.abc import Hashable
from numbers import Real
from typing import Literal

import numpy as np
import pandas as pd
import torch

from pyro_pmf.arguments import require_seed
from pyro_pmf.data.columns import Columns, select
from pyro_pmf.data.frames import IntoFrame, as_native
from pyro_pmf.data.ids import read_ids
from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError, RatingsError


def with_sampled_negatives(
    seen: Ratings | IntoFrame,
    ratio: float = 1.0,
    seed: int = 0,
    weight: Literal["uniform", "popularity"] = "uniform",
    user: Hashable = "user",
    item: Hashable = "item",
) -> pd.DataFrame:
    """Add sampled negatives (0) to a table of observed pairs (1).

    Unobserved pairs are treated as negatives, and a random sample stands for all of them. With
    "uniform" sampling, a model learns how likely each pair is, up to a constant. With
    "popularity" sampling, it learns how much likelier each pair is than the popularity of its
    item suggests, and so finds rare items.

    Parameters
    ----------
    seen : Ratings or table
        The observed pairs, such as clicks or purchases. A pair that repeats counts once, and
        ratings are ignored. A table is one of pandas, polars or pyarrow.
    ratio : float
        Number of negatives per observed pair.
    seed : int
        Seed of the sample. No global random state is read or changed.
    weight : {"uniform", "popularity"}
        Draw every unobserved pair of these users and items with the same probability, or in
        proportion to the number of users of its item. Pairs are drawn without replacement.
    user, item : hashable
        The columns of ids, if ``seen`` is a table.

    Returns
    -------
    pandas.DataFrame, or a table of the kind of ``seen``
        The columns of ids, named as in ``seen`` (user and item of `Ratings`), and rating: the
        observed pairs (1), then the negatives (0). `Posterior.recommend` takes negatives for
        pairs that the user has met, unless ``exclude_seen="positive"``.

    Raises
    ------
    RatingsError
        If ``seen`` is not a table of pairs with valid ids.
    PMFError
        If ``weight`` is unknown, a column of ids is called "rating", every pair or every pair but
        one was observed, or ``ratio`` asks for no pair or for more than half of the unobserved
        pairs that can be drawn.

    Examples
    --------
    >>> import pandas as pd
    >>> bought = pd.DataFrame({"user": ["ann", "bob", "eve"], "item": [1, 2, 3]})
    >>> with_sampled_negatives(bought)["rating"].tolist()
    [1, 1, 1, 0, 0, 0]
    """
    require_seed(seed)
    if weight not in ("uniform", "popularity"):
        raise PMFError(f'weight must be "uniform" or "popularity", not {weight!r}')
    if isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 <= ratio < np.inf:
        raise PMFError(f"ratio must be a number of negatives per pair, such as 1, not {ratio!r}.")
    if isinstance(seen, Ratings):
        user, item = "user", "item"
    elif "rating" in (user, item):
        raise PMFError('The ids cannot be in a column "rating", which is added: rename it.')
    else:
        Columns(user, item)  # refuses what cannot be a name
    ones, user_ids, item_ids = _ones(seen, user, item)
    known = (ones.user * ones.n_items + ones.item).numpy()
    taken = ones.item_counts.numpy()
    weights = np.ones(ones.n_items) if weight == "uniform" else taken / max(taken.sum(), 1)
    n_unseen = int((ones.n_users - taken)[weights > 0].sum())
    n_absent = ones.n_users * ones.n_items - len(ones)
    if n_absent < 2:  # of which half can be drawn
        which = "every pair is" if not n_absent else "all pairs but one are"
        raise PMFError(
            f"Of {ones.n_users:,} users and {ones.n_items:,} items, {which} there already, so no "
            "negatives can be drawn: fit the ratings of these pairs, if they have some."
        )
    wanted = round(float(ratio) * len(ones))
    if not 1 <= wanted <= n_unseen / 2:
        raise PMFError(
            f"ratio={ratio} asks for {wanted:,} of {n_unseen:,} unseen pairs: choose "
            f"a ratio that draws at least 1 and at most {n_unseen // 2:,}."
        )
    drawn = _draw(known, ones.n_users, weights, wanted, np.random.default_rng(seed))
    row, column = np.divmod(np.concatenate([known, drawn]), ones.n_items)
    table = pd.DataFrame(
        {
            user: user_ids.take(row),
            item: item_ids.take(column),
            "rating": np.repeat([1, 0], [len(known), wanted]),
        }
    )
    return as_native(table, seen)


def _ones(
    seen: Ratings | IntoFrame, user: Hashable, item: Hashable
) -> tuple[Pairs, pd.Index, pd.Index]:
    """Return the observed pairs, each once, and the ids of users and items."""
    if isinstance(seen, Ratings):
        return seen.to("cpu").without_values(), seen.user_ids, seen.item_ids
    table = select(seen, user, item, told="with_sampled_negatives")
    if not len(table):
        raise RatingsError("The table has no rows: give at least one pair.")
    (users, user_ids), (items, item_ids) = read_ids(table, user), read_ids(table, item)
    row, column = np.divmod(np.unique(users * len(item_ids) + items), len(item_ids))
    pairs = torch.from_numpy(row), torch.from_numpy(column)
    return Pairs(*pairs, len(user_ids), len(item_ids)), user_ids, item_ids


def _draw(
    known: np.ndarray,
    n_users: int,
    weights: np.ndarray,
    wanted: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Draw cells that are not known, without replacement.

    A draw is an item, by its weight and its number of free cells, and one of these cells. Repeats
    are dropped, and what was drawn in one round is not free in the next: so each round finds new
    cells, and the sample is the one that drawing cell after cell would give.

    Parameters
    ----------
    known : ndarray, int64
        Distinct cells, user * n_items + item.
    n_users : int
        Number of users.
    weights : ndarray, float64, shape (n_items,)
        Weight of each cell of an item.
    wanted : int
        Number of cells to draw.
    generator : numpy.random.Generator
        Source of the draws.

    Returns
    -------
    ndarray, int64, shape (wanted,)
        Cells, in the order in which they were drawn.
    """
    n_items, drawn = len(weights), np.empty(0, dtype=np.int64)
    while len(drawn) < wanted:
        user, item = np.divmod(np.append(known, drawn), n_items)
        order = np.lexsort((user, item))
        user, item = user[order], item[order]
        taken = np.bincount(item, minlength=n_items)
        start = taken.cumsum() - taken
        free_before = user - (np.arange(len(user)) - start[item])  # free cells before a taken one
        chance = weights * (n_users - taken)
        size = 2 * (wanted - len(drawn))
        chosen = generator.choice(n_items, size, p=chance / chance.sum())
        place = generator.integers(n_users - taken[chosen])
        keys = item * (n_users + 1) + free_before
        skipped = np.searchsorted(keys, chosen * (n_users + 1) + place, "right") - start[chosen]
        cells = (place + skipped) * n_items + chosen
        drawn = np.append(drawn, cells[np.sort(np.unique(cells, return_index=True)[1])])
    return drawn[:wanted]
