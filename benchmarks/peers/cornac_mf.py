"""cornac: biased matrix factorization and PMF by stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import numpy as np
from cornac import models
from cornac.data import Dataset

from benchmarks.data import Table
from benchmarks.predictor import Predictor, Stopwatch


class OfRecommender(Predictor):
    """A fitted model. Unknown ids get the global mean, and with MF the bias of the known id."""

    def __init__(self, recommender: models.Recommender, data: Dataset) -> None:
        self.recommender, self.data = recommender, data

    def mean(self, pairs: Table) -> np.ndarray:
        """Return the predicted ratings, which cornac computes one at a time."""
        users = [self.data.uid_map.get(i, -1) for i in pairs.user.tolist()]
        items = [self.data.iid_map.get(j, -1) for j in pairs.item.tolist()]
        return np.array([self.recommender.rate(*ij) for ij in zip(users, items, strict=True)])


def fit(train: Table, seed: int, watch: Stopwatch, model: str, **options: Any) -> Predictor:
    """Fit ``cornac.models.<model>(**options)``.

    A seed would restrict MF to one thread, so MF draws its initial values from NumPy's global
    random state.
    """
    np.random.seed(seed)  # noqa: NPY002
    columns = train.user.tolist(), train.item.tolist(), train.rating.tolist()
    data = Dataset.from_uir(list(zip(*columns, strict=True)))
    return OfRecommender(getattr(models, model)(**options).fit(data), data)
