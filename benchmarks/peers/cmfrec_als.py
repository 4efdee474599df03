"""cmfrec: matrix factorization by alternating least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
from cmfrec import CMF

from benchmarks.data import Table
from benchmarks.predictor import Predictor, Stopwatch


class OfCMF(Predictor):
    """A fitted CMF. A pair with one unknown id gets the bias of the other id."""

    def __init__(self, model: CMF, global_mean: float) -> None:
        self.model, self.global_mean = model, global_mean

    def mean(self, pairs: Table) -> np.ndarray:
        """Return the predictions."""
        predicted = np.asarray(self.model.predict(pairs.user, pairs.item), dtype=float)
        return np.where(np.isnan(predicted), self.global_mean, predicted)


def fit(train: Table, seed: int, watch: Stopwatch, **options: Any) -> Predictor:
    """Fit ``CMF(**options)``."""
    names = {"user": "UserId", "item": "ItemId", "rating": "Rating"}
    model = CMF(random_state=seed, **options)
    model.fit(train.to_frame().rename(columns=names))
    return OfCMF(model, train.rating.mean())
