"""Surprise: SVD and SVD++ by stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import numpy as np
import surprise

from benchmarks.data import Table
from benchmarks.predictor import Predictor, Stopwatch


class OfAlgorithm(Predictor):
    """A fitted algorithm. A pair with one unknown id gets the bias of the other id."""

    def __init__(self, algorithm: surprise.AlgoBase) -> None:
        self.algorithm = algorithm

    def mean(self, pairs: Table) -> np.ndarray:
        """Return the predicted ratings."""
        columns = pairs.user.tolist(), pairs.item.tolist(), pairs.rating.tolist()
        return np.array([p.est for p in self.algorithm.test(list(zip(*columns, strict=True)))])


def fit(
    train: Table, seed: int, watch: Stopwatch, algorithm: str = "SVD", **options: Any
) -> Predictor:
    """Fit ``surprise.<algorithm>(**options)``."""
    reader = surprise.Reader(rating_scale=train.scale)
    data = surprise.Dataset.load_from_df(train.to_frame(), reader).build_full_trainset()
    fitted = getattr(surprise, algorithm)(random_state=seed, **options).fit(data)
    return OfAlgorithm(fitted)
