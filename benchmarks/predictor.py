"""The interface of a fitted method, and the stopwatch of a fit."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

import numpy as np

from benchmarks.data import Table


class Predictor(ABC):
    """A fitted method."""

    @abstractmethod
    def mean(self, pairs: Table) -> np.ndarray:
        """Predict ratings, in rating units, without looking at the ratings of ``pairs``."""

    def log_density(self, pairs: Table) -> np.ndarray | None:
        """Return the log predictive density of each rating, or None if the method has none."""
        return None


class Stopwatch:
    """Count the seconds of a fit; looks at its progress do not count.

    Parameters
    ----------
    test : Table
        The held-out ratings that score the progress.
    recording : bool
        Whether to score the progress.
    """

    def __init__(self, test: Table, recording: bool) -> None:
        self.test, self.recording = test, recording
        self.curve: list[tuple[float, float]] = []
        self.seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Start or continue."""
        self._since = time.perf_counter()

    def stop(self) -> float:
        """Stop if running; return the seconds so far."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None
        return self.seconds

    def look(self, predictor: Predictor) -> None:
        """Score a fit under way while the clock stands still."""
        if self.recording:
            seconds = self.stop()
            self.note(seconds, predictor.mean(self.test))
            self.start()

    def note(self, seconds: float, mean: np.ndarray) -> None:
        """Add the RMSE of these predictions to the curve, at this time."""
        self.curve.append((seconds, rmse(self.test, mean)))


def rmse(test: Table, mean: np.ndarray) -> float:
    """Return the root mean squared error of predictions, clipped to the rating scale."""
    return float(np.sqrt(np.mean((test.rating - test.clip(mean)) ** 2)))
