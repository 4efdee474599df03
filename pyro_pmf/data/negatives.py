"""Sampled negatives for tables that only say which pairs were observed."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError

_NO_YES = (0.0, 1.0)


def with_sampled_negatives(
    seen: Ratings | pd.DataFrame,
    ratio: float = 1.0,
    seed: int = 0,
    weight: Literal["uniform", "popularity"] = "uniform",
) -> pd.DataFrame:
    """Make a table of who took what and who did not, of pairs that only say who took what.

    The pairs that are not there are taken for a no, which most of them are, and a sample of them
    does in place of all. Of "uniform" a model learns how likely a pair is, up to a constant; of
    "popularity", how much likelier than by the popularity of the item, and it finds rare items.

    Parameters
    ----------
    seen : Ratings or pandas.DataFrame
        The columns ``user`` and ``item``; values are not looked at.
    ratio : float
        How many unseen pairs for each seen one.
    seed : int
        Of the sample: no global random state is read or changed.
    weight : {"uniform", "popularity"}
        Draw from all unseen pairs of these users and items alike, or in proportion to how many
        users the item has; without replacement.

    Returns
    -------
    pandas.DataFrame
        Columns user, item and rating: 1 of the seen pairs, which come first, and 0 of the others.

    Raises
    ------
    RatingsError
        If the table cannot be used as it stands.
    PMFError
        If ``weight`` is something else, or less than one or more than half of the unseen pairs
        would be drawn.
    """
    if weight not in ("uniform", "popularity"):
        raise PMFError(f'weight must be "uniform" or "popularity", not {weight!r}')
    ones = (
        seen if isinstance(seen, Ratings) else Ratings.from_frame(seen, rating=None, scale=_NO_YES)
    )
    n_items, known = ones.n_items, (ones.user * ones.n_items + ones.item).cpu().numpy()
    n_unseen, wanted = ones.n_users * n_items - len(ones), round(ratio * len(ones))
    if not 1 <= wanted <= n_unseen / 2:
        raise PMFError(
            f"ratio={ratio} asks for {wanted:,} of {n_unseen:,} unseen pairs: draw at least one, "
            "and half of them at most."
        )
    generator = np.random.default_rng(seed)
    counts = ones.item_counts.cpu().numpy()
    chance = None if weight == "uniform" else counts / counts.sum()
    drawn = np.empty(0, dtype=np.int64)
    while len(drawn) < wanted:
        size = 2 * (wanted - len(drawn))
        user, item = (
            generator.integers(ones.n_users, size=size),
            generator.choice(n_items, size, p=chance),
        )
        drawn = np.append(drawn, user * n_items + item)
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]  # each where it came first
        drawn = drawn[~np.isin(drawn, known)]
    cells = np.concatenate([known, drawn[:wanted]])
    user, item = np.divmod(cells, n_items)
    return pd.DataFrame(
        {
            "user": ones.user_ids.take(user),
            "item": ones.item_ids.take(item),
            "rating": np.repeat([1, 0], [len(known), wanted]),
        }
    )
