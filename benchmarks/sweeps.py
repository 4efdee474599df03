"""Time a sweep of the blocked sampler, and its memory, for growing numbers of ratings.

python -m benchmarks.sweeps                    # 10 minutes on one core
python -m benchmarks.sweeps --sizes 1e5 1e6

The tables are simulated: 5 levels, as many users and items as MovieLens of that size, and skewed
numbers of ratings. The model has 16 factors, hierarchical rows on both sides, noise of users and
items, and ordered levels. One thread; each size has a process of its own. Four draws are kept; the
predictions of 10,000 pairs are averaged over the sweeps (``Gibbs(thin=, track=)``).
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import torch

from benchmarks import machine
from pyro_pmf import PMF, Gibbs, OrderedLogit, Progress, Ratings, fit

SHAPES = {100_000: (943, 1_682), 1_000_000: (6_040, 3_706), 10_000_000: (70_000, 10_000)}
N_WARMUP, N_TRACKED = 17, 10_000


def simulated(n: int) -> Ratings:
    """Return n ratings of 1 to 5."""
    rng = np.random.default_rng(0)
    n_users, n_items = SHAPES[n]
    activity, popularity = rng.lognormal(0, 1.0, n_users), rng.lognormal(0, 1.2, n_items)
    size = int(1.3 * n)
    user = rng.choice(n_users, size, p=activity / activity.sum())
    item = rng.choice(n_items, size, p=popularity / popularity.sum())
    cells = rng.permutation(np.unique(user * n_items + item))[:n]
    user, item = np.divmod(np.sort(cells), n_items)
    U, V = 0.6 * rng.normal(size=(n_users, 4)), 0.6 * rng.normal(size=(n_items, 4))
    score = (U[user] * V[item]).sum(1) + 0.5 * rng.normal(size=n_users)[user]
    score += 0.5 * rng.normal(size=n_items)[item] + rng.logistic(size=len(user))
    rating = 1.0 + np.digitize(score, [-2.0, -1.0, 0.0, 1.5])
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return Ratings.from_frame(frame, scale=(1, 5))


def measure(n: int) -> None:
    """Print the seconds of a sweep and the peak of memory."""
    torch.set_num_threads(1)
    ratings = simulated(n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ends: list[float] = []

    def note(progress: Progress) -> None:
        ends.append(time.process_time())

    model = PMF(16, "hierarchical", "hierarchical", likelihood=OrderedLogit(5))
    pairs = ratings.to_frame().iloc[:: max(1, len(ratings) // N_TRACKED)]
    method = Gibbs(4, N_WARMUP, n_chains=1, thin=2, track=pairs)
    posterior = fit(model, ratings, method, device="cpu", progress=False, callback=note)
    assert posterior.tracked is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sweep = float(np.median(np.diff(ends)[N_WARMUP:]))
    print(
        f"{len(ratings):>11,} ratings: {sweep:6.2f} s of CPU a sweep, {1e9 * sweep / n:4.0f} ns a "
        f"rating; peak {peak / 2**20:.2f} GB, {before / 2**20:.2f} of them with the table alone",
        flush=True,
    )


def main() -> None:
    """Measure each size in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweeps")
    parser.add_argument("--sizes", nargs="*", type=float, default=[*SHAPES])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one)
        return
    print("; ".join(f"{name}: {value}" for name, value in machine.describe().items()), flush=True)
    for size in options.sizes:
        command = [sys.executable, "-m", "benchmarks.sweeps", "--one", str(int(size))]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
