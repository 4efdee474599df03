"""Recommendations: the unseen items with the highest expected rating of a user."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import cast

import numpy as np
import pandas as pd
import torch

from pyro_pmf.arguments import require_integer
from pyro_pmf.model.learned import Learned
from pyro_pmf.prediction.located import LocatedPairs

_CHUNK = 1 << 20  # pairs scored at a time


def recommend(
    learned: Learned,
    users: Hashable | Iterable[Hashable],
    n: int = 10,
    exclude_seen: bool = True,
) -> pd.DataFrame:
    """Return the items with the highest expected rating of each user.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    users, n, exclude_seen
        As for `Posterior.recommend`.

    Returns
    -------
    pandas.DataFrame
        The table of `Posterior.recommend`: user, rank, item, mean and sd.

    Raises
    ------
    RatingsError, PMFError
        As for `Posterior.recommend`.
    """
    require_integer("n", n)
    one = isinstance(users, str) or not isinstance(users, Iterable)
    ids = pd.Index([users] if one else list(cast(Iterable[Hashable], users)))
    train = learned.ratings
    index, _ = train.locate(pd.DataFrame({"user": ids, "item": train.item_ids[0]}))
    unknown = index < 0
    index[unknown] = train.n_users + torch.arange(int(unknown.sum()))
    users_at_a_time = max(1, _CHUNK // train.n_items)
    parts = [
        _recommend(learned, index[rows], ids[rows.numpy()], n, exclude_seen)
        for rows in torch.arange(len(ids)).split(users_at_a_time)
    ]
    return pd.concat(parts, ignore_index=True)


def _recommend(
    learned: Learned, index: torch.Tensor, ids: pd.Index, n: int, exclude_seen: bool
) -> pd.DataFrame:
    train = learned.ratings
    every_item = torch.arange(train.n_items)
    where = LocatedPairs(
        learned, index.repeat_interleave(train.n_items), every_item.repeat(len(index))
    )
    mean: np.ndarray = np.empty(len(where))
    sd = np.empty_like(mean)
    for rows, predictive in where.predictives():
        mean[rows], sd[rows] = predictive.mean.numpy(), predictive.sd.numpy()
    shape = len(index), train.n_items
    mean, sd, unseen = mean.reshape(shape), sd.reshape(shape), np.ones(shape, dtype=bool)
    if exclude_seen:
        pointers = where.history.pattern.row_pointers
        for place, user in enumerate(index.tolist()):
            unseen[place, where.history.item[pointers[user] : pointers[user + 1]].numpy()] = False
    best = np.argsort(np.where(unseen, -mean, np.inf), axis=1, kind="stable")[:, :n]
    row = np.arange(len(index))[:, None]
    kept = unseen[row, best]  # fewer than n where a user has seen nearly everything
    rank = np.broadcast_to(np.arange(1, best.shape[1] + 1), best.shape)
    return pd.DataFrame(
        {
            "user": ids.repeat(kept.sum(1)),
            "rank": rank[kept],
            "item": train.item_ids[best[kept]],
            "mean": mean[row, best][kept],
            "sd": sd[row, best][kept],
        }
    )
