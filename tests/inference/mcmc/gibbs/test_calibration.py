"""Simulation-based calibration of whole fits: starts, warm-up, thinning and all.

The truth ranks like a posterior draw. Two numbers are compared with uniform ranks for each
quantity: their mean, which a shift of the draws moves, and their mean square about the middle,
which a wrong spread moves. Beside `test_joint`, which is far more powerful, this tests that the
warm-up suffices. `python -m benchmarks.sbc` prints 500 replications.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from benchmarks.sbc import MODELS, N_RANKS, replication

N_REPLICATIONS = 100
FALSE_ALARM = 1e-3  # of all quantities of a model together


def z_scores(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean ranks and mean squares about the middle, in standard errors; ranks in rows."""
    every = np.arange(N_RANKS) - (N_RANKS - 1) / 2
    from_middle, variance = ranks - (N_RANKS - 1) / 2, (every**2).mean()
    n = len(ranks)
    shift = from_middle.mean(0) / np.sqrt(variance / n)
    spread = ((from_middle**2).mean(0) - variance) / np.sqrt((every**2).var() / n)
    return shift, spread


def limit(n_quantities: int) -> float:
    """Return how far a z-score may be from 0."""
    return float(norm.isf(FALSE_ALARM / (4 * n_quantities)))


@pytest.mark.statistical
def test_power():
    """Of one quantity among 22, in 100 replications, this finds errors so often (400 trials)."""
    generator = np.random.default_rng(0)

    def found(shift: float, sd: float) -> float:
        truth = generator.normal(size=(N_REPLICATIONS, 1, 400))
        draws = shift + sd * generator.normal(size=(N_REPLICATIONS, N_RANKS - 1, 400))
        z = np.abs(z_scores((draws < truth).sum(1)))
        return float((z > limit(22)).any(0).mean())

    assert found(0.0, 1.0) <= 0.01
    assert found(0.8, 1.0) > 0.95  # draws shifted by 0.8 of their standard deviation
    assert found(0.6, 1.0) > 0.75
    assert found(0.0, 0.5) > 0.9  # half as wide as they should be
    assert found(0.0, 2.0) > 0.8  # twice as wide


@pytest.mark.long
@pytest.mark.statistical
@pytest.mark.filterwarnings("ignore")  # of short chains
@pytest.mark.parametrize("name", MODELS)
def test_simulation_based_calibration(name):
    rows = pd.DataFrame(row for seed in range(N_REPLICATIONS) for row in replication(name, seed))
    ranks = rows.pivot(index="seed", columns="quantity", values="rank")
    shift, spread = z_scores(ranks.to_numpy())
    far = (np.abs(shift) > limit(ranks.shape[1])) | (np.abs(spread) > limit(ranks.shape[1]))
    assert not ranks.columns[far].tolist()
