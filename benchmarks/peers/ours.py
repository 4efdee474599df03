"""pyro_pmf itself."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from benchmarks.data import Table
from benchmarks.predictor import Predictor, Stopwatch
from pyro_pmf import PMF, Posterior, Progress, Ratings
from pyro_pmf import fit as fit_posterior

EVERY = 10  # steps from one look at the progress to the next


class OfPosterior(Predictor):
    """A posterior, queried by the same indices."""

    def __init__(self, posterior: Posterior) -> None:
        self.posterior = posterior

    def mean(self, pairs: Table) -> np.ndarray:
        """Return the posterior mean of each rating."""
        return self.posterior.predict(pairs.to_frame())["mean"].to_numpy()

    def log_density(self, pairs: Table) -> np.ndarray:
        """Return the log predictive density, per rating unit."""
        return -self.posterior.scores(pairs.to_frame())["nll"].to_numpy()


def fit(
    train: Table, seed: int, watch: Stopwatch, method: str = "vi", **options: Any
) -> Predictor:
    """Fit ``PMF(**options)`` by a method with its default settings."""
    ratings = Ratings.from_frame(train.to_frame(), scale=train.scale)

    def look(progress: Progress) -> None:
        if progress.step % EVERY == 0:
            watch.look(OfPosterior(progress.posterior()))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as: the factors have shrunk to zero
        posterior = fit_posterior(
            PMF(**options),
            ratings,
            method,
            seed=seed,
            progress=False,
            callback=look if watch.recording else None,
        )
    return OfPosterior(posterior)
