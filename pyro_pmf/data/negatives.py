"""Sampled negatives, for tables of observed pairs without ratings."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from pyro_pmf.arguments import require_seed
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.errors import PMFError

_NO_YES = (0.0, 1.0)


def with_sampled_negatives(
    seen: Ratings | pd.DataFrame,
    ratio: float = 1.0,
    seed: int = 0,
    weight: Literal["uniform", "popularity"] = "uniform",
) -> pd.DataFrame:
    """Add sampled negatives (0) to a table of observed pairs (1).

    Unobserved pairs are treated as negatives, and a random sample stands for all of them. With
    "uniform" sampling, a model learns how likely each pair is, up to a constant. With
    "popularity" sampling, it learns how much likelier each pair is than the popularity of its
    item suggests, and so finds rare items.

    Parameters
    ----------
    seen : Ratings or pandas.DataFrame
        The observed pairs; a frame has the columns ``user`` and ``item``. Ratings are ignored.
    ratio : float
        Number of negatives per observed pair.
    seed : int
        Seed of the sample. No global random state is read or changed.
    weight : {"uniform", "popularity"}
        Draw every unobserved pair of these users and items with the same probability, or in
        proportion to the number of users of its item. Pairs are drawn without replacement.

    Returns
    -------
    pandas.DataFrame
        Columns user, item and rating: the observed pairs (1), then the negatives (0).

    Raises
    ------
    RatingsError
        If ``seen`` is not a table of distinct pairs with valid ids.
    PMFError
        If ``weight`` is unknown, or ``ratio`` asks for no pair or for more than half of the
        unobserved pairs.

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
    ones = (
        seen if isinstance(seen, Ratings) else Ratings.from_frame(seen, rating=None, scale=_NO_YES)
    )
    n_items, known = ones.n_items, (ones.user * ones.n_items + ones.item).cpu().numpy()
    n_unseen, wanted = ones.n_users * n_items - len(ones), round(ratio * len(ones))
    if not 1 <= wanted <= n_unseen / 2:
        raise PMFError(
            f"ratio={ratio} asks for {wanted:,} of {n_unseen:,} unseen pairs: choose "
            f"a ratio that draws at least 1 and at most {n_unseen // 2:,}."
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
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]  # drop repeats, keep order
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
