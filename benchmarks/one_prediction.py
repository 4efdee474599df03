"""Time the prediction of one pair: of a closed form, and of draws.

python -m benchmarks.one_prediction             # seconds; OMP_NUM_THREADS=1 for one thread
"""

from __future__ import annotations

import argparse
import time
import warnings

import pandas as pd
import torch

from pyro_pmf import PMF, VI, Posterior, fit
from pyro_pmf.datasets import simulate
from pyro_pmf.moments.gaussian import Uncertain


def milliseconds(posterior: Posterior, n: int) -> float:
    """Return the least time of some predictions of one pair; others may use the machine too."""
    pair = pd.DataFrame({"user": [3], "item": [7]})
    times = []
    for _ in range(n):
        started = time.perf_counter()
        posterior.predict(pair)
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_prediction")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--draws", type=int, nargs="+", default=[20, 400])
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # a few steps of a fit
    ratings, _ = simulate(PMF(4), n_users=200, n_items=100, n_ratings=5000)
    closed = fit(PMF(4), ratings, VI(max_steps=20, learn_scales=None), progress=False)
    print("| posterior | ms |\n|---|---|")
    print(f"| closed form | {milliseconds(closed, options.repeats):.1f} |")
    for n in options.draws:
        drawn = {
            site: torch.stack([x.draw() if isinstance(x, Uncertain) else x for _ in range(n)])
            for site, x in closed.latents.items()
        }
        draws = Posterior(closed.model, ratings, drawn, n, closed.steps, closed.converged)
        print(f"| {n} draws | {milliseconds(draws, options.repeats):.1f} |")


if __name__ == "__main__":
    main()
