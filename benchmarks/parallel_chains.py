"""Time chains in processes beside the same chains one after the other.

python -m benchmarks.parallel_chains            # 2 minutes on two free cores

The table is simulated, see `benchmarks.sweeps`. Both fits are of one run and have one thread for
each chain; the times include the start of the processes. On a busy machine, others take the second
core: the load is printed, and so is the ratio of the seconds of CPU that have to pass one after
the other, in this process and in the mean of the others.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
import warnings

import numpy as np
import torch

from benchmarks import machine
from benchmarks.sweeps import simulated
from pyro_pmf import PMF, Gibbs, OrderedLogit, Posterior, Ratings, fit


def cpu_seconds() -> np.ndarray:
    """Return the seconds of CPU of this process, and of its processes that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([each.ru_utime + each.ru_stime for each in used])


def timed(ratings: Ratings, method: Gibbs) -> tuple[float, np.ndarray, Posterior]:
    """Return the seconds of a fit, its seconds of CPU here and elsewhere, and the posterior."""
    model = PMF(16, "hierarchical", "hierarchical", likelihood=OrderedLogit(5))
    started, cpu = time.perf_counter(), cpu_seconds()
    posterior = fit(model, ratings, method, device="cpu", progress=False)
    return time.perf_counter() - started, cpu_seconds() - cpu, posterior


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallel_chains")
    parser.add_argument("--ratings", type=float, default=1e5)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--chains", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # so few draws may not have converged
    print("; ".join(f"{name}: {value}" for name, value in machine.describe().items()), flush=True)
    ratings, n = simulated(int(options.ratings)), options.chains
    seconds, on_cpu, posteriors = [], [], []
    for n_jobs in (1, n):
        method = Gibbs(options.draws, n_chains=n, n_jobs=n_jobs)
        wall, (here, elsewhere), posterior = timed(ratings, method)
        seconds.append(wall)
        on_cpu.append(here + elsewhere / n)
        posteriors.append(posterior)
        print(
            f"n_jobs={n_jobs}: {wall:6.1f} s; of CPU {here:.1f} s here and {elsewhere:.1f} s in "
            f"other processes; load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    one, other = (posterior.latents for posterior in posteriors)
    same = all(torch.equal(one[site], other[site]) for site in one)
    print(
        f"ratio {seconds[1] / seconds[0]:.2f}, of CPU {on_cpu[1] / on_cpu[0]:.2f}; "
        f"{'the same' if same else 'OTHER'} numbers"
    )


if __name__ == "__main__":
    main()
