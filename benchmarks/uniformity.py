"""Test whether ranks are uniform."""

from __future__ import annotations

import numpy as np
from scipy import stats


class Uniformity:
    """The test of Sailynoja, Burkner & Vehtari (2022) for n ranks.

    The statistic is the smallest pointwise probability of the empirical distribution function. Its
    distribution under uniform ranks is simulated.

    Parameters
    ----------
    n : int
    n_ranks : int
        Ranks are 0, 1, ..., n_ranks - 1.
    n_simulated : int
    """

    def __init__(self, n: int, n_ranks: int, n_simulated: int = 100_000) -> None:
        self.n, self.n_ranks = n, n_ranks
        self.at = np.arange(1, n_ranks) / n_ranks
        count = np.arange(n + 1)[:, None]
        below = stats.binom.cdf(count, n, self.at)
        above = stats.binom.sf(count - 1, n, self.at)
        self.pointwise = np.minimum(1, 2 * np.minimum(below, above))  # (n + 1, n_ranks - 1)
        generator = np.random.default_rng(0)
        simulated = generator.multinomial(n, np.full(n_ranks, 1 / n_ranks), n_simulated)
        self.null = np.sort(self._smallest(simulated.cumsum(-1)[:, :-1]))

    def p_value(self, ranks: np.ndarray) -> float:
        """Return the probability of ranks at least as far from uniform."""
        counts = np.bincount(ranks, minlength=self.n_ranks).cumsum()[:-1]
        as_small = np.searchsorted(self.null, self._smallest(counts) * (1 + 1e-9), side="right")
        return float((as_small + 1) / (len(self.null) + 1))

    def envelope(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and the highest ECDF, at ``at``, that pass a test of this level."""
        inside = self.pointwise > np.quantile(self.null, level)
        counts = np.arange(self.n + 1)
        return (
            np.array([counts[column].min() for column in inside.T]) / self.n,
            np.array([counts[column].max() for column in inside.T]) / self.n,
        )

    def _smallest(self, counts: np.ndarray) -> np.ndarray:
        return self.pointwise[counts, np.arange(self.n_ranks - 1)].min(-1)
