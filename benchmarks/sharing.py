"""Time a step of a fit that several processes share, and the memory of each.

python -m benchmarks.sharing                        # 10 million ratings by 1 and 2 processes
python -m benchmarks.sharing --ratings 1000000 --processes 1 2

The ratings are simulated, see `benchmarks.steps`; the model has 16 factors and hierarchical users.
Each process has one thread. Seconds are the median of the steps after L-BFGS has let the standard
deviations go; memory is the peak of a process from its start, the table included, of which each
process reads the rows of its own users.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks import machine
from benchmarks.one import memory
from benchmarks.steps import FIRST, LAST, METHODS
from pyro_pmf import PMF, NormalSigmoid, Ratings, fit
from pyro_pmf.reducer import reducer_of_world

N_FACTORS = 16
SCALE = (0.0, 1.0)


def main() -> None:
    """Measure each number of processes, and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ratings", nargs="+", type=int, default=[10_000_000])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=LAST)
    parser.add_argument("--one", nargs=2, metavar=("TABLE", "METHOD"))
    options = parser.parse_args()
    if options.one:
        measure(Path(options.one[0]), options.one[1], options.steps)
        return
    print("; ".join(f"{name}: {value}" for name, value in machine.describe().items()))
    for n in options.ratings:
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "ratings.parquet"
            write(table, n)
            for method in options.methods:
                compare(table, n, method, options.processes, options.steps)


def write(table: Path, n: int) -> None:
    """Write simulated ratings to a file, so that simulating them takes no memory of a fit."""
    program = (
        "from benchmarks.steps import training_ratings\n"
        f"frame = training_ratings('{n}').to_frame()\n"
        f"frame['rating'] = frame['rating'].clip(*{SCALE})\n"
        f"frame.sort_values('user').to_parquet('{table}', row_group_size=100_000)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def compare(table: Path, n: int, method: str, processes: list[int], steps: int) -> None:
    """Print a row for each number of processes."""
    first = None
    for size in processes:
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={size}", "--standalone"]
        command = [sys.executable, *(launcher if size > 1 else []), "-m", "benchmarks.sharing"]
        command += ["--one", str(table), method, "--steps", str(steps)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        first = first or found
        print(
            f"{n:>11,} ratings, {method}, {size} processes: {found['seconds']:6.2f} s a step "
            f"({first['seconds'] / found['seconds']:.2f} times as fast), peak "
            f"{found['memory'] / 1024:.2f} GiB ({found['memory'] / first['memory']:.2f}), ELBO "
            f"{found['elbo']:.7g} (differs by "
            f"{abs(found['elbo'] / first['elbo'] - 1):.1g})",
            flush=True,
        )


def own_rows(table: Path) -> pd.DataFrame:
    """Read the ratings of the users of this process: as many as each of the others reads."""
    reducer = reducer_of_world()
    if reducer.size == 1:
        return pd.read_parquet(table)
    user = pq.read_table(table, columns=["user"])["user"].to_numpy()  # ascends
    places = [len(user) * k // reducer.size for k in (reducer.rank, reducer.rank + 1)]
    first = user[places[0]]
    last = user[places[1]] if places[1] < len(user) else user[-1] + 1
    del user
    pa.default_memory_pool().release_unused()
    return pd.read_parquet(table, filters=[("user", ">=", first), ("user", "<", last)])


def measure(table: Path, method: str, steps: int) -> None:
    """Fit, and print what the first process found."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a fit this short has not converged
    train = Ratings.from_frame(own_rows(table), scale=SCALE)
    short = METHODS[method](max_steps=steps, learn_scales=None)
    model = PMF(N_FACTORS, users="hierarchical", likelihood=NormalSigmoid(rounding=0.0))
    posterior = fit(model, train, short, progress=False)
    seconds = posterior.steps["seconds"].diff()[min(FIRST, steps // 2) :]
    reducer = reducer_of_world()
    peak = float(reducer.largest(torch.tensor(memory("VmHWM"))))
    if reducer.rank == 0:
        elbo = posterior.steps["elbo"].iloc[-1]
        print(json.dumps({"seconds": seconds.median(), "memory": peak, "elbo": elbo}))


if __name__ == "__main__":
    main()
