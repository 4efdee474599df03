"""What a fitted method can be asked, and the clock that it is fitted against."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

import numpy as np

from benchmarks.data import Table


class Predictor(ABC):
    """A fitted method."""

    @abstractmethod
    def mean(self, pairs: Table) -> np.ndarray:
        """Predict ratings, in rating units; the ratings of ``pairs`` are not looked at."""

    def log_density(self, pairs: Table) -> np.ndarray | None:
        """Return the log predictive density of each rating, or None where there is none."""
        return None


class Stopwatch:
    """Counts the seconds of a fit, less those in which its progress is looked at.

    Parameters
    ----------
    test : Table
        What the progress is scored on.
    recording : bool
        Whether to look at all.
    """

    def __init__(self, test: Table, recording: bool) -> None:
        self.test, self.recording = test, recording
        self.curve: list[tuple[float, float]] = []
        self.seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Start, or go on."""
        self._since = time.perf_counter()

    def stop(self) -> float:
        """Stop, if it runs, and return the seconds so far."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None
        return self.seconds

    def look(self, predictor: Predictor) -> None:
        """Score a fit under way, off the clock."""
        if self.recording:
            seconds = self.stop()
            self.note(seconds, predictor.mean(self.test))
            self.start()

    def note(self, seconds: float, mean: np.ndarray) -> None:
        """Add the score of these predictions to the curve, as of so many seconds."""
        self.curve.append((seconds, rmse(self.test, mean)))


def rmse(test: Table, mean: np.ndarray) -> float:
    """Return the root mean squared error of predictions, clipped to the scale."""
    return float(np.sqrt(np.mean((test.rating - test.clip(mean)) ** 2)))
