"""Pairs located among the training ids, and the distribution of their ratings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_pmf.data.pairs import Pairs
from pyro_pmf.data.ratings import Ratings
from pyro_pmf.model.given import in_one_batch, is_plain
from pyro_pmf.model.learned import Learned
from pyro_pmf.model.running import given
from pyro_pmf.model.terms import terms_of
from pyro_pmf.moments.gaussian import Value
from pyro_pmf.moments.stacking import Mixture, mixture_of
from pyro_pmf.prediction.mixture import predictive_of
from pyro_pmf.prediction.predictive import PosteriorPredictive
from pyro_pmf.prediction.rated import (
    OwnRows,
    completed,
    require_rateable,
    sums_of,
    with_average_rater,
)
from pyro_pmf.random_state import isolated_random_state

_NUMBERS = 1 << 20  # pairs times parts of their mixtures that are predicted at a time
_PARTS = 21  # of the mixture that stands for a closed form, at most


class LocatedPairs:
    """Pairs in training indices; unknown users and items have rows of their own at the end.

    Parameters
    ----------
    learned : Learned
        Result of a fit.
    user, item : Tensor, int64, shape (n,)
        Indices. Unknown ids have indices from ``n_users`` and ``n_items`` of the training ratings
        on.
    rated : bool
        Whether each pair counts as rated, see `Posterior.predict`.
    n_users : int
        Least number of users. Rows of unknown users are drawn together, so predictions of some
        of their pairs equal predictions of all only in a matrix of the same size.

    Raises
    ------
    PMFError
        If ``rated`` is true, and the model depends on the pairs rated in a way of its own.

    Attributes
    ----------
    known_user, known_item : ndarray of bool, shape (n,)
        Whether the user or item of a pair is in the training ratings.
    n_users, n_items : int
        Number of users and items, unknown ones included.
    history : Pairs
        The pairs with I_ij = 1 in a matrix of this size: those that the fit knew to be rated.
    """

    def __init__(
        self,
        learned: Learned,
        user: Tensor,
        item: Tensor,
        rated: bool = False,
        n_users: int = 0,
    ) -> None:
        train = learned.ratings
        self.learned, self.user, self.item = learned, user, item
        self.known_user = (user < train.n_users).numpy()
        self.known_item = (item < train.n_items).numpy()
        self.n_users = max(train.n_users, n_users, int(user.max()) + 1 if len(user) else 0)
        self.n_items = max(train.n_items, int(item.max()) + 1 if len(item) else 0)
        self.history = learned.seen.within(self.n_users, self.n_items)
        self._is_hierarchical = bool(sums_of(learned.model))
        self._own: tuple[Pairs, OwnRows] | None = None  # of the last chunk
        if rated:
            require_rateable(learned.model)
        self._rated = rated and self._is_hierarchical
        empty = (self.history.user_counts == 0)[user], (self.history.item_counts == 0)[item]
        self._has_empty = bool((empty[0] | empty[1]).any())
        shape = self.n_users, self.n_items
        self._has_strangers = shape != (train.n_users, train.n_items)

    @classmethod
    def of(
        cls, learned: Learned, pairs: Ratings | pd.DataFrame, rated: bool = False
    ) -> LocatedPairs:
        """Locate the pairs of a table by id.

        Parameters
        ----------
        learned : Learned
            Result of a fit.
        pairs : Ratings or pandas.DataFrame
            As `Ratings.as_pairs` returns them.
        rated : bool
            Whether each pair counts as rated.

        Returns
        -------
        LocatedPairs
            The pairs, in the order of the table.

        Raises
        ------
        RatingsError
            If a column is missing, or all ids of a column are unknown because of their type.
        PMFError
            If ``rated`` is true, and the model depends on the pairs rated in a way of its own.
        """
        train = learned.ratings
        user, item = train.locate_known(pairs)
        users = pairs.user.cpu().numpy() if isinstance(pairs, Ratings) else pairs["user"]
        items = pairs.item.cpu().numpy() if isinstance(pairs, Ratings) else pairs["item"]
        return cls(
            learned,
            _number_unknown(user, users, train.n_users),
            _number_unknown(item, items, train.n_items),
            rated,
        )

    def __len__(self) -> int:
        return len(self.user)

    def chunks(self, size: int | None = None) -> Iterator[tuple[np.ndarray, Pairs]]:
        """Iterate over row numbers and their pairs, sorted by user as models require.

        Parameters
        ----------
        size : int, optional
            Largest number of pairs in a chunk.

        Yields
        ------
        rows : ndarray of int
            Row numbers.
        pairs : Pairs
            The pairs of these rows.
        """
        size = size or max(1, _NUMBERS // (self.learned.n_draws or _PARTS))
        for rows in torch.argsort(self.user, stable=True).split(size):
            if len(rows):
                yield rows.numpy(), self._pairs(rows)

    def predictives(self, seed: int = 0) -> Iterator[tuple[np.ndarray, PosteriorPredictive]]:
        """Iterate over row numbers and the predictive distribution of their ratings.

        Parameters
        ----------
        seed : int
            Seed of the rows of unknown users and items where draws represent the posterior.

        Yields
        ------
        rows : ndarray of int
            Row numbers.
        predictive : PosteriorPredictive
            Distribution of the ratings of these rows.
        """
        learned = self.learned
        if not self._rated and is_plain(learned.model, learned.latents):
            for rows, parts in self._mixtures(seed):
                yield rows, predictive_of(learned, parts)
            return
        for rows, pairs in self.chunks():
            if learned.n_draws is None:
                found = mixture_of(self.rating_distribution(learned.latents, pairs))
                yield rows, predictive_of(learned, found)
                continue
            weight = 1 / learned.n_draws
            with isolated_random_state(seed):  # for rows that are drawn from the prior
                each = [(weight, self.rating_distribution(x, pairs)) for x in learned.draws()]
            yield rows, predictive_of(learned, each)

    def _mixtures(self, seed: int) -> Iterator[tuple[np.ndarray, Mixture]]:
        """Iterate over row numbers and their ratings, all draws at once."""
        learned, latents = self.learned, self.learned.latents
        if self._has_strangers or (self._is_hierarchical and self._has_empty):
            latents = completed(learned, self.history, seed)
        if learned.n_draws is not None:
            terms = terms_of(learned.model)
            latents = in_one_batch(terms, cast(Mapping[str, Tensor], latents))
            weights = torch.full((learned.n_draws,), 1 / learned.n_draws, dtype=torch.float64)
        for rows, pairs in self.chunks():
            fn = given(learned.model, latents, pairs, self.history).rating
            yield rows, mixture_of(fn) if learned.n_draws is None else Mixture(weights, fn)

    def rating_distribution(self, latents: Mapping[str, Value], pairs: Pairs) -> Distribution:
        """Return the distribution of the ratings of some pairs, given the latents.

        Rows that were not learnt, and the rater of an item that nobody has rated, are drawn from
        torch's random state where the latents are tensors.

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
        model, history = self.learned.model, self.history
        if self._rated:
            if self._own is None or self._own[0] is not pairs:
                self._own = pairs, OwnRows(self.learned, pairs, history)
            own = self._own[1]
            latents, pairs, history = own.of(latents), own.pairs, own.history
        elif self._is_hierarchical and self._has_empty:
            latents = with_average_rater(model, latents, history)
        return given(model, latents, pairs, history).rating

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
