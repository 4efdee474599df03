"""Pairs located among the training ids, and the distribution of their ratings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.running import run
from pyro_pmf.moments.expectations import components
from pyro_pmf.moments.gaussian import Value
from pyro_pmf.prediction.mixture import mixture
from pyro_pmf.prediction.predictive import PosteriorPredictive
from pyro_pmf.random_state import isolated_random_state

_CHUNK = 1 << 18  # pairs predicted at a time


class LocatedPairs:
    """Pairs in training indices; unknown users and items have rows of their own at the end.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    user, item : Tensor, int64, shape (n,)
        Indices. Unknown ids have indices from ``n_users`` and ``n_items`` of the training ratings
        on.

    Attributes
    ----------
    known_user, known_item : ndarray of bool, shape (n,)
        Whether the user or item of a pair is in the training ratings.
    n_users, n_items : int
        Number of users and items, unknown ones included.
    history : Pairs
        The training ratings in a matrix of this size, for I_ij.
    """

    def __init__(self, learned: Learned, user: Tensor, item: Tensor) -> None:
        train = learned.ratings
        self.learned, self.user, self.item = learned, user, item
        self.known_user = (user < train.n_users).numpy()
        self.known_item = (item < train.n_items).numpy()
        self.n_users = max(train.n_users, int(user.max()) + 1 if len(user) else 0)
        self.n_items = max(train.n_items, int(item.max()) + 1 if len(item) else 0)
        self.history = train.within(self.n_users, self.n_items)

    @classmethod
    def of(cls, learned: Learned, pairs: Ratings | pd.DataFrame) -> LocatedPairs:
        """Locate the pairs of a table by id.

        Parameters
        ----------
        learned : Learned
            Result of a fit.
        pairs : Ratings or pandas.DataFrame
            A frame has the columns ``user`` and ``item``.

        Returns
        -------
        LocatedPairs
            The pairs, in the order of the table.

        Raises
        ------
        RatingsError
            If a column is missing, or all ids of a column are unknown because of their type.
        """
        train = learned.ratings
        user, item = train.locate(pairs)
        users = pairs.user.cpu().numpy() if isinstance(pairs, Ratings) else pairs["user"]
        items = pairs.item.cpu().numpy() if isinstance(pairs, Ratings) else pairs["item"]
        return cls(
            learned,
            _number_unknown(user, users, train.n_users),
            _number_unknown(item, items, train.n_items),
        )

    def __len__(self) -> int:
        return len(self.user)

    def chunks(self, size: int = _CHUNK) -> Iterator[tuple[np.ndarray, Pairs]]:
        """Iterate over row numbers and their pairs, sorted by user as models require.

        Parameters
        ----------
        size : int
            Largest number of pairs in a chunk.

        Yields
        ------
        rows : ndarray of int
            Row numbers.
        pairs : Pairs
            The pairs of these rows.
        """
        for rows in torch.argsort(self.user, stable=True).split(size):
            if len(rows):
                yield rows.numpy(), self._pairs(rows)

    def predictives(self) -> Iterator[tuple[np.ndarray, PosteriorPredictive]]:
        """Iterate over row numbers and the predictive distribution of their ratings.

        Yields
        ------
        rows : ndarray of int
            Row numbers.
        predictive : PosteriorPredictive
            Distribution of the ratings of these rows.
        """
        learned = self.learned
        for rows, pairs in self.chunks():
            if learned.n_draws is None:
                parts = components(self.rating_distribution(learned.latents, pairs))
            else:
                weight = 1 / learned.n_draws
                with isolated_random_state(0):  # for unknown users and items, drawn from the prior
                    parts = [
                        (weight, self.rating_distribution(draw, pairs)) for draw in learned.draws()
                    ]
            yield rows, mixture(parts, learned.ratings.transform)

    def rating_distribution(self, latents: Mapping[str, Value], pairs: Pairs) -> Distribution:
        """Return the distribution of the ratings of some pairs, given the latents.

        Parameters
        ----------
        latents : mapping of str to Tensor, Gaussian or LogGaussian
            Values or distributions of the latents by site.
        pairs : Pairs
            Pairs of `chunks`.

        Returns
        -------
        Distribution
            On the model scale, of batch shape (n_pairs,).
        """
        return run(self.learned.model, latents, pairs, self.history)["rating"]["fn"]

    def _pairs(self, rows: Tensor) -> Pairs:
        shape = self.n_users, self.n_items
        return Pairs(self.user[rows], self.item[rows], *shape, dtype=self.history.dtype)


def _number_unknown(index: Tensor, ids: Any, n_known: int) -> Tensor:
    """Replace -1 by n_known, n_known + 1, ..., one number for each unknown id."""
    unknown = (index < 0).numpy()
    if unknown.any():
        codes, _ = pd.factorize(np.asarray(ids)[unknown], use_na_sentinel=False)
        index = index.clone()
        index[torch.from_numpy(unknown)] = torch.from_numpy(codes.astype(np.int64)) + n_known
    return index
